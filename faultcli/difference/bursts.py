"""From flipped bits back to the bursts that flipped them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.difference.comparing import TensorDifference

ACROSS = ("word", "row", "column")  # as `burst` has them


@dataclass(frozen=True)
class Lines:
    """Flips in lines along which bursts run: a word, all words of a tensor one behind the other, or one bit position of
    all its words.

    `line`: int64 [n], ascending. `at`: int64 [n], the place in the line, ascending in it. `ends`: int64 [n], how long
    the line is.
    """

    line: NDArray[np.int64]
    at: NDArray[np.int64]
    ends: NDArray[np.int64]

    @property
    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the first and the last flip of each run of neighbours."""
        new = np.ones(len(self.at) + 1, dtype=bool)
        new[1:-1] = (np.diff(self.line) != 0) | (np.diff(self.at) != 1)
        return np.flatnonzero(new[:-1]), np.flatnonzero(new[1:])


def lines(tensors: Sequence[TensorDifference], eligible: Sequence[tuple[int, ...]], across: str) -> Lines:
    """Lay the flips of tensors out in lines.

    Args:
        tensors: the flips.
        eligible: per tensor the bit positions that can flip, ascending; all flips are in them.
        across: one of `ACROSS`.
    """
    parts, before = [], 0
    for t, positions in zip(tensors, eligible, strict=True):
        words, bits, _ = t.flipped
        width = len(positions)
        rank = np.searchsorted(np.array(positions, dtype=np.int64), bits)
        if across == "column":
            line, at, length, count = rank, words, t.layout.words, width
        elif across == "row":
            line, at, length, count = np.zeros_like(words), words * width + rank, t.layout.words * width, 1
        else:
            line, at, length, count = words, rank, width, t.layout.words
        order = np.lexsort((at, line))
        parts.append((before + line[order], at[order], np.full(len(at), length, dtype=np.int64)))
        before += count
    empty = np.empty(0, dtype=np.int64)
    return Lines(*(np.concatenate([empty, *(part[which] for part in parts)]) for which in range(3)))


def likely_lengths(found: Lines, most: int = 4) -> list[int]:
    """Return the lengths, 2 and more, of most runs of neighbours: bursts that meet no other are such runs."""
    first, last = found.runs
    lengths, often = np.unique(last - first + 1, return_counts=True)
    several = lengths > 1
    order = np.argsort(-often[several], kind="stable")
    return [int(length) for length in lengths[several][order][:most]]


def count_starts(found: Lines, length: int, *, cut_off: bool) -> int | None:
    """Return how many bursts of `length` give exactly these flips, where two bursts undo each other.

    There is one answer at the most: the first flip of a line begins a burst, and so on. With y the flips and x the
    starts, y(z) = x(z) (1 + z + … + z^(length−1)) over GF(2), so (1 + z) y(z) = (1 + z^length) x(z): x is on, in each
    class of places modulo `length`, between an edge of a run of flips and the next such edge of the class.

    Args:
        found: the flips.
        length: of a burst, 2 or more.
        cut_off: a burst may run over the end of its line.

    Returns:
        The number of starts; None where bursts that keep inside their lines cannot flip these bits.
    """
    first, last = found.runs
    ends = np.concatenate([found.ends[first], found.ends[last]])
    line = np.concatenate([found.line[first], found.line[last]])
    edge = np.concatenate([found.at[first], found.at[last] + 1])
    if cut_off:
        inside = edge < ends
        line, edge, ends = line[inside], edge[inside], ends[inside]
    residue = edge % length
    order = np.lexsort((edge, residue, line))
    line, edge, residue, ends = line[order], edge[order], residue[order], ends[order]
    new = np.ones(len(edge) + 1, dtype=bool)
    new[1:-1] = (np.diff(line) != 0) | (np.diff(residue) != 0)
    begins = np.flatnonzero(new[:-1])
    rank = np.arange(len(edge)) - begins[np.cumsum(new[:-1]) - 1]
    on = rank % 2 == 0
    closing = new[1:]  # the last edge of its class
    starts = 0
    tails = on & closing
    if tails.any():
        if not cut_off:
            return None
        starts += int(((ends[tails] - 1 - edge[tails]) // length + 1).sum())
    inner = np.flatnonzero(on & ~closing)
    return starts + int(((edge[inner + 1] - edge[inner]) // length).sum())
