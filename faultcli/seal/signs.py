"""Without a seal: signs of damage, which no checkpoint should have. That there are none proves nothing.

What is looked for, and what is let pass, because sound checkpoints have it:

- NaN and infinities, not in masks, which are infinite on purpose.
- Magnitudes of 2 and more that lie far above all others of their tensor, with nothing in between: what a flip of a high
  exponent bit leaves. At most a tenth of the values; 2^8 above in matrices, 2^12 in vectors (variances of batch norm
  have a long tail), nothing in tensors of fewer than 16 values that are not 0. Tiny values pass: training leaves them.
- Matrices of one value, all zeros among them; not of fewer than 16 elements, not of integers.
- Matrices that are copies of another one but for some elements: tied weights that were stored twice. At least three in
  four elements are alike, and they take many values.
- Scales of quantised formats that are 0 or NaN, known by their names, and by the dtype whose only NaN is 255.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import torch
from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.header import TensorInfo, torch_dtype
from faultcli.seal.blocks import Progress

LOOKED_FOR = (
    "NaN and infinities",
    "values far above the rest of their tensor",
    "matrices that are all zero, or of one value",
    "copies of a matrix that differ in some elements",
    "scales of quantised weights that are 0 or NaN",
)
_OF_QUANTISED = re.compile(r"(^|[._])(scales|weight_scale(_inv|_2)?|input_scale|absmax)$")
_OF_EXPONENTS = re.compile(r"(^|[._])(scales|weight_scale)$")
_MASK = re.compile(r"mask", re.IGNORECASE)
_EXPONENTS_ALONE = 255  # the NaN of bytes that are exponents (E8M0)
_FEW = 16  # elements that say nothing of a distribution
_LARGE = 2.0  # a flip of the highest bit of an exponent makes a value at least this large
_GAP_OF_MATRIX, _GAP_OF_VECTOR = 8, 12  # octaves without a value
_MOST_OUTLIERS = 0.1  # of the values that are not 0
_SAMPLE = 1024  # elements by which copies are looked for
_ALIKE = 0.75  # of the elements of a copy are those of the other
_VARIED = 32  # values that a sample takes, if equal ones are no chance
_CHUNK = 1 << 22  # elements judged at a time


@dataclass(frozen=True)
class Sign:
    """Something that no checkpoint should have.

    `kind`: `nan`, `infinity`, `outlier`, `constant`, `copy` or `scale`. `count`: elements; `first`: the first of them,
    row-major. `detail`: in words.
    """

    tensor: str
    kind: str
    count: int
    first: int
    detail: str


def find_signs(checkpoint: Checkpoint, *, progress: Progress | None = None) -> list[Sign]:
    """Look at every tensor, one at a time in memory.

    Raises:
        CheckpointError: a file cannot be read or has changed.
    """
    found: list[Sign] = []
    samples: dict[tuple[str, tuple[int, ...]], list[tuple[str, Tensor]]] = {}
    matrices = (info for info in checkpoint.tensors.values() if len(info.shape) > 1)
    # In one piece: what is kept of each tensor beside large temporaries would leave holes in the heap.
    rooms = iter(torch.empty(sum(1 for _ in matrices), 2 * _SAMPLE, dtype=torch.int64))

    def look(info: TensorInfo) -> None:  # a function, so that nothing of the last tensor is kept
        values = checkpoint.read(info.name).reshape(-1)
        found.extend(_signs_of(info, values))
        if len(info.shape) > 1 and values.is_floating_point():
            chosen = _words(values)[:: max(1, len(values) // _SAMPLE)]
            sample = next(rooms)[: len(chosen)]
            sample.copy_(chosen)
            if len(np.unique(sample.numpy())) >= _VARIED:
                samples.setdefault((info.dtype, info.shape), []).append((info.name, sample))

    for info in checkpoint.tensors.values():
        if info.elements and info.unread is None and torch_dtype(info.dtype) is not None and info.dtype != "F4":
            look(info)
        if progress is not None:
            progress(info.nbytes)
    for alike in samples.values():
        found += _copies(checkpoint, alike)
    return found


def _copies(checkpoint: Checkpoint, alike: list[tuple[str, Tensor]]) -> Iterator[Sign]:
    """Find matrices of one dtype and shape that are copies of an earlier one but for some elements."""
    for (one, first), (other, second) in combinations(alike, 2):
        if float((first == second).float().mean()) < _ALIKE:
            continue
        differs = _words(checkpoint.read(one).reshape(-1)) != _words(checkpoint.read(other).reshape(-1))
        count = int(differs.sum())
        if 0 < count <= (1 - _ALIKE) * len(differs):
            yield Sign(other, "copy", count, int(differs.to(torch.uint8).argmax()), f"a copy of {one} but for these")


def _words(values: Tensor) -> Tensor:
    """Return the bits of elements as integers, so that NaN is NaN."""
    return values.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.itemsize])


def _signs_of(info: TensorInfo, values: Tensor) -> Iterator[Sign]:
    if info.dtype == "F8_E8M0" or (info.dtype == "U8" and _OF_EXPONENTS.search(info.name)):
        exponents = _Found(info, "scale")
        exponents.add(0, values.view(torch.uint8) == _EXPONENTS_ALONE)
        yield from exponents.signs("NaN as a scale")
        return
    if values.is_complex():
        values = torch.view_as_real(values).reshape(-1)
    if not values.is_floating_point():
        return
    scale = _OF_QUANTISED.search(info.name) is not None
    masks = _MASK.search(info.name) is not None
    nan, infinite, zero = (_Found(info, kind) for kind in ("scale" if scale else "nan", "infinity", "scale"))
    histogram = torch.zeros(_OCTAVES, dtype=torch.int64)
    wide = info.dtype == "F64"
    for at in range(0, len(values), _CHUNK):
        chunk = values[at : at + _CHUNK].to(torch.float64 if wide else torch.float32)
        finite = torch.isfinite(chunk)
        if not bool(finite.all()):
            nan.add(at, torch.isnan(chunk))
            infinite.add(at, torch.isinf(chunk))
        if scale:
            zero.add(at, chunk == 0)
        histogram += _octaves(chunk[finite & (chunk != 0)])
    if not masks:
        yield from nan.signs("NaN as a scale" if scale else "NaN")
        yield from infinite.signs("infinity")
        yield from zero.signs("0 as a scale")
        yield from _outliers(info, values, histogram)
        if len(info.shape) > 1 and len(values) >= _FEW and _constant(values):
            value = float(values[0])
            yield Sign(info.name, "constant", len(values), 0, "all zero" if value == 0 else f"all {value:.6g}")


class _Found:
    """Elements of one kind, counted chunk by chunk."""

    def __init__(self, info: TensorInfo, kind: str) -> None:
        self._info, self._kind, self._count, self._first = info, kind, 0, 0

    def add(self, at: int, hit: Tensor) -> None:
        count = int(hit.sum())
        if count and not self._count:
            self._first = at + int(hit.to(torch.uint8).argmax())
        self._count += count

    def signs(self, detail: str) -> list[Sign]:
        return [Sign(self._info.name, self._kind, self._count, self._first, detail)] if self._count else []


_LOWEST, _OCTAVES = -1100, 2200  # exponents of fp64, and room


def _octaves(values: Tensor) -> Tensor:
    """Count values by their exponents."""
    return torch.bincount(torch.frexp(values)[1].to(torch.int64) - _LOWEST, minlength=_OCTAVES)


def _outliers(info: TensorInfo, values: Tensor, histogram: Tensor) -> Iterator[Sign]:
    """Find values above the widest gap of their tensor's exponents, if it is wide and few lie above it."""
    occupied = torch.nonzero(histogram).reshape(-1).tolist()
    total = int(histogram.sum())
    gap = _GAP_OF_MATRIX if len(info.shape) > 1 else _GAP_OF_VECTOR
    if total < _FEW:
        return
    for below, above in pairwise(occupied):
        count = int(histogram[above:].sum())
        lowest = 2.0 ** (above + _LOWEST - 1)
        if above - below > gap and lowest >= _LARGE and count <= max(1, _MOST_OUTLIERS * total):
            found = _Found(info, "outlier")
            largest = 0.0
            for at in range(0, len(values), _CHUNK):
                size = values[at : at + _CHUNK].to(torch.float64).abs()
                hit = torch.isfinite(size) & (size >= lowest)
                found.add(at, hit)
                largest = max(largest, float(size[hit].max()) if bool(hit.any()) else 0.0)
            rest = 2.0 ** (below + _LOWEST)
            yield from found.signs(f"up to {largest:.3g}, all others below {rest:.3g}")
            return


def _constant(values: Tensor) -> bool:
    """Whether all are one finite value."""
    if not bool(torch.isfinite(values[:1].to(torch.float32))):
        return False
    same = values.view(torch.uint8) if values.itemsize == 1 else values
    return all(bool((same[at : at + _CHUNK] == same[0]).all()) for at in range(0, len(same), _CHUNK))
