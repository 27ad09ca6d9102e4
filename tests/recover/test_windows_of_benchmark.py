"""Windows that the benchmarks of correction draw have the class mix that they say, and outcomes are weighted by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.correction.settings import chosen
from benchmarks.correction.windows import MIXES, Judge, draw_window
from faultcli.errors import UsageError
from faultcli.recover.base import Correction, identity

LABELS = np.random.default_rng(0).integers(0, 10, 12_000)


@pytest.mark.parametrize("mix", MIXES)
def test_windows_have_their_class_mix(mix: str) -> None:
    rows = draw_window(mix, LABELS, 1000, np.random.default_rng(1))
    assert len(rows) == pytest.approx(1000, abs=10)
    assert len(np.unique(rows)) == len(rows)  # no input twice
    shares = np.sort(np.bincount(LABELS[rows], minlength=10) / len(rows))
    if mix == "as in training":
        assert shares == pytest.approx(np.full(10, 0.1), abs=0.01)
    if mix == "half of the classes":
        assert shares == pytest.approx([0] * 5 + [0.2] * 5, abs=0.02)
    if mix == "one class at 50 %":
        assert shares == pytest.approx([0.5 / 9] * 9 + [0.5], abs=0.01)
    if mix == "random shares":
        assert shares[-1] > 3 * shares[0]


def test_a_part_of_a_window_has_the_same_mix() -> None:
    rows = draw_window("half of the classes", LABELS, 5000, np.random.default_rng(2))
    assert len(np.unique(LABELS[rows])) == 5
    assert np.bincount(LABELS[rows[:1000]], minlength=10).max() < 260


def test_a_class_that_runs_out_makes_the_window_smaller_and_not_another() -> None:
    rows = draw_window("one class at 50 %", LABELS, 5000, np.random.default_rng(3))
    counts = np.bincount(LABELS[rows])
    assert 2000 < len(rows) < 2600
    assert counts.max() / len(rows) == pytest.approx(0.5, abs=0.001)


def test_accuracy_is_weighted_to_the_window() -> None:
    """Class 0 is always right and class 1 never; a correction turns that round."""
    labels = np.array([0, 0, 0, 1])
    test = torch.tensor([[1.0, 0.0]] * 4)
    judge = Judge("net", labels, torch.eye(2)[torch.from_numpy(labels)])
    swap = Correction(lambda z: z[:, ::-1], 0, "swap")
    seen = np.array([0, 1])  # half and half
    outcome = judge.outcome("level", 0, "adaptive", "mix", 2, seen, swap, test)
    assert (outcome.clean, outcome.corrupted, outcome.corrected) == (1.0, 0.5, 0.5)
    assert (outcome.corrupted_all, outcome.corrected_all) == (0.75, 0.25)
    assert not outcome.alone
    test[0] = torch.nan  # a detected error is no right answer
    left = judge.outcome("level", 0, "adaptive", "mix", 2, seen, identity("the classes cannot be told"), test)
    assert left.refused
    assert left.corrupted_all == left.corrected_all == 0.5


def test_a_network_that_is_none_is_named() -> None:
    assert {setting.network.role for setting in chosen([], quick=True)} == {"development", "held out"}
    with pytest.raises(UsageError, match="unknown network 'resnet-20'"):
        chosen(["resnet-20"], quick=True)
