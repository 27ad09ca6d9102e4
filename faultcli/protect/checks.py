"""Redundancy in memory of its own: parity, SECDED and triplication. Its bits can flip, too."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.errors import UsageError
from faultcli.foreign import whole_number
from faultcli.formats import NumberFormat
from faultcli.protect.base import Fitted, Protection, Recovery, Words, Written, even_flips, flips_beyond


@dataclass(frozen=True)
class Parity(Protection):
    """One even parity bit per word; a word with the wrong parity reads as 0."""

    name: ClassVar[str] = "parity"
    examples: ClassVar[str] = "parity"
    overhead: ClassVar[str] = "1 bit per weight"
    rank: ClassVar[int] = Protection.CHECK
    summary: ClassVar[str] = (
        "one parity bit per word; a word with an odd number of flips reads as 0, so does one whose parity bit flipped; "
        "an even number goes unnoticed"
    )

    def conflict(self, other: Protection) -> tuple[str, str] | None:
        if other.name != "inplace":
            return None
        return "parity would read words as 0 that inplace corrects", "leave parity out, or write secded=64 instead"

    def fit(self, written: Written) -> Fitted:
        return _FittedParity(written.zero_word, written.format.bits)


class _FittedParity(Fitted):
    per_block = check_bits = 1

    def __init__(self, zero: int, bits: int) -> None:
        self.zero, self.bits = zero, bits

    def unnoticed(self, ber: float) -> float:
        return even_flips(self.bits + 1, ber)

    def checks(self, blocks: Words) -> Words:
        return np.bitwise_count(blocks).astype(np.uint8) & np.uint8(1)

    def read_words(self, blocks: Words, checks: Words) -> Words:
        return np.where(self.checks(blocks) == checks, blocks, blocks.dtype.type(self.zero))

    def recover(self, blocks: Words, checks: Words) -> Recovery:
        lost = (self.checks(blocks) != checks)[:, 0]
        return Recovery(blocks, lost, np.array([np.count_nonzero(~lost)]), int(lost.sum()), self.bits + 1)


@dataclass(frozen=True)
class Tmr(Protection):
    """Two more copies of every word, or of its top `bits` bits; every bit reads as the majority of three."""

    name: ClassVar[str] = "tmr"
    examples: ClassVar[str] = "tmr, tmr=msb:2"
    overhead: ClassVar[str] = "2 words (or 2 × K bits) per weight"
    rank: ClassVar[int] = Protection.CHECK
    summary: ClassVar[str] = (
        "two copies of every word (or of its top K bits); any one flip of the three copies of a bit is outvoted"
    )

    bits: int | None = None  # the top bits that are copied; None: all

    @classmethod
    def parse(cls, value: str | None) -> Self:
        if value is None:
            return cls()
        head, _, count = value.partition(":")
        bits = whole_number(count) if count.isdecimal() else None
        if head != "msb" or not bits:
            raise UsageError(f"tmr={value}: is not tmr or tmr=msb:K", "try: tmr=msb:2")
        return cls(bits)

    @property
    def text(self) -> str:
        return "tmr" if self.bits is None else f"tmr=msb:{self.bits}"

    def fit(self, written: Written) -> Fitted:
        bits = written.format.bits if self.bits is None else self.bits
        if bits > written.format.bits:
            raise UsageError(
                f"{self.text}: words of {written.format.name} have only {written.format.bits} bits",
                f"tmr, or tmr=msb:{min(4, written.format.bits)}",
            )
        return _FittedTmr(bits, written.format.bits - bits, written.words.dtype)


class _FittedTmr(Fitted):
    per_block = 2

    def __init__(self, bits: int, shift: int, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.check_bits, self.shift, self.dtype = bits, shift, dtype
        self.copied_from = shift

    def unnoticed(self, ber: float) -> float:
        return (3 - 2 * ber) * ber**2  # two of the three, or all

    def rate_left(self, ber: float) -> float:
        return ber if self.shift else self.unnoticed(ber)

    def checks(self, blocks: Words) -> Words:
        return np.repeat(blocks >> self.shift, 2, axis=1)

    def read_words(self, blocks: Words, checks: Words) -> Words:
        voted = self._voted(blocks, checks)
        low = blocks[:, 0] & self.dtype.type((1 << self.shift) - 1)
        out: Words = (voted << self.shift | low)[:, None].astype(self.dtype)
        return out

    def recover(self, blocks: Words, checks: Words) -> Recovery:
        voted = self._voted(blocks, checks)
        copies = (blocks[:, 0] >> self.shift, checks[:, 0], checks[:, 1])
        outvoted = sum(int(np.bitwise_count(copy ^ voted).sum()) for copy in copies)
        found = np.array([len(blocks) * self.check_bits - outvoted, outvoted])
        lost = np.zeros(len(blocks), dtype=bool)
        return Recovery(self.read_words(blocks, checks), lost, found, 0, 3)

    def _voted(self, blocks: Words, checks: Words) -> Words:
        own, first, second = blocks[:, 0] >> self.shift, checks[:, 0], checks[:, 1]
        voted: Words = (own & first) | (own & second) | (first & second)
        return voted


@dataclass(frozen=True)
class Secded(Protection):
    """Single error correction, double error detection over blocks of up to `data` bits of whole words.

    An odd-weight-column code (Hsiao, IBM J. Res. Dev. 14, 1970) with 8 check bits for 64 data bits and 9 for 128. A
    block whose error is detected but cannot be corrected reads as 0 throughout; after a link that corrects blocks of
    its own, it is left to that.
    """

    name: ClassVar[str] = "secded"
    examples: ClassVar[str] = "secded=64, secded=128"
    overhead: ClassVar[str] = "8 bits per 64 (or 9 per 128)"
    rank: ClassVar[int] = Protection.CHECK
    summary: ClassVar[str] = (
        "8 check bits per 64 data bits (9 per 128); corrects any one flip of a block and its check bits; a block with "
        "two flips reads as 0; three pass for one in half of the cases, and then four bits are wrong"
    )

    data: int = 64

    @classmethod
    def parse(cls, value: str | None) -> Self:
        if value not in (None, "64", "128"):
            raise UsageError(f"secded={value}: blocks are of 64 or 128 bits", "try: secded=64")
        return cls(int(value or 64))

    @property
    def text(self) -> str:
        return f"secded={self.data}"

    def fit_block(self, format: NumberFormat, words: int = 0) -> int:
        return self.data // format.bits

    def fit(self, written: Written) -> Fitted:
        block = self.fit_block(written.format)
        zero = None if written.corrected else written.zero_word
        return _FittedSecded(block, written.format.bits, written.words.dtype, zero)


class _FittedSecded(Fitted):
    """The code's columns: data bits have different columns of odd weight 3 and more, check bits those of weight 1. So
    one flip gives its own column as the syndrome, two flips give an even one."""

    per_block = 1

    def __init__(self, block: int, word_bits: int, dtype: np.dtype[np.unsignedinteger], zero: int | None) -> None:
        self.block, self.word_bits, self.dtype, self.zero = block, word_bits, dtype, zero
        self.check_bits = 8 if block * word_bits <= 64 else 9
        columns = _odd_columns(self.check_bits)[: block * word_bits]
        self.columns = columns.reshape(block, word_bits)
        # Per word of the block and byte of the word: the syndrome of each of the byte's 256 values.
        self._tables = np.zeros((block, dtype.itemsize, 256), dtype=np.uint16)
        values = np.arange(256)
        for bit in range(word_bits):
            hit = (values >> bit % 8 & 1).astype(bool)
            self._tables[:, bit // 8, hit] ^= self.columns[:, bit, None]
        self._where = np.full(1 << self.check_bits, -1, dtype=np.int64)
        self._where[columns] = np.arange(len(columns))

    def checks(self, blocks: Words) -> Words:
        return self._syndromes(blocks)[:, None]

    def read_words(self, blocks: Words, checks: Words) -> Words:
        out, _, lost = self._corrected(blocks, checks)
        if self.zero is not None:
            out[lost] = self.zero
        return out

    def recover(self, blocks: Words, checks: Words) -> Recovery:
        out, hit, beyond = self._corrected(blocks, checks)
        lost = np.zeros(len(blocks), dtype=bool)
        lost[beyond] = True
        found = np.array([len(blocks) - len(hit), len(hit) - len(beyond)])
        return Recovery(out, lost, found, len(beyond), self.block * self.word_bits + self.check_bits)

    def _corrected(self, blocks: Words, checks: Words) -> tuple[Words, NDArray[np.int64], NDArray[np.int64]]:
        """Return blocks with single flips taken back, the rows that had flips, and those of them that had more."""
        syndromes = self._syndromes(blocks) ^ checks[:, 0]
        out = blocks.copy()
        hit = np.flatnonzero(syndromes)
        where = self._where[syndromes[hit]]
        single = where >= 0
        word, bit = np.divmod(where[single], self.word_bits)
        out[hit[single], word] ^= np.left_shift(1, bit).astype(self.dtype)
        in_checks = np.bitwise_count(syndromes[hit]) == 1  # a check bit flipped, data are fine
        return out, hit, hit[~single & ~in_checks]

    def block_failure(self, ber: float) -> float:
        return self._outcomes(ber)[0]

    def unnoticed(self, ber: float) -> float:
        return self._outcomes(ber)[1]

    def rate_left(self, ber: float) -> float:
        return self.unnoticed(ber)

    def _outcomes(self, ber: float) -> tuple[float, float]:
        """Return the probabilities that a block is known to be lost and that a given bit is wrong unnoticed: an odd
        number of flips has an odd syndrome, which may be one of the code's columns, an even one may have none."""
        bits = self.block * self.word_bits + self.check_bits
        flips, chances = flips_beyond(1, bits, ber)
        half = 2 ** (self.check_bits - 1)  # syndromes of either kind
        passes = np.where(flips % 2 == 1, bits / half, np.where(flips > 2, 1 / half, 0.0))
        wrong = flips + flips % 2  # and one more that correction adds
        lost, unnoticed = chances @ (1 - passes), (chances * passes) @ wrong / bits
        if self.zero is None:
            lost, unnoticed = 0.0, unnoticed + (chances * (1 - passes)) @ flips / bits
        return float(lost), float(unnoticed)

    def _syndromes(self, blocks: Words) -> NDArray[np.uint16]:
        octets = np.ascontiguousarray(blocks).view(np.uint8).reshape(len(blocks), self.block, self.dtype.itemsize)
        syndromes = np.zeros(len(blocks), dtype=np.uint16)
        for word in range(self.block):
            for octet in range(self.dtype.itemsize):
                syndromes ^= self._tables[word, octet][octets[:, word, octet]]
        return syndromes


def _odd_columns(bits: int) -> NDArray[np.uint16]:
    """Return all columns of odd weight from 3, lightest first: few ones make few gates and few tables."""
    chosen = (ones for weight in range(3, bits + 1, 2) for ones in combinations(range(bits), weight))
    return np.array([sum(1 << bit for bit in ones) for ones in chosen], dtype=np.uint16)
