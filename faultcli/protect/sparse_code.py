"""A low-density parity-check code over a whole tensor, decoded by belief propagation with what is known of its words.

An irregular repeat-accumulate code (Jin, Khandekar and McEliece, 2000): every data bit enters three to sixteen parity
sums, and each check bit is the sum of all before it, so that encoding is one pass. It is decoded iteratively (Gallager
1963), and every word whose bits the code covers is a node of its own: how the numbers of a tensor are distributed tells
as much about its bits as some of the check bits do (joint source-channel decoding, Garcia-Frias 2001).

Long blocks with few flips for their check bits are decoded by flipping bits first, in a fraction of the time, by noisy
gradient descent (Wadayama and others, IEEE Trans. Commun. 58, 2010; Rasheed and others, IEEE Commun. Lett. 18, 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bits = NDArray[np.uint8]  # 0 and 1

ITERATIONS = 100  # at the most; rates well below the limit take 3 to 20
_DEGREES, _SHARES = (3, 8, 16), (0.6, 0.25, 0.15)  # sums that a data bit enters, and how many bits do
_SEED = 0x1DBC
_MOST = 25.0  # of a log-likelihood ratio
_TINY = 1e-7
_FEWEST, _WORST = 1e-6, 0.25  # bit-error rates that a block is taken to have
_LONG, _EASY = 4096, 0.4  # bits of a block, and share of its redundancy, at which flipping bits is tried
_ROUNDS = 100  # of flipping bits
_KEPT = 0.6  # of the bits of a round, drawn, so that bits of one sum do not flip to and fro together
_STEADY = 2  # rounds in which all are


@dataclass(frozen=True)
class Decoded:
    """What decoding gave: the data bits [K], whether all parity sums hold, and if not, the probabilities of the values
    that the top bits of every word may have, float32 [words, 2^top]."""

    bits: Bits
    whole: bool
    beliefs: Tensor | None


class SparseCode:
    """The code with `data` data bits and `checks` check bits; equal numbers give equal codes."""

    def __init__(self, data: int, checks: int) -> None:
        self.data, self.checks = data, checks
        bit, owner = _data_edges(data, checks)
        order = np.argsort(owner, kind="stable")
        self._bit, self._sum = bit[order].astype(np.int32), owner.astype(np.int32)  # by sums; by bits
        self._starts = np.searchsorted(owner[order], np.arange(checks + 1))  # of sums in `_bit`, and its end
        self._firsts = np.searchsorted(bit, np.arange(data + 1))  # of bits in `_sum`, and its end

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor]:
        """The bit and the sum of every edge, sum by sum, check bits after the data bits."""
        chain = np.arange(self.checks)
        bits = np.concatenate([self._bit, self.data + chain, self.data + chain[:-1]])
        owners = np.concatenate([np.repeat(chain, np.diff(self._starts)), chain, chain[1:]])
        order = np.argsort(owners, kind="stable")
        return torch.from_numpy(bits[order]), torch.from_numpy(owners[order])

    def encode(self, data: Bits) -> Bits:
        """Return the check bits of data bits [K]."""
        out: Bits = np.bitwise_xor.accumulate(self._sums(data))
        return out

    def unsatisfied(self, data: Bits, checks: Bits) -> int:
        """Return how many parity sums of data bits [K] and check bits [P] do not hold."""
        return int(np.count_nonzero(self._wrong(data, checks)))

    def _wrong(self, data: Bits, checks: Bits) -> Bits:
        """Return which parity sums do not hold, 0 or 1 for each of them [P]."""
        wrong = self._sums(data) ^ checks
        wrong[1:] ^= checks[:-1]
        return wrong

    def _sums(self, data: Bits) -> Bits:
        sums: Bits = np.bitwise_xor.reduceat(data[self._bit], self._starts[:-1])
        return sums

    @cached_property
    def _degrees(self) -> NDArray[np.int64]:
        """Bits of every sum."""
        degrees: NDArray[np.int64] = np.diff(self._starts) + 2
        degrees[0] -= 1
        return degrees

    def rate_of(self, unsatisfied: int) -> float:
        """Return the bit-error rate at which so many parity sums are expected not to hold: of d bits an odd number is
        wrong with probability (1 − (1 − 2p)^d) / 2."""
        low, high = _FEWEST, _WORST
        for _ in range(40):
            middle = math.sqrt(low * high)
            expected = float((1 - (1 - 2 * middle) ** self._degrees).sum()) / 2
            low, high = (middle, high) if expected < unsatisfied else (low, middle)
        return low

    def decode(self, data: Bits, checks: Bits, log_prior: Tensor, words: int) -> Decoded:
        """Correct data bits [K] and check bits [P] as read.

        Args:
            data: the top bits of all words first, word by word from the highest, then others.
            checks: the check bits.
            log_prior: float32 [2^top], of what the top bits of a word may be.
            words: how many words that is.
        """
        wrong = self._wrong(data, checks)
        if not wrong.any():
            return Decoded(data, True, None)
        rate = self.rate_of(int(np.count_nonzero(wrong)))
        if self._is_easy(rate) and (flips := self._flips(wrong, rate)) is not None:
            return Decoded(data ^ flips[: self.data], True, None)
        sign = 1 - 2 * torch.from_numpy(np.concatenate([data, checks]).astype(np.float32))
        return self._propagate(sign * math.log((1 - rate) / rate), log_prior, words)

    def _is_easy(self, rate: float) -> bool:
        """Whether another code word as near as the right one is out of the question, and so are the priors of words."""
        bits = self.data + self.checks
        return bits >= _LONG and entropy(rate) * bits <= _EASY * self.checks

    def _flips(self, wrong: Bits, rate: float) -> Bits | None:
        """Return which bits, 0 or 1 for each [K + P], flips have to be undone in for all parity sums to hold: those
        that more of the wrong sums speak against than for, round by round; None where that leads nowhere.

        A sum that does not hold speaks against each of its bits as much as one that holds speaks for it, by the share
        of sums that do not hold; a bit is as it was read, by the bit-error rate.
        """
        wrong, draw = wrong.copy(), np.random.PCG64(_SEED)
        flips, read = np.zeros(self.data + self.checks, dtype=np.uint8), math.log((1 - rate) / rate)
        sums_of = np.concatenate([np.diff(self._firsts), np.full(self.checks, 2)])
        sums_of[-1] = 1
        for turn in range(_ROUNDS):
            at = np.flatnonzero(wrong)
            if not len(at):
                return flips if flips.sum() <= 2 * rate * len(flips) + 10 else None
            against = np.bincount(self._bit[_ranges(self._starts, at)], minlength=len(flips))
            against[self.data :] = wrong
            against[self.data : -1] += wrong[1:]
            bits = np.flatnonzero(against)
            weight = math.log(max(1.0, self.checks / len(at) - 1))
            score = (2 * against[bits] - sums_of[bits]) * weight - np.where(flips[bits], -read, read)
            bits = bits[score > min(0.0, score.max() - 1e-9)]  # if none is surely wrong, those that most likely are
            if turn >= _STEADY:
                bits = bits[draw.random_raw(len(bits)) < np.uint64(_KEPT * 2**64)]
            flips[bits] ^= 1
            chain = bits[bits >= self.data] - self.data
            chain = np.concatenate([chain, chain[chain + 1 < self.checks] + 1])
            touched = np.concatenate([self._sum[_ranges(self._firsts, bits[bits < self.data])], chain])
            wrong ^= (np.bincount(touched, minlength=self.checks) & 1).astype(np.uint8)
        return None

    def _propagate(self, channel: Tensor, log_prior: Tensor, words: int) -> Decoded:
        """Pass messages between bits, parity sums and words until all sums hold.

        Messages are log-likelihood ratios, log P(0)/P(1); a sum tells a bit 2·atanh(Π tanh(m/2)) of the messages m of
        its other bits.
        """
        bit, owner = self._edges
        top = len(log_prior).bit_length() - 1
        covered = words * top
        values = (torch.arange(1 << top)[:, None] >> torch.arange(top - 1, -1, -1) & 1).float()
        told = torch.zeros(len(bit))
        beliefs = None
        hard = np.empty(0, dtype=np.uint8)
        for _ in range(ITERATIONS):
            total = channel.clone().index_add_(0, bit, told)
            beliefs = torch.softmax(log_prior - total[:covered].view(words, top) @ values.T, dim=1)
            ones = (beliefs @ values).clamp_(_TINY, 1 - _TINY)
            total[:covered] = torch.log1p(-ones).sub_(ones.log()).view(-1)
            hard = (total < 0).numpy().astype(np.uint8)
            if not self.unsatisfied(hard[: self.data], hard[self.data :]):
                return Decoded(hard[: self.data], True, None)
            message = total[bit].sub_(told).clamp_(-_MOST, _MOST).mul_(0.5).tanh_()
            negative = (message < 0).float()
            size = message.abs_().clamp_(min=1e-12).log_()
            sizes = torch.zeros(self.checks).index_add_(0, owner, size)
            signs = torch.zeros(self.checks).index_add_(0, owner, negative)
            size = sizes[owner].sub_(size).clamp_(max=-_TINY).exp_().clamp_(max=1 - _TINY)
            told = size.atanh_().mul_(2 - 4 * ((signs[owner] - negative) % 2))
        return Decoded(hard[: self.data], False, beliefs)


@lru_cache(maxsize=64)
def sparse_code(data: int, checks: int) -> SparseCode:
    """Return the code of this size."""
    return SparseCode(data, checks)


def entropy(rate: float) -> float:
    """Return the entropy of a bit that is 1 at this rate, in bits."""
    return 0.0 if rate <= 0 else 1.0 if rate >= 0.5 else -rate * math.log2(rate) - (1 - rate) * math.log2(1 - rate)


def _ranges(starts: NDArray[np.int64], which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers from starts[i] up to starts[i + 1], one range after the other, for every i of `which`."""
    first, counts = starts[which], starts[which + 1] - starts[which]
    before = np.cumsum(counts) - counts
    ranges: NDArray[np.int64] = np.repeat(first - before, counts) + np.arange(counts.sum())
    return ranges


def _data_edges(data: int, checks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which data bit enters which parity sum: each sum has the same number of bits, give or take one, and no bit
    enters one twice where that can be helped."""
    draw = np.random.PCG64(_SEED)  # its raw numbers are the same in every numpy, those of a Generator need not be
    order = np.argsort(draw.random_raw(data), kind="stable")
    degree = np.full(data, min(_DEGREES[0], checks))
    ends = (data * np.cumsum(_SHARES[::-1])).round().astype(int)
    for part, count in zip(np.split(order, ends)[:2], _DEGREES[:0:-1], strict=True):
        degree[part] = min(count, checks)
    bit = np.repeat(np.arange(data), degree)
    owner = np.empty(len(bit), dtype=np.int64)
    owner[np.argsort(draw.random_raw(len(bit)), kind="stable")] = np.arange(len(bit)) % checks
    for _ in range(50):
        edge = bit * checks + owner
        order = np.argsort(edge, kind="stable")
        twice = order[1:][edge[order[1:]] == edge[order[:-1]]]
        if not len(twice):
            break
        for one, other in zip(twice, draw.random_raw(len(twice)) % np.uint64(len(bit)), strict=True):
            owner[one], owner[other] = owner[other], owner[one]
    return bit, owner
