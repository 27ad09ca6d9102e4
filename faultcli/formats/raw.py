"""Tensors whose values no number format reads one by one, as the words that they consist of in a memory."""

from __future__ import annotations

import torch
from torch import Tensor

_DTYPES = ("bool", "float4_e2m1fn_x2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz")
_BYTES = {getattr(torch, name, None) for name in _DTYPES} - {None}  # those that this torch knows


def as_words(values: Tensor) -> Tensor:
    """Return a tensor as its words in a memory, sharing its storage: complex numbers as pairs of numbers [..., 2];
    booleans, packed values and 8-bit floats that no format reads as uint8; any other as it is."""
    if values.is_complex():
        return torch.view_as_real(values)
    return values.view(torch.uint8) if values.dtype in _BYTES else values


def from_words(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor of this dtype whose words these are (`as_words`); it may share their storage. Words of numbers
    come back as they are."""
    if dtype.is_complex:
        return torch.view_as_complex(words.contiguous())
    return words.view(dtype) if dtype in _BYTES else words
