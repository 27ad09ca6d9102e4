"""Binary floating-point formats: IEEE 754 binary64/32/16, bfloat16, and the OCP 8-, 6- and 4-bit formats.

Sources: IEEE 754-2019, section 3.4; OCP 8-bit Floating Point Specification (OFP8) 1.0, tables 1 and 2; OCP Microscaling
Formats (MX) 1.0, section 5.3.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.formats.base import FormatRow, NumberFormat, container_dtype
from faultcli.formats.values import count_non_finite, exact_reals, look_up, refuse, tiles


class Specials(enum.Enum):
    """Which codes are not finite numbers."""

    IEEE = "infinities and NaN"  # exponent all ones: mantissa 0 is an infinity, any other a NaN
    FN = "NaN, no infinities"  # only exponent and mantissa all ones is a NaN (the F and N of e4m3fn)
    NONE = "neither NaN nor infinities"  # every code is a finite number


@dataclass(frozen=True)
class FloatFormat(NumberFormat):
    """A binary float: from the top bit down a sign, a biased exponent and a mantissa with an implicit leading 1.

    Exponent code 0 holds zero and the subnormals, which are kept; zero has a sign. On write, finite values beyond the
    largest finite value saturate there, also where IEEE 754 would overflow to infinity. Infinities and NaN are kept
    where the format has them; a NaN of any other dtype becomes the positive quiet NaN (on every device alike), a NaN of
    the format's own dtype keeps its payload.
    """

    bits: int = field(init=False)  # of one stored word: 1 + exponent_bits + mantissa_bits
    exponent_bits: int  # width of the exponent field
    mantissa_bits: int  # width of the mantissa field, without the implicit leading 1
    bias: int  # the exponent field of the value 1.0
    specials: Specials  # which codes are not finite numbers
    native: torch.dtype | None = None  # the torch dtype whose words are these codes, if there is one

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", 1 + self.exponent_bits + self.mantissa_bits)

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        m, top = self.mantissa_bits, self.bits - 1
        return {"sign": (top,), "exponent": tuple(range(m, top)), "mantissa": tuple(range(m))}

    @property
    def value_dtype(self) -> torch.dtype:
        return torch.float64 if self.native == torch.float64 else torch.float32

    @property
    def max_code(self) -> int:
        """The code of the largest finite value."""
        unused = {Specials.IEEE: 1 << self.mantissa_bits, Specials.FN: 1, Specials.NONE: 0}[self.specials]
        return (1 << self.bits - 1) - 1 - unused

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return self.value_of(self.max_code)

    @property
    def smallest(self) -> float:
        """The smallest value above zero, a subnormal."""
        return self.value_of(1)

    @property
    def infinity_code(self) -> int | None:
        """The code of +infinity; None where the format has none."""
        return self.max_code + 1 if self.specials is Specials.IEEE else None

    @property
    def nan_code(self) -> int | None:
        """The code of the positive quiet NaN (top mantissa bit set); None where the format has none."""
        if self.specials is Specials.IEEE:
            return self.max_code + 1 + (1 << self.mantissa_bits - 1)
        return self.max_code + 1 if self.specials is Specials.FN else None

    def value_of(self, code: int) -> float:
        """Return the value of one code, exactly: the definition of the format in plain Python."""
        magnitude = code & (1 << self.bits - 1) - 1
        exponent, mantissa = magnitude >> self.mantissa_bits, magnitude & (1 << self.mantissa_bits) - 1
        if magnitude == self.infinity_code:
            value = math.inf
        elif magnitude > self.max_code:
            value = math.nan
        else:
            significand = mantissa if exponent == 0 else mantissa + (1 << self.mantissa_bits)
            value = math.ldexp(significand, max(exponent, 1) - self.bias - self.mantissa_bits)
        return -value if code >> self.bits - 1 else value

    def encode(self, values: Tensor) -> Tensor:
        container = container_dtype(self.bits)
        if values.dtype == self.native:
            return values.detach().view(container)
        values = exact_reals(values, self.name)
        nan, infinite = count_non_finite(values)
        refuse(self.name, nan if self.nan_code is None else 0, infinite if self.infinity_code is None else 0)
        # torch casts float64 to the dtypes below 32 bits by way of float32: two roundings.
        rounds_once = values.dtype == torch.float32 or self.native in (torch.float32, torch.float64)
        bound = min(self.largest, torch.finfo(values.dtype).max)  # a bound beyond the dtype's range is none
        flat = values.reshape(1, -1)
        codes = torch.empty(flat.shape, dtype=container, device=values.device)
        for tile in tiles(*flat.shape):
            finite = flat[tile].clamp(-bound, bound)
            if self.native is not None and rounds_once:
                codes[tile] = finite.to(self.native).view(container)
            elif values.dtype == torch.float32 and self.mantissa_bits <= 5:
                codes[tile] = self._look_up(finite)
            else:
                codes[tile] = self._round(finite.to(torch.float64))
        if infinite and self.infinity_code is not None:
            codes.masked_fill_(flat == math.inf, self.infinity_code)
            codes.masked_fill_(flat == -math.inf, _as_signed(self.infinity_code | 1 << self.bits - 1, container))
        if nan and self.nan_code is not None:
            codes.masked_fill_(flat.isnan(), self.nan_code)
        return codes.reshape(values.shape)

    def _round(self, values: Tensor) -> Tensor:
        """Return the codes, int64, of float64 values in [-largest, largest], rounded once; any format below 64 bits.

        Works on the float64 words: rebase the exponent, then drop the low mantissa bits with a round to nearest even.
        A carry out of the mantissa steps the exponent, which is what the code of the next binade is.
        """
        word = values.view(torch.int64)
        exponent = ((word >> 52) & 0x7FF) - 1023 + self.bias  # of the target; below 1 the target is subnormal
        significand = (word & (1 << 52) - 1) | 1 << 52  # wrong for float64 subnormals, which all round to 0 below
        # 53 dropped bits leave a value in [1/2, 1) of the smallest code, 54 leave less: it rounds to 0.
        dropped = (52 - self.mantissa_bits + (1 - exponent).clamp_(min=0)).clamp_(max=54)
        # `exponent - 1` because the significand's implicit 1 adds the last step.
        wide = ((exponent - 1).clamp_(min=0) << 52) + significand
        odd = (wide >> dropped) & 1
        half = torch.ones_like(dropped) << (dropped - 1)
        return ((wide + half - 1 + odd) >> dropped) | ((word < 0).to(torch.int64) << self.bits - 1)

    def _look_up(self, values: Tensor) -> Tensor:
        """Return the codes of float32 values from a table over their upper halves, which are bfloat16 words.

        A lower half that is not 0 sets the last bit kept: rounding to odd. Every value and midpoint of a format of up
        to 5 mantissa bits has that bit 0, so nothing crosses one, and the second rounding gives what one would have.
        """
        words = values.view(torch.int32)
        upper = ((words >> 16) & 0xFFFF) | ((words & 0xFFFF) != 0)
        return _codes_of_bfloat16(self).to(values.device).index_select(0, upper.reshape(-1)).reshape(values.shape)

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        if self.native is not None:
            return codes.view(self.native).to(self.value_dtype)
        return look_up(_values_of_codes(self), codes)

    def describe(self) -> FormatRow:
        return FormatRow(
            self.name,
            str(self.bits),
            f"±{self.largest:.6g}",
            f"2^-{self.mantissa_bits} of the value's power of two, {self.smallest:.3g} at 0",
            self.specials.value,
        )


@functools.cache
def _values_of_codes(fmt: FloatFormat) -> Tensor:
    return torch.tensor([fmt.value_of(code) for code in range(1 << fmt.bits)], dtype=fmt.value_dtype)


@functools.cache
def _codes_of_bfloat16(fmt: FloatFormat) -> Tensor:
    values = torch.arange(1 << 16).to(torch.int16).view(torch.bfloat16).to(torch.float64)
    return fmt._round(values.clamp(-fmt.largest, fmt.largest)).to(container_dtype(fmt.bits))


def _as_signed(code: int, container: torch.dtype) -> int:
    """Return the integer that the bit pattern `code` is in a container that may be signed."""
    return code - (1 << container.itemsize * 8) if code > torch.iinfo(container).max else code


FP64 = FloatFormat("fp64", 11, 52, 1023, Specials.IEEE, torch.float64)
FP32 = FloatFormat("fp32", 8, 23, 127, Specials.IEEE, torch.float32)
FP16 = FloatFormat("fp16", 5, 10, 15, Specials.IEEE, torch.float16)
BF16 = FloatFormat("bf16", 8, 7, 127, Specials.IEEE, torch.bfloat16)
FP8_E4M3 = FloatFormat("fp8-e4m3", 4, 3, 7, Specials.FN, torch.float8_e4m3fn)
FP8_E5M2 = FloatFormat("fp8-e5m2", 5, 2, 15, Specials.IEEE, torch.float8_e5m2)
FP6_E3M2 = FloatFormat("fp6-e3m2", 3, 2, 3, Specials.NONE)
FP6_E2M3 = FloatFormat("fp6-e2m3", 2, 3, 1, Specials.NONE)
FP4_E2M1 = FloatFormat("fp4-e2m1", 2, 1, 1, Specials.NONE)
