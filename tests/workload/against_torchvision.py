"""Compare built-in networks with torchvision's: python against_torchvision.py NAME...

A program of its own: where torchvision's library is for another torch, its operators are declared (and never called),
which cannot be taken back. Prints one object of JSON, name to [same keys, largest difference over largest logit]; or
nothing, where torchvision is not installed.
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

OPERATORS = ("nms", "qnms")
LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def zoo() -> Any:
    """Return torchvision.models."""
    try:
        return importlib.import_module("torchvision.models")
    except ModuleNotFoundError:
        sys.exit()
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in OPERATORS:
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision.models")


def random_state(model: nn.Module) -> dict[str, Tensor]:
    """Return weights that leave what runs through a network about as large as it is, and statistics of batch norm."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in model.state_dict().items():
        values = torch.rand(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            state[key] = (2 * values - 1) * (6 / tensor[0].numel()) ** 0.5
        elif tensor.is_floating_point():
            state[key] = values + 0.5 if key.endswith(("weight", "running_var")) else 0.2 * values
        else:
            state[key] = tensor
    return state


def compare(theirs: nn.Module) -> tuple[bool, float]:
    """Return whether the keys are the same in the same order, and how much the answers differ."""
    state = random_state(theirs)
    theirs.load_state_dict(state)
    ours = load_model(resolve_architecture(None, {key: tuple(tensor.shape) for key, tensor in state.items()}), state)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, got = theirs.eval()(images), ours(images)
    assert not torch.equal(expected[0], expected[1])
    return list(ours.state_dict()) == list(state), float((got - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    torch.set_num_threads(1)
    models = zoo()
    print(json.dumps({name: compare(models.get_model(name)) for name in sys.argv[1:]}))
