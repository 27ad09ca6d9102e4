"""In-place error correction: the lowest bits of a block of words hold the parity of a BCH code over the whole block.

The lowest bits of a weight carry next to nothing, whatever the format; together, those of a block are enough to correct
several flips anywhere in it. The idea of keeping check bits in the weights' own memory is that of Guan et al.,
"In-Place Zero-Space Memory Protection for CNN", NeurIPS 2019 (SEC-DED, 8-bit weights, retrained so that a bit is free);
here the code is stronger, no training is needed, and any format will do.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.formats import NumberFormat
from faultcli.formats.floats import FloatFormat
from faultcli.protect.base import (
    Constants,
    Fitted,
    Protection,
    Recovery,
    Words,
    Written,
    flips_beyond,
)
from faultcli.protect.bch import Bch, bch_code
from faultcli.protect.block_code import BlockCode, Octets
from faultcli.protect.channel import through
from faultcli.protect.distribution import Distribution, levels_of, posterior_means
from faultcli.protect.spare_bits import SparingProtection, distribution_of, nearest_sparing

BLOCK_BITS = 256
_FEW = 3  # flips a block: codes that correct no more often mistake what is beyond them
_MISTAKEN = {2: "half", 3: "17 %"}
_TOP_BITS = 8  # of a word in a lost block, by which it is taken for what it probably was


@dataclass(frozen=True)
class InPlace(SparingProtection):
    """On average `spare` low bits of every word are given up for the check bits of its block of 256 bits.

    Values are rounded to the nearest that the bits left can say (ties to even). With b bits a word, a block is
    B = 256 // b words and corrects t = floor(spare · B / 8) flips, wherever they are, by 8·t + 1 check bits at the
    most; its first words give up one bit more than the others where these do not divide evenly. A block with t + 1
    flips is known to be lost, and one with more, or else, with probability 1/t! or so, it reads as another block that
    no check tells from a healthy one (`Bch.miscorrection`).

    The words of a lost block are mostly right, and some are far off. Their top 8 bits are taken for those nearest to
    the mean of what could have been written, given how the tensor's numbers are distributed (26 bits of constants) and
    the bit-error rate of a block that is just lost; the bits below stay as read.
    """

    name: ClassVar[str] = "inplace"
    examples: ClassVar[str] = "inplace=0.5, inplace=1, inplace=2"
    overhead: ClassVar[str] = "26 bits per tensor, and words that fill up its last block"
    rank: ClassVar[int] = Protection.WORD
    summary: ClassVar[str] = (
        "the lowest M bits of the words of a 256-bit block (0.5: of every second word), and one more bit, hold its BCH "
        "parity; corrects t = M·(words per block)/8 flips anywhere in the block, parity included; with t + 1 the block "
        "is lost and its words read as what they probably were; with more too, or as other words unnoticed: with t + 2 "
        "always for t = 1, in half of the cases for 2, 17 % for 3, 4 % for 4, 1 in 40,000 for 8"
    )

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> InPlace:
        return self

    def fit_block(self, format: NumberFormat, words: int = 0) -> int:
        return BLOCK_BITS // format.bits

    def doubt(self, format: NumberFormat, others: Collection[str]) -> str | None:
        mistaken = self.mistaken(format)
        if mistaken is None or {"guard", "posterior"} & set(others):
            return None
        return f"{mistaken}: put a guard in front (guard,{self.text}), or give up more bits"

    def mistaken(self, format: NumberFormat) -> str | None:
        """Say how often flips of a block pass for another block, where that can ruin a model; None if it is rare."""
        t = math.floor(self.spare * self.fit_block(format) / 8)
        if t > _FEW or not isinstance(format.element, FloatFormat):
            return None
        share = f"in {_MISTAKEN[t]} of the cases" if t > 1 else "always"
        return (
            f"{self.text} corrects {t} flips a block in {format.name}; {t + 2} flips pass {share} for another block, "
            "and one wild exponent ruins a model"
        )

    def _fitting(self, written: Written) -> InPlaceBlocks:
        format = written.format.element
        block = self.fit_block(format)
        correctable = math.floor(self.spare * block / 8)
        few = f", and {self.spare:g} of them correct no flip of a block" if correctable < 1 else ""
        self.check_room(written.format, few, 8 / block)
        return _blocks(format, correctable, written.words.dtype)

    def fit(self, written: Written) -> FittedInPlace:
        return FittedInPlace(self._fitting(written), distribution_of(written))

    def restored(self, constants: Constants, empty: Written, shape: tuple[int, ...]) -> Fitted:
        return FittedInPlace(self._fitting(empty), Distribution.restored(constants, 1))

    def nearest(self, written: Written) -> Words:
        blocks = self._fitting(written)
        return nearest_sparing(written, lambda index: blocks.spare[index % blocks.block], self.text)


class FittedInPlace(Fitted):
    """The blocks of one tensor.

    Args:
        blocks: where the code's bits lie.
        distribution: of the tensor's numbers, by which the words of lost blocks are read.
    """

    fills_padding = True

    def __init__(self, blocks: InPlaceBlocks, distribution: Distribution) -> None:
        self.blocks, self.block, self.code, self.dtype = blocks, blocks.block, blocks.code, blocks.dtype
        self.distribution, self.side_bits = distribution, distribution.side_bits
        self.lost_table = _believed(blocks, distribution)

    def constants(self) -> Constants:
        return self.distribution.constants()

    @property
    def spare(self) -> NDArray[np.int64]:
        """How many bits each word of a block gives up."""
        return self.blocks.spare

    def write_words(self, blocks: Words) -> Words:
        return self._words(self.blocks.layout.write(self._octets(blocks)))

    def read_words(self, blocks: Words, checks: Words) -> Words:
        octets, hit, lost = self.blocks.layout.read(self._octets(blocks))
        words = self._words(octets)
        if lost.any():
            words[hit[lost]] = self._believe(words[hit[lost]])
        return words

    def recover(self, blocks: Words, checks: Words) -> Recovery:
        octets, hit, beyond = self.blocks.layout.read(self._octets(blocks))
        words, fixed = blocks.copy(), hit[~beyond]
        words[fixed] = self._words(self.blocks.layout.write(octets[fixed]))
        flips = np.bitwise_count(words[fixed] ^ blocks[fixed]).sum(axis=1, dtype=np.int64)
        found = np.bincount(flips, minlength=self.code.t + 1)
        found[0] = len(blocks) - len(hit)
        lost = np.zeros(len(blocks), dtype=bool)
        lost[hit[beyond]] = True
        return Recovery(words, lost, found, int(beyond.sum()), self.blocks.bits)

    def count_flips(self, blocks: Words) -> tuple[int, int]:
        """Return how many flips were corrected in words [n, block] as read, and in how many bits one looked for them.
        Blocks beyond correction count as one flip more than can be corrected."""
        seen = self.recover(blocks, np.empty((len(blocks), 0), dtype=np.uint8))
        flips = int(seen.found @ np.arange(self.code.t + 1)) + seen.beyond * (self.code.t + 1)
        return flips, len(blocks) * self.blocks.bits

    def block_failure(self, ber: float) -> float:
        flips, chances = flips_beyond(self.code.t, self.blocks.bits, ber)
        return float(chances @ (1 - self.code.miscorrection(self.blocks.bits, flips)))

    def unnoticed(self, ber: float) -> float:
        bits = self.blocks.bits
        flips, chances = flips_beyond(self.code.t, bits, ber)
        wrong = np.minimum(flips + self.code.t, bits)  # the flips, and those that correction adds
        return float((chances * self.code.miscorrection(bits, flips)) @ wrong) / bits

    def lost_moments(self, ber: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return, by the top bits of a word: what it stands for, and the means of what it is taken for in a block that
        is lost under this bit-error rate, and of that squared; in multiples of a format's scale, float64 [2^bits]."""
        bits = min(_TOP_BITS, self.blocks.format.bits)
        levels = levels_of(self.blocks.format, bits, middle=True).nan_to_num(0, 0, 0)
        taken = levels[torch.from_numpy(self.lost_table).long()]
        flips, chances = flips_beyond(self.code.t, self.blocks.bits, ber)
        rate = float(chances @ flips) / float(chances.sum()) / self.blocks.bits
        return levels, through(taken, bits, rate), through(taken.square(), bits, rate)

    def top(self, words: Words) -> Words:
        """Return the bits of words by which they are taken for others in a lost block."""
        out: Words = words >> max(0, self.blocks.format.bits - _TOP_BITS)
        return out

    def _believe(self, words: Words) -> Words:
        """Return what words of lost blocks [n, block], their check bits 0, are taken for."""
        low = max(0, self.blocks.format.bits - _TOP_BITS)
        out: Words = self.lost_table[words >> low].astype(words.dtype) << low | words & words.dtype.type((1 << low) - 1)
        return out

    def _octets(self, blocks: Words) -> Octets:
        return np.ascontiguousarray(blocks).view(np.uint8).reshape(len(blocks), self.blocks.layout.octets)

    def _words(self, octets: Octets) -> Words:
        return octets.view(self.dtype)


@dataclass(frozen=True, eq=False)
class InPlaceBlocks:
    """Where the bits of a code lie in blocks of words: the same for all tensors of a format.

    `spare`: int64 [block], how many low bits each word gives up.
    """

    format: NumberFormat
    block: int
    dtype: np.dtype[np.unsignedinteger]
    code: Bch
    spare: NDArray[np.int64]
    layout: BlockCode

    @property
    def bits(self) -> int:
        """Bits of a block."""
        return self.block * self.format.bits

    @property
    def lost_rate(self) -> float:
        """The bit-error rate of a block that is just lost."""
        return (self.code.t + 1) / self.bits


@lru_cache(maxsize=32)
def _blocks(format: NumberFormat, t: int, dtype: np.dtype[np.unsignedinteger]) -> InPlaceBlocks:
    """Return the blocks in which words of a format correct `t` flips."""
    block, code, width = BLOCK_BITS // format.bits, bch_code(t), 8 * dtype.itemsize
    each, more = divmod(code.check_bits, block)
    spare = np.full(block, each)
    spare[:more] += 1
    checks = [width * word + bit for word in range(block) for bit in range(spare[word])]
    data = [width * word + bit for bit in reversed(range(format.bits)) for word in range(block) if bit >= spare[word]]
    layout = BlockCode(code, np.array([*data, *checks]), block * dtype.itemsize)
    return InPlaceBlocks(format, block, dtype, code, spare, layout)


def _believed(blocks: InPlaceBlocks, distribution: Distribution) -> NDArray[np.uint8]:
    """Return what the top bits of a word in a lost block are taken for: the word nearest to the mean of what could have
    been written, if each bit flipped with the rate of a block that is just lost."""
    bits = min(_TOP_BITS, blocks.format.bits)
    levels = levels_of(blocks.format, bits, middle=True)
    means = posterior_means(distribution.prior(levels)[0], levels, bits, blocks.lost_rate)
    distance = (means[:, None] - levels).abs().nan_to_num(math.inf)
    return distance.argmin(dim=1).to(torch.uint8).numpy()
