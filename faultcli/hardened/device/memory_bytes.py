"""Words as the bytes that a device holds: little-endian integers, or packed where they are shorter than a byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faultcli.protect.base import Words


def container_bytes(bits: int) -> int:
    """Return the bytes of the integer that a word of `bits` bits, 8 or more, lies in: 1, 2, 4 or 8."""
    return next(width // 8 for width in (8, 16, 32, 64) if width >= bits)


def byte_count(words: int, bits: int) -> int:
    """Return the bytes that a region of this many words takes."""
    return -(-words * bits // 8) if bits < 8 else words * container_bytes(bits)


def to_bytes(words: Words, bits: int) -> NDArray[np.uint8]:
    """Return the bytes of words of `bits` bits: those of fewer than 8 packed, the first in the lowest bits of the first
    byte; others as little-endian integers of 1, 2, 4 or 8 bytes with the upper bits 0."""
    if bits < 8:
        ones = np.unpackbits(words.astype(np.uint8)[:, None], axis=1, bitorder="little")[:, :bits]
        return np.packbits(ones.reshape(-1), bitorder="little")
    return np.ascontiguousarray(words.astype(f"<u{container_bytes(bits)}")).view(np.uint8)
