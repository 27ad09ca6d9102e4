"""Flips per input: exact, the same however inputs are put together, and held to one coin at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from faultcli.faults.sampling import RowStream, bernoulli_rows


def one_by_one(stream: RowStream, row: int, sites: int, rate: float) -> list[int]:
    """The positions of one row, gap after gap in plain Python."""
    found, at, depth = [], -1, 0
    while True:
        for number in stream.exponential(depth, row, 1)[0]:
            at += 1 + min(math.floor(number * (-1 / math.log1p(-rate))), sites)
            if at >= sites:
                return found
            found.append(at)
        depth += 1


@pytest.mark.parametrize(("sites", "rate"), [(1000, 1e-3), (300, 0.2), (40_000, 0.3), (5, 1e-9)])
def test_rows_are_what_one_gap_after_the_other_gives(sites: int, rate: float) -> None:
    stream = RowStream("a", 1)
    rows, positions = bernoulli_rows(stream, 7, 12, sites, rate)
    expected = [(row, at) for row in range(12) for at in one_by_one(stream, 7 + row, sites, rate)]
    assert list(zip(rows.tolist(), positions.tolist(), strict=True)) == expected


def test_counts_are_binomial_and_positions_uniform() -> None:
    sites, rate, rows = 2000, 1e-3, 20_000
    which, where = bernoulli_rows(RowStream("counts"), 0, rows, sites, rate)
    counts = np.bincount(which, minlength=rows)
    most = 8
    seen = np.bincount(np.minimum(counts, most), minlength=most + 1)
    law = stats.binom(sites, rate)
    expected = rows * np.array([*law.pmf(np.arange(most)), law.sf(most - 1)])
    assert stats.chisquare(seen, expected).pvalue > 1e-3
    assert stats.kstest(where / sites, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(counts[:-1], counts[1:])[0, 1]) < 4 / math.sqrt(rows)


def test_rates_at_the_ends() -> None:
    rows, positions = bernoulli_rows(RowStream(0), 3, 2, 70, 1.0)
    assert rows.tolist() == [0] * 70 + [1] * 70
    assert positions.tolist() == [*range(70)] * 2
    for rate, sites, count in ((0.0, 70, 2), (0.5, 0, 2), (0.5, 70, 0)):
        assert len(bernoulli_rows(RowStream(0), 3, count, sites, rate)[0]) == 0


def test_a_row_is_the_same_in_every_batch_and_behind_padding() -> None:
    stream, rate = RowStream("b"), 0.05
    rows, positions = bernoulli_rows(stream, 0, 30, 900, rate)
    for first, count in ((0, 1), (3, 10), (13, 17)):
        some, there = bernoulli_rows(stream, first, count, 900, rate)
        inside = (rows >= first) & (rows < first + count)
        assert (some + first).tolist() == rows[inside].tolist()
        assert there.tolist() == positions[inside].tolist()
    wide_rows, wide = bernoulli_rows(stream, 0, 30, 1400, rate)
    assert wide[wide < 900].tolist() == positions.tolist()
    assert wide_rows[wide < 900].tolist() == rows.tolist()
    assert bernoulli_rows(RowStream("c"), 0, 30, 900, rate)[1].tolist() != positions.tolist()
