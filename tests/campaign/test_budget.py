"""A budget of time asks the same number of trials whatever they turn out to be."""

from __future__ import annotations

import numpy as np
import pytest

from faultcli.campaign import runner
from faultcli.campaign.runner import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_harmless_trials_that_are_free_do_not_bias_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the maps change nothing and cost nothing, the others cost a run and half of the accuracy."""
    rng, clock, means = np.random.default_rng(0), Clock(), []
    monkeypatch.setattr(runner, "time", clock)
    for _ in range(4000):
        harmful = rng.random(200) < 0.5
        clock.now, values = 0.0, []
        for trial in Budget.of(6.0, 1.0, clock.now).trials(range(200), {}):
            values.append(0.5 if harmful[trial] else 1.0)
            clock.now += float(harmful[trial])
        means.append(np.mean(values))
    assert abs(np.mean(means) - 0.75) < 3 * np.std(means) / np.sqrt(len(means))


def test_the_clock_ends_what_takes_longer_than_was_thought(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(runner, "time", clock)
    done = 0
    for _ in Budget.of(10.0, 1.0, clock.now).trials(range(100), {}):
        done += 1
        clock.now += 3.0
    assert done == 4


def test_there_is_always_one_and_known_ones_are_free() -> None:
    assert list(Budget.of(0.0, 1.0, 0.0).trials(range(5), {})) == [0]
    assert list(Budget.of(0.0, 1.0, 0.0).trials(range(5), {0, 1, 3})) == [0, 1, 2, 3]
    assert list(Budget().trials(range(3), {})) == [0, 1, 2]
