"""Two's complement words of 1 to 32 bits, and how they lie in their containers."""

from __future__ import annotations

import torch
from torch import Tensor

from faultcli.formats.base import container_dtype

_SIGNED = {torch.uint8: torch.int8, torch.int16: torch.int16, torch.int32: torch.int32}


def pack(integers: Tensor, bits: int) -> Tensor:
    """Return the codes, dtype `container_dtype(bits)`, of whole numbers in a floating dtype.

    Args:
        integers: whole numbers in [-2^(bits-1), 2^(bits-1) - 1]; the caller has rounded and clamped them.
    """
    container = container_dtype(bits)
    words = integers.to(_SIGNED[container])  # not straight to uint8: that conversion is undefined below 0
    if bits < container.itemsize * 8:
        words &= (1 << bits) - 1
    return words.view(container)


def unpack(codes: Tensor, bits: int) -> Tensor:
    """Return the integers, int8, int16 or int32, that codes of `bits` bits stand for; every code is valid."""
    words = codes.view(_SIGNED[container_dtype(bits)])
    spare = words.dtype.itemsize * 8 - bits
    return words if spare == 0 else (words << spare) >> spare  # >> copies the sign bit down
