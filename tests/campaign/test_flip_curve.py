"""One campaign, every BER: unbiasedness against known acc(k), coverage, savings, determinism, edges.

The synthetic models know acc(k) exactly; the truth at a rate is the exact binomial sum from scipy.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from faultcli.campaign.flip_curve import FlipCurve
from faultcli.campaign.statistics.smoothing import Moments, fit, spline_basis

BITS = 200_000
LOW, HIGH = 1e-7, 1e-2
STORED = 0.9
BERS = np.geomspace(LOW, HIGH, 11)


class Ruin:
    """Every flip ruins the model with chance c, as exponent bits do: maps are fine or at 0.1, hardly between."""

    def __init__(self, chance: float = 1 / 60) -> None:
        self.chance = chance

    def mean(self, k: np.ndarray) -> np.ndarray:
        bad = 1 - (1 - self.chance) ** k
        return bad * 0.1 + (1 - bad) * STORED

    def draw(self, rng: np.random.Generator, k: np.ndarray) -> np.ndarray:
        bad = rng.random(len(k)) < 1 - (1 - self.chance) ** k
        return np.where(bad, 0.1, STORED) + rng.uniform(-0.01, 0.01, len(k))


class Rough:
    """acc(k) that no spline can follow: odd numbers of flips cost 20 points more."""

    def mean(self, k: np.ndarray) -> np.ndarray:
        return 0.7 / (1 + k / 40) + 0.2 - 0.2 * (k % 2)

    def draw(self, rng: np.random.Generator, k: np.ndarray) -> np.ndarray:
        return self.mean(k) + rng.uniform(-0.05, 0.05, len(k))


def truth(mean: Callable[[np.ndarray], np.ndarray], ber: float, bits: int = BITS) -> float:
    k = np.arange(1, int(bits * ber + 12 * math.sqrt(bits * ber) + 40))
    return float(stats.binom.pmf(0, bits, ber) * STORED + stats.binom.pmf(k, bits, ber) @ mean(k))


def campaign(model: Ruin, seed: int, trials: int) -> FlipCurve:
    curve = FlipCurve(BITS, LOW, HIGH, fault_free={"accuracy": STORED}, seed=seed)
    rng = np.random.default_rng([seed, 1])
    while curve.trials < trials:
        flips = curve.next_flips(min(64, trials - curve.trials))
        for k, value in zip(flips, model.draw(rng, np.array(flips)), strict=True):
            curve.add(k, {"accuracy": float(value)})
    return curve


def unbiased(curve: FlipCurve, flips: np.ndarray, values: np.ndarray, ber: float) -> tuple[float, float]:
    """Return the importance-weighted estimate at one rate and its standard error: nothing is assumed of acc(k).

    Every trial is weighted by Binom(k; bits, p)/q(k), q being the law it was drawn from. To keep the weights' noise off
    the level, they weight only what a curve fitted to the *other* half of the trials leaves over (a difference
    estimator with cross-fitting): unbiased for every acc(k), however rough, and with any curve, where the numbers of
    trials per stratum do not depend on the trials' values. The standard error is a guide: flips that are spread evenly
    over a stratum make it too large (twice, where acc(k) is rough), the two halves that fit each other make it too
    small (by a fifth at 7 trials per half of a stratum).
    """
    cells = len(curve.edges) - 1
    cell = curve._cell(flips)
    k, mass = curve._binomial(ber)
    probability = dict(zip(k.tolist(), mass.tolist(), strict=True))
    lengths = np.log(curve.edges[cell + 1] / curve.edges[cell])
    weight = np.array([probability.get(int(one), 0.0) for one in flips]) * lengths / np.log1p(1 / flips)
    order = np.zeros(len(cell), dtype=np.int64)  # position of a trial within its stratum
    for h in range(cells):
        order[cell == h] = np.arange((cell == h).sum())
    basis = spline_basis(curve._position(flips), cells)
    level, row = curve._row(ber)
    estimate, variance = 0.0, 0.0
    for half in (0, 1):
        own = order % 2 == half
        moments = Moments(cells, STORED)
        for i in np.flatnonzero(~own):
            moments.add(basis[i], float(values[i]), int(cell[i]))
        other = fit(moments).coefficients
        rest = weight * (values - basis @ other)
        estimate += 0.5 * (level * STORED + float(row @ other))
        for h in np.unique(curve._cell(k[k > 0])):
            mine = rest[own & (cell == h)]
            estimate += 0.5 * float(mine.mean())
            variance += 0.25 * float(mine.var(ddof=1)) / len(mine)
    return estimate, math.sqrt(variance)


def test_weighting_is_unbiased_for_any_curve_under_a_fixed_allocation() -> None:
    # One round before any value is known: trials go round the strata. 120 campaigns, the mean must hit the truth, and
    # the standard errors must not promise more than there is.
    model = Rough()
    found = {ber: [] for ber in (1e-6, 1e-5, 1e-4, 1e-3)}
    for seed in range(120):
        curve = FlipCurve(BITS, LOW, 2e-3, fault_free={"accuracy": STORED}, seed=seed)
        flips = np.array(curve.next_flips(160))
        values = model.draw(np.random.default_rng([seed, 1]), flips)
        for ber, estimates in found.items():
            estimates.append(unbiased(curve, flips, values, ber))
    for ber, estimates in found.items():
        mean, error = np.array(estimates).T
        off = (mean.mean() - truth(model.mean, ber)) / (mean.std(ddof=1) / math.sqrt(len(mean)))
        assert abs(off) < 3.5, ber
        assert math.sqrt((error**2).mean()) > 0.75 * mean.std(ddof=1), ber


def test_the_flips_of_a_stratum_follow_the_law_that_the_weights_assume() -> None:
    counts = np.zeros(400)
    for seed in range(200):
        curve = FlipCurve(BITS, LOW, 1e-3, fault_free={"accuracy": STORED}, seed=seed)
        for k in curve.next_flips(120):
            counts[k] += k < 400
    edges = curve.edges[curve.edges < 400]
    for low, high in itertools.pairwise(edges):
        k = np.arange(low, high)
        expected = counts[k].sum() * np.log1p(1 / k) / math.log(high / low)
        assert stats.chisquare(counts[k], expected).pvalue > 1e-4 if len(k) > 1 else True


def test_the_smooth_curve_covers_at_every_rate() -> None:
    model = Ruin()
    known = np.array([truth(model.mean, ber) for ber in BERS])
    covered, together = [], []
    for seed in range(8):
        curve = campaign(model, seed, 640)
        points = [curve.estimate(ber) for ber in BERS]
        covered.append([p.low <= t <= p.high for p, t in zip(points, known, strict=True)])
        band = [point.interval for point in curve.band(BERS.tolist())]
        together.append(all(p.low <= t <= p.high for p, t in zip(band, known, strict=True)))
        assert all(wide.half_width >= p.half_width - 1e-9 for wide, p in zip(band, points, strict=True))
    assert np.mean(covered) >= 0.9  # of 88; intervals a third too narrow cover 81 % of them
    assert np.mean(covered, axis=0).min() >= 0.7
    assert np.mean(together) >= 0.8


def test_a_third_of_the_trials_of_eleven_campaigns() -> None:
    # Eleven campaigns of n trials each, n such that the worst of them has the half-width asked; t over trials.
    model, half_width = Ruin(), 0.04
    rng = np.random.default_rng(0)
    spread = []
    for ber in BERS:
        flips = rng.binomial(BITS, ber, 5000)
        spread.append(np.where(flips > 0, model.draw(rng, flips), STORED).std())
    direct = 11 * (1.96 * max(spread) / half_width) ** 2
    for seed in range(2):
        trials = 0
        curve = campaign(model, seed, 64)
        while curve.half_width() > half_width:
            trials = curve.trials + 64
            flips = curve.next_flips(64)
            for k, value in zip(flips, model.draw(rng, np.array(flips)), strict=True):
                curve.add(k, {"accuracy": float(value)})
        assert trials <= direct / 3
        assert all((curve.estimate(ber).half_width or 1) <= half_width for ber in BERS)


def test_the_allocation_goes_where_the_uncertainty_is() -> None:
    curve = campaign(Ruin(), 0, 600)
    flips = np.array(curve.next_flips(64))
    assert np.mean((flips > 5) & (flips < 500)) > 0.8


def test_max_ber() -> None:
    model = Ruin()
    rates = np.geomspace(LOW, HIGH, 400)
    known = rates[np.flatnonzero(np.array([truth(model.mean, ber) for ber in rates]) < 0.6)[0]]
    held = 0
    for seed in range(12):
        curve = campaign(model, seed, 400)
        found = curve.find_max_ber(0.6)
        assert found is not None
        assert None not in (found.ber_per_bit, found.low, found.high)
        assert found.low < found.ber_per_bit < found.high
        held += found.low <= known <= found.high
    assert held >= 10
    aimed = np.array(curve.next_flips(40, rates=(found.low, found.high)))
    assert np.median(np.abs(np.log10(aimed / (BITS * known)))) < 0.7


def test_max_ber_outside_the_range() -> None:
    curve = campaign(Ruin(), 0, 400)
    never = curve.find_max_ber(0.95)
    assert never is not None
    assert (never.ber_per_bit, never.low) == (None, None)
    always = curve.find_max_ber(0.01)
    assert always is not None
    assert always.ber_per_bit == always.low == pytest.approx(HIGH)
    assert always.high is None


def test_several_quantities_and_the_same_rounds_again() -> None:
    def run() -> FlipCurve:
        curve = FlipCurve(BITS, 1e-6, 1e-3, fault_free={"accuracy": 0.9, "sdc": 0.0, "due": 0.0}, seed=7)
        for _ in range(4):
            for k in curve.next_flips(40):
                curve.add(k, {"accuracy": 0.9 / (1 + k / 50), "sdc": k / (50 + k), "due": 0.0})
        return curve

    one, other = run(), run()
    assert one.next_flips(40) == other.next_flips(40)
    for quantity in ("accuracy", "sdc", "due"):
        assert one.estimate(1e-4, quantity) == other.estimate(1e-4, quantity)
    sdc, due = one.estimate(1e-4, "sdc"), one.estimate(1e-4, "due")
    assert sdc is not None
    assert due is not None
    assert sdc.mean == pytest.approx(
        truth(lambda k: k / (50 + k), 1e-4) - stats.binom.pmf(0, BITS, 1e-4) * 0.9, abs=0.01
    )
    assert due.mean == 0
    assert due.low == 0
    assert due.high > 0  # never seen is not impossible


def test_before_the_pilot_there_is_nothing() -> None:
    curve = FlipCurve(BITS, LOW, HIGH, fault_free={"accuracy": STORED})
    assert curve.estimate(1e-4) is None
    assert curve.find_max_ber(0.5) is None
    assert curve.band([1e-4]) == []
    assert curve.half_width() == 1
    first = curve.next_flips(len(curve.edges) - 1)
    assert [int(np.searchsorted(curve.edges, k, side="right")) for k in first] == list(range(1, len(curve.edges)))


@pytest.mark.parametrize(("bits", "low", "high"), [(0, 1e-5, 1e-4), (10, 0, 0.1), (10, 0.2, 0.1), (10, 0.1, 1.0)])
def test_impossible_curves(bits: int, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no such curve"):
        FlipCurve(bits, low, high, fault_free={"accuracy": 0.9})


def test_flips_outside_the_strata() -> None:
    curve = FlipCurve(BITS, LOW, HIGH, fault_free={"accuracy": 0.9})
    with pytest.raises(ValueError, match="0 flips lie in no stratum"):
        curve.add(0, {"accuracy": 0.9})


@pytest.mark.parametrize(("bits", "low", "high"), [(8, 1e-3, 0.9), (10**12, 1e-9, 1e-6), (10**9, 1e-4, 1.1e-4)])
def test_small_large_and_narrow_curves(bits: int, low: float, high: float) -> None:
    curve = FlipCurve(bits, low, high, fault_free={"accuracy": 0.9})
    for _ in range(3):
        for k in curve.next_flips(48):
            assert 1 <= k <= bits
            curve.add(k, {"accuracy": 0.5})
    middle = curve.estimate(high)
    assert middle is not None
    assert middle.mean == pytest.approx(0.5, abs=0.01)


def test_binomial_weights_match_scipy() -> None:
    curve = FlipCurve(10**7, 1e-7, 1e-3, fault_free={"accuracy": 0.9})
    for ber in (1e-7, 1e-5, 1e-3):
        k, mass = curve._binomial(ber)
        assert mass == pytest.approx(stats.binom.pmf(k, 10**7, ber), rel=1e-6, abs=1e-9)


def test_spline_basis_sums_to_one_and_matches_scipy() -> None:
    from scipy.interpolate import BSpline

    x = np.linspace(0, 5, 41)
    basis = spline_basis(x, 5)
    assert basis.sum(axis=1) == pytest.approx(np.ones(41))
    knots = np.arange(-3, 9, dtype=float)
    for j in range(8):
        assert basis[:, j] == pytest.approx(BSpline(knots, np.eye(8)[j], 3)(x), abs=1e-12)


def test_a_fit_recovers_a_straight_line() -> None:
    moments = Moments(6, 0.9)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 6, 400)
    rows = spline_basis(x, 6)
    for row, position in zip(rows, x, strict=True):
        moments.add(row, 0.9 - 0.1 * position + rng.normal(0, 0.05), int(position))
    smooth = fit(moments)
    at = spline_basis(np.array([0.5, 3.0, 5.5]), 6)
    error = np.sqrt(np.einsum("ij,jk,ik->i", at, smooth.covariance, at))
    assert np.abs(at @ smooth.coefficients - (0.9 - 0.1 * np.array([0.5, 3.0, 5.5]))).max() < 4 * error.max()
    assert error.max() < 0.02
