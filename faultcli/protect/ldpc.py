"""Error correction over a whole tensor, in its own memory: a low-density parity-check code in the lowest bits.

At bit-error rates of several percent short blocks fail, however strong their code, because some of them meet twice the
flips of others. A code over all words of a tensor meets the average, and comes near to what can be had at all (Shannon
1948); how the tensor's numbers are distributed is part of what is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
)
from faultcli.protect.distribution import Distribution, levels_of
from faultcli.protect.spare_bits import SparingProtection, distribution_of, nearest_sparing
from faultcli.protect.sparse_code import Bits, Decoded, SparseCode, entropy, sparse_code

_LARGEST = 1 << 16  # words of a block: longer ones gain next to nothing, and take more memory to decode
_TOP_BITS = 8  # of a word, of which the distribution is known
_ASIDE = 0.05  # check bits per weight of the model, for the smallest tensors that keep all their bits
_CHECK_BITS = 8
_SHORT = 24.0  # √K times what a block of K bits has more check bits than a long one
_DOUBT = 1e-3  # that a word is not as the distribution has it
_NEAR, _OVER = 0.75, 1.0  # shares of the redundancy at which blocks begin to fail, and at which all do


@dataclass(frozen=True)
class Ldpc(SparingProtection):
    """On average `spare` low bits of every word are given up for the check bits of a code over the whole tensor.

    Values are rounded to the nearest that the bits left can say (ties to even). Word i gives up ⌊(i+1)·M⌋ − ⌊i·M⌋
    bits. Tensors of more than 65,536 words are cut into blocks of equal length. What cannot be decoded reads as the
    values nearest to the mean of what the words probably were.

    `aside`: the tensor keeps all its bits, and its check bits lie in words of their own, in the same
    proportion and some more.
    """

    name: ClassVar[str] = "ldpc"
    examples: ClassVar[str] = "ldpc=0.5, ldpc=2, ldpc=4"
    overhead: ClassVar[str] = "26 bits per tensor; check bits of the smallest tensors, up to 0.05 bits per weight"
    rank: ClassVar[int] = Protection.WORD
    summary: ClassVar[str] = (
        "the lowest M bits of all words of a tensor hold the parity of one long code, decoded when they are read, all "
        "together: for hosts, not for microcontrollers. Of 8 bits, M = 1 is for 1 % of flipped bits, 2.5 "
        "for 3 %, 3 for 5 %, 4 for 10 %; beyond its reach, words read as what they probably were"
    )

    aside: bool = False

    def fit_block(self, format: NumberFormat, words: int) -> int:
        return _block_of(words)

    def conflict(self, other: Protection) -> tuple[str, str] | None:
        if other.name in ("secded", "parity", "tmr"):
            return f"{self.text} corrects what {other.text} would, and more", f"leave {other.text} out"
        return None

    def for_tensors(
        self,
        tensors: Mapping[str, Tensor],
        format_of: Callable[[str], NumberFormat],
        behind: Sequence[Protection],
        ber: float | None,
    ) -> Mapping[str, Protection]:
        """As for `Protection`: the smallest tensors, whose rounding costs most for what it saves, keep their bits, as
        many as 0.05 check bits per weight of all tensors pay for."""
        sizes = {name: tensor.numel() for name, tensor in tensors.items()}  # each may be read from a file for it
        left = _ASIDE * sum(sizes.values())
        links: dict[str, Protection] = {}
        for name in sorted(sizes, key=lambda name: (sizes[name], name)):
            left -= _checks_aside(sizes[name], self.spare, format_of(name).bits)
            links[name] = replace(self, aside=True) if left >= 0 else self
        return {name: links[name] for name in sizes}

    def fit(self, written: Written) -> FittedLdpc:
        return self._fitted(written, distribution_of(written), self.aside)

    def restored(self, constants: Constants, empty: Written, shape: tuple[int, ...]) -> Fitted:
        return self._fitted(empty, Distribution.restored(constants, 1), bool(constants["aside"]))

    def _fitted(self, written: Written, distribution: Distribution, aside: bool) -> FittedLdpc:
        self.check_room(written.format)
        return FittedLdpc(written.format.element, _block_of(written.count), self.spare, distribution, aside)

    def nearest(self, written: Written) -> Words:
        if self.aside:
            return written.words
        self.check_room(written.format)
        block = _block_of(written.count)
        return nearest_sparing(written, lambda index: _spare(index % block, self.spare), self.text)


class FittedLdpc(Fitted):
    """The blocks of one tensor.

    Args:
        format: what one word is.
        block: words of a block.
        spare: low bits that a word gives up, on average.
        distribution: of the tensor's numbers.
        aside: check bits lie in words of their own.
    """

    fills_padding = True

    def __init__(self, format: NumberFormat, block: int, spare: float, distribution: Distribution, aside: bool) -> None:
        self.format, self.block, self.distribution, self.aside = format, block, distribution, aside
        self.side_bits = distribution.side_bits
        self.spare = np.zeros(block, dtype=np.int64) if aside else _spare(np.arange(block), spare)
        checks = _checks_aside(block, spare, format.bits) if aside else int(self.spare.sum())
        self.parity = max(1, checks)
        if aside:
            self.per_block, self.check_bits = -(-self.parity // _CHECK_BITS), _CHECK_BITS
        told = 1 + format.exponent_bits if isinstance(format, FloatFormat) else format.bits  # what says the magnitude
        self.top = min(_TOP_BITS, told, format.bits - int(self.spare.max(initial=0)))
        self._data, self._checks = _places(format.bits, self.top, self.spare)
        below = format.bits - self.top - int(self.spare.max(initial=0))
        self.levels = levels_of(format, self.top, middle=below > 0)
        prior = distribution.prior(self.levels)[0]
        self._log_prior = (prior + _DOUBT / len(prior)).log().float()

    def constants(self) -> Constants:
        return {**self.distribution.constants(), "aside": float(self.aside)}

    @property
    def code(self) -> SparseCode | None:
        """The code of a block; None where so few bits are given up that a block has no check bits."""
        return sparse_code(len(self._data), self.parity) if self.aside or len(self._checks) else None

    def write_words(self, blocks: Words) -> Words:
        if self.aside or self.code is None:
            return blocks
        rows = [self._join(self._bits(row, self._data), self.code) for row in blocks]
        return np.stack(rows) if rows else blocks

    def checks(self, blocks: Words) -> Words:
        if not self.aside or self.code is None:
            return super().checks(blocks)
        rows = [np.packbits(self.code.encode(self._bits(row, self._data)), bitorder="little") for row in blocks]
        return np.stack(rows) if rows else np.empty((0, self.per_block), dtype=np.uint8)

    def read_words(self, blocks: Words, checks: Words) -> Words:
        out = blocks.copy()
        for row, read, own in zip(out, blocks, self._own_checks(blocks, checks), strict=True):
            row[:] = self._written(read, self._decoded(read, own))
        return out

    def recover(self, blocks: Words, checks: Words) -> Recovery:
        words, lost = blocks.copy(), np.zeros(len(blocks), dtype=bool)
        most = self._most_flips
        found = np.zeros(most + 1, dtype=np.int64)
        for number, own in enumerate(self._own_checks(blocks, checks)):
            decoded = self._decoded(blocks[number], own)
            lost[number] = not decoded.whole
            if decoded.whole and self.code is not None:
                words[number] = self._placed(decoded.bits, self._data)
                parity = self.code.encode(decoded.bits)
                if not self.aside:
                    words[number] |= self._placed(parity, self._checks)
                data = self._bits(blocks[number], self._data)
                flips = int(np.count_nonzero(decoded.bits ^ data) + np.count_nonzero(parity ^ own))
                found[min(flips, most)] += 1
        return Recovery(words, lost, found, int(lost.sum()), len(self._data) + self.parity)

    def block_failure(self, ber: float) -> float:
        """As for `Fitted`, roughly: blocks fail where flips take more than three quarters of the redundancy."""
        share = entropy(ber) * (len(self._data) + self.parity) / self.parity
        return min(1.0, max(0.0, (share - _NEAR) / (_OVER - _NEAR)))

    @property
    def _most_flips(self) -> int:
        """How many flips a block is said to correct: where its redundancy ends."""
        bits = len(self._data) + self.parity
        rates = np.geomspace(1e-6, 0.5, 400)
        return max(1, int(bits * max(rate for rate in rates if entropy(rate) <= max(self.parity / bits, 2e-5))))

    def _own_checks(self, blocks: Words, checks: Words) -> list[Bits]:
        """Return the check bits of blocks as read: each [P]."""
        if self.aside:
            return [np.unpackbits(row, bitorder="little")[: self.parity] for row in checks]
        return [self._bits(row, self._checks) for row in blocks]

    def _decoded(self, block: Words, checks: Bits) -> Decoded:
        data = self._bits(block, self._data)
        if self.code is None:
            return Decoded(data, True, None)
        return self.code.decode(data, checks, self._log_prior, self.block)

    def _written(self, block: Words, decoded: Decoded) -> Words:
        """Return the words of a block as they were written, their check bits 0; where decoding failed, those whose top
        bits are nearest to the mean of what they probably were."""
        words = self._placed(decoded.bits, self._data)
        if decoded.whole or decoded.beliefs is None:
            return words
        levels = self.levels.nan_to_num(0, 0, 0)
        means = decoded.beliefs.double() @ levels
        low = self.format.bits - self.top
        ascending, order = levels.sort()
        near = torch.searchsorted((ascending[1:] + ascending[:-1]) / 2, means)
        taken = order[near].numpy().astype(words.dtype)
        out: Words = taken << low | words & words.dtype.type((1 << low) - 1)
        return out

    def _join(self, data: Bits, code: SparseCode) -> Words:
        """Return a block with its check bits."""
        return self._placed(data, self._data) | self._placed(code.encode(data), self._checks)

    def _bits(self, block: Words, places: NDArray[np.int64]) -> Bits:
        octets = np.ascontiguousarray(block).view(np.uint8)
        bits = np.unpackbits(octets, bitorder="little").reshape(self.block, -1)
        return bits[:, : self.format.bits].reshape(-1)[places]

    def _placed(self, bits: Bits, places: NDArray[np.int64]) -> Words:
        dtype = _word_dtype(self.format.bits)
        flat = np.zeros(self.block * self.format.bits, dtype=np.uint8)
        flat[places] = bits
        wide = np.zeros((self.block, 8 * dtype.itemsize), dtype=np.uint8)
        wide[:, : self.format.bits] = flat.reshape(self.block, -1)
        return np.packbits(wide, axis=1, bitorder="little").view(dtype).reshape(-1)


def _word_dtype(bits: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{1 if bits <= 8 else 2 if bits <= 16 else 4}")


def _block_of(words: int) -> int:
    """Return the length of the blocks that words are cut into: the fewest equal ones."""
    return max(1, -(-words // max(1, -(-words // _LARGEST))))


def _spare(index: NDArray[np.int64], spare: float) -> NDArray[np.int64]:
    """Return how many low bits the words at these positions of a block give up."""
    bits: NDArray[np.int64] = (np.floor((index + 1) * spare) - np.floor(index * spare)).astype(np.int64)
    return bits


def _checks_aside(words: int, spare: float, bits: int) -> int:
    """Return the check bits of words that keep their own: as many per data bit as where they lie in the words, and more
    the shorter the block, since the flips of a short one vary more."""
    data = words * bits
    wanted = data * spare / max(1.0, bits - spare) * (1 + _SHORT / math.sqrt(max(1, data)))
    return min(round(wanted), 2 * data)  # every parity sum needs a data bit, of which each is in three or more


def _places(bits: int, top: int, spare: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the data bits and the check bits of a block are: the top bits of all words from the highest, the
    data bits below, and those that are given up. Positions count bit by bit from the lowest of the first word."""
    word = np.arange(len(spare))
    high = (word[:, None] * bits + np.arange(bits - 1, bits - top - 1, -1)).reshape(-1)
    low = [word[spare <= bit] * bits + bit for bit in reversed(range(bits - top))]
    given = [word[spare > bit] * bits + bit for bit in range(int(spare.max(initial=0)))]
    return np.concatenate([high, *low]), np.concatenate([np.empty(0, np.int64), *given]).astype(np.int64)
