"""Fixed point, `qI.F`: a two's complement integer in units of 2^-F."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.formats.base import FormatRow, NumberFormat, container_dtype
from faultcli.formats.twos_complement import pack, unpack
from faultcli.formats.values import count_non_finite, exact_reals, refuse, tiles


@dataclass(frozen=True)
class FixedFormat(NumberFormat):
    """`qI.F`: 1 + I + F bits, two's complement, range [-2^I, 2^I - 2^-F], step 2^-F.

    Rounds half to even and saturates on write; there is no -0. q2.5 is 8 bits, [-4, 3.96875], step 1/32.

    Raises:
        UsageError: I + F is not between 1 and 31, or one of them is negative.
    """

    name: str = field(init=False)  # "qI.F"
    bits: int = field(init=False)  # of one stored word: 1 + integer_bits + fraction_bits
    integer_bits: int  # I, bits above the binary point, without the sign
    fraction_bits: int  # F, bits below the binary point

    def __post_init__(self) -> None:
        i, f = self.integer_bits, self.fraction_bits
        if i < 0 or f < 0 or not 1 <= i + f <= 31:
            raise UsageError(f"number format q{i}.{f}: I + F is {i + f}", "in qI.F, I + F must be 1 to 31, e.g. q2.5")
        object.__setattr__(self, "name", f"q{i}.{f}")
        object.__setattr__(self, "bits", 1 + i + f)

    @property
    def largest(self) -> float:
        """The largest value."""
        return 2.0**self.integer_bits - 2.0**-self.fraction_bits

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        f, top = self.fraction_bits, self.bits - 1
        groups = {"sign": (top,), "integer": tuple(range(f, top)), "fraction": tuple(range(f))}
        return {group: positions for group, positions in groups.items() if positions}

    @property
    def value_dtype(self) -> torch.dtype:
        return torch.float32 if self.bits <= 25 else torch.float64  # 24 significant bits and the sign

    def encode(self, values: Tensor) -> Tensor:
        values = exact_reals(values, self.name)
        refuse(self.name, *count_non_finite(values))
        bound = 1 << self.bits - 1
        # Both bounds must be exact in the dtype that is clamped. Scaling by 2^F is exact, or overflows and saturates.
        work = torch.promote_types(values.dtype, self.value_dtype)
        flat = values.reshape(1, -1)
        codes = torch.empty(flat.shape, dtype=container_dtype(self.bits), device=values.device)
        for tile in tiles(*flat.shape):
            scaled = flat[tile].to(work) * float(1 << self.fraction_bits)
            codes[tile] = pack(scaled.round_().clamp_(-bound, bound - 1), self.bits)
        return codes.reshape(values.shape)

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        return unpack(codes, self.bits).to(self.value_dtype).mul_(2.0**-self.fraction_bits)

    def describe(self) -> FormatRow:
        step = 2.0**-self.fraction_bits
        high = 2.0**self.integer_bits
        return FormatRow(
            self.name, str(self.bits), f"[{-high:.9g}, {high - step:.9g}]", f"{step:.6g}", "neither NaN nor infinities"
        )
