"""Two checkpoints word by word: which bits differ, and how many zeros and ones were stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint, ContentHash, TensorInfo
from faultcli.difference.dumps import CheckpointDump, Dump
from faultcli.faults.maps import FaultMap, Layout, WordFaults
from faultcli.formats import NumberFormat, word_format
from faultcli.protect.base import words_of_bytes

FOUND_BY = "found by diff"  # in place of the law of a map that was drawn
_TILE_BYTES = 1 << 20  # compared at a time: they stay in the cache
_SLICES = 64  # of a tile, whose bits are added up before they are counted
_SAMPLED = 1 << 14  # words of a tensor whose neighbours are looked at


class FlippedBits(NamedTuple):
    """Single flipped bits of a tensor, sorted by word, then by bit.

    `words`: int64 [n]. `bits`: int64 [n], 0 is the least significant. `held`: int64 [n], 0 or 1: what was stored.
    """

    words: NDArray[np.int64]
    bits: NDArray[np.int64]
    held: NDArray[np.int64]


@dataclass(frozen=True)
class TensorDifference:
    """What differs in one tensor.

    Attributes:
        info: the tensor in the golden checkpoint.
        format: of its words (`word_format`).
        layout: how many words, of how many bits.
        address: of its first byte in the memory array, for rows and columns.
        faults: the words that differ.
        golden: uint64 [n], those words as they were.
        ones: int64 [bits], stored ones by bit position, of all words.
        nonzero: words that are not 0.
        sample: unsigned [2, m], words of the golden tensor, evenly spread, and those behind them.
    """

    info: TensorInfo
    format: NumberFormat
    layout: Layout
    address: int
    faults: WordFaults
    golden: NDArray[np.uint64]
    ones: NDArray[np.int64]
    nonzero: int
    sample: NDArray[Any] = field(repr=False)

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def stored(self) -> NDArray[np.int64]:
        """int64 [2, bits]: how many zeros and how many ones are stored, by bit position."""
        return np.stack([self.layout.words - self.ones, self.ones])

    @cached_property
    def flipped(self) -> FlippedBits:
        """The bits that flipped, one by one."""
        words, masks = self.faults
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for bit in range(self.layout.bits):
            hit = np.flatnonzero((masks >> np.uint64(bit)) & np.uint64(1))
            parts.append((hit, np.full(len(hit), bit, dtype=np.int64)))
        at, bits = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
        order = np.lexsort((bits, at))
        at, bits = at[order], bits[order]
        held = ((self.golden[at] >> bits.astype(np.uint64)) & np.uint64(1)).astype(np.int64)
        return FlippedBits(words[at], bits, held)

    @cached_property
    def flips(self) -> NDArray[np.int64]:
        """int64 [2, bits]: how many zeros and how many ones flipped, by bit position."""
        found = np.bincount(self.flipped.held * self.layout.bits + self.flipped.bits, minlength=2 * self.layout.bits)
        return found.astype(np.int64).reshape(2, self.layout.bits)


@dataclass(frozen=True)
class Difference:
    """What differs between two checkpoints, in the tensors that were compared, in file order.

    `before` and `after`: SHA-256 of both, where one becomes the other by these flips alone; else None.
    """

    tensors: tuple[TensorDifference, ...]
    before: str | None = None
    after: str | None = None

    @property
    def bits(self) -> int:
        """Bits that were compared."""
        return sum(t.layout.words * t.layout.bits for t in self.tensors)

    @property
    def flips(self) -> int:
        """Bits that differ."""
        return int(sum(t.flips.sum() for t in self.tensors))

    @property
    def stored(self) -> tuple[int, int]:
        """Zeros and ones that were stored."""
        ones = int(sum(t.ones.sum() for t in self.tensors))
        return self.bits - ones, ones

    @property
    def by_direction(self) -> tuple[int, int]:
        """Flips from 0 to 1, and from 1 to 0."""
        zeros, ones = (int(sum(t.flips[held].sum() for t in self.tensors)) for held in (0, 1))
        return zeros, ones

    def fault_map(self) -> FaultMap:
        """Return the difference as a fault map over all tensors compared, bound to both checkpoints where it can be."""
        return FaultMap(
            {t.name: t.faults for t in self.tensors if len(t.faults.words)},
            {t.name: t.layout for t in self.tensors},
            fault=FOUND_BY,
            before=self.before,
            after=self.after,
        )


def compare(
    golden: Checkpoint,
    dump: Dump,
    names: Sequence[str],
    *,
    bind: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Difference:
    """Compare tensors of a checkpoint with a dump of them. Memory: twice the largest tensor, and the flips.

    Args:
        golden: as it should be.
        dump: as it was found; fits `golden` (`open_dump`).
        names: the tensors to compare.
        bind: find the SHA-256 of both, for which all tensors are read.
        progress: called with the bytes of `golden` done since its last call.

    Raises:
        CheckpointError: one of both cannot be read, or has changed since it was opened.
    """
    compared = set(names)
    hashes = _Hashes.of(golden, dump) if bind else None
    largest = max((info.nbytes for info in golden.tensors.values()), default=0)
    buffers = np.empty(largest, dtype=np.uint8), np.empty(largest, dtype=np.uint8)
    found = []
    for info in golden.tensors.values():
        if hashes is not None or info.name in compared:
            before = golden.read_bytes(info.name, buffers[0])
            after = dump.read(info, buffers[1])
            if hashes is not None:
                hashes.update(info, before, after, info.name in compared)
            if info.name in compared:
                found.append(difference_of(info, before, after, dump.address(info)))
        progress(info.nbytes)
    bound = hashes.bound() if hashes is not None else None
    return Difference(tuple(found), *(bound or (None, None)))


class _Hashes:
    """The SHA-256 of two checkpoints that differ in the bytes of some tensors alone, from one read of both."""

    def __init__(self, golden: Checkpoint, dump: Checkpoint) -> None:
        self._both = ContentHash(golden), ContentHash(dump)
        self._dump = dump
        self._alike = True

    @classmethod
    def of(cls, golden: Checkpoint, dump: Dump) -> _Hashes | None:
        """Return them where the dump is a checkpoint whose files are laid out like the golden ones; else None."""
        if not isinstance(dump, CheckpointDump):
            return None
        other = dump.checkpoint
        one, two = ([shard.raw_header() for shard in each.shards] for each in (golden, other))
        named = len(one) == 1 or [shard.name for shard in golden.shards] == [shard.name for shard in other.shards]
        return cls(golden, other) if one == two and named else None

    def update(self, info: TensorInfo, before: NDArray[np.uint8], after: NDArray[np.uint8], compared: bool) -> None:
        self._both[0].update(info.file, before)
        self._both[1].update(self._dump.info(info.name).file, after)
        self._alike = self._alike and (compared or np.array_equal(before, after))

    def bound(self) -> tuple[str, str] | None:
        return (self._both[0].hexdigest(), self._both[1].hexdigest()) if self._alike else None


def difference_of(
    info: TensorInfo, before: NDArray[np.uint8], after: NDArray[np.uint8], address: int
) -> TensorDifference:
    """Compare the bytes of one tensor, uint8 [n], before and after; `address` is that of the first."""
    format = word_format(info.dtype)
    one, other = words_of_bytes(before, format.bits), words_of_bytes(after, format.bits)
    hit, masks, nonzero = [], [], 0
    step = _TILE_BYTES // one.itemsize
    for at in range(0, len(one), step):
        tile = one[at : at + step]
        differing = tile ^ other[at : at + step]
        words = np.flatnonzero(differing)
        hit.append(at + words)
        masks.append(differing[words].astype(np.uint64))
        nonzero += int(np.count_nonzero(tile))
    words = np.concatenate([np.empty(0, dtype=np.int64), *hit])
    faults = WordFaults(words, np.concatenate([np.empty(0, dtype=np.uint64), *masks]))
    sampled = np.arange(0, max(0, len(one) - 1), max(1, len(one) // _SAMPLED))
    return TensorDifference(
        info,
        format,
        Layout(len(one), format.bits),
        address,
        faults,
        one[words].astype(np.uint64),
        ones_by_position(one, format.bits),
        nonzero,
        np.stack([one[sampled], one[sampled + 1]]) if len(words) else one[:0].reshape(2, 0),
    )


def ones_by_position(words: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """Return int64 [bits]: how many of the words (unsigned, flat) have each bit set.

    Words are added up bit by bit in sliced counters (a tree of adders, as in Muła, Kurz and Lemire, Comput. J. 61
    (2018), sec. 3), which leaves a tenth of them to count.
    """
    counts = np.zeros(bits, dtype=np.int64)
    whole = len(words) - len(words) % _SLICES
    step = _TILE_BYTES // words.itemsize
    for at in range(0, whole, step):
        tile = words[at : min(at + step, whole)]
        counters = [[part] for part in tile.reshape(_SLICES, -1)]
        while len(counters) > 1:
            counters = [_added(one, other) for one, other in zip(counters[::2], counters[1::2], strict=True)]
        for weight, plane in enumerate(counters[0]):
            counts += _count(plane, bits) << weight
    return counts + _count(words[whole:], bits)


def _added(one: list[NDArray[Any]], other: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Add two sliced numbers of the same number of digits; the result has one digit more."""
    first, *rest = zip(one, other, strict=True)
    digits, carry = [first[0] ^ first[1]], first[0] & first[1]
    for a, b in rest:
        either = a ^ b
        digits.append(either ^ carry)
        carry = (a & b) | (either & carry)
    return [*digits, carry]


_BITS_OF_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int64)


def _count(words: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """As `ones_by_position`, from how often each byte occurs."""
    columns = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), bits // 8)
    return np.concatenate([np.bincount(column, minlength=256) @ _BITS_OF_BYTES for column in columns.T])
