"""Numbers as the words of a file's tensor hold them: packed codes, or values of a dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint.packed.bits import BitPacking, Words

CODES, SCALES, ZEROS, INDICES = "codes", "scales", "zeros", "indices"
ROLES = {
    CODES: "the packed codes of quantised weights",
    SCALES: "the scales of quantised weights",
    ZEROS: "the zero points of quantised weights",
    INDICES: "the indices by which quantised weights find their scales",
}


class WordReader(Protocol):
    """The words of tensors, by name."""

    def read(self, tensor: str, words: NDArray[np.int64] | slice) -> Words:
        """Return the words at these positions, unsigned."""


@dataclass(frozen=True)
class HeldWords:
    """Words as they were written: all of every tensor, flat."""

    words: Mapping[str, Words]
    _by_number: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict, repr=False)

    def read(self, tensor: str, words: NDArray[np.int64] | slice) -> Words:
        return self.words[tensor][words]

    def by_number(
        self, tensor: str, numbers: Callable[[], NDArray[np.int64]], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions at which every number from 0 to `size` − 1 stands in a tensor, one number after the
        other, and where each number's begin; sorted once. Negative numbers are left out."""
        if tensor not in self._by_number:
            found = numbers()
            order = np.argsort(found, kind="stable")
            self._by_number[tensor] = order, np.searchsorted(found[order], np.arange(size + 1))
        return self._by_number[tensor]


@dataclass(frozen=True)
class HitWords:
    """Words of which some were hit: `faults` has, by tensor, their positions (ascending) and the bits that flip."""

    held: HeldWords
    faults: Mapping[str, tuple[NDArray[np.int64], NDArray[np.uint64]]]

    def read(self, tensor: str, words: NDArray[np.int64] | slice) -> Words:
        found = self.held.read(tensor, words)
        if tensor not in self.faults:
            return found
        at, masks = self.faults[tensor]
        if isinstance(words, slice):
            found = found.copy()
            found[at] ^= masks.astype(found.dtype)
            return found
        near = np.searchsorted(at, words).clip(max=len(at) - 1)
        return np.where(at[near] == words, found ^ masks[near].astype(found.dtype), found)


@dataclass(frozen=True)
class StoredNumbers:
    """An array of numbers [rows, cols] that are words of a tensor of the file.

    `dtype`: what a word reads as. `packing`: words hold codes (uint8) in place of values. `down`: they are packed along
    the rows, so the tensor is [words, cols]; else [rows, words]. `added`: what a word is read with, wrapping around.
    `bits`: of a code that has a byte of its own.
    """

    tensor: str
    role: str
    rows: int
    cols: int
    dtype: torch.dtype
    packing: BitPacking | None = None
    down: bool = False
    added: int = 0
    bits: int = 8

    @property
    def tensors(self) -> dict[str, str]:
        """The tensor of the file, and its role."""
        return {self.tensor: self.role}

    @property
    def count(self) -> int:
        """Number of numbers."""
        return self.rows * self.cols

    def all(self, memory: WordReader) -> Tensor:
        """Return all numbers."""
        words = self._words(memory, slice(None))
        if self.packing is None:
            return self._values(words).view(self.rows, self.cols)
        if self.down:
            return torch.from_numpy(self.packing.unpack(words.reshape(-1, self.cols).T, self.rows).T)
        return torch.from_numpy(self.packing.unpack(words.reshape(self.rows, -1), self.cols))

    def at(self, memory: WordReader, index: NDArray[np.int64]) -> Tensor:
        """Return the numbers at flat positions [n]."""
        if self.packing is None:
            return self._values(self._words(memory, index))
        line, place = self._split(index)
        block, code = np.divmod(place, self.packing.codes)
        word, shift, mask, up = (part[code] for part in self.packing.table)
        last = self.packing.words_for(self.rows if self.down else self.cols) - 1
        words = np.minimum(block[:, None] * self.packing.words + word, last)
        at = words * self.cols + line[:, None] if self.down else line[:, None] * (last + 1) + words
        found = (self._words(memory, at.reshape(-1)).reshape(at.shape).astype(np.int64) >> shift & mask) << up
        return torch.from_numpy(np.bitwise_or.reduce(found, axis=1).astype(np.uint8))

    def touched(self, hit: HitWords) -> NDArray[np.int64]:
        """Return the flat positions of the numbers that read otherwise, bit for bit, ascending."""
        if self.tensor not in hit.faults:
            return np.empty(0, dtype=np.int64)
        words = hit.faults[self.tensor][0]
        near = words if self.packing is None else self._numbers_in(words, self.packing)
        return near[differing(self.at(hit.held, near), self.at(hit, near))]

    def _numbers_in(self, words: NDArray[np.int64], packing: BitPacking) -> NDArray[np.int64]:
        length = self.rows if self.down else self.cols
        word, line = np.divmod(words, self.cols) if self.down else np.divmod(words, packing.words_for(length))[::-1]
        block, word = np.divmod(word, packing.words)
        code = packing.codes_in[word]
        place, line = block[:, None] * packing.codes + code, np.broadcast_to(line[:, None], code.shape)
        kept = (code >= 0) & (place < length)
        return np.unique((place * self.cols + line if self.down else line * self.cols + place)[kept])

    def _split(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        row, col = np.divmod(index, self.cols)
        return (col, row) if self.down else (row, col)

    def _words(self, memory: WordReader, words: NDArray[np.int64] | slice) -> Words:
        found = memory.read(self.tensor, words)
        return found + found.dtype.type(self.added) if self.added else found

    def _values(self, words: Words) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(words).view(f"i{words.itemsize}")).view(self.dtype)


def differing(before: Tensor, after: Tensor) -> NDArray[np.bool_]:
    """Return where two tensors [n] of one dtype differ, bit for bit: −0 is not 0, and a NaN is itself."""
    width = _INTEGERS[before.element_size()]
    found: NDArray[np.bool_] = (before.view(width) != after.view(width)).numpy()
    return found


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
