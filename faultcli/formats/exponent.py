"""A scale that is a power of two, stored as its exponent alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.errors import FormatError
from faultcli.formats.base import FormatRow, NumberFormat
from faultcli.formats.values import exact_reals


@dataclass(frozen=True)
class ExponentFormat(NumberFormat):
    """E8M0: the code k stands for 2^(k - 127), and 0xFF for NaN; there is no sign, no 0 and no infinity.

    On write, the nearest power of two, of two that are equally near the larger; what is beyond the range, 0 included,
    saturates. OCP Microscaling Formats (MX) 1.0, section 5.4.1.
    """

    name: str = field(init=False, default="e8m0")
    bits: int = field(init=False, default=8)

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return {"exponent": tuple(range(8))}

    @property
    def largest(self) -> float:
        """The largest value."""
        return 2.0**127

    @property
    def smallest(self) -> float:
        """The smallest value."""
        return 2.0**-127

    def encode(self, values: Tensor) -> Tensor:
        values = exact_reals(values, self.name).double()
        if bool((values < 0).any()):
            raise FormatError(f"holds {int((values < 0).sum())} negative values; {self.name} cannot store them")
        mantissa, exponent = torch.frexp(values.clamp(self.smallest, self.largest))  # mantissa in [0.5, 1)
        code = exponent.to(torch.int64) + 126
        code += mantissa >= 0.75
        return code.masked_fill_(values.isnan(), 0xFF).to(torch.uint8)

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        powers = torch.ldexp(torch.ones_like(codes, dtype=torch.float32), codes.to(torch.int32) - 127)
        return powers.masked_fill_(codes == 0xFF, torch.nan)

    def describe(self) -> FormatRow:
        return FormatRow(self.name, "8", "2^-127 to 2^127", "a factor of 2", "NaN, no infinities")


E8M0 = ExponentFormat()
