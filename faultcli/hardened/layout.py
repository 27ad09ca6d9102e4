"""How the words of a region lie in a file: as unsigned integers, densely where they have fewer bits than a byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faultcli.faults.maps import Layout, WordFaults
from faultcli.formats.values import TILE
from faultcli.protect.base import Words

_WIDTHS = (8, 16, 32, 64)


def container_bits(bits: int) -> int:
    """Return the bits that a word of `bits` bits takes in a file: of the next wider integer, whose upper bits are 0, or
    its own if they are fewer than 8."""
    return bits if bits < _WIDTHS[0] else next(width for width in _WIDTHS if width >= bits)


def file_dtype(bits: int) -> str:
    """Return the safetensors dtype of words of `bits` bits."""
    return f"U{max(8, container_bits(bits))}"


def file_shape(layout: Layout, shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return the shape of a region's tensor: `shape`, or flat; of words that are packed, flat, in bytes."""
    if layout.bits < _WIDTHS[0]:
        return (-(-layout.words * layout.bits // 8),)
    return (layout.words,) if shape is None else shape


def to_bytes(words: Words, bits: int) -> NDArray[np.uint8]:
    """Return the bytes of words [n] of `bits` bits as they lie in a file, little-endian; of those that are packed, the
    first word has the lowest bits of the first byte. What fills the last byte is 0."""
    if bits >= _WIDTHS[0]:
        return np.ascontiguousarray(words, dtype=f"<u{container_bits(bits) // 8}").view(np.uint8)
    if bits == 4:
        even, odd = words[::2].copy(), words[1::2]
        even[: len(odd)] |= odd << 4
        return even.astype(np.uint8)
    packed = []
    for start in range(0, len(words), TILE):  # a bit takes a byte on the way
        part = words[start : start + TILE].astype(np.uint8)
        packed.append(
            np.packbits(np.unpackbits(part[:, None], axis=1, bitorder="little", count=bits), bitorder="little")
        )
    return np.concatenate(packed) if packed else np.empty(0, dtype=np.uint8)


def from_bytes(data: NDArray[np.uint8], layout: Layout) -> Words:
    """Return the words [n] of a region, in the narrowest unsigned integers that hold them, from its bytes in a file.
    Bits of a container above the word's are left out."""
    words, bits = layout
    width = max(8, container_bits(bits))
    if bits >= _WIDTHS[0]:
        whole: Words = data.view(f"<u{width // 8}")
        return whole if bits == width else whole & whole.dtype.type((1 << bits) - 1)
    out = np.empty(words, dtype=np.uint8)
    if bits == 4:
        out[::2], out[1::2] = data & 15, data[: words // 2] >> 4
        return out
    for start in range(0, words, TILE):
        count = min(TILE, words - start)
        ones = np.unpackbits(data[start * bits // 8 :], bitorder="little", count=count * bits).reshape(count, bits)
        out[start : start + count] = np.packbits(ones, axis=1, bitorder="little")[:, 0]
    return out


def flip(data: NDArray[np.uint8], faults: WordFaults, bits: int) -> None:
    """Flip bits of a region's bytes in a file, in place, in O(faults)."""
    if bits >= _WIDTHS[0]:
        words = data.view(f"<u{container_bits(bits) // 8}")
        words[faults.words] ^= faults.masks.astype(words.dtype)
        return
    for bit in range(bits):
        hit = faults.words[(faults.masks >> np.uint64(bit) & np.uint64(1)).astype(bool)] * bits + bit
        np.bitwise_xor.at(data, hit // 8, (1 << hit % 8).astype(np.uint8))
