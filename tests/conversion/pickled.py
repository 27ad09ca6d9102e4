"""A small network and what `faultcli convert` says of it, for the tests of all forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from faultcli.cli import run


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


STATE = {name: tensor.clone() for name, tensor in network().state_dict().items()}


def advice(path: str | Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Return what a command that is given a pickle says to type, as a shell takes it."""
    capfd.readouterr()
    assert run(["inspect", str(path)]) == 2
    found = re.search(r"^try: convert it: (faultcli convert .*)$", capfd.readouterr().err, re.M)
    assert found is not None
    return found[1]


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    def raw(tensor: Tensor) -> bytes:
        return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()

    return found.keys() == wanted.keys() and all(
        (found[name].dtype, found[name].shape, raw(found[name])) == (one.dtype, one.shape, raw(one))
        for name, one in wanted.items()
    )
