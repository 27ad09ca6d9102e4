"""Bytes of dtypes whose values no number format reads one by one: booleans, packed values, other 8-bit floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.formats.base import FormatRow
from faultcli.formats.integers import NativeIntegerFormat

Groups = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class RawFormat(NativeIntegerFormat):
    """One byte of such a dtype, stored as it is. `encode` takes bytes, and `decode` returns them (see `as_words`)."""

    native: torch.dtype = field(init=False, default=torch.uint8)
    dtype: str  # as safetensors names it
    value_bits: int  # of one value; fewer than 8: several share a byte, the first in its lowest bits
    groups: Groups  # named bits of the byte

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.dtype)
        object.__setattr__(self, "bits", 8)

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return dict(self.groups)

    def describe(self) -> FormatRow:
        return FormatRow(self.name, str(self.value_bits), "as in the file", "as in the file", "kept, bit for bit")


def _float(dtype: str, mantissa: int, exponent: int) -> RawFormat:
    top = mantissa + exponent
    return RawFormat(
        dtype, 8, (("sign", (top,)), ("exponent", tuple(range(mantissa, top))), ("mantissa", tuple(range(mantissa))))
    )


# What safetensors can hold beside numbers that formats read. Values of 6 bits lie across bytes: no bit has a name.
RAW: dict[str, RawFormat] = {
    "BOOL": RawFormat("BOOL", 8, (("value", tuple(range(8))),)),
    "F4": RawFormat("F4", 4, (("sign", (3, 7)), ("exponent", (1, 2, 5, 6)), ("mantissa", (0, 4)))),
    "F6_E2M3": RawFormat("F6_E2M3", 6, (("packed", tuple(range(8))),)),
    "F6_E3M2": RawFormat("F6_E3M2", 6, (("packed", tuple(range(8))),)),
    "F8_E8M0": RawFormat("F8_E8M0", 8, (("exponent", tuple(range(8))),)),
    "F8_E4M3FNUZ": _float("F8_E4M3FNUZ", 3, 4),
    "F8_E5M2FNUZ": _float("F8_E5M2FNUZ", 2, 5),
}
_DTYPES = ("bool", "float4_e2m1fn_x2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz")
_RAW_DTYPES = {getattr(torch, name, None) for name in _DTYPES} - {None}


def as_words(values: Tensor) -> Tensor:
    """Return a tensor as what its words stand for in a memory, sharing its storage: complex numbers as pairs of numbers
    [..., 2], values that no number format reads as bytes, any other as it is."""
    if values.is_complex():
        return torch.view_as_real(values)
    return values.view(torch.uint8) if values.dtype in _RAW_DTYPES else values


def from_words(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor of this dtype that `as_words` has made words of; it may share their storage."""
    if dtype.is_complex:
        return torch.view_as_complex(words.contiguous())
    return words.view(dtype) if dtype in _RAW_DTYPES else words
