"""Answers that vary by themselves: noticed from a few inputs, measured on all, said, and no gate on SDC is decided by
them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import faultcli as fc
from faultcli.errors import WorkloadError

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.body, self.how, self.calls = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), how, 0
    def forward(self, x):
        if self.how == "dropout":
            x = nn.functional.dropout(x, 0.5, training=True)
        if self.how == "noise":
            x = x + torch.randn_like(x)
        if self.how == "state":
            self.calls += 1
            return self.body(x * (1 + self.calls % 3)).roll(self.calls, dims=1)
        return self.body(x)

def dropout(): return Net("dropout")
def noise(): return Net("noise")
def state(): return Net("state")
def plain(): return Net("plain")
"""


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(nn.functional.dropout(x, 0.5, training=True))
        return out


def test_the_command_line_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faultcli: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "varying_nets.py").write_text(NETS)
    import varying_nets

    torch.manual_seed(0)
    save_file(varying_nets.plain().state_dict(), "m.safetensors")
    inputs = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    np.savez("d.npz", inputs=inputs, labels=np.arange(200) % 4)
    for how in ("plain", "dropout", "noise", "state"):
        words = ("m.safetensors", "--arch", f"varying_nets:{how}", "--data", "d.npz")
        for command in (("evaluate", "--format", "fp16"), ("campaign", "--fault", "flips:1", "--trials", 2)):
            done = faultcli(command[0], *words, *command[1:])
            assert done.code == 0, done.err
            assert done.err.count("change from run to run without any fault") == (how != "plain"), (how, done.err)
    gated = faultcli("campaign", *words, "--fault", "flips:1", "--max-sdc", 0.01)
    assert gated.code == 2
    assert "so max-sdc 0.01 cannot be told from that" in gated.err
    assert faultcli("campaign", *words[:2], "varying_nets:plain", *words[3:], "--ber", 1e-9, "--max-sdc", 0.5).code == 0


def test_what_is_measured_is_the_part_that_changes() -> None:
    torch.manual_seed(1)
    model, inputs = Noisy(), torch.randn(2000, 4)
    subject = fc.Subject.of(model, (inputs, torch.zeros(2000, dtype=torch.long)))
    golden, _ = subject.workload.fault_free()
    subject.workload.listen(golden)
    with torch.no_grad():
        changed = float((model(inputs).argmax(1) != model(inputs).argmax(1)).float().mean())
    assert subject.workload.noise is not None
    assert math.isclose(subject.workload.noise, changed, abs_tol=4 * math.sqrt(changed / 2000))
    with pytest.raises(WorkloadError, match="change from run to run"):
        fc.run_campaign(subject, ["flips:1"], trials=2, gates={"max-sdc": 0.001})


def test_a_model_that_answers_nan_every_time_does_not_vary() -> None:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    subject = fc.Subject.of(model, (torch.randn(20, 4), torch.zeros(20, dtype=torch.long)))
    golden, _ = subject.workload.fault_free()
    subject.workload.listen(golden)
    assert subject.workload.noise is None
