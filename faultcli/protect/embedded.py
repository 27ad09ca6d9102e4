"""Redundancy in the low bits of the word itself, which carry next to nothing of a weight: no extra memory.

MSET and CEP: Ahmadilivani et al., "Effective and Memory-Efficient Alternatives to ECC for Reliable Large-Scale DNNs",
arXiv 2605.07417 (2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.errors import UsageError
from faultcli.formats import NumberFormat
from faultcli.protect.base import Fitted, Protection, Recovery, Words, Written, even_flips, needs_zero_bits


@dataclass(frozen=True)
class Mset(Protection):
    """The exponent's top bit is stored three times: two copies take the place of the two lowest bits. On read the
    majority counts, and the two lowest bits are 0. In formats without an exponent it is the sign."""

    name: ClassVar[str] = "mset"
    examples: ClassVar[str] = "mset"
    overhead: ClassVar[str] = "none"
    rank: ClassVar[int] = Protection.WORD
    summary: ClassVar[str] = (
        "copies the exponent's top bit (fixed point: the sign) into the two lowest bits; a flipped copy is outvoted"
    )

    def fit(self, written: Written) -> Fitted:
        return _FittedMset(_most_significant(written.format, "mset", needed=4))


def _most_significant(format: NumberFormat, name: str, *, needed: int) -> int:
    needs_zero_bits(format, name)
    if format.bits < needed:
        raise UsageError(f"{name}: words of {format.bits} bits ({format.name}) leave no room", f"{needed} bits or more")
    return (format.fields.get("exponent") or format.fields["sign"])[-1]


class _FittedMset(Fitted):
    def __init__(self, position: int) -> None:
        self.position = position

    def unnoticed(self, ber: float) -> float:
        return (3 - 2 * ber) * ber**2  # two of three copies, or all

    def write_words(self, blocks: Words) -> Words:
        bit = _bit(blocks, self.position)
        out: Words = blocks & ~blocks.dtype.type(3) | bit | bit << 1
        return out

    def read_words(self, blocks: Words, checks: Words) -> Words:
        votes = _bit(blocks, self.position) + _bit(blocks, 0) + _bit(blocks, 1)
        top = (votes >= 2).astype(blocks.dtype) << self.position
        out: Words = blocks & ~blocks.dtype.type(3 | 1 << self.position) | top
        return out

    def recover(self, blocks: Words, checks: Words) -> Recovery:
        words = self.write_words(self.read_words(blocks, checks))
        outvoted = int(np.bitwise_count(words ^ blocks).sum())
        found = np.array([blocks.size - outvoted, outvoted])
        return Recovery(words, np.zeros(len(blocks), dtype=bool), found, 0, 3)


def _bit(words: Words, position: int) -> Words:
    bit: Words = words >> position & 1
    return bit


@dataclass(frozen=True)
class Cep(Protection):
    """The word is cut, from the top, into chunks of `data` bits, each with one parity bit of its own; the parity bits
    take the place of the lowest bits. A chunk whose parity is wrong reads as zeros."""

    name: ClassVar[str] = "cep"
    examples: ClassVar[str] = "cep=d3p1, cep=d7p1, cep=d15p1"
    overhead: ClassVar[str] = "none"
    rank: ClassVar[int] = Protection.WORD
    summary: ClassVar[str] = (
        "one parity bit per chunk of the word, in place of its lowest bits; a chunk with a flip (also of its parity) "
        "reads as zeros"
    )

    data: int = 7

    @classmethod
    def parse(cls, value: str | None) -> Self:
        sizes = {f"d{data}p1": data for data in (3, 7, 15)}
        if value is not None and value not in sizes:
            raise UsageError(f"cep={value}: unknown chunk", f"one of {', '.join(sizes)}")
        return cls(sizes[value] if value is not None else 7)

    @property
    def text(self) -> str:
        return f"cep=d{self.data}p1"

    def fit(self, written: Written) -> Fitted:
        needs_zero_bits(written.format, self.text)
        bits = written.format.bits
        if bits % (self.data + 1):
            raise UsageError(
                f"{self.text}: words of {bits} bits ({written.format.name}) are no multiple of {self.data + 1}",
                "choose another chunk",
            )
        return _FittedCep(bits, self.data)


class _FittedCep(Fitted):
    def __init__(self, bits: int, data: int) -> None:
        self.chunks, self.data = bits // (data + 1), data
        top = bits - data
        self.masks = [((1 << data) - 1) << (top - data * k) for k in range(self.chunks)]  # parity k is bit k

    def unnoticed(self, ber: float) -> float:
        return even_flips(self.data + 1, ber)

    def write_words(self, blocks: Words) -> Words:
        kept = blocks & ~blocks.dtype.type((1 << self.chunks) - 1)
        out: Words = kept.copy()
        for k, mask in enumerate(self.masks):
            out |= _parity(kept, mask) << k
        return out

    def read_words(self, blocks: Words, checks: Words) -> Words:
        out: Words = blocks & ~blocks.dtype.type((1 << self.chunks) - 1)
        for k, mask in enumerate(self.masks):
            wrong = _parity(blocks, mask) != (blocks >> k & 1)
            out[wrong] &= ~blocks.dtype.type(mask)
        return out

    def recover(self, blocks: Words, checks: Words) -> Recovery:
        wrong = [_parity(blocks, mask) != (blocks >> k & 1) for k, mask in enumerate(self.masks)]
        lost: NDArray[np.bool_] = np.logical_or.reduce(wrong)[:, 0]
        beyond = sum(int(chunk.sum()) for chunk in wrong)
        found = np.array([len(blocks) * self.chunks - beyond])
        return Recovery(blocks, lost, found, beyond, self.data + 1)


def _parity(words: Words, mask: int) -> Words:
    odd: Words = (np.bitwise_count(words & words.dtype.type(mask)) & 1).astype(words.dtype)
    return odd
