"""What every nibble of every word of a block adds to the syndromes of its code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LENGTH = 255  # of the BCH codes, and the order of GF(256)
_MODULUS = 0x11D  # x^8 + x^4 + x^3 + x^2 + 1


def _powers() -> NDArray[np.uint8]:
    power, powers = 1, []
    for _ in range(_LENGTH):
        powers.append(power)
        power = power << 1 ^ (_MODULUS if power & 0x80 else 0)
    return np.array(powers, dtype=np.uint8)


def bch_table(places: NDArray[np.int64], check_bits: int, t: int, word_bits: int) -> NDArray[np.uint64]:
    """Return the odd syndromes of nibbles, uint64 [words, nibbles of a word, 16, ceil(t / 8)].

    Syndrome 2j + 1 is byte j % 8, least significant first, of the entry's number j // 8.

    Args:
        places: where data bits and then check bits lie in a block: word times the width of its container, plus bit.
        check_bits: of a block; the last is the parity over all, which no syndrome looks at.
        t: flips that the code corrects.
        word_bits: of one word.
    """
    container = next(width for width in (8, 16, 32) if width >= word_bits)
    block = 256 // word_bits
    odd = np.outer(np.arange(_LENGTH), np.arange(1, 2 * t, 2)) % _LENGTH
    of_position = np.zeros((_LENGTH, -(-t // 8) * 8), dtype=np.uint8)
    of_position[:, :t] = _powers()[odd]
    of_bit = np.zeros((block, -(-word_bits // 4) * 4, of_position.shape[1]), dtype=np.uint8)
    word, bit = np.divmod(places, container)
    data = len(places) - check_bits
    of_bit[word[:data], bit[:data]] = of_position[check_bits - 1 : check_bits - 1 + data]
    of_bit[word[data:-1], bit[data:-1]] = of_position[: check_bits - 1]
    entries = _sums(of_bit.reshape(block, -1, 4, of_position.shape[1]))
    return np.ascontiguousarray(entries).view("<u8").astype(np.uint64)


def secded_table(columns: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the syndromes of nibbles, [words, nibbles of a word, 16], from those of bits, [words, bits of a word]."""
    block, bits = columns.shape
    of_bit = np.zeros((block, -(-bits // 4) * 4, 1), dtype=np.uint16)
    of_bit[:, :bits, 0] = columns
    return _sums(of_bit.reshape(block, -1, 4, 1))[..., 0]


def _sums(of_bit: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Return the sums [words, nibbles, 16, n] of what the bits of a nibble, [words, nibbles, 4, n], add."""
    words, nibbles, _, n = of_bit.shape
    sums = np.zeros((words, nibbles, 16, n), dtype=of_bit.dtype)
    for nibble in range(16):
        for bit in range(4):
            if nibble >> bit & 1:
                sums[:, :, nibble] ^= of_bit[:, :, bit]
    return sums
