"""Integers: as the words of scaled formats, and integer tensors as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.errors import FormatError, UsageError
from faultcli.formats.base import FormatRow, NumberFormat, container_dtype
from faultcli.formats.twos_complement import pack, unpack
from faultcli.formats.values import count_non_finite, exact_reals, refuse


@dataclass(frozen=True)
class SignedInteger(NumberFormat):
    """An N-bit two's complement integer as a number: what one word of a scaled format stands for in units of its scale.

    Codes are written within ±(2^(N-1) - 1); the code -2^(N-1), which only a flip makes, reads as any other. Rounds half
    to even and saturates.

    Raises:
        UsageError: N is not between 2 and 16.
    """

    name: str = field(init=False)  # "intN"
    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise UsageError(f"number format int{self.bits}: N is {self.bits}", "in intN, N must be 2 to 16, e.g. int8")
        object.__setattr__(self, "name", f"int{self.bits}")

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return {"sign": (self.bits - 1,), "magnitude": tuple(range(self.bits - 1))}

    @property
    def max_code(self) -> int:
        """The largest code written, as an integer; the smallest is its negative."""
        return (1 << self.bits - 1) - 1

    @property
    def largest(self) -> float:
        """The largest value written."""
        return float(self.max_code)

    def encode(self, values: Tensor) -> Tensor:
        values = exact_reals(values, self.name)
        refuse(self.name, *count_non_finite(values))
        return pack(values.round().clamp_(-self.max_code, self.max_code), self.bits)

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        return unpack(codes, self.bits).to(torch.float32)

    def describe(self) -> FormatRow:
        return FormatRow(self.name, str(self.bits), f"±{self.max_code}", "1", "neither NaN nor infinities")


@dataclass(frozen=True)
class NativeIntegerFormat(NumberFormat):
    """A tensor of integers stored as it is: the word is the integer, two's complement where signed.

    `encode` takes that dtype alone and `decode` returns it, bit for bit, so it is the one format whose `value_dtype`
    is not a floating one: float64 could not hold 64-bit integers.
    """

    name: str = field(init=False)  # the safetensors name of the dtype, e.g. "I64"
    bits: int = field(init=False)  # of one stored word: the dtype's width
    native: torch.dtype  # the integer dtype of the tensor

    def __post_init__(self) -> None:
        info = torch.iinfo(self.native)
        object.__setattr__(self, "name", f"{'I' if info.min else 'U'}{info.bits}")
        object.__setattr__(self, "bits", info.bits)

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        if torch.iinfo(self.native).min == 0:
            return {"magnitude": tuple(range(self.bits))}
        return {"sign": (self.bits - 1,), "magnitude": tuple(range(self.bits - 1))}

    @property
    def value_dtype(self) -> torch.dtype:
        return self.native

    def encode(self, values: Tensor) -> Tensor:
        if values.dtype != self.native:
            dtype = str(values.dtype).removeprefix("torch.")
            raise FormatError(f"holds {dtype} values; native {self.name} stores only its own dtype")
        return values.view(container_dtype(self.bits))

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        return codes.view(self.native)

    def describe(self) -> FormatRow:
        info = torch.iinfo(self.native)
        return FormatRow(self.name, str(self.bits), f"[{info.min}, {info.max}]", "1", "neither NaN nor infinities")
