"""Protections and recalibration on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faultcli.workload.demo import demo_checkpoint_path


def test_arms_are_paired_and_their_overhead_and_gain_are_told(faultcli: Callable[..., Any]) -> None:
    chains = ["none", "scale=max", "scale=max:channel,inplace=2", "scale=max,secded=64"]
    options = [text for chain in chains for text in ("--protect", chain)]
    done = faultcli(
        "campaign", "--ber", "3e-3", "--format", "q2.5", "--trials", "4", "--limit", "200", "--json", "-", *options
    )
    arms = {arm["protect"]: arm for arm in json.loads(done.out)["arms"]}
    assert list(arms) == chains
    assert arms["none"]["gain_over_none"] is None
    assert arms["none"]["overhead_bits_per_weight"] == 0
    assert arms["scale=max,secded=64"]["overhead_bits_per_weight"] == pytest.approx(1, abs=0.01)
    for chain in chains[1:]:
        gain = arms[chain]["gain_over_none"]
        assert gain["mean"] == pytest.approx(arms[chain]["accuracy"]["mean"] - arms["none"]["accuracy"]["mean"])
        assert gain["mean"] > 0.2
    assert arms["scale=max:channel,inplace=2"]["accuracy"]["worst"] >= 0.98
    table = faultcli("campaign", "--ber", "3e-3", "--format", "q2.5", "--trials", "2", "--limit", "50", *options).out
    assert "best under bitflip:0.003" in table


def test_a_protection_that_needs_a_rate_takes_that_of_the_arm_or_says_so(faultcli: Callable[..., Any]) -> None:
    posterior = ["--protect", "posterior", "--format", "q2.5", "--trials", "2", "--limit", "50"]
    assert faultcli("campaign", "--ber", "1e-3", *posterior).code == 0
    done = faultcli("campaign", "--fault", "flips:3", *posterior)
    assert done.code == 2
    assert "needs to know the bit-error rate" in done.err
    assert faultcli("evaluate", "--format", "q2.5", "--protect", "posterior", "--ber", "1e-3").code == 0
    assert faultcli("evaluate", "--format", "q2.5", "--protect", "posterior").code == 2


def test_a_plan_of_chains_by_tensor_goes_wherever_a_chain_goes(
    tmp_path: Path, faultcli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text('default = "inplace=2"\n[tensors]\n"*.bias" = "tmr"\n"*.weight" = "parity"\n')
    how = ("--format", "q2.5", "--protect", "plan.toml", "--limit", "100")
    done = faultcli("campaign", *how, "--ber", "3e-3", "--trials", "2", "--target", "all", "--json", "-")
    (arm,) = json.loads(done.out)["arms"]
    content = json.loads(arm["protect"])
    assert content == {"default": "inplace=2", "tensors": {"*.bias": "tmr", "*.weight": "parity"}}
    refused = faultcli("campaign", *how, "--ber", "3e-3", "--quiet")
    assert (refused.code, refused.err.count("\n")) == (2, 2)
    assert "'*.bias' matches no tensor at risk" in refused.err
    Path("plan.toml").write_text('default = "inplace=2"\n[tensors]\n"fc1.*" = "parity"\n')
    assert "by tensor " in faultcli("campaign", *how, "--ber", "3e-3", "--trials", "2").out
    stored = json.loads(faultcli("evaluate", *how, "--json", "-").out)
    made = faultcli("harden", demo_checkpoint_path(), *how[:4], "-o", "h.safetensors", "--json", "h.json")
    assert made.code == 0, made.err
    written = json.loads(Path("h.json").read_text())
    assert written["overhead_bits_per_weight"] == stored["overhead_bits_per_weight"]
    by_tensor = {one["name"]: (one["protect"], one["overhead_bits_per_weight"]) for one in written["tensors"]}
    assert ("parity", 1) in by_tensor.values()
    assert sum(protect == "inplace=2" for protect, _ in by_tensor.values()) == len(by_tensor) - 1
    read = json.loads(faultcli("evaluate", "h.safetensors", *how[4:], "--json", "-").out)
    assert [read["stored"][key] for key in ("top1", "loss")] == [stored["stored"][key] for key in ("top1", "loss")]
    assert faultcli("harden", demo_checkpoint_path(), *how[:4], "-o", "plan.toml", "--force").code == 2
    assert Path("plan.toml").read_text().startswith("default")


@pytest.mark.parametrize(
    "chain", ["sclae=max", "secded=64,scale=max", "cep=d15p1", "", "missing.toml", "{}", '{"default": 3}']
)
def test_bad_chains_exit_2(chain: str, faultcli: Callable[..., Any]) -> None:
    done = faultcli("campaign", "--ber", "1e-3", "--format", "q2.5", "--protect", chain, "--quiet")
    assert done.code == 2
    assert done.err.count("\n") == 2


def test_recalibration_brings_a_damaged_resnet_back(data_dir: Path, faultcli: Callable[..., Any]) -> None:
    cifar = data_dir / "cifar10"
    done = faultcli(
        *("campaign", cifar / "resnet20.safetensors", "--data", f"cifar10:{cifar}", "--limit", "100"),
        *("--ber", "1e-2", "--format", "q2.5", "--trials", "2", "--json", "-"),
        *("--protect", "scale=max:channel", "--recalibrate", "none", "--recalibrate", "bn:100"),
    )
    assert done.code == 0, done.err
    plain, recalibrated = json.loads(done.out)["arms"]
    assert recalibrated["recalibrate"] == "bn:100"
    assert recalibrated["accuracy"]["mean"] > plain["accuracy"]["mean"] + 0.03
    assert recalibrated["overhead_bits_per_weight"] > plain["overhead_bits_per_weight"]


def test_recalibration_needs_batch_norm_and_inputs(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    done = faultcli("campaign", "--ber", "1e-3", "--recalibrate", "bn:100")
    assert done.code == 2
    assert "has no batch-norm statistics" in done.err
    np.savez(tmp_path / "data.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    done = faultcli("campaign", "--data", tmp_path / "data.npz", "--ber", "1e-3", "--recalibrate", "bn")
    assert done.code == 2
    assert "--unlabelled" in done.err
