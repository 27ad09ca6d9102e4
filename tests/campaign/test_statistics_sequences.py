"""Confidence sequences and tests by betting: misses under peeking, monotonicity, edges."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultcli.campaign.statistics import ConfidenceSequence, MeanTest
from faultcli.campaign.statistics.sequences import FRACTIONS, SPLIT


def wealth(values: list[float], mean: float) -> list[float]:
    """The definition, in the open: the wealth after every trial, betting that the mean is above `mean`."""
    return [
        sum(
            split * math.prod(1 - f + f * y / mean for y in values[: n + 1])
            for split, f in zip(SPLIT, FRACTIONS, strict=True)
        )
        for n in range(len(values))
    ]


LAWS = {
    "bernoulli near 1": lambda rng, shape: (rng.random(shape) < 0.97).astype(float),
    "collapse": lambda rng, shape: np.where(rng.random(shape) < 0.1, 0.1, 0.99),
    "half": lambda rng, shape: np.where(rng.random(shape) < 0.5, 0.1, 0.9),
    "beta": lambda rng, shape: rng.beta(9, 1, shape),
    "narrow": lambda rng, shape: rng.uniform(0.895, 0.905, shape),
}
MEANS = {"bernoulli near 1": 0.97, "collapse": 0.901, "half": 0.5, "beta": 0.9, "narrow": 0.9}


@pytest.mark.parametrize("name", LAWS)
def test_misses_under_peeking_after_every_trial(name: str) -> None:
    # The mean is missed at some look exactly if a test at the mean itself decides: 2000 campaigns, 1000 looks each.
    values = LAWS[name](np.random.default_rng(0), (2000, 1000))
    mean = MEANS[name]
    missed = np.zeros(2000, dtype=bool)
    for y, m in ((values, mean), (1 - values, 1 - mean)):
        state = np.repeat(SPLIT[:, None], 2000, axis=1)
        for t in range(1000):
            state *= 1 + FRACTIONS[:, None] * (y[:, t] / m - 1)
            missed |= state.sum(axis=0) >= 2 / 0.05
    assert missed.mean() <= 0.05


def test_the_sequence_itself_under_peeking() -> None:
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(100):
        sequence = ConfidenceSequence(points=300)
        inside = True
        for value in np.where(rng.random(150) < 0.2, 0.1, 0.95):
            sequence.add(value)
            found = sequence.interval
            assert found is not None
            inside &= found.low <= 0.78 <= found.high
        missed += not inside
    assert missed <= 5


def test_paired_differences() -> None:
    rng = np.random.default_rng(4)
    sequence = ConfidenceSequence(bounds=(-1, 1))
    for value in rng.uniform(-0.1, 0.3, 400):
        sequence.add(value)
    found = sequence.interval
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert -1 < found.low < 0.1 < found.high < 1
    assert found.half_width == pytest.approx(sequence.half_width)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0.05, 0.95))
def test_a_test_decides_when_the_wealth_of_the_definition_does(values: list[float], threshold: float) -> None:
    history = wealth(values, threshold)
    test = MeanTest(threshold, alpha=0.2, direction="above")
    for value, amount in zip(values, np.maximum.accumulate(history), strict=True):
        decided = test.add(value)
        if abs(amount - 5) > 1e-6:
            assert decided == (amount >= 5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_ends_never_move_outwards_and_lie_on_the_safe_side(values: list[float]) -> None:
    sequence = ConfidenceSequence(points=200)
    last = (0.0, 1.0)
    for value in values:
        sequence.add(value)
        found = sequence.interval
        assert found is not None
        assert last[0] <= found.low <= found.high <= last[1]
        last = (found.low, found.high)
    if 0.0 < last[0] < last[1]:
        assert max(wealth(values, last[0])) >= 40 * (1 - 1e-9)
    if last[0] < last[1] < 1.0:
        assert max(wealth([1 - value for value in values], 1 - last[1])) >= 40 * (1 - 1e-6)


def test_the_order_of_trials_does_not_matter_to_a_test_that_is_open() -> None:
    values = [0.2, 0.9, 0.8, 0.5]
    assert wealth(values, 0.5)[-1] == pytest.approx(wealth(values[::-1], 0.5)[-1])


def test_one_sided_is_tighter_and_leaves_the_other_end() -> None:
    both, lower = ConfidenceSequence(), ConfidenceSequence(side="lower")
    upper = ConfidenceSequence(side="upper")
    for value in np.random.default_rng(5).beta(20, 2, 100):
        for sequence in (both, lower, upper):
            sequence.add(value)
    assert both.interval is not None
    assert lower.interval is not None
    assert upper.interval is not None
    assert lower.interval.low > both.interval.low
    assert lower.interval.high == 1
    assert upper.interval.high < both.interval.high
    assert upper.interval.low == 0


def test_edges() -> None:
    sequence = ConfidenceSequence()
    assert sequence.interval is None
    assert sequence.half_width == 0.5
    for value in (math.nan, 1.5, -0.1):
        with pytest.raises(ValueError, match="outside"):
            sequence.add(value)
    for _ in range(3000):  # no overflow, no way past the bound
        sequence.add(0.0)
    assert sequence.interval is not None
    assert sequence.interval.low == 0
    assert sequence.interval.high < 0.003


def test_trials_without_a_common_mean_keep_an_interval() -> None:
    sequence = ConfidenceSequence()
    for value in [0.0] * 200 + [1.0] * 2000:
        sequence.add(value)
    assert sequence.interval is not None
    assert sequence.interval.low <= sequence.interval.high


@pytest.mark.parametrize(
    ("threshold", "direction", "values", "decided"),
    [
        (-0.1, "above", [], True),  # every mean is above
        (1.1, "above", [1.0] * 99, False),
        (1.0, "above", [1.0] * 99, False),
        (1.0, "below", [1.0] * 99, False),
        (1.0, "below", [1.0, 0.999], True),  # one value below the most there is
        (0.0, "above", [0.0] * 99, False),
        (0.0, "above", [0.001], True),
        (1.1, "below", [], True),
    ],
)
def test_thresholds_at_and_beyond_the_bounds(threshold: float, direction: str, values: list[float], decided: bool):
    test = MeanTest(threshold, alpha=0.05, direction=direction)  # type: ignore[arg-type]
    for value in values:
        test.add(value)
    assert test.decided == decided
    assert test.trials == len(values)
