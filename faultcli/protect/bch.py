"""Binary BCH codes of length 255 with one more parity bit over all, vectorised over blocks of 256 bits: any few flips
of a block are corrected, and one more is always seen.

Bose and Ray-Chaudhuri (1960), Hocquenghem (1959); decoding by Berlekamp and Massey and an exhaustive search for the
roots (Lin and Costello, Error Control Coding, 2nd ed., ch. 6). Elements of GF(256) are bytes modulo x^8+x^4+x^3+x^2+1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]  # one bit per byte, 0 or 1

LENGTH = 255
_CHUNK = 8192  # blocks decoded at a time

_EXP = np.empty(3 * LENGTH, dtype=np.uint8)
_EXP[0] = 1
for _power in range(1, 3 * LENGTH):
    _EXP[_power] = (int(_EXP[_power - 1]) << 1 ^ (0x11D if _EXP[_power - 1] & 0x80 else 0)) & 0xFF
_LOG = np.zeros(256, dtype=np.int64)
_LOG[_EXP[:LENGTH]] = np.arange(LENGTH)


def _times(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where((a == 0) | (b == 0), 0, _EXP[_LOG[a] + _LOG[b]]).astype(np.uint8)


@lru_cache(maxsize=32)
def _terms(power: int) -> NDArray[np.uint8]:
    """Return a term of a polynomial, coefficient · x^power, for all coefficients [256] at the inverses of all positions
    [255]: whole rows are looked up in a fifth of the time that single products take."""
    positions = _EXP[-np.arange(LENGTH) * power % LENGTH]
    return _times(np.arange(256, dtype=np.uint8)[:, None], positions[None])


class Bch:
    """The code that corrects any `t` flips of 256 bits and detects t + 1: `check_bits` of redundancy, `data_bits` of
    data.

    The first 255 bits are a word of the BCH code: check bits but the last, then data. The last check bit makes the
    number of ones even. Shortened blocks leave their last data bits 0. Get one from `bch_code`, which keeps them.
    """

    def __init__(self, t: int) -> None:
        self.t = t
        roots: set[int] = set()
        for power in range(1, 2 * t, 2):
            conjugate = power
            while conjugate not in roots:
                roots.add(conjugate)
                conjugate = 2 * conjugate % LENGTH
        generator = np.ones(1, dtype=np.uint8)  # lowest power first
        for root in sorted(roots):
            shifted = np.concatenate([[0], generator]).astype(np.uint8)
            shifted[:-1] ^= _times(generator, _EXP[root])
            generator = shifted
        self.parity_bits = len(generator) - 1  # of the BCH code
        self.check_bits = self.parity_bits + 1
        self.data_bits = LENGTH - self.parity_bits
        self._parity_of = self._systematic(generator)
        # Per byte of a word of 255 bits and value of that byte: its part of the odd syndromes.
        terms = self.syndromes_of_bits().reshape(32, 8, t)
        values = np.arange(256)[:, None] >> np.arange(8) & 1
        self._syndrome_of = np.zeros((32, 256, t), dtype=np.uint8)
        for bit in range(8):
            self._syndrome_of[:, values[:, bit] == 1] ^= terms[:, bit, None, :]

    def _systematic(self, generator: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the parity bits [data_bits, parity_bits] of every single data bit: x^(r+i) modulo the generator."""
        r = self.parity_bits
        low = sum(int(bit) << power for power, bit in enumerate(generator[:-1]))
        rows, remainder = [], low
        for _ in range(self.data_bits):
            rows.append([remainder >> power & 1 for power in range(r)])
            remainder <<= 1
            if remainder >> r:
                remainder = (remainder & ((1 << r) - 1)) ^ low
        return np.array(rows, dtype=np.float32).reshape(self.data_bits, r)

    def syndromes_of_bits(self) -> NDArray[np.uint8]:
        """Return what each bit of a block adds to the odd syndromes: [256, t], 0 for the last check bit."""
        powers = _EXP[np.outer(np.arange(LENGTH), np.arange(1, 2 * self.t, 2)) % LENGTH]
        return np.concatenate([powers, np.zeros((1, self.t), dtype=np.uint8)])

    def parity_of_bits(self) -> Bits:
        """Return the check bits but the last [data_bits, parity_bits] of blocks with one data bit set."""
        return self._parity_of.astype(np.uint8)

    def miscorrection(self, bits: int, flips: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how likely a block of `bits` bits, check bits included, comes out as another code word after so many
        flips, more than t: the share of all syndromes that up to t flips explain, of which an even number is told from
        an odd one. After t + 1 it never does."""
        ways = [math.comb(bits, few) for few in range(self.t + 1)]
        explained = [min(1.0, sum(ways[parity::2]) / (1 << self.parity_bits)) for parity in range(2)]
        return np.where(flips == self.t + 1, 0.0, np.array(explained)[flips % 2])

    def checks(self, data: Bits) -> Bits:
        """Return the check bits [n, check_bits] of data bits [n, up to data_bits]."""
        sums = data.astype(np.float32) @ self._parity_of[: data.shape[1]]  # exact: sums of at most 255 ones
        parity = (sums.astype(np.int32) & 1).astype(np.uint8)
        return np.concatenate([parity, _odd(data) ^ _odd(parity)], axis=1)

    def correct(self, data: Bits, checks: Bits) -> tuple[Bits, NDArray[np.bool_]]:
        """Return the data bits [n, d] as they were, and which blocks [n] are beyond correction (left as they are)."""
        out, lost = data.copy(), np.zeros(len(data), dtype=bool)
        first = self.parity_bits  # of the data
        for start in range(0, len(data), _CHUNK):
            part = slice(start, start + _CHUNK)
            word = np.zeros((len(data[part]), LENGTH + 1), dtype=np.uint8)
            word[:, :first] = checks[part, :first]
            word[:, first : first + data.shape[1]] = data[part]
            syndromes = self._syndromes(word)
            hit = np.flatnonzero(syndromes.any(axis=1))
            if len(hit):
                flips, found = self._locate(syndromes[hit])
                # A flip located in the unused part of a shortened block cannot be: the block is beyond correction.
                found &= ~flips[:, first + data.shape[1] :].any(axis=1)
                # Neither can t flips if the number of ones says that there is one more.
                odd = _odd(word[hit])[:, 0] ^ checks[start + hit, -1]
                count = flips.sum(axis=1)
                found &= count + (count + odd & 1) <= self.t
                flips[~found] = 0
                out[start + hit] ^= flips[:, first : first + data.shape[1]]
                lost[start + hit] = ~found
        return out, lost

    def _syndromes(self, words: Bits) -> NDArray[np.uint8]:
        """Return the odd syndromes [n, t] of words [n, 256], whose last bit is none of the BCH code."""
        octets = np.packbits(words, axis=1, bitorder="little")
        found = np.zeros((len(words), self.t), dtype=np.uint8)
        for position in range(32):
            found ^= self._syndrome_of[position][octets[:, position]]
        return found

    def _locate(self, odd: NDArray[np.uint8]) -> tuple[Bits, NDArray[np.bool_]]:
        """Find the flips [n, 255] that give the odd syndromes [n, t], and whether there are such."""
        n, t = odd.shape
        syndromes = np.zeros((n, 2 * t + 1), dtype=np.uint8)
        syndromes[:, 1::2] = odd
        for power in range(2, 2 * t + 1, 2):
            syndromes[:, power] = _times(syndromes[:, power // 2], syndromes[:, power // 2])
        degree = np.zeros(n, dtype=np.int64)
        locator = np.zeros((n, t + 2), dtype=np.uint8)
        locator[:, 0] = 1
        previous, scale = locator.copy(), np.ones(n, dtype=np.uint8)
        for step in range(2 * t):
            previous = np.concatenate([np.zeros((n, 1), np.uint8), previous[:, :-1]], axis=1)
            terms = min(step, t + 1) + 1
            recent = syndromes[:, step + 2 - terms : step + 2][:, ::-1]
            discrepancy = np.bitwise_xor.reduce(_times(locator[:, :terms], recent), axis=1)
            ratio = _times(discrepancy, _EXP[(LENGTH - _LOG[scale]) % LENGTH])
            updated = locator ^ _times(ratio[:, None], previous)
            grows = (discrepancy != 0) & (2 * degree <= step)
            previous = np.where(grows[:, None], locator, previous)
            scale = np.where(grows, discrepancy, scale)
            degree = np.where(grows, step + 1 - degree, degree)
            locator = updated
        value = np.repeat(locator[:, :1], LENGTH, axis=1)
        for power in range(1, t + 2):
            value ^= _terms(power)[locator[:, power]]
        flips = (value == 0).astype(np.uint8)
        return flips, (flips.sum(axis=1) == degree) & (degree <= t)


def _odd(bits: Bits) -> Bits:
    """Return whether the number of ones [n, 1] is odd."""
    return np.bitwise_xor.reduce(bits, axis=1, keepdims=True)


@lru_cache(maxsize=32)
def bch_code(t: int) -> Bch:
    """Return the code that corrects `t` flips, 1 to 30."""
    return Bch(t)
