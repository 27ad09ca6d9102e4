"""The predicted gain and its interval, by simulation."""

import numpy as np

from faultcli.recover.adaptive.forecast import COVERAGE, Forecast, expected_gain
from faultcli.recover.mixture.gaussians import softmax


def test_answers_that_are_as_sure_as_they_are_right_say_what_they_gain() -> None:
    random = np.random.default_rng(0)
    corrected = 2 * random.standard_normal((20_000, 5))
    raw = corrected + 3 * random.standard_normal(corrected.shape)
    chance = softmax(corrected)
    labels = (chance.cumsum(axis=1) < random.random((len(chance), 1))).sum(axis=1)
    gained = (corrected.argmax(axis=1) == labels).mean() - (raw.argmax(axis=1) == labels).mean()
    assert abs(expected_gain(raw, corrected) - gained) < 0.01
    assert expected_gain(corrected, 3 * corrected) == 0


def test_the_interval_covers_new_copies() -> None:
    random = np.random.default_rng(1)

    def draw(copies: int) -> tuple[np.ndarray, np.ndarray]:
        expected = random.uniform(0, 0.4, copies)
        return expected, 0.9 * expected + (0.005 + 0.05 * expected) * random.standard_normal(copies)

    covered = []
    for _ in range(300):
        expected, gained = draw(12)
        forecast = Forecast.learn([np.array([e]) for e in expected], [np.array([g]) for g in gained])
        assert 0.8 < forecast.slope < 1
        for e, g in zip(*draw(10), strict=True):
            low, high = forecast.gain(float(e))[1]
            covered.append(low <= g <= high)
    assert COVERAGE - 0.02 < np.mean(covered) < 0.995


def test_one_copy_teaches_nothing() -> None:
    assert Forecast.learn([np.array([0.1])], [np.array([0.2])]).gain(0.1) == (0.1, (-1.0, 1.0))
