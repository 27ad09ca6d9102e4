"""In-place error correction: the lowest bits of a block of words hold the parity of a BCH code over the whole block.

The lowest bits of a weight carry next to nothing, whatever the format; together, those of a block are enough to correct
several flips anywhere in it. The idea of keeping check bits in the weights' own memory is that of Guan et al.,
"In-Place Zero-Space Memory Protection for CNN", NeurIPS 2019 (SEC-DED, 8-bit weights, retrained so that a bit is free);
here the code is stronger, no training is needed, and any format will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.errors import UsageError
from faultcli.formats import NumberFormat
from faultcli.formats.floats import FloatFormat
from faultcli.protect.base import Fitted, Protection, Words, Written, more_flips_than, needs_zero_bits
from faultcli.protect.bch import LENGTH, Bits, bch_code

BLOCK_BITS = 256


@dataclass(frozen=True)
class InPlace(Protection):
    """The lowest `spare` bits of every word are given up for the parity of its block of 256 bits.

    The word is rounded to the bits that are left (ties to even). With b bits a word, a block is 256 // b words and
    corrects t = spare · (256 // b) // 8 flips, wherever they are. A block with more flips reads as 0.
    """

    name: ClassVar[str] = "inplace"
    examples: ClassVar[str] = "inplace=1, inplace=2"
    overhead: ClassVar[str] = "none, but words that fill up a tensor's last block"
    rank: ClassVar[int] = Protection.WORD
    summary: ClassVar[str] = (
        "the lowest M bits of the words of a 256-bit block hold its BCH parity; corrects M·(words per block)/8 flips "
        "anywhere in the block, parity included; with more the block reads as 0"
    )

    spare: int

    @classmethod
    def parse(cls, value: str | None) -> Self:
        if value is None or not value.isdecimal() or not 1 <= int(value) <= 16:
            raise UsageError(f"inplace={value or ''}: the number of low bits to give up, 1 to 16", "try: inplace=2")
        return cls(int(value))

    @property
    def text(self) -> str:
        return f"inplace={self.spare}"

    def spare_bits(self, format: NumberFormat) -> int:
        return self.spare

    def fit_block(self, format: NumberFormat) -> int:
        return BLOCK_BITS // format.bits

    def fit(self, written: Written) -> Fitted:
        format = written.format.element
        needs_zero_bits(written.format, self.text)
        room = len(format.fields.get("mantissa", ())) if isinstance(format, FloatFormat) else format.bits - 2
        correctable = self.spare * (BLOCK_BITS // format.bits) // 8
        if self.spare > room or correctable < 1:
            raise UsageError(
                f"{self.text}: words of {written.format.name} have {room} bits to spare, "
                f"and {self.spare} of them correct {correctable} flips a block",
                "choose another number of bits",
            )
        if format.bits > 32:
            raise UsageError(f"{self.text}: words of {format.bits} bits are too wide", "store them as fp32")
        if not bool(written.values.isfinite().all()):
            raise UsageError(f"{self.text}: stores finite values only, the tensor holds NaN or infinities")
        return FittedInPlace(format, self.spare, correctable, written.words.dtype)


class FittedInPlace(Fitted):
    fills_padding = True

    def __init__(self, format: NumberFormat, spare: int, t: int, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.block = BLOCK_BITS // format.bits
        self.format, self.spare, self.dtype = format, spare, dtype
        self.code = bch_code(t)
        # Parity and data together may not exceed the code's length: the last data bits, of least weight, go without.
        self.covered = min(self.block * (format.bits - spare), LENGTH - self.code.parity_bits)

    def write_words(self, blocks: Words) -> Words:
        rounded = round_words(blocks, self.format, self.spare)
        spare = np.zeros((len(blocks), self.block * self.spare), dtype=np.uint8)
        spare[:, : self.code.parity_bits] = self.code.parity(self._data(rounded)[:, : self.covered])
        weights = np.left_shift(1, np.arange(self.spare)).astype(self.dtype)
        low = (spare.reshape(len(blocks), self.block, self.spare) * weights).sum(axis=2, dtype=self.dtype)
        words: Words = rounded | low
        return words

    def read_words(self, blocks: Words, checks: Words) -> Words:
        data = self._data(blocks)
        low = _planes(blocks, range(self.spare)).reshape(len(blocks), -1)
        corrected, lost = self.code.correct(data[:, : self.covered], low[:, : self.code.parity_bits])
        flips = np.zeros_like(data)
        flips[:, : self.covered] = corrected ^ data[:, : self.covered]
        planes = flips.reshape(len(blocks), -1, self.block)  # [n, bit plane from the top, word]
        out: Words = blocks & ~self.dtype.type((1 << self.spare) - 1)
        for plane, bit in enumerate(range(self.format.bits - 1, self.spare - 1, -1)):
            out ^= planes[:, plane].astype(self.dtype) << bit
        out[lost] = 0
        return out

    def count_flips(self, blocks: Words) -> tuple[int, int]:
        """Return how many flips were corrected in words [n, block] as read, and in how many bits one looked for them.
        Blocks beyond correction count as one flip more than can be corrected."""
        data, low = self._data(blocks), _planes(blocks, range(self.spare)).reshape(len(blocks), -1)
        parity = low[:, : self.code.parity_bits]
        corrected, lost = self.code.correct(data[:, : self.covered], parity)
        again = self.code.parity(corrected)
        flips = (corrected != data[:, : self.covered]).sum(axis=1) + (again != parity).sum(axis=1)
        flips[lost] = self.code.t + 1
        return int(flips.sum()), len(blocks) * (self.covered + self.code.parity_bits)

    def block_failure(self, ber: float) -> float:
        return more_flips_than(self.code.t, self.covered + self.code.parity_bits, ber)

    def _data(self, blocks: Words) -> Bits:
        """Return the data bits [n, block · (bits − spare)] of words, plane by plane from the top bit down."""
        planes = _planes(blocks, range(self.format.bits - 1, self.spare - 1, -1))
        return planes.transpose(0, 2, 1).reshape(len(blocks), -1)


def _planes(blocks: Words, positions: range) -> Bits:
    """Return bits [n, block, positions] of words [n, block]."""
    return np.stack([(blocks >> bit & 1).astype(np.uint8) for bit in positions], axis=2)


def round_words(words: Words, format: NumberFormat, spare: int) -> Words:
    """Return words of finite values rounded to nearest with the lowest `spare` bits 0, saturating.

    Floats are rounded in magnitude (a carry into the exponent is right), all others as two's complement numbers.
    """
    low = (1 << spare) - 1
    wide = words.astype(np.int64)
    if isinstance(format, FloatFormat):
        sign = wide & (1 << format.bits - 1)
        return (sign | np.minimum(_to_even(wide ^ sign, spare), format.max_code & ~low)).astype(words.dtype)
    top = 1 << format.bits - 1
    rounded = np.minimum(_to_even((wide ^ top) - top, spare), (top - 1) & ~low)
    return (rounded & (2 * top - 1)).astype(words.dtype)


def _to_even(numbers: NDArray[np.int64], spare: int) -> NDArray[np.int64]:
    """Round to multiples of 2^spare, ties to even: always up would shift every weight the same way."""
    odd = numbers >> spare & 1
    return (numbers + (1 << spare - 1) - 1 + odd) & ~((1 << spare) - 1)
