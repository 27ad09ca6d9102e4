"""Intervals, sample sizes, stop rules: values, edges, and coverage by simulation.

The coverage cases are those of docs/statistics.md, with fewer campaigns; the table there was made with 5000.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from faultcli.campaign.statistics import (
    ConfidenceSequence,
    Interval,
    StopRule,
    mean_interval,
    sample_size,
    trials_needed,
    unseen_share,
)

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def beta(mean: float, deviation: float) -> tuple[Draw, float]:
    total = mean * (1 - mean) / deviation**2 - 1
    return lambda rng, shape: rng.beta(mean * total, (1 - mean) * total, shape), mean


def mixture(share: float) -> tuple[Draw, float]:
    """A share of maps collapses to 0.1, the others are harmless at 0.99."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        bad = rng.random(shape) < share
        return np.where(bad, rng.uniform(0.08, 0.12, shape), rng.uniform(0.985, 0.995, shape))

    return draw, share * 0.1 + (1 - share) * 0.99


# Distribution, trials, least and largest coverage. Where the largest is 1 the rare maps are few even when seen.
COVERAGE = [
    (beta(0.5, 0.1), 5, 0.94, 0.96),
    (beta(0.5, 0.1), 20, 0.94, 0.965),
    (beta(0.9, 0.05), 20, 0.94, 0.965),
    (beta(0.9, 0.05), 200, 0.94, 0.965),
    (beta(0.98, 0.02), 20, 0.93, 0.965),
    (beta(0.98, 0.02), 50, 0.935, 0.965),
    (beta(0.02, 0.02), 50, 0.935, 0.965),
    (beta(0.02, 0.02), 200, 0.94, 0.965),
    (beta(0.99, 0.02), 100, 0.94, 0.97),
    (mixture(0.5), 50, 0.94, 0.98),
    (mixture(0.3), 100, 0.94, 0.98),
    (mixture(0.1), 50, 0.95, 1.0),
    (mixture(0.1), 200, 0.94, 0.98),
]


@pytest.mark.parametrize(("law", "n", "least", "most"), COVERAGE)
def test_coverage(law: tuple[Draw, float], n: int, least: float, most: float) -> None:
    draw, mean = law
    campaigns = draw(np.random.default_rng(n), (3000, n))
    found = [mean_interval(values.tolist()) for values in campaigns]
    covered = np.mean([i is not None and i.low <= mean <= i.high for i in found])
    noise = 2 * math.sqrt(0.05 * 0.95 / 3000)
    assert least - noise <= covered <= most + noise


def test_coverage_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        hurt = rng.beta(2, 5, 40)
        covered += contains(
            mean_interval(((0.9 - 0.3 * hurt) - (0.9 - 0.8 * hurt)).tolist(), bounds=(-1, 1)), 0.5 * 2 / 7
        )
    assert 0.935 <= covered / 2000 <= 0.965


def contains(interval: Interval | None, value: float) -> bool:
    return interval is not None and interval.low is not None and interval.low <= value <= interval.high


def test_rare_maps_that_nobody_saw_are_beyond_any_interval() -> None:
    # The promise is broken here, knowingly: with n = 10, 35 % of campaigns see no collapse.
    draw, mean = mixture(0.1)
    campaigns = draw(np.random.default_rng(1), (2000, 10))
    seen = campaigns.min(axis=1) < 0.5
    covered = np.array([contains(mean_interval(values.tolist()), mean) for values in campaigns])
    assert not covered[~seen].any()
    assert covered[seen].mean() > 0.98
    assert unseen_share(10) > 0.1


def test_without_skewness_it_is_students_t() -> None:
    values = [0.4, 0.5, 0.6, 0.45, 0.55]
    low, high = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    found = mean_interval(values, confidence=0.9)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high))


def test_skewness_moves_the_interval_towards_the_rare_maps() -> None:
    found = mean_interval([0.99] * 9 + [0.1])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.mean - found.low > 2 * (found.high - found.mean)


def test_where_all_trials_agree_nothing_of_their_kind_is_uncertain() -> None:
    assert mean_interval([1.0] * 20) == Interval(1.0, 1.0, 1.0)
    assert mean_interval([0.0] * 20, bounds=(-1, 1)) == Interval(0.0, 0.0, 0.0)
    low = stats.binomtest(20, 20).proportion_ci(0.95, method="exact").low
    assert unseen_share(20) == pytest.approx(1 - low)  # the other half of what is not known


def test_unseen_kinds_are_as_rare_as_said() -> None:
    """The statement beside the interval: of campaigns in which no map of a kind showed, that kind is no larger."""
    rng = np.random.default_rng(5)
    for n in (5, 20, 100):
        share = unseen_share(n)
        missed = (rng.random((20_000, n)) >= share).all(axis=1).mean()  # a kind just as large shows nowhere
        assert missed <= 0.025 + 3 * math.sqrt(0.025 / 20_000)


def test_none_and_one() -> None:
    assert mean_interval([]) is None
    assert mean_interval([0.3]) == Interval(0.3, None, None)
    assert Interval(0.3, None, None).half_width is None
    assert unseen_share(0) == 1


@pytest.mark.parametrize(
    ("values", "options"),
    [([1.1], {}), ([math.nan], {}), ([0.5], {"confidence": 1.0}), ([0.5], {"confidence": 0.0}), ([-0.1, 0.2], {})],
)
def test_impossible_values(values: list[float], options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"outside|between"):
        mean_interval(values, **options)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0.5, 0.999))
def test_the_mean_lies_inside_and_the_ends_inside_the_bounds(values: list[float], confidence: float) -> None:
    found = mean_interval(values, confidence=confidence)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= 1


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9, 0.99]), min_size=2, max_size=20))
def test_a_mirror_image_has_the_mirrored_interval(values: list[float]) -> None:
    one, other = mean_interval(values), mean_interval([1 - value for value in values])
    assert one is not None
    assert other is not None
    assert one.low is not None
    assert other.high is not None
    assert one.low == pytest.approx(1 - other.high, abs=1e-9)


def test_sample_size_of_leveugle() -> None:
    # The classic numbers: a large population, 1 % at 95 % and at 99.8 %; all of a small one.
    assert sample_size(10**12, error=0.01) == 9604
    assert sample_size(10**12, error=0.01, confidence=0.998) == 23874
    assert sample_size(10, error=0.001) == 10
    assert sample_size(10**6, error=0.01, proportion=0.0) == 1
    with pytest.raises(ValueError, match="no such sample"):
        sample_size(0, error=0.01)


def test_trials_needed_is_where_the_interval_gets_narrow_enough() -> None:
    n = trials_needed(0.02, deviation=0.2)
    assert n is not None
    widths = [stats.t.ppf(0.975, m - 1) * 0.2 / math.sqrt(m) for m in (n - 1, n)]
    assert widths[0] > 0.02 >= widths[1]
    floor = trials_needed(0.01, mean=1.0, deviation=0.0)
    assert floor is not None
    assert unseen_share(floor) <= 0.02 < unseen_share(floor - 1)
    assert trials_needed(1e-9) is None
    with pytest.raises(ValueError, match="no such trials"):
        trials_needed(0.0)


def test_sequential_trials_needed_is_what_a_sequence_takes() -> None:
    guess = trials_needed(0.03, mean=0.9, deviation=0.1, sequential=True)
    assert guess is not None
    rng = np.random.default_rng(0)
    taken = []
    for _ in range(5):
        sequence = ConfidenceSequence(points=2000)
        while sequence.half_width > 0.03:
            sequence.add(rng.beta(7.2, 0.8))
        taken.append(sequence.trials)
    assert 0.75 < np.mean(taken) / guess < 1.25


def fed(n: int) -> ConfidenceSequence:
    sequence = ConfidenceSequence()
    for _ in range(n):
        sequence.add(1.0)
    return sequence


def test_stop_rules() -> None:
    assert StopRule(trials=10).reason(fed(9)) is None
    assert StopRule(trials=10).reason(fed(10)) == "trials"
    assert not StopRule(trials=10).sequential
    narrow = StopRule(trials=1000, half_width=0.05)
    assert narrow.sequential
    assert narrow.reason(fed(3)) is None
    assert narrow.reason(fed(60)) == "half-width"
    gated = StopRule(trials=1000, gates=True)
    assert gated.reason(fed(2), undecided_gates=1) is None
    assert gated.reason(fed(2), undecided_gates=0) == "gates"
    both = StopRule(half_width=0.05, gates=True)
    assert both.reason(fed(60), undecided_gates=1) is None
    assert both.reason(fed(60)) == "half-width"
