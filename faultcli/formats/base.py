"""What a number format is: how a real number is stored as an n-bit code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


def container_dtype(bits: int) -> torch.dtype:
    """Return the integer dtype that holds codes of `bits` bits: uint8, int16, int32 or int64.

    torch computes little on uint16/32/64, so wider codes lie in signed integers; only the low `bits` bits
    count, and in a full container the sign bit is the code's top bit.
    """
    if bits <= 8:
        return torch.uint8
    return torch.int16 if bits <= 16 else torch.int32 if bits <= 32 else torch.int64


class FormatRow(NamedTuple):
    """One row of the table of formats, ready to print."""

    name: str  # a name or a pattern of names, e.g. "fp16", "qI.F"
    bits: str  # bits of one stored word
    range: str  # the largest values it stores without saturating
    step: str  # the distance between neighbouring values
    specials: str  # what it does with NaN and infinities


@dataclass(frozen=True)
class NumberFormat(ABC):
    """How a real number is stored as an n-bit code. Knows nothing of tensors' names, faults or files.

    Bit 0 is the least significant bit of the stored code, always. Codes are tensors of `container_dtype(bits)`
    with the bits above `bits` zero (or, in a full container, a plain bit pattern).
    """

    name: str  # as in the table of formats, e.g. "q2.5"
    bits: int  # bits of one stored word, 1 to 64

    @property
    @abstractmethod
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        """Named groups of bit positions, ascending: `sign`, `exponent`, `mantissa` (floats), `sign`, `integer`,
        `fraction` (fixed point), `sign`, `magnitude` (integers). Every bit is in exactly one group; a group that the
        format lacks is absent."""

    @property
    def value_dtype(self) -> torch.dtype:
        """The dtype `decode` returns: float32 where every code is exact in it, else float64.

        A tensor of integers stored as it is decodes to its own integer dtype, which alone holds 64-bit words exactly.
        """
        return torch.float32

    @property
    def element(self) -> NumberFormat:
        """What one word stands for by itself: the format, or where values share a scale, theirs in units of it."""
        return self

    @property
    def side_bits(self) -> int:
        """Bits kept beside the words of a tensor, outside the memory at risk (scales). Known after `fitted`."""
        return 0

    @property
    def by_row(self) -> bool:
        """Whether what is stored depends on which elements are a row: a slice of the first dimension."""
        return False

    @property
    def scale_format(self) -> NumberFormat | None:
        """How scales are stored that lie in the memory at risk, as words of their own; None where there are none."""
        return None

    def scale_words(self, shape: tuple[int, ...]) -> int:
        """Return how many scales of a tensor of this shape lie in the memory at risk."""
        return 0

    def fitted(self, values: Tensor) -> NumberFormat:
        """Return the format with what it must know about one tensor (its scales) filled in; itself if nothing."""
        return self

    @property
    def whole(self) -> int:
        """Elements of which a part of a tensor is to have a multiple, so that no scale is needed in two parts."""
        return 1

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> NumberFormat | None:
        """Return the format, fitted to a tensor of this shape, as the one of some of its rows (slices of the first
        dimension); None if only the whole tensor can be encoded and decoded."""
        return self if type(self).fitted is NumberFormat.fitted else None

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """Return the codes of `values` (any shape, any floating dtype), same shape, dtype `container_dtype(bits)`.

        Rounds once, to nearest, ties to even, from the dtype that `values` has; finite values saturate at the largest
        finite values of the format. Where `values` already has the format's own dtype, the codes are its words, bit
        for bit, as a view that shares memory with `values`: clone them before changing them in place.

        Raises:
            FormatError: a value is NaN or infinite and the format has no code for it (the message counts them).
        """

    @abstractmethod
    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the values of `codes`, same shape, dtype `value_dtype`.

        Args:
            codes: codes of a whole tensor, or of some of its elements.
            index: int64, same shape as `codes`: the flat positions of those elements in the tensor, for formats whose
                scale depends on the position. None means that `codes` is the whole tensor.

        The result may share memory with `codes`.
        """

    def describe(self) -> FormatRow:
        """Return the format's row in the table of formats."""
        return FormatRow(self.name, str(self.bits), "", "", "")
