"""In-place error correction: the lowest bits of a block of words hold the parity of a BCH code over the whole block.

The lowest bits of a weight carry next to nothing, whatever the format; together, those of a block are enough to correct
several flips anywhere in it. The idea of keeping check bits in the weights' own memory is that of Guan et al.,
"In-Place Zero-Space Memory Protection for CNN", NeurIPS 2019 (SEC-DED, 8-bit weights, retrained so that a bit is free);
here the code is stronger, no training is needed, and any format will do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from faultcli.errors import UsageError
from faultcli.formats import NumberFormat
from faultcli.formats.floats import FloatFormat
from faultcli.formats.values import TILE
from faultcli.protect.base import Fitted, Protection, Words, Written, codes_of, flips_beyond, needs_zero_bits
from faultcli.protect.bch import Bits, bch_code

BLOCK_BITS = 256


@dataclass(frozen=True)
class InPlace(Protection):
    """On average `spare` low bits of every word are given up for the check bits of its block of 256 bits.

    Values are rounded to the nearest that the bits left can say (ties to even). With b bits a word, a block is
    B = 256 // b words and corrects t = floor(spare · B / 8) flips, wherever they are, by 8·t + 1 check bits at the
    most; its first words give up one bit more than the others where these do not divide evenly. A block with t + 1
    flips reads as 0. So does one with more, or, with probability 1/t! or so, as another block that no check tells from
    a healthy one (`Bch.miscorrection`).
    """

    name: ClassVar[str] = "inplace"
    examples: ClassVar[str] = "inplace=0.5, inplace=1, inplace=2"
    overhead: ClassVar[str] = "none, but words that fill up a tensor's last block"
    rank: ClassVar[int] = Protection.WORD
    summary: ClassVar[str] = (
        "the lowest M bits of the words of a 256-bit block (0.5: of every second word), and one more bit, hold its BCH "
        "parity; corrects t = M·(words per block)/8 flips anywhere in the block, parity included; with t + 1 the block "
        "reads as 0; with more too, or as other words unnoticed: with t + 2 always for t = 1, in half of the cases for "
        "2, 17 % for 3, 4 % for 4, 1 in 40,000 for 8"
    )

    spare: float

    @classmethod
    def parse(cls, value: str | None) -> Self:
        try:
            spare = float(value or "")
        except ValueError:
            spare = math.nan
        if not 0 < spare <= 16:
            raise UsageError(f"inplace={value or ''}: the number of low bits to give up, up to 16", "try: inplace=2")
        return cls(spare)

    @property
    def text(self) -> str:
        return f"inplace={self.spare!r}".removesuffix(".0")

    def spare_bits(self, format: NumberFormat) -> int:
        return math.ceil(self.spare)

    def fit_block(self, format: NumberFormat) -> int:
        return BLOCK_BITS // format.bits

    def fit(self, written: Written) -> FittedInPlace:
        format = written.format.element
        needs_zero_bits(written.format, self.text)
        room = len(format.fields.get("mantissa", ())) if isinstance(format, FloatFormat) else format.bits - 2
        block = self.fit_block(format)
        correctable = math.floor(self.spare * block / 8)
        if self.spare > room or correctable < 1:
            raise UsageError(
                f"{self.text}: words of {written.format.name} have {room} bits to spare, "
                f"and {self.spare:g} of them correct {correctable} flips a block",
                f"choose {8 / block:.3g} to {room}",
            )
        if format.bits > 32:
            raise UsageError(f"{self.text}: words of {format.bits} bits are too wide", "store them as fp32")
        if not bool(written.values.isfinite().all()):
            raise UsageError(
                f"{self.text}: stores finite values only, the tensor holds NaN or infinities",
                "leave the tensor out with --exclude, or protect it with secded=64",
            )
        return _fitted(format, correctable, written.words.dtype)

    def nearest(self, written: Written) -> Words:
        gives, goals = self.fit(written).spare_of(len(written.words)), written.values.reshape(-1)
        out = np.empty_like(written.words)
        for start in range(0, len(out), TILE):  # so that little is held beside the tensor
            part = slice(start, start + TILE)
            spare, goal = gives[part], goals[part].double()
            below, above = neighbours(written.words[part], written.format.element, spare)
            index = torch.arange(start, start + len(below))
            down, up = ((written.format.decode(codes_of(w), index).double() - goal).abs_() for w in (below, above))
            odd = torch.from_numpy((below >> spare & 1).astype(bool))
            out[part] = np.where(torch.where(odd, up <= down, up < down).numpy(), above, below)
        return out


@lru_cache(maxsize=32)
def _fitted(format: NumberFormat, t: int, dtype: np.dtype[np.unsignedinteger]) -> FittedInPlace:
    """Return what all tensors of a format share: it knows nothing else of them."""
    return FittedInPlace(format, t, dtype)


class FittedInPlace(Fitted):
    fills_padding = True

    def __init__(self, format: NumberFormat, t: int, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.block = BLOCK_BITS // format.bits
        self.dtype = dtype
        self.code = bch_code(t)
        each, more = divmod(self.code.check_bits, self.block)
        self.spare = np.full(self.block, each)
        self.spare[:more] += 1
        width = 8 * dtype.itemsize  # a word's place among the bits of a block
        low = [width * word + bit for word in range(self.block) for bit in range(self.spare[word])]
        data = [
            width * word + bit
            for bit in reversed(range(format.bits))
            for word in range(self.block)
            if bit >= self.spare[word]
        ]
        self.places = np.array([*data, *low])
        self._back = np.full(self.block * width, len(self.places))  # where each bit of a block is among them; else 0
        self._back[self.places] = np.arange(len(self.places))

    def spare_of(self, words: int) -> NDArray[np.int64]:
        """Return how many bits each word of a tensor gives up: int64 [words]."""
        return np.resize(self.spare, words)

    def write_words(self, blocks: Words) -> Words:
        data, _ = self._split(blocks)
        return self._join(data, self.code.checks(data))

    def read_words(self, blocks: Words, checks: Words) -> Words:
        data, own = self._split(blocks)
        data, lost = self.code.correct(data, own)
        data[lost] = 0
        return self._join(data, np.zeros_like(own))

    def count_flips(self, blocks: Words) -> tuple[int, int]:
        """Return how many flips were corrected in words [n, block] as read, and in how many bits one looked for them.
        Blocks beyond correction count as one flip more than can be corrected."""
        data, checks = self._split(blocks)
        corrected, lost = self.code.correct(data, checks)
        flips = (corrected != data).sum(axis=1) + (self.code.checks(corrected) != checks).sum(axis=1)
        flips[lost] = self.code.t + 1
        return int(flips.sum()), len(blocks) * len(self.places)

    def block_failure(self, ber: float) -> float:
        flips, chances = flips_beyond(self.code.t, len(self.places), ber)
        return float(chances @ (1 - self.code.miscorrection(len(self.places), flips)))

    def unnoticed(self, ber: float) -> float:
        bits = len(self.places)
        flips, chances = flips_beyond(self.code.t, bits, ber)
        wrong = np.minimum(flips + self.code.t, bits)  # the flips, and those that correction adds
        return float((chances * self.code.miscorrection(bits, flips)) @ wrong) / bits

    def _split(self, blocks: Words) -> tuple[Bits, Bits]:
        """Return the data bits [n, data], plane by plane from the top down, and the check bits of words [n, block]."""
        bits = np.unpackbits(np.ascontiguousarray(blocks).view(np.uint8), axis=1, bitorder="little")
        chosen = bits.take(self.places, axis=1)  # ten times as fast as bits[:, places]
        return chosen[:, : -self.code.check_bits], chosen[:, -self.code.check_bits :]

    def _join(self, data: Bits, checks: Bits) -> Words:
        """Return the words that `_split` took apart."""
        known = np.concatenate([data, checks, np.zeros((len(data), 1), np.uint8)], axis=1)
        words: Words = np.packbits(known.take(self._back, axis=1), axis=1, bitorder="little").view(self.dtype)
        return words


def neighbours(words: Words, format: NumberFormat, spare: NDArray[np.int64]) -> tuple[Words, Words]:
    """Return the words next below and next above finite ones whose lowest `spare` bits [n] are 0; the same where
    there is none above.

    Floats are ordered by magnitude (a carry into the exponent is right), all others as two's complement numbers.
    """
    step = 1 << spare
    wide = words.astype(np.int64)
    sign = wide & 1 << format.bits - 1
    if isinstance(format, FloatFormat):
        below, most = (wide ^ sign) & -step, format.max_code & -step
        above = sign | np.minimum(below + step, most)
        return (sign | below).astype(words.dtype), above.astype(words.dtype)
    top = 1 << format.bits - 1
    below, most = (wide ^ top) - top & -step, top - 1 & -step
    mask = 2 * top - 1
    return (below & mask).astype(words.dtype), (np.minimum(below + step, most) & mask).astype(words.dtype)
