"""What a run says of its model and its inputs: once, on stderr, and nothing with --quiet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from faultcli.workload.data.datasets import load_data
from faultcli.workload.models.architectures import ARCHITECTURES

RUNS = {
    "evaluate": "evaluate",
    "campaign": "campaign --ber 1e-4 --trials 1",
    "plan": "campaign --ber 1e-4 --plan-only",
    "train-corrector": "train-corrector --fault gaussian:0.1 --maps 1 --report-maps 2",
}


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """The digits with grey levels of 0 to 255: sixteen times too bright for the demo."""
    digits = load_data("digits")
    bright = (digits.inputs.to(int) * 255 // 16).numpy().astype(np.uint8)
    np.savez(tmp_path / "grey.npz", images=bright, labels=digits.labels.numpy())
    return tmp_path / "grey.npz"


@pytest.mark.parametrize("command", RUNS.values(), ids=RUNS)
def test_without_a_model_it_is_the_demo(command: str, faultcli: Callable[..., Any]) -> None:
    """With no other option than the faults, and with a window that follows from the demo's data."""
    done = faultcli(*command.split())
    assert done.code == 0, done.err
    said = "no MODEL named: the embedded demo, digits-cnn on 500 inputs of digits, × 1/16"
    assert done.err.splitlines().count(said) == 1
    assert "warning" not in done.err
    assert "× 1/16" not in done.out


@pytest.mark.parametrize("command", RUNS.values(), ids=RUNS)
def test_inputs_of_another_scale_are_doubted(command: str, grey: Path, faultcli: Callable[..., Any]) -> None:
    done = faultcli(*command.split(), "--data", grey, *(["--window", 50] if "train" in command else []))
    assert done.code == 0, done.err
    (warning,) = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert "uint8 inputs go up to 255; they are taken to be from 0 to 16" in warning
    assert warning.endswith("if the model was trained on them divided by 255: --std 15.9375")
    mended = faultcli(*command.split(), "--data", grey, "--std", 15.9375, "--plan-only" if "plan" in command else "-q")
    assert "warning" not in mended.err


def test_a_scale_is_mended_by_what_the_warning_says(grey: Path, faultcli: Callable[..., Any]) -> None:
    def accuracy(*more: object) -> float:
        result = json.loads(faultcli("evaluate", "--data", grey, *more, "--json", "-", "-q").out)
        assert result["preprocessing"] == ("× 1/16, ÷ 15.9375" if more else "× 1/16")
        return float(result["original"]["top1"])

    assert accuracy("--std", 15.9375) == pytest.approx(0.992, abs=0.005)
    assert accuracy() < 0.992


def test_quiet_says_nothing(grey: Path, faultcli: Callable[..., Any]) -> None:
    assert faultcli("evaluate", "--data", grey, "--quiet").err == ""


def test_a_folder_named_demo_is_not_the_embedded_one(
    faultcli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert faultcli("demo", "-o", "demo").code == 0
    done = faultcli("evaluate", "demo", "--data", "demo/data.npz", "--limit", 4)
    assert done.code == 0
    assert "no MODEL named" not in done.err


def test_a_fine_tuned_network_says_its_classes_and_takes_images_of_another_size(
    faultcli: Callable[..., Any], tmp_path: Path
) -> None:
    model, data = tmp_path / "tuned.safetensors", tmp_path / "data.npz"
    save_file(ARCHITECTURES["resnet18"].build(num_classes=6).state_dict(), model)
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(6))
    done = faultcli("evaluate", model, "--data", data)
    assert done.code == 0, done.err
    assert f"resnet18 (6 classes) on 6 inputs of {data}, × 1/255 − 0.485, 0.456, 0.406, ÷ 0.229" in done.err
    np.savez(data, images=images, labels=np.arange(1, 7))
    done = faultcli("evaluate", model, "--data", data, "--arch", "resnet18")
    assert done.code == 2
    assert "label 6 is out of range, resnet18 (6 classes) has 6 classes" in done.err
