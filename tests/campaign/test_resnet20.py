"""A real network: ResNet-20 on CIFAR-10, its weights trained by others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faultcli.cli import run


@pytest.fixture(scope="module")
def arms(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Both arms on the first 300 images, 6 trials, by number format."""
    cifar10 = data_dir / "cifar10"
    found = {}
    for form, ber in (("q2.5", "1e-4"), ("fp32", "1e-5")):
        result = tmp_path_factory.mktemp("resnet20") / "result.json"
        command = ["campaign", cifar10 / "resnet20.safetensors", "--data", cifar10 / "cifar10_test1000.npz", "--quiet"]
        command += ["--limit", 300, "--trials", 6, "--format", form, "--ber", ber, "--json", result]
        assert run([str(part) for part in command]) == 0
        found[form] = json.loads(result.read_text())["arms"][0]
    return found


def test_clean_accuracy_is_that_of_its_trainer(arms: dict[str, dict[str, float]]) -> None:
    assert arms["fp32"]["original_accuracy"] == pytest.approx(0.915, abs=0.015)


def test_fault_free_q25_costs_next_to_nothing(arms: dict[str, dict[str, float]]) -> None:
    """Within 0.3 points on 1000 images, which are 3 of them; so no more than 3 of the first 300."""
    assert abs(arms["q2.5"]["stored_accuracy"] - arms["q2.5"]["original_accuracy"]) <= 0.0101
    assert arms["fp32"]["stored_accuracy"] == arms["fp32"]["original_accuracy"]


def test_q25_at_1e_4_falls_to_about_42_percent(arms: dict[str, dict[str, dict[str, float]]]) -> None:
    """46.7 % [38.3, 55.0] over 20 maps and 1000 images. Silent: fixed point has no NaN."""
    accuracy = arms["q2.5"]["accuracy"]
    assert accuracy["low"] <= 0.467 <= accuracy["high"]
    assert 0.25 < accuracy["mean"] < 0.65
    assert arms["q2.5"]["due"] == 0


def test_fp32_at_1e_5_falls_below_half(arms: dict[str, dict[str, dict[str, float]]]) -> None:
    """19.7 % [5.6, 45.1] over 20 maps and 1000 images, 64.5 % DUE: most of the loss shows itself as NaN."""
    accuracy = arms["fp32"]["accuracy"]["mean"]
    assert accuracy < 0.5
    assert arms["fp32"]["due"] > (arms["fp32"]["original_accuracy"] - accuracy) / 2
