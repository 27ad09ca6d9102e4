"""What the words of a tensor of the file hold, where the lowest bits of it carry little: reals, and codes of 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from faultcli.checkpoint.header import TensorInfo
from faultcli.checkpoint.packed.arrays import CODES, INDICES, ZEROS, StoredNumbers
from faultcli.checkpoint.packed.weight import Computed, PackedWeight
from faultcli.formats import NumberFormat, word_format
from faultcli.formats.floats import FloatFormat
from faultcli.formats.integers import SignedInteger

_CODE = SignedInteger(8)


@dataclass(frozen=True)
class Numbers:
    """Numbers that fill a tensor of the file, one after the other.

    `format`: of one of them. `middle`: the code in the middle of their range: 0, or 128 where codes are unsigned.
    """

    format: NumberFormat
    middle: int = 0

    @classmethod
    def of_dtype(cls, dtype: str) -> Numbers:
        """Return the numbers that a tensor of this safetensors dtype can be full of; codes as if they were signed."""
        format = word_format(dtype)
        return cls(format if isinstance(format, FloatFormat) else _CODE)


def numbers_in(info: TensorInfo, weight: PackedWeight | None) -> Numbers | str:
    """Return the numbers that a tensor is full of; or why its words have no bits that carry little, in words.

    Args:
        info: the tensor.
        weight: that it is a part of; None: of none.
    """
    reals = word_format(info.dtype)
    if weight is None:
        return Numbers(reals) if isinstance(reals, FloatFormat) else f"{info.dtype} holds no real numbers"
    role = weight.roles[info.name]
    if role == INDICES:
        return "every bit of an index names another group"
    arrays = [array for array in _arrays(weight.grid) if array.tensor == info.name]
    plain = next((array for array in arrays if array.packing is None), None)
    if plain is not None and isinstance(reals, FloatFormat):
        return Numbers(reals)
    if role == CODES:
        bits = [array.bits if array.packing is None else array.packing.bits for array in arrays]
        if all(_whole_bytes(array) for array in arrays):
            return Numbers(_CODE, 0 if plain is not None else 128)
        return f"codes of {min(bits)} bits have none to spare"
    if role == ZEROS:
        return "whole zero points have none to spare"
    return "scales that are no real numbers have none to spare"


def _whole_bytes(array: StoredNumbers) -> bool:
    """Return whether each code is a byte of its own, and takes all of it."""
    if array.packing is None:
        return array.dtype == torch.int8 and array.bits == 8
    pieces = array.packing.pieces
    return array.packing.bits == 8 and all(len(own) == 1 and own[0].shift % 8 == 0 for own in pieces)


def _arrays(grid: Computed) -> Iterator[StoredNumbers]:
    """Yield the numbers of the file that elements are computed of, without those that say which belongs where."""
    for array, _ in grid.operands.values():
        if isinstance(array, Computed):
            yield from _arrays(array)
        elif isinstance(array, StoredNumbers):
            yield array
