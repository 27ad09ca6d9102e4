"""Binary BCH codes of length 255, vectorised over blocks: any few flips of a block are corrected.

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
    """The code that corrects any `t` flips of 255 bits: `parity_bits` of redundancy, then `data_bits` of data.

    Shortened blocks leave their last data bits 0. Get one from `bch_code`, which keeps them.
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
        self.parity_bits = len(generator) - 1
        self.data_bits = LENGTH - self.parity_bits
        self._parity_of = self._systematic(generator)
        # Per byte of a word of 255 bits and value of that byte: its part of the odd syndromes.
        powers = np.outer(np.arange(LENGTH + 1) % LENGTH, np.arange(1, 2 * t, 2)) % LENGTH
        terms = _EXP[powers].reshape(32, 8, t)
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

    def miscorrection(self, bits: int) -> float:
        """Return how likely a block of `bits` bits with more than t flips, data and parity together, comes out as
        another code word: the share of all syndromes that up to t flips explain."""
        explained = sum(math.comb(bits, flips) for flips in range(self.t + 1))
        return min(1.0, explained / (1 << self.parity_bits))

    def parity(self, data: Bits) -> Bits:
        """Return the parity bits [n, parity_bits] of data bits [n, up to data_bits]."""
        sums = data.astype(np.float32) @ self._parity_of[: data.shape[1]]  # exact: sums of at most 255 ones
        return (sums.astype(np.int32) & 1).astype(np.uint8)

    def correct(self, data: Bits, parity: Bits) -> tuple[Bits, NDArray[np.bool_]]:
        """Return the data bits [n, d] as they were, and which blocks [n] are beyond correction (left as they are)."""
        out, lost = data.copy(), np.zeros(len(data), dtype=bool)
        for start in range(0, len(data), _CHUNK):
            part = slice(start, start + _CHUNK)
            word = np.zeros((len(data[part]), 256), dtype=np.uint8)
            word[:, : self.parity_bits] = parity[part]
            word[:, self.parity_bits : self.parity_bits + data.shape[1]] = data[part]
            octets = np.packbits(word, axis=1, bitorder="little")
            syndromes = np.zeros((len(word), self.t), dtype=np.uint8)
            for position in range(32):
                syndromes ^= self._syndrome_of[position][octets[:, position]]
            hit = np.flatnonzero(syndromes.any(axis=1))
            if len(hit):
                flips, found = self._locate(syndromes[hit])
                # A flip located in the unused part of a shortened block cannot be: the block is beyond correction.
                found &= ~flips[:, self.parity_bits + data.shape[1] :].any(axis=1)
                flips[~found] = 0
                out[start + hit] ^= flips[:, self.parity_bits : self.parity_bits + data.shape[1]]
                lost[start + hit] = ~found
        return out, lost

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


@lru_cache(maxsize=32)
def bch_code(t: int) -> Bch:
    """Return the code that corrects `t` flips, 1 to 30."""
    return Bch(t)
