"""What the plainest fault law assumes, each assumption tested: every bit flips with one probability, by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.difference.comparing import Difference, TensorDifference
from faultcli.difference.exact import NOTHING, TestOutcome, evenness, holm, more_than_by_chance, shares, sum_of_draws

ALARM = 0.05  # of all tests together, for flips that keep all assumptions

# What each test is called in results, and what it says in words.
ASSUMPTIONS = {
    "bits": "one rate for all bits of a word",
    "tensors": "one rate for all tensors",
    "direction": "one rate for zeros and ones",
    "word": "no bursts within words",
    "column": "no bursts across words",
    "rows": "one rate for all rows",
    "columns": "one rate for all columns",
}


@dataclass(frozen=True)
class AssumptionTest:
    """One assumption held against the flips.

    Attributes:
        name: a key of `ASSUMPTIONS`.
        statistic: the likelihood ratio G (bits, tensors), standard deviations from what is expected (direction; above
            0: more stored ones than expected), observed over expected pairs (word, column), X² (rows, columns).
        p: as extreme a statistic of flips that keep the assumption has at most this probability; None: nothing to see.
        adjusted: p, corrected for the number of tests.
    """

    name: str
    statistic: float | None
    p: float | None
    adjusted: float | None

    @property
    def alarm(self) -> bool:
        """Whether the assumption fails."""
        return self.adjusted is not None and self.adjusted < ALARM


def check_assumptions(difference: Difference, pitch: int | None = None) -> tuple[AssumptionTest, ...]:
    """Test what `bitflip` assumes.

    Each test is given what the others look at, so that one broken assumption does not set off all: bits and tensors
    given how many stored zeros and how many stored ones flipped; direction given the flips of every bit position of
    every tensor; bursts given all of these.

    Args:
        difference: the flips.
        pitch: words in a row of the memory array, for rows and columns; words as wide as most of the memory's.
    """
    tensors = difference.tensors
    outcomes = {
        "bits": shares(_by_bit(tensors), "bits"),
        "tensors": shares(_by_tensor(tensors), "tensors"),
        "direction": _direction(tensors),
        "word": _pairs(tensors, _in_a_word),
        "column": _pairs(tensors, _in_a_column),
    }
    if pitch is not None:
        width = word_bytes(tensors)
        outcomes["rows"] = _spread(tensors, pitch * width, None)
        outcomes["columns"] = _spread(tensors, pitch * width, width)
    adjusted = holm([outcome.p for outcome in outcomes.values()])
    return tuple(
        AssumptionTest(name, *outcome, corrected)
        for (name, outcome), corrected in zip(outcomes.items(), adjusted, strict=True)
    )


def word_bytes(tensors: Sequence[TensorDifference]) -> int:
    """Return the bytes of a word as most of the memory has them."""
    sizes: dict[int, int] = {}
    for t in tensors:
        sizes[t.layout.bits // 8] = sizes.get(t.layout.bits // 8, 0) + t.info.nbytes
    return max(sizes, key=lambda size: sizes[size], default=1)


def _by_bit(tensors: Sequence[TensorDifference]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    groups = []
    for format in {t.format.name: t.format for t in tensors}.values():
        alike = [t for t in tensors if t.format.name == format.name]
        flips, stored = sum(t.flips for t in alike), sum(t.stored for t in alike)
        groups += [(np.asarray(flips)[held], np.asarray(stored)[held]) for held in (0, 1)]
    return groups


def _by_tensor(tensors: Sequence[TensorDifference]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return [
        (np.array([t.flips[held].sum() for t in tensors]), np.array([t.stored[held].sum() for t in tensors]))
        for held in (0, 1)
    ]


def _direction(tensors: Sequence[TensorDifference]) -> TestOutcome:
    if not tensors:
        return NOTHING
    stored = np.concatenate([t.stored for t in tensors], axis=1)
    flips = np.concatenate([t.flips for t in tensors], axis=1)
    return sum_of_draws(stored[1], stored.sum(axis=0), flips.sum(axis=0), int(flips[1].sum()))


def _pairs(tensors: Sequence[TensorDifference], count: Callable[[TensorDifference], tuple[int, float]]) -> TestOutcome:
    """Test for pairs of neighbours among flips. Given how many zeros and ones of each bit position flipped, those lie
    anywhere among the words that hold such a bit; `lift` says how much more often both bits of a pair are held
    together than if they had nothing to do with each other."""
    observed, expected = 0, 0.0
    for t in tensors:
        if len(t.flipped.words) > 1:
            found, by_chance = count(t)
            observed += found
            expected += by_chance
    return more_than_by_chance(observed, expected)


def _in_a_word(t: TensorDifference) -> tuple[int, float]:
    words, bits, _ = t.flipped
    found = int(((np.diff(words) == 0) & (np.diff(bits) == 1)).sum())
    held = _held(t.sample[0], t.layout.bits)
    lift = _lift(held[:, :-1], held[:, 1:])
    pairs = t.flips[:, None, :-1] * t.flips[None, :, 1:].astype(np.float64)
    return found, float((pairs * lift).sum()) / t.layout.words


def _in_a_column(t: TensorDifference) -> tuple[int, float]:
    words, bits, _ = t.flipped
    order = np.lexsort((words, bits))
    found = int(((np.diff(bits[order]) == 0) & (np.diff(words[order]) == 1)).sum())
    one, two = (_held(sample, t.layout.bits) for sample in t.sample)
    flips = t.flips.astype(np.float64)
    pairs = flips[:, None, :] * flips[None, :, :]
    for held in (0, 1):
        pairs[held, held] = flips[held] * (flips[held] - 1)  # a flip is no neighbour of itself
    return found, float((pairs * _lift(one, two)).sum()) / t.layout.words


def _held(words: NDArray[np.unsignedinteger], bits: int) -> NDArray[np.float64]:
    """Return the bits of words, [words, bits]."""
    return ((words[:, None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)).astype(np.float64)


def _lift(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, [2, 2, pairs], how often bits hold the values (i, j) over how often they would if independent; near 1
    where too few words do to tell."""
    out = np.ones((2, 2, one.shape[1]))
    for i in (0, 1):
        for j in (0, 1):
            a, b = (one if i else 1 - one), (other if j else 1 - other)
            by_chance = a.sum(axis=0) * b.sum(axis=0) / max(len(one), 1)
            out[i, j] = ((a * b).sum(axis=0) + 1) / (by_chance + 1)
    return out


def _spread(tensors: Sequence[TensorDifference], row: int, word: int | None) -> TestOutcome:
    """Test rows of `row` bytes; or, of a `word` of bytes, the columns. What is counted are words that were hit, so that
    several flips in one are no crowd; what is expected follows from the words hit in each tensor."""
    first = min((t.address for t in tensors), default=0) // row
    cells = row // word if word else -(-max((t.address + t.info.nbytes for t in tensors), default=0) // row) - first
    hits, expected = np.zeros(cells, dtype=np.int64), np.zeros(cells)
    for t in tensors:
        size = t.layout.bits // 8
        at = t.address + t.faults.words * size
        where = at % row // word if word else at // row - first
        hits += np.bincount(where, minlength=cells)
        if len(at):
            low, covered = (0, _columns(t, row, word)) if word else _rows(t, row, first)
            expected[low : low + len(covered)] += covered * (len(at) / t.info.nbytes)
    words = sum(t.layout.words for t in tensors)
    return evenness(hits, expected, max(1 - hits.sum() / max(words, 1), 1e-12), "columns" if word else "rows")


def _rows(t: TensorDifference, row: int, first: int) -> tuple[int, NDArray[np.float64]]:
    """The first row of a tensor, and how many of its bytes lie in each from there on."""
    low, high = t.address // row, (t.address + t.info.nbytes - 1) // row
    covered = np.full(high - low + 1, float(row))
    covered[0] -= t.address % row
    covered[-1] -= row - 1 - (t.address + t.info.nbytes - 1) % row
    return low - first, covered


def _columns(t: TensorDifference, row: int, word: int) -> NDArray[np.float64]:
    """Bytes of a tensor in each column of a word's width."""
    whole, rest = divmod(t.info.nbytes, row)
    columns = np.full(row // word, float(whole * word))
    start = t.address % row
    for low, high in ((start, min(start + rest, row)), (0, start + rest - row)):
        edges = np.arange(row // word) * word
        columns += np.clip(np.minimum(high, edges + word) - np.maximum(low, edges), 0, word)
    return columns
