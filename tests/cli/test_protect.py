"""Protections and recalibration on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


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


@pytest.mark.parametrize("chain", ["sclae=max", "secded=64,scale=max", "cep=d15p1", ""])
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
