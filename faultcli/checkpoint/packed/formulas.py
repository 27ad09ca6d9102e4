"""What codes stand for: tables of values, powers of two, and the arithmetic of scales and zero points.

Each formula rounds where the library rounds whose layout it belongs to, so that a weight comes out bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

# OCP Microscaling Formats v1.0, table 5 and section 5.3.2: sign, 2 bits of exponent, 1 of mantissa; and E2M3.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M3 = (*(m / 8 for m in range(8)), *((1 + m / 8) * 2**e for e in range(3) for m in range(8)))


@cache
def signed(magnitudes: tuple[float, ...]) -> Tensor:
    """Return the table of codes with a sign in the highest bit: −0 too."""
    positive = torch.tensor(magnitudes)
    return torch.cat([positive, -positive])


@cache
def powers_of_two() -> Tensor:
    """Return what E8M0 codes stand for, 2^(code − 127) in float32; code 255 as the libraries read it: infinity."""
    codes = torch.arange(256, dtype=torch.int32)
    return torch.where(codes == 0, 1 << 22, codes << 23).view(torch.float32)


def from_table(table: Tensor, codes: Tensor) -> Tensor:
    """Return the values of codes."""
    return table[codes.long()]


def in_scales_dtype(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """(code − zero)·scale, all in the scales' dtype; without a zero point where there is none."""
    scale = met["scale"]
    codes = met["code"].to(scale.dtype)
    return (codes - met["zero"].to(scale.dtype) if "zero" in met else codes) * scale


def in_model_dtype(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """(code − zero)·scale with codes and zero points in the model's dtype, rounded to it at the end."""
    codes = met["code"].to(dtype)
    codes = codes - met["zero"].to(dtype) if "zero" in met else codes
    return (codes * met["scale"]).to(dtype)


def both_in_model_dtype(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """code·scale, both in the model's dtype."""
    return met["code"].to(dtype) * met["scale"].to(dtype)


def in_float32(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """code·scale in float32, rounded to the model's dtype at the end."""
    scale = met["scale"]
    scale = from_table(powers_of_two(), scale) if scale.dtype == torch.uint8 else scale.float()
    return (met["code"].float() * scale).to(dtype)
