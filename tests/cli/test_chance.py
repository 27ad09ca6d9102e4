"""A model that answers no better than chance before any fault is said so, once, by every command that measures it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faultcli.workload.demo import demo_data_path

COMMANDS = {
    "evaluate": [],
    "campaign": ["--ber", "1e-4", "--trials", 1, "--format", "fp16,q2.5"],
    "curve": ["1e-5:1e-4", "--trials", 1],
}


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """The demo's data with every label one too high."""
    with np.load(demo_data_path(), allow_pickle=False) as demo:
        chosen = demo["is_test"]
        path = tmp_path / "moved.npz"
        np.savez(path, images=demo["images"][chosen], labels=(demo["labels"][chosen] + 1) % 10)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_an_accuracy_that_is_chance_is_said_once(command: str, moved: Path, faultcli: Callable[..., Any]) -> None:
    done = faultcli(command, *COMMANDS[command], "--data", moved, "--limit", 100, "--device", "cpu", "--json", "-")
    assert done.code == 0, done.err
    error = " ".join(done.err.split())
    assert error.count("no better than chance of 10 classes; likely causes: labels") == 1
    assert "no better" not in done.out


def test_a_model_that_works_is_not_doubted(faultcli: Callable[..., Any]) -> None:
    done = faultcli("evaluate", "--limit", 40, "--device", "cpu")
    assert (done.code, "chance" in done.err) == (0, False)
