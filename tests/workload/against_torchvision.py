"""Compare built-in networks with torchvision's: python against_torchvision.py NAME...

A program of its own: where torchvision's library is for another torch, its operators are declared (and never called),
which cannot be taken back. Prints one object of JSON, by name: whether keys and preprocessing (that of the first
published weights) are the same, and the largest difference of logits over the largest logit.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.loading import load_model
from faultcli.workload.preprocess import Geometry, Preprocess

OPERATORS = ("nms", "qnms")
DECLARED: list[torch.library.Library] = []  # what is declared goes when these go


def zoo() -> Any:
    """Return torchvision.models."""
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in OPERATORS:
            DECLARED[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision.models")


def random_state(model: nn.Module) -> dict[str, Tensor]:
    """Return weights that leave what runs through a network about as large as it is, and statistics of batch norm."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in model.state_dict().items():
        values = torch.rand(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            state[key] = values.mul_(2).sub_(1).mul_((6 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            state[key] = values + 0.5 if key.endswith(("weight", "running_var")) else 0.2 * values
        else:
            state[key] = tensor
    return state


def compare(theirs: nn.Module, transforms: Any) -> tuple[bool, bool, float]:
    """Return whether keys, in their order, and preprocessing are the same, and how much the answers differ."""
    state = random_state(theirs)
    theirs.load_state_dict(state)
    found = resolve_architecture(None, {key: tuple(tensor.shape) for key, tensor in state.items()})
    ours = load_model(found, state)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, got = theirs.eval()(images), ours(images)
    assert not torch.equal(expected[0], expected[1])
    (size,), (resize,) = transforms.crop_size, transforms.resize_size
    assert transforms.interpolation.value == "bilinear"
    preprocess = Preprocess(mean=tuple(transforms.mean), std=tuple(transforms.std))
    same = found.preprocess == preprocess and found.geometry == Geometry((size, size), resize, resample=2)
    difference = float((got - expected).abs().max() / expected.abs().max())
    return list(ours.state_dict()) == list(state), same, difference


if __name__ == "__main__":
    torch.set_num_threads(1)
    models = zoo()
    weights = {name: models.get_model_weights(name).IMAGENET1K_V1 for name in sys.argv[1:]}
    print(json.dumps({name: compare(models.get_model(name), weights[name].transforms()) for name in weights}))
