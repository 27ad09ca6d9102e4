"""A campaign flips the bits of complex numbers and booleans, as `inject` does in the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from faultcli.memory import MemoryImage

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, 9, dtype=torch.complex64))
        self.register_buffer("keep", torch.rand(4, 16) > 0.3)
        self.head = nn.Linear(64, 3)
    def forward(self, x):
        mixed = torch.fft.irfft(torch.fft.rfft(x)[:, None] * self.filter, n=16)
        return self.head((mixed * self.keep).flatten(1))
def net(): return Net()
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network with a filter of complex weights and a mask of booleans, and its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rawnets.py").write_text(NET)
    sys.modules.pop("rawnets", None)
    import rawnets  # type: ignore[import-not-found]

    torch.manual_seed(0)
    save_file(rawnets.net().state_dict(), tmp_path / "m.safetensors")
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", inputs=draw.normal(size=(90, 16)).astype(np.float32), labels=np.arange(90) % 3)
    return tmp_path / "m.safetensors"


RUN = ("--arch", "rawnets:net", "--data", "d.npz")


@pytest.mark.parametrize("pattern", ["*", "filter", "keep"])
def test_a_trial_is_inject_and_evaluate(pattern: str, net: Path, faultcli: Callable[..., Any]) -> None:
    some = ("--target", "any", "--include", pattern, "--ber", "2e-2", "--seed", "3")
    done = faultcli("campaign", net, *RUN, *some, "--trials", "3", "--store", "t.db")
    assert done.code == 0, done.err
    told = faultcli("report", "t.db", "-o", "t.jsonl")
    assert told.code == 0, told.err
    for line in Path("t.jsonl").read_text().splitlines():
        trial = json.loads(line)
        number = trial["trial"]
        out = f"f{number}.safetensors"
        injected = faultcli("inject", net, *some, "--trial", number, "-o", out, "--json")
        assert injected.code == 0, injected.err
        assert json.loads(injected.out)["flips"] == trial["flips"] > 0
        seen = faultcli("evaluate", out, *RUN, "--json")
        assert seen.code == 0, seen.err
        assert json.loads(seen.out)["original"]["top1"] == trial["top1"]


def test_other_formats_refuse_by_name(net: Path, faultcli: Callable[..., Any]) -> None:
    done = faultcli(
        "campaign", net, *RUN, *("--target", "any", "--include", "filter"), "--ber", "1e-3", "--format", "fp16"
    )
    assert done.code == 2
    assert "tensor 'filter' has dtype C64, which no number format stores" in done.err
    assert "--exclude" in done.err


def test_a_block_leaves_every_bit_as_it_was() -> None:
    live = {"c": torch.randn(5, 4, dtype=torch.complex64).T, "b": torch.rand(7) > 0.5}
    before = {name: tensor.clone() for name, tensor in live.items()}
    with MemoryImage.of(live, target="any").faulty("bitflip:0.2") as hit:
        assert hit.values_changed > 0
        assert not torch.equal(torch.view_as_real(live["c"]), torch.view_as_real(before["c"]))
    assert torch.equal(live["c"], before["c"])
    assert torch.equal(live["b"], before["b"])
