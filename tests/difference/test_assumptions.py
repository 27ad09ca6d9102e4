"""Independent flips raise no alarm more often than is said, and what breaks an assumption does."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from difference.flipped_models import Model, drawn, floats, integers, with_counters

from faultcli.difference import check_assumptions
from faultcli.difference.exact import clopper_pearson, evenness, holm, more_than_by_chance, shares, sum_of_draws

MODELS = {"floats": floats(), "integers": integers(), "counters": with_counters()}
SEEDS, DRAWS = 24, 10


def too_many(hits: int, trials: int, rate: float) -> bool:
    """More than four standard deviations above what is allowed: once in 30,000."""
    return hits > trials * rate + 4 * math.sqrt(trials * rate * (1 - rate)) + 1


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("law", ["flips:1", "flips:2", "flips:5", "bitflip:3e-4", "bitflip:3e-2"])
def test_p_values_of_independent_flips_are_no_smaller_than_they_say(model: Model, law: str) -> None:
    """With 8 draws, a p value that is a tenth of what it should be, or below 0.02 every other time, is still seen."""
    p_values: dict[str, list[float]] = defaultdict(list)
    alarms = 0
    seeds = SEEDS if law == "bitflip:3e-2" else 8 if law == "bitflip:3e-4" else 12
    for seed in range(seeds):
        tests = check_assumptions(drawn(model, law, seed), pitch=64)
        alarms += any(test.alarm for test in tests)
        for test in tests:
            p_values[test.name].append(1.0 if test.p is None else test.p)
    assert not too_many(alarms, seeds, 0.05)
    for name, found in p_values.items():
        for level in (0.02, 0.05, 0.2, 0.5):
            assert not too_many(sum(p <= level for p in found), seeds, level), (name, level)
    if law == "bitflip:3e-2":  # enough flips for p values that are uniform, and no smaller nor larger
        for name, found in p_values.items():
            steps = np.arange(1, SEEDS + 1) / SEEDS
            assert np.abs(np.sort(found) - steps).max() < 1.95 / math.sqrt(SEEDS), name  # Kolmogorov, p of 0.001


@pytest.mark.parametrize("law", ["stuck-at-0:1e-2", "stuck-at-1:1e-2", "stuck-at-1:3e-4"])
def test_a_direction_sets_off_no_other_alarm(law: str) -> None:
    """In words whose upper bits are all alike, bits that are stuck are neighbours more often than by chance."""
    alarms: dict[str, int] = defaultdict(int)
    for seed in range(DRAWS):
        for test in check_assumptions(drawn(MODELS["integers"], law, seed), pitch=64):
            alarms[test.name] += test.p is not None and test.p < 0.05
    assert alarms.pop("direction") == DRAWS
    assert not [name for name, count in alarms.items() if too_many(count, DRAWS, 0.05)], alarms


BROKEN = {
    "bitflip:1e-3,bits=exponent": "bits",
    "bitflip:1e-3,include=layer.1.*": "tensors",
    "stuck-at-0:1e-3": "direction",
    "burst:1e-4,length=2": "word",
    "burst:1e-4,length=3,across=column": "column",
}


@pytest.mark.parametrize("law", BROKEN)
def test_what_breaks_an_assumption_raises_its_alarm(law: str) -> None:
    for seed in range(4):
        tests = {test.name: test for test in check_assumptions(drawn(MODELS["floats"], law, seed))}
        assert tests[BROKEN[law]].alarm, seed


def test_bad_rows_and_columns_raise_their_alarm() -> None:
    generator = np.random.default_rng(0)
    even = generator.multinomial(60, [1 / 100] * 100)
    crowded = even.copy()
    crowded[7] += 10
    for hits, alarm in ((even, False), (crowded, True)):
        p = evenness(hits, np.full(100, hits.sum() / 100), 0.99, "rows").p
        assert p is not None
        assert (p < 0.01) is alarm


def test_rows_and_columns_expect_what_lies_in_them() -> None:
    """Every word of a memory hit once: as even as can be, whatever the pitch."""
    difference = drawn(MODELS["floats"], "bitflip:1,bits=0", 0)
    for pitch in (7, 64, 1000):
        tests = {test.name: test for test in check_assumptions(difference, pitch)}
        for name in ("rows", "columns"):
            assert tests[name].statistic == pytest.approx(0, abs=1e-2), (pitch, name)


def test_nothing_to_see() -> None:
    assert all(
        test.p is None and not test.alarm for test in check_assumptions(drawn(MODELS["floats"], "flips:0", 0), 64)
    )


def test_counts_against_scipy() -> None:
    from scipy import stats

    low, high = stats.binomtest(3, 1000).proportion_ci(0.95, "exact")
    assert clopper_pearson(3, 1000) == pytest.approx((0.003, low, high))
    assert clopper_pearson(0, 1000)[1:] == pytest.approx((0, 1 - 0.025 ** (1 / 1000)))
    assert clopper_pearson(5, 5)[1:] == pytest.approx((0.025 ** (1 / 5), 1))
    assert clopper_pearson(0, 0) == (None, None, None)
    one = sum_of_draws(np.array([40]), np.array([100]), np.array([12]), 9)
    law = stats.hypergeom(100, 40, 12)
    assert one.p == pytest.approx(2 * min(law.cdf(9), law.sf(8)))
    assert more_than_by_chance(4, 1.5).p == pytest.approx(stats.poisson(1.5).sf(3))
    flips, bits = np.array([40, 60, 55]), np.array([1 << 30] * 3)
    expected = stats.power_divergence(flips, lambda_="log-likelihood")
    assert shares([(flips, bits)], "x").p == pytest.approx(expected.pvalue, rel=0.02)  # Williams' correction


def test_two_draws_are_their_convolution() -> None:
    """A slow reference: all outcomes of two hypergeometric numbers, one by one."""
    from scipy import stats

    marked, population, taken = np.array([5, 9]), np.array([20, 12]), np.array([7, 4])
    laws = [stats.hypergeom(*numbers) for numbers in zip(population, marked, taken, strict=True)]
    sums: dict[int, float] = defaultdict(float)
    for i in range(8):
        for j in range(5):
            sums[i + j] += laws[0].pmf(i) * laws[1].pmf(j)
    for observed in range(2, 9):
        below = sum(p for total, p in sums.items() if total <= observed)
        above = sum(p for total, p in sums.items() if total >= observed)
        assert sum_of_draws(marked, population, taken, observed).p == pytest.approx(min(1, 2 * min(below, above)))


def test_simulated_p_values_are_those_of_all_outcomes() -> None:
    """Three flips in three cells, against all 27 ways."""
    bits = np.array([5, 3, 2]) << 20
    chances = bits / bits.sum()

    def ratio(counts: np.ndarray) -> float:
        return float(2 * sum(n * math.log(n / (3 * p)) for n, p in zip(counts, chances, strict=True) if n))

    ways = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    odds = {way: math.prod(chances[cell] for cell in way) for way in ways}
    statistic = {way: ratio(np.bincount(way, minlength=3)) for way in ways}
    for way in ((0, 0, 0), (2, 2, 2), (0, 1, 2), (1, 1, 2)):
        exact = sum(p for other, p in odds.items() if statistic[other] >= statistic[way] - 1e-9)
        assert shares([(np.bincount(way, minlength=3), bits)], "x").p == pytest.approx(exact, abs=0.03)


def test_holm() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
