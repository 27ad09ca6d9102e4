"""What a device has to read: of every tensor on clean memory, and of a few blocks with flips in them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.faults.maps import WordFaults
from faultcli.protect.protected_tensor import StoredTensor

FIRST = 4  # values of every tensor that are kept as they are
RUN = 64  # values around a flip that are kept, at the most


@dataclass(frozen=True)
class DamagedRun:
    """Flips in a block, and what reading the values `first` and following has to give.

    `flips`: region and word, and which bits of it. `bits`: the values' bits. `corrected`, `lost`: what the reader
    counts.
    """

    flips: tuple[tuple[str, int, int], ...]
    first: int
    bits: NDArray[np.uint64]
    corrected: int
    lost: int


@dataclass(frozen=True)
class GoldenTensor:
    """What reads of one tensor.

    `size`: bytes of a value. `crc`: CRC-32 of all values, as little-endian integers of that size, NaN as the positive
    quiet one. `runs`: what reads after flips.
    """

    size: int
    crc: int
    bits: NDArray[np.uint64]  # of the first few values
    runs: tuple[DamagedRun, ...]


def golden(stored: StoredTensor) -> GoldenTensor:
    """Return what reading a tensor has to give, before and after some flips."""
    values = stored.read().reshape(-1)
    bits = value_bits(values)
    runs = tuple(_damaged(stored, values, flips, counts) for flips, counts in _damage(stored))
    return GoldenTensor(bits.itemsize, zlib.crc32(bits.tobytes()), bits[:FIRST].astype(np.uint64), runs)


def value_bits(values: Tensor) -> NDArray[np.unsignedinteger]:
    """Return the bits that the reader gives for values of any dtype: those of float32, of float64 where the values are,
    or of the integers; NaN as the positive quiet one."""
    if not values.is_floating_point():
        integers: NDArray[np.unsignedinteger] = values.contiguous().numpy().view(f"<u{values.element_size()}")
        return integers
    wide = values.dtype == torch.float64
    numbers = values.to(torch.float64 if wide else torch.float32).contiguous()
    quiet = torch.where(numbers.isnan(), torch.nan, numbers).numpy().view("<u8" if wide else "<u4")
    missing = np.uint64(0x7FF8000000000000) if wide else np.uint32(0x7FC00000)
    return np.where(numbers.isnan().numpy(), missing, quiet)


_Flip = tuple[int, int]  # a word of the block, and a bit of it


def _damage(stored: StoredTensor) -> Iterator[tuple[list[_Flip], tuple[int, int]]]:
    """Yield flips in the words of a block, and what is counted as corrected and as lost."""
    links = dict(zip(stored.names, stored.links, strict=True))
    top = stored.format.bits - 1
    if not stored.elements:
        return
    if "secded" in links or "tmr" in links or "inplace" in links:
        yield [(0, top)], (1, 0)
    elif "parity" in links or "cep" in links:
        yield [(0, top)], (0, 1)
    elif "mset" in links:
        yield [(0, (stored.format.fields.get("exponent") or stored.format.fields["sign"])[-1])], (1, 0)
    else:
        yield [(0, top)], (0, 0)
    outer = [name for name in ("inplace", "secded", "tmr", "parity") if name in links]
    if outer == ["inplace"]:
        block, t = links["inplace"].block, links["inplace"].code.t  # type: ignore[attr-defined]
        yield [(at % block, top - at // block) for at in range(t)], (t, 0)
        yield [(at % block, top - at // block) for at in range(t + 1)], (0, 1)
    if outer == ["secded"]:
        yield [(0, top), (0, 0)], (0, 1)


def _damaged(stored: StoredTensor, values: Tensor, flips: list[_Flip], counts: tuple[int, int]) -> DamagedRun:
    """Return what reads of a block in the middle of a tensor after flips in it."""
    block = math.lcm(*(1, *(link.block for link in stored.links)))
    start = stored.elements // block // 2 * block
    masks: dict[tuple[str, int], int] = {}
    for word, bit in flips:
        inside = start + word < stored.elements
        place = (stored.name, start + word) if inside else (f"{stored.name}#padding", start + word - stored.elements)
        masks[place] = masks.get(place, 0) | 1 << bit
    faults = {}
    for region in {name for name, _ in masks}:
        hit = sorted((word, mask) for (name, word), mask in masks.items() if name == region)
        words = np.array([word for word, _ in hit], dtype=np.int64)
        faults[region] = WordFaults(words, np.array([mask for _, mask in hit], dtype=np.uint64))
    end = min(start + RUN, start + block if block > 1 else start + 4, stored.elements)
    touched = stored.faulty(faults)
    found = value_bits(values[start:end]).astype(np.uint64)  # torch copies by index in signed integers only
    kept = (touched.index >= start) & (touched.index < end)
    found[(touched.index[kept] - start).numpy()] = value_bits(touched.values)[kept.numpy()]
    placed = tuple((name, word, mask) for (name, word), mask in masks.items())
    return DamagedRun(placed, start, found, *counts)
