"""Where the bits of codes lie in the words that they are packed into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger]


class Piece(NamedTuple):
    """Bits of a code that lie side by side in one word: `width` of them, from bit `shift` of word `word` of the block
    on; they are the code's bits from `place` on."""

    word: int
    shift: int
    width: int
    place: int


@dataclass(frozen=True)
class BitPacking:
    """How codes lie in a line of words: in blocks of as many codes as fill whole words, all blocks alike. The words of
    whole blocks may hold other numbers as well.

    `word_bits`: of a word. `bits`: of a code, 8 at most. `pieces`: of every code of a block.
    """

    word_bits: int
    bits: int
    pieces: tuple[tuple[Piece, ...], ...]

    @property
    def codes(self) -> int:
        """Codes in a block."""
        return len(self.pieces)

    @cached_property
    def words(self) -> int:
        """Words in a block."""
        return 1 + max(piece.word for pieces in self.pieces for piece in pieces)

    def words_for(self, codes: int) -> int:
        """Return how many words a line of so many codes takes; the last block ends with its last code."""
        blocks, rest = divmod(codes, self.codes)
        return blocks * self.words - (-rest * self.bits // self.word_bits)

    def unpack(self, lines: Words, codes: int) -> NDArray[np.uint8]:
        """Return the codes [lines, codes] of lines of words [lines, words]."""
        blocks = -(-codes // self.codes)
        missing = blocks * self.words - lines.shape[1]
        whole = np.pad(lines, ((0, 0), (0, missing))) if missing > 0 else lines[:, : blocks * self.words]
        words = whole.reshape(len(lines), blocks, self.words)
        out = np.empty((len(lines), blocks, self.codes), dtype=np.uint8)
        for code, pieces in enumerate(self.pieces):
            found = np.zeros((len(lines), blocks), dtype=np.uint8)
            for piece in pieces:
                bits = words[:, :, piece.word] >> piece.shift & (1 << piece.width) - 1
                found |= bits.astype(np.uint8) << piece.place
            out[:, :, code] = found
        return out.reshape(len(lines), -1)[:, :codes]

    @cached_property
    def table(self) -> tuple[NDArray[np.int64], ...]:
        """The pieces as arrays [codes, pieces] of their words, shifts, masks and places; a piece that a code has not
        takes no bits."""
        most = max(map(len, self.pieces))
        rows = [[*pieces, *[Piece(0, 0, 0, 0)] * (most - len(pieces))] for pieces in self.pieces]
        word, shift, width, place = (np.array([[p[k] for p in row] for row in rows], dtype=np.int64) for k in range(4))
        return word, shift, (1 << width) - 1, place

    @cached_property
    def codes_in(self) -> NDArray[np.int64]:
        """The codes that have bits in each word of a block, [words, most]; −1 fills up."""
        found: list[list[int]] = [[] for _ in range(self.words)]
        for code, pieces in enumerate(self.pieces):
            for word in {piece.word for piece in pieces}:
                found[word].append(code)
        most = max(map(len, found))
        return np.array([codes + [-1] * (most - len(codes)) for codes in found], dtype=np.int64)


@cache
def dense(bits: int, word_bits: int, order: Sequence[int] = (0,)) -> BitPacking:
    """Return the packing without gaps, the least significant bits first; a code may lie across two words.

    `order`: of the codes in every so many places, where they are not in their own.
    """
    codes = math.lcm(bits, word_bits, bits * len(order)) // bits
    pieces: list[tuple[Piece, ...]] = [()] * codes
    for place in range(codes):
        code = place - place % len(order) + order[place % len(order)]
        pieces[code] = _run(place * bits, bits, word_bits)
    return BitPacking(word_bits, bits, tuple(pieces))


def _run(start: int, bits: int, word_bits: int) -> tuple[Piece, ...]:
    found, done = [], 0
    while done < bits:
        word, shift = divmod(start + done, word_bits)
        width = min(bits - done, word_bits - shift)
        found.append(Piece(word, shift, width, done))
        done += width
    return tuple(found)


@cache
def folded(bits: int, codes: int) -> BitPacking:
    """Return the packing of `codes` codes in bytes that are filled from their lowest bits on, a code in each, then
    another in each: with 4 bits, the first half of the codes, and above it the second."""
    size = codes * bits // 8
    return BitPacking(8, bits, tuple((Piece(code % size, code // size * bits, bits, 0),) for code in range(codes)))


_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


@cache
def planar(bits: int) -> BitPacking:
    """Return the packing of 32 codes in planes of their low 4 or 2 bits, then of the bits above, each plane in 32-bit
    words without gaps (`gptq_p` of GPTQModel, utils/planar_packing.py). `bits`: 2 to 8."""
    pieces: list[tuple[Piece, ...]] = []
    for code in range(32):
        own, first, place = [], 0, 0
        for width in _PLANES[bits]:
            word, slot = divmod(code, 32 // width)
            own.append(Piece(first + word, slot * width, width, place))
            first, place = first + width, place + width
        pieces.append(tuple(own))
    return BitPacking(32, bits, tuple(pieces))
