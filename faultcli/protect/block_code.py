"""A BCH code on blocks as they lie in the memory: what a byte adds to syndromes and check bits is looked up.

Nearly all blocks are as they were written; they are written and checked byte by byte, by tables. Only those with flips
are taken apart into bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faultcli.protect.bch import Bch, Bits

Octets = NDArray[np.uint8]  # blocks, byte by byte: [n, bytes of a block]

_CHUNK = 8192  # blocks at a time, so that what is looked up stays near


class BlockCode:
    """The code `code` on blocks of `octets` bytes.

    Args:
        code: the code.
        places: int64, the bits of a block, byte by byte from the lowest: those of the data in the order of the code,
            then those of the check bits. The others are in no block.
        octets: bytes of a block.
    """

    def __init__(self, code: Bch, places: NDArray[np.int64], octets: int) -> None:
        self.code, self.places, self.octets = code, places, octets
        self._back = np.full(8 * octets, len(places))  # where each bit of a block is among them; else behind the last
        self._back[places] = np.arange(len(places))
        data, checks = places[: -code.check_bits], places[-code.check_bits :]
        self.data_mask = _mask(data, octets)
        self._stored_mask = _mask(places, octets)
        self._whole = bool((self._stored_mask == 0xFF).all())
        where = np.empty(len(places), dtype=np.int64)  # of each bit of `places` in a word of the code
        where[: len(data)] = code.parity_bits + np.arange(len(data))
        where[len(data) :] = [*range(code.parity_bits), 255]
        columns = np.zeros((8 * octets, code.t), dtype=np.uint8)
        columns[places] = code.syndromes_of_bits()[where]
        self._syndromes = _by_octet(columns)
        generated = np.zeros((8 * octets, code.parity_bits), dtype=np.uint8)
        generated[data] = code.parity_of_bits()[: len(data)]
        self._parity = _by_octet(np.packbits(generated, axis=1, bitorder="little"))
        chunks = -(-code.check_bits // 8)
        spread = np.zeros((8 * chunks, 8 * octets), dtype=np.uint8)
        spread[np.arange(code.check_bits), checks] = 1
        values = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        placed = np.stack([values @ spread[8 * k : 8 * k + 8] for k in range(chunks)])
        self._placed = np.packbits(
            placed, axis=2, bitorder="little"
        )  # [chunks, 256, octets]: check bits in their places

    def write(self, blocks: Octets) -> Octets:
        """Return blocks with their check bits in place of what stood there."""
        out = blocks & self.data_mask
        for start in range(0, len(out), _CHUNK):
            part = out[start : start + _CHUNK]
            parity = np.zeros((len(part), self._parity.shape[0]), dtype="<u8")
            for plane, sums in zip(self._parity, parity.T, strict=True):
                sums[:] = _looked_up(plane, part)
            last = _odd(part) ^ (np.bitwise_count(np.bitwise_xor.reduce(parity, axis=1)) & 1)
            octets = np.ascontiguousarray(parity).view(np.uint8)[:, : len(self._placed)].copy()
            if octets.shape[1] < len(self._placed):
                octets = np.pad(octets, ((0, 0), (0, 1)))
            octets[:, self.code.parity_bits // 8] |= last << self.code.parity_bits % 8
            for table, column in zip(self._placed, octets.T, strict=True):
                part |= table.take(column.astype(np.intp), axis=0)
        return out

    def read(self, blocks: Octets) -> tuple[Octets, NDArray[np.int64], NDArray[np.bool_]]:
        """Return blocks as they were written, their check bits 0; the rows [m], ascending, of those that had flips; and
        which of these [m] are beyond correction, and left as they are."""
        hit = self._damaged(blocks)
        out = blocks & self.data_mask
        data, checks = self.split(blocks[hit])
        fixed, lost = self.code.correct(data, checks)
        out[hit] = self.join(fixed, np.zeros_like(checks))
        return out, hit, lost

    def _damaged(self, blocks: Octets) -> NDArray[np.int64]:
        """Return the rows of blocks that are not as they were written."""
        found = []
        for start in range(0, len(blocks), _CHUNK):
            part = blocks[start : start + _CHUNK]
            wrong = _odd(part if self._whole else part & self._stored_mask) != 0
            for plane in self._syndromes:
                wrong |= _looked_up(plane, part) != 0
            found.append(start + np.flatnonzero(wrong))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def split(self, blocks: Octets) -> tuple[Bits, Bits]:
        """Return the data bits [n, data] and the check bits [n, check_bits] of blocks."""
        bits = np.unpackbits(blocks, axis=1, bitorder="little")
        chosen = bits.take(self.places, axis=1)  # ten times as fast as bits[:, places]
        return chosen[:, : -self.code.check_bits], chosen[:, -self.code.check_bits :]

    def join(self, data: Bits, checks: Bits) -> Octets:
        """Return the blocks that `split` took apart."""
        known = np.concatenate([data, checks, np.zeros((len(data), 1), np.uint8)], axis=1)
        return np.packbits(known.take(self._back, axis=1), axis=1, bitorder="little")


def _mask(places: NDArray[np.int64], octets: int) -> Octets:
    bits = np.zeros(8 * octets, dtype=np.uint8)
    bits[places] = 1
    return np.packbits(bits, bitorder="little")


def _by_octet(columns: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the sums (XOR) of the columns [8 · octets, m] of the ones of every byte: [⌈m/8⌉, octets, 256], eight
    bytes to a word."""
    octets, planes = len(columns) // 8, -(-columns.shape[1] // 8)
    words = np.zeros((len(columns), 8 * planes), dtype=np.uint8)
    words[:, : columns.shape[1]] = columns
    wide = words.view("<u8").reshape(octets, 8, planes)
    tables = np.zeros((planes, octets, 256), dtype=np.uint64)
    for bit in range(8):
        ones = (np.arange(256) >> bit & 1).astype(bool)
        tables[:, :, ones] ^= wide[:, bit].T[:, :, None]
    return tables


def _looked_up(tables: NDArray[np.uint64], blocks: Octets) -> NDArray[np.uint64]:
    """Return the sums (XOR) [n] of what the bytes of blocks stand for in tables [octets, 256]."""
    sums = np.zeros(len(blocks), dtype=np.uint64)
    for table, column in zip(tables, np.ascontiguousarray(blocks.T).astype(np.intp), strict=True):
        sums ^= table.take(column)
    return sums


def _odd(blocks: Octets) -> NDArray[np.uint8]:
    """Return whether the number of ones [n] is odd: 0 or 1."""
    width = next(size for size in (8, 4, 2, 1) if blocks.shape[1] % size == 0)
    words = np.ascontiguousarray(blocks).view(f"<u{width}")
    sums = words[:, 0].copy()
    for column in words.T[1:]:
        sums ^= column
    odd: NDArray[np.uint8] = np.bitwise_count(sums) & np.uint8(1)
    return odd
