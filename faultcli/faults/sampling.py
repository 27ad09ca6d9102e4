"""Exact random draws from a stream of raw bits that is the same on every machine.

Only the bit generator of numpy is used (its raw output never changes between releases); what is made of the bits is
defined here, so a seed means the same faults in ten years.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

_CHUNK = 1 << 20  # draws at a time: bounds the working memory at high rates


class Stream:
    """A stream of random numbers that is fixed by what it is for.

    Args:
        key: whatever identifies the draw: seed, trial, law, region name, layout. Two streams with different keys are
            independent; the same key gives the same stream.
    """

    def __init__(self, *key: object) -> None:
        digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest, "little"))

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Return `count` words of 64 random bits."""
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return `count` uniform numbers, strictly between 0 and 1, on a grid of 2^-53."""
        return ((self.raw(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def exponential(self, count: int) -> NDArray[np.float64]:
        """Return `count` exponential numbers of mean 1."""
        return -np.log(self.uniform(count))

    def normal(self, count: int) -> NDArray[np.float64]:
        """Return `count` standard normal numbers (Box and Muller 1958)."""
        half = (count + 1) // 2
        radius = np.sqrt(2 * self.exponential(half))
        angle = 2 * np.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def below(self, limit: int, count: int) -> Positions:
        """Return `count` whole numbers, uniform in [0, limit), limit up to 2^52.

        A 64-bit draw is scaled down by taking the remainder after rejecting the incomplete last cycle, so no value is
        favoured.
        """
        cycle = np.uint64((2**64 // limit) * limit - 1)
        out = np.empty(0, dtype=np.int64)
        while len(out) < count:
            raw = self.raw(count - len(out))
            out = np.concatenate([out, (raw[raw <= cycle] % np.uint64(limit)).astype(np.int64)])
        return out


def bernoulli_positions(stream: Stream, sites: int, rate: float) -> Positions:
    """Return the ascending positions, out of `sites`, that an independent coin of probability `rate` picks.

    The gaps between picks are geometric, so the time and memory are those of the picks, not of the sites: exact for
    any rate from 1e-12 to 1. Source: Devroye, Non-Uniform Random Variate Generation (1986), ch. X.2.
    """
    found = list(bernoulli_pieces(stream, sites, rate))
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def bernoulli_pieces(stream: Stream, sites: int, rate: float) -> Iterator[Positions]:
    """Yield what `bernoulli_positions` returns, piece by piece."""
    if rate <= 0 or sites <= 0:
        return
    if rate >= 1:
        for start in range(0, sites, _CHUNK):
            yield np.arange(start, min(start + _CHUNK, sites), dtype=np.int64)
        return
    scale = -1.0 / np.log1p(-rate)
    last = -1
    while last < sites - 1:
        expected = (sites - 1 - last) * rate
        count = min(int(expected + 4 * np.sqrt(expected)) + 16, _CHUNK)
        gaps = np.floor(stream.exponential(count) * scale)
        steps = np.minimum(gaps, sites).astype(np.int64) + 1
        positions = last + np.cumsum(steps)
        inside = int(np.searchsorted(positions, sites))
        yield positions[:inside]
        if inside < count:
            break
        last = int(positions[-1])


def distinct_positions(stream: Stream, sites: int, count: int) -> Positions:
    """Return `count` different positions out of `sites`, in random order: a sample without replacement.

    The first k of them are the same whatever `count` is asked for, as long as it is at most half of the sites.
    """
    if 2 * count > sites:
        order: Positions = np.argsort(stream.raw(sites), kind="stable")
        return order[:count]
    drawn = np.empty(0, dtype=np.int64)
    while True:
        drawn = np.concatenate([drawn, stream.below(sites, count)])
        _, first = np.unique(drawn, return_index=True)
        if len(first) >= count:
            return drawn[np.sort(first)[:count]]


def first_events(stream: Stream, sites: int, count: int) -> NDArray[np.float64]:
    """Return the `count` earliest times when each of `sites` sites fails after an exponential life of mean 1.

    Merging such lists of several regions and keeping the k earliest gives k faults spread over all of their sites
    without favour, while each region draws alone.
    """
    alive = sites - np.arange(count, dtype=np.float64)
    return np.cumsum(stream.exponential(count) / alive)


class RowStream:
    """Streams of random words, one for each row of a table, fixed by what they are for and by the row's number.

    The words of many rows are made at once, and are the same however rows are put together: a counter-based generator
    (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) gives them by their place. Row r has words in
    depths; depth d has 4·2^d of them (no more than 4,096), at the blocks of the counter (d, r·2^d, ...).

    Args:
        key: as for `Stream`.
    """

    _DEEPEST = 10  # from here on depths have equally many words

    def __init__(self, *key: object) -> None:
        digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
        self._key = int.from_bytes(digest, "little")

    def exponential(self, depth: int, first: int, rows: int) -> NDArray[np.float64]:
        """Return exponential numbers of mean 1 of so many rows, [rows, words of this depth]."""
        blocks = 1 << min(depth, self._DEEPEST)
        bits = np.random.Philox(key=self._key, counter=(depth << 64) + first * blocks)
        raw = np.asarray(bits.random_raw(4 * blocks * rows), dtype=np.uint64).reshape(rows, 4 * blocks)
        return -np.log(((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def bernoulli_rows(stream: RowStream, first: int, rows: int, sites: int, rate: float) -> tuple[Positions, Positions]:
    """Return what independent coins of probability `rate` pick in each of some rows: row by row, counted from `first`,
    and the position out of `sites` there; ascending.

    Exact, as `bernoulli_positions`. What is picked in a row depends on the stream and the number of the row alone, and
    where there are more sites, more are picked behind those that were.
    """
    found: list[tuple[Positions, Positions]] = []
    if rate > 0 and sites > 0 and rows > 0:
        scale = 0.0 if rate >= 1 else -1.0 / np.log1p(-rate)
        alive, last, depth = np.arange(rows, dtype=np.int64), np.full(rows, -1, dtype=np.int64), 0
        while len(alive):
            low = int(alive[0])
            drawn = stream.exponential(depth, first + low, int(alive[-1]) - low + 1)[alive - low]
            steps = np.minimum(np.floor(drawn * scale), sites).astype(np.int64) + 1
            positions = last[:, None] + np.cumsum(steps, axis=1)
            inside = positions < sites
            found.append((np.broadcast_to(alive[:, None], inside.shape)[inside], positions[inside]))
            going_on = positions[:, -1] < sites - 1
            alive, last, depth = alive[going_on], positions[going_on, -1], depth + 1
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    which, where = (np.concatenate([one[part] for one in found]) for part in (0, 1))
    order = np.argsort(which, kind="stable")  # within a row they ascend already
    return which[order], where[order]
