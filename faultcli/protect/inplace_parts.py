"""`inplace` on the words of a quantised checkpoint: its numbers give up bits, the words that hold them stay words.

A file may hold several numbers in a word (four codes of 8 bits in an I32). A block is 256 bits of the file all the
same, so the words of the file are the words at risk, and a fault hits the word that it hits without protection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from faultcli.checkpoint.packed import Numbers
from faultcli.formats import NumberFormat
from faultcli.protect.base import Constants, Fitted, Protection, Words, Written, codes_of
from faultcli.protect.distribution import Distribution
from faultcli.protect.inplace import BLOCK_BITS, FittedInPlace, InPlace, InPlaceBlocks

_MIDDLE = "middle"  # in the constants, of unsigned codes


@dataclass(frozen=True)
class PartInPlace(Protection):
    """`inplace` for a tensor of the file whose words are full of numbers."""

    link: InPlace
    numbers: Numbers

    name: ClassVar[str] = InPlace.name
    examples: ClassVar[str] = InPlace.examples
    overhead: ClassVar[str] = InPlace.overhead
    summary: ClassVar[str] = InPlace.summary
    rank: ClassVar[int] = InPlace.rank

    @property
    def text(self) -> str:
        return self.link.text

    def doubt(self, format: NumberFormat, others: Collection[str]) -> str | None:
        mistaken = self.link.mistaken(self.numbers.format)
        return None if mistaken is None else f"{mistaken}: give up more bits"

    def fit_block(self, format: NumberFormat, words: int = 0) -> int:
        return BLOCK_BITS // format.bits

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> PartInPlace:
        return self

    def fit(self, written: Written) -> Fitted:
        own = self.link.fit(self._numbers(written))
        return PartBlocks(own.blocks, own.distribution, written.words.dtype, self.numbers.middle)

    def restored(self, constants: Constants, empty: Written, shape: tuple[int, ...]) -> Fitted:
        middle = constants.get(_MIDDLE, 0)
        if middle not in (0, 128):
            raise ValueError(_MIDDLE)
        own = self.link.fit(self._numbers(empty))
        return PartBlocks(own.blocks, Distribution.restored(constants, 1), empty.words.dtype, int(middle))

    def nearest(self, written: Written) -> Words:
        found = self.link.nearest(self._numbers(written))
        out: Words = (found ^ found.dtype.type(self.numbers.middle)).view(written.words.dtype)
        return out

    def _numbers(self, written: Written) -> Written:
        """Return the numbers that words of the file are full of; codes as signed ones."""
        format = self.numbers.format
        words = written.words.view(f"<u{format.bits // 8}")
        words = words ^ words.dtype.type(self.numbers.middle)
        return Written(format.decode(codes_of(words)), words, format, written.ber, written.corrected)


class PartBlocks(FittedInPlace):
    """The blocks of one tensor of the file.

    Args:
        blocks, distribution: of its numbers.
        dtype: of its words.
        middle: as in `Numbers`.
    """

    def __init__(self, blocks: InPlaceBlocks, distribution: Distribution, dtype: np.dtype[Any], middle: int) -> None:
        super().__init__(blocks, distribution)
        self.dtype, self.block = dtype, blocks.layout.octets // dtype.itemsize
        self._middle = blocks.dtype.type(middle)

    def constants(self) -> Constants:
        own = super().constants()
        return {**own, _MIDDLE: int(self._middle)} if self._middle else own

    def _believe(self, words: Words) -> Words:
        numbers = words.view(self.blocks.dtype) ^ self._middle
        out: Words = (super()._believe(numbers) ^ self._middle).view(self.dtype)
        return out


def for_part(links: Sequence[Protection], numbers: Numbers) -> tuple[Protection, ...]:
    """Return links as they work on words of the file that are full of these numbers."""
    return tuple(PartInPlace(link, numbers) if isinstance(link, InPlace) else link for link in links)
