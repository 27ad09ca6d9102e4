"""What every nibble of every word of a block adds to the syndromes of its code."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from faultcli.hardened.layout import container_bits
from faultcli.protect.bch import Bch

_Unsigned = TypeVar("_Unsigned", np.uint8, np.uint16)


def bch_table(code: Bch, places: NDArray[np.int64], word_bits: int) -> NDArray[np.uint64]:
    """Return the odd syndromes of nibbles, uint64 [words, nibbles of a word, 16, ceil(t / 8)].

    Syndrome 2j + 1 is byte j % 8, least significant first, of the entry's number j // 8.

    Args:
        code: the code.
        places: where data bits and then check bits lie in a block: word times the width of its container, plus bit.
        word_bits: of one word.
    """
    container, block = max(8, container_bits(word_bits)), 256 // word_bits
    octets = -(-code.t // 8) * 8
    data = len(places) - code.check_bits
    where = [*range(code.parity_bits, code.parity_bits + data), *range(code.parity_bits), 255]  # in a word of the code
    of_bit = np.zeros((block, -(-word_bits // 4) * 4, octets), dtype=np.uint8)
    word, bit = np.divmod(places, container)
    of_bit[word, bit, : code.t] = code.syndromes_of_bits()[where]
    entries = _sums(of_bit.reshape(block, -1, 4, octets))
    return np.ascontiguousarray(entries).view("<u8").astype(np.uint64)


def secded_table(columns: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the syndromes of nibbles, [words, nibbles of a word, 16], from those of bits, [words, bits of a word]."""
    block, bits = columns.shape
    of_bit = np.zeros((block, -(-bits // 4) * 4, 1), dtype=np.uint16)
    of_bit[:, :bits, 0] = columns
    return _sums(of_bit.reshape(block, -1, 4, 1))[..., 0]


def _sums(of_bit: NDArray[_Unsigned]) -> NDArray[_Unsigned]:
    """Return the sums [words, nibbles, 16, n] of what the bits of a nibble, [words, nibbles, 4, n], add."""
    words, nibbles, _, n = of_bit.shape
    sums = np.zeros((words, nibbles, 16, n), dtype=of_bit.dtype)
    for nibble in range(16):
        for bit in range(4):
            if nibble >> bit & 1:
                sums[:, :, nibble] ^= of_bit[:, :, bit]
    return sums
