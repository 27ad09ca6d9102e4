"""The built-in networks for ImageNet: torchvision's, whoever saved the checkpoint, whether it is installed or not."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from workload.against_torchvision import random_state

from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.architectures import ARCHITECTURES
from faultcli.workload.models.binding import live_tensors
from faultcli.workload.models.loading import load_model
from faultcli.workload.models.networks.densenet import DenseNet

# As torchvision publishes them, with each of its weights.
PARAMETERS = {
    "alexnet": 61_100_840,
    "squeezenet1_1": 1_235_496,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}
# The first three logits of torchvision 0.28.0 (torch 2.13, CPU) for `random_state` and one image of 96×96.
LOGITS = {
    "alexnet": (-6.2925, 1.7168, 2.0075),
    "squeezenet1_1": (2.0993, 0.43693, 0.0),
    "resnet18": (-0.6194, -53.585, 203.07),
    "resnet50": (-11297.0, -2694.6, 3974.3),
    "densenet169": (-0.043896, 3.1679, -9.5957),
}
DOTTED = (r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2")


@pytest.mark.parametrize("name", PARAMETERS)
def test_as_many_parameters_as_published(name: str) -> None:
    with torch.device("meta"):
        parameters = list(ARCHITECTURES[name].build().parameters())
    assert sum(parameter.numel() for parameter in parameters) == PARAMETERS[name]


@pytest.mark.parametrize("name", LOGITS)
def test_answers_as_torchvision_gave_them(name: str) -> None:
    """One network of every family, where torchvision is not installed, too."""
    with torch.device("meta"):
        network = ARCHITECTURES[name].build().eval()
    network.load_state_dict(random_state(network), assign=True)
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = network(image)[0]
    expected = torch.tensor(LOGITS[name])
    torch.testing.assert_close(logits[:3], expected, rtol=1e-4, atol=1e-5 * float(logits.abs().max()))


@pytest.fixture(scope="module")
def compared() -> dict[str, tuple[bool, bool, float]]:
    """Every network beside torchvision's, in a program of its own."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    program = Path(__file__).with_name("against_torchvision.py")
    done = subprocess.run([sys.executable, program, *PARAMETERS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[bool, bool, float]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_preprocessing_and_answers_are_those_of_torchvision(
    name: str, compared: dict[str, tuple[bool, bool, float]]
) -> None:
    same_keys, same_preprocessing, difference = compared[name]
    assert same_keys
    assert same_preprocessing
    assert difference < 1e-6


def test_densenets_have_two_kinds_of_names() -> None:
    """Those in the files that torchvision downloads, and those that its models have, and save."""
    newer, older = (DenseNet((1, 2), 4, 3, dotted=dotted).eval() for dotted in (False, True))
    older.load_state_dict({re.sub(*DOTTED, key): tensor for key, tensor in newer.state_dict().items()})
    assert "features.denseblock2.denselayer2.norm.1.weight" in older.state_dict()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(newer(images), older(images))


@pytest.mark.parametrize("spec", [None, "densenet121"])
@pytest.mark.parametrize("classes", [1000, 3])
def test_a_densenet_of_older_names_is_recognised_and_keeps_them(spec: str | None, classes: int) -> None:
    with torch.device("meta"):
        state = DenseNet((6, 12, 24, 16), num_classes=classes).state_dict()
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}  # as of 2017
    older = {re.sub(*DOTTED, key): torch.zeros(tensor.shape) for key, tensor in state.items()}
    assert older.keys() != state.keys()
    found = resolve_architecture(spec, {key: tuple(tensor.shape) for key, tensor in older.items()})
    assert (found.name, found.num_classes) == ("densenet121" + " (3 classes)" * (classes == 3), classes)
    assert older.keys() <= live_tensors(load_model(found, older)).keys()
