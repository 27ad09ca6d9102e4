"""The draws are exact: held to binomial laws and to slow references."""

import numpy as np
import pytest
from scipy import stats

from faultcli.faults.sampling import Stream, bernoulli_positions, distinct_positions, first_events

SEEDS = 1000


@pytest.mark.parametrize("rate", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3])
def test_number_of_flips_is_binomial(rate: float) -> None:
    # As many sites as give counts that a chi-square test can bin, up to 25 M fp32 weights at the lowest rate.
    sites = int(min(8e8, max(200, 40 / rate)))
    counts = np.array([len(bernoulli_positions(Stream("count", rate, seed), sites, rate)) for seed in range(SEEDS)])
    law = stats.binom(sites, rate)
    z = (counts.mean() - law.mean()) / (law.std() / np.sqrt(SEEDS))
    assert abs(z) < 4.5  # the seeds are fixed, so this holds always or never
    edges = law.ppf(np.linspace(0.1, 0.9, 9))
    observed = np.bincount(np.searchsorted(edges, counts), minlength=10)
    below = np.concatenate([[0], law.cdf(edges), [1]])
    assert stats.chisquare(observed, SEEDS * np.diff(below)).pvalue > 1e-4


def test_every_bit_position_is_hit_equally_and_the_ends_too() -> None:
    sites, rate = 320, 0.03
    hits = np.zeros(sites)
    trials = 10_000
    for seed in range(trials):
        hits[bernoulli_positions(Stream("where", seed), sites, rate)] += 1
    expected = trials * rate
    assert stats.chisquare(hits, np.full(sites, hits.sum() / sites)).pvalue > 1e-4
    spread = np.sqrt(trials * rate * (1 - rate))
    assert abs(hits[0] - expected) < 4 * spread
    assert abs(hits[-1] - expected) < 4 * spread


def test_picks_are_independent() -> None:
    sites, rate, trials = 16, 0.2, 8_000
    picks = np.zeros((trials, sites))
    for seed in range(trials):
        picks[seed, bernoulli_positions(Stream("pairs", seed), sites, rate)] = 1
    correlation = np.corrcoef(picks.T)[np.triu_indices(sites, 1)]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(trials)


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.5, 0.97, 1.0])
def test_positions_ascend_without_repeats_inside_the_sites(rate: float) -> None:
    positions = bernoulli_positions(Stream("order", rate), 5000, rate)
    assert (np.diff(positions) > 0).all()
    assert len(positions) == 0 or (positions[0] >= 0 and positions[-1] < 5000)
    assert len(positions) == {0.0: 0, 1.0: 5000}.get(rate, len(positions))


def test_chunking_does_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bernoulli_positions(Stream("chunks"), 10**6, 1e-2)
    monkeypatch.setattr("faultcli.faults.sampling._CHUNK", 97)
    assert np.array_equal(whole, bernoulli_positions(Stream("chunks"), 10**6, 1e-2))


def test_a_rate_of_one_in_a_trillion() -> None:
    # 25 M fp32 weights would take 1250 campaigns to see one flip; a memory of 10^12 bits sees one on average.
    counts = [len(bernoulli_positions(Stream("rare", seed), 10**12, 1e-12)) for seed in range(2000)]
    assert abs(np.mean(counts) - 1) < 4.5 / np.sqrt(2000)
    assert abs(np.mean(np.array(counts) == 0) - np.exp(-1)) < 0.05


def test_first_draws_are_what_they_always_were() -> None:
    # Golden: written down when the stream was defined. A change here breaks every published seed.
    assert Stream("golden", 0).raw(2).tolist() == [17844509619178984049, 335250042878715956]
    assert bernoulli_positions(Stream("golden", 0), 10**6, 1e-5).tolist() == [
        3319,
        404094,
        454922,
        497224,
        537176,
        604384,
        625954,
        734619,
        867585,
        997595,
    ]


@pytest.mark.parametrize(("sites", "count"), [(10, 10), (10, 5), (1000, 7), (10**9, 100), (64, 33), (1, 1), (5, 0)])
def test_distinct_positions_are_distinct_and_inside(sites: int, count: int) -> None:
    drawn = distinct_positions(Stream("distinct", sites, count), sites, count)
    assert len(drawn) == count == len(set(drawn.tolist()))
    assert count == 0 or (drawn.min() >= 0 and drawn.max() < sites)


def test_distinct_positions_favour_no_site() -> None:
    hits = np.zeros(20)
    for seed in range(10_000):
        hits[distinct_positions(Stream("fair", seed), 20, 3)] += 1
    assert stats.chisquare(hits).pvalue > 1e-4


def test_earliest_failures_spread_by_size() -> None:
    """Merging two regions' earliest failures gives the hypergeometric split of a common sample."""
    sizes, count, trials = (30, 10), 8, 6_000  # a share that is off by a fortieth shows
    in_second = np.zeros(trials)
    for seed in range(trials):
        times = [first_events(Stream("split", seed, r), n, count) for r, n in enumerate(sizes)]
        last = np.sort(np.concatenate(times))[count - 1]
        in_second[seed] = (times[1] <= last).sum()
    law = stats.hypergeom(sum(sizes), sizes[1], count)
    observed = np.bincount(in_second.astype(int), minlength=count + 1)
    expected = trials * law.pmf(np.arange(count + 1))
    kept = expected > 5
    statistic = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-4


def test_normal_and_uniform_follow_their_laws() -> None:
    stream = Stream("laws")
    assert stats.kstest(stream.uniform(20_000), "uniform").pvalue > 1e-4
    assert stats.kstest(stream.normal(20_001), "norm").pvalue > 1e-4
    assert np.bincount(stream.below(7, 70_000), minlength=7) == pytest.approx(10_000, abs=450)
