"""GGUF files written by hand, and what their blocks stand for, the slow way: one block at a time, one weight after the
other, as the loops of ggml-quants.c go."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

PLAIN = {"F32": 0, "F16": 1, "I32": 26, "BF16": 30}
OF_32 = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
OF_256 = {"Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
NUMBERS = PLAIN | OF_32 | OF_256
BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
SIZES = {type: (32 if type in OF_32 else 256, nbytes) for type, nbytes in BYTES.items()}
ALIGNMENT = 32


class Given(NamedTuple):
    """A tensor to write."""

    type: str
    shape: tuple[int, ...]  # rows first
    data: bytes


def random_blocks(rng: np.random.Generator, type: str, *shape: int) -> Given:
    """Return a tensor of blocks with random bytes, so that scales may be anything, NaN too."""
    weights, nbytes = SIZES[type]
    return Given(type, shape, rng.bytes(int(np.prod(shape)) // weights * nbytes))


def text(words: str) -> bytes:
    raw = words.encode()
    return struct.pack("<Q", len(raw)) + raw


# Metadata as they are in the file: a type, and the value.
USUAL = {
    "general.architecture": struct.pack("<I", 8) + text("llama"),
    "llama.block_count": struct.pack("<II", 4, 1),
    "llama.rope.freq_base": struct.pack("<If", 6, 10000.0),
    "tokenizer.ggml.add_bos_token": struct.pack("<IB", 7, 1),
    "tokenizer.ggml.tokens": struct.pack("<IIQ", 9, 8, 2) + text("<s>") + text("ä"),
    "tokenizer.ggml.scores": struct.pack("<IIQff", 9, 6, 2, 0.5, 1.5),
    "nested": struct.pack("<IIQIQBB", 9, 9, 1, 0, 2, 1, 2),
}


def entry(name: str, type: int, shape: Sequence[int], offset: int) -> bytes:
    sizes = tuple(reversed(shape))
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, type, offset)


def head(entries: Sequence[bytes], metadata: Mapping[str, bytes] = USUAL, version: int = 3) -> bytes:
    raw = b"GGUF" + struct.pack("<IQQ", version, len(entries), len(metadata))
    return raw + b"".join(text(key) + value for key, value in metadata.items()) + b"".join(entries)


def padded(raw: bytes, with_what: bytes = b"\0", alignment: int = ALIGNMENT) -> bytes:
    return raw + with_what * (-len(raw) % alignment)


def write_gguf(path: Path, tensors: Mapping[str, Given], metadata: Mapping[str, bytes] = USUAL) -> Path:
    """Write a file; what pads the tensors is no zero, so that it is seen whether it is kept."""
    entries, data = [], b""
    for name, (type, shape, raw) in tensors.items():
        entries.append(entry(name, NUMBERS[type], shape, len(data)))
        data = padded(data + raw, b"\xa5")
    path.write_bytes(padded(head(entries, metadata)) + data)
    return path


def half(raw: bytes) -> np.float32:
    return np.float32(np.frombuffer(raw, "<f2")[0])


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _q4_0(block: bytes) -> list[np.float32]:
    d, codes = half(block[:2]), block[2:]
    return [d * np.float32((byte & 15) - 8) for byte in codes] + [d * np.float32((byte >> 4) - 8) for byte in codes]


def _q4_1(block: bytes) -> list[np.float32]:
    d, m, codes = half(block[:2]), half(block[2:4]), block[4:]
    return [d * np.float32(byte & 15) + m for byte in codes] + [d * np.float32(byte >> 4) + m for byte in codes]


def _of_five_bits(high: bytes, codes: bytes) -> list[int]:
    bits, low = int.from_bytes(high, "little"), [byte & 15 for byte in codes] + [byte >> 4 for byte in codes]
    return [code | (bits >> place & 1) << 4 for place, code in enumerate(low)]


def _q5_0(block: bytes) -> list[np.float32]:
    return [half(block[:2]) * np.float32(code - 16) for code in _of_five_bits(block[2:6], block[6:])]


def _q5_1(block: bytes) -> list[np.float32]:
    d, m = half(block[:2]), half(block[2:4])
    return [d * np.float32(code) + m for code in _of_five_bits(block[4:8], block[8:])]


def _q8_0(block: bytes) -> list[np.float32]:
    return [half(block[:2]) * np.float32(signed(byte)) for byte in block[2:]]


def _q4_k(block: bytes) -> list[np.float32]:
    return _k(block, bytes(32), block[16:])


def _q5_k(block: bytes) -> list[np.float32]:
    return _k(block, block[16:48], block[48:])


def _k(block: bytes, high: bytes, codes: bytes) -> list[np.float32]:
    d, dmin, packed = half(block[:2]), half(block[2:4]), block[4:16]
    out = []
    for part in range(8):
        if part < 4:
            scale, least = packed[part] & 63, packed[part + 4] & 63
        else:
            scale = (packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4
            least = (packed[part + 4] >> 4) | (packed[part] >> 6) << 4
        for place in range(32):
            code = codes[32 * (part // 2) + place] >> 4 * (part % 2) & 15
            code |= (high[place] >> part & 1) << 4
            out.append(d * np.float32(scale) * np.float32(code) - dmin * np.float32(least))
    return out


def _q6_k(block: bytes) -> list[np.float32]:
    low, high, scales, d = block[:128], block[128:192], block[192:208], half(block[208:])
    out = []
    for weight in range(256):
        group, place = divmod(weight, 128)
        code = low[64 * group + place % 64] >> 4 * (place // 64) & 15
        code |= (high[32 * group + place % 32] >> 2 * (place // 32) & 3) << 4
        out.append(d * np.float32(signed(scales[weight // 16])) * np.float32(code - 32))
    return out


SLOWLY: dict[str, Callable[[bytes], list[np.float32]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def decoded(given: Given) -> np.ndarray:
    """Return what a tensor of blocks stands for, float32."""
    size = SIZES[given.type][1]
    with np.errstate(all="ignore"):
        blocks = [SLOWLY[given.type](given.data[at : at + size]) for at in range(0, len(given.data), size)]
    return np.array(blocks, np.float32).reshape(given.shape)
