"""Weight scaling: store c·w, read back and divide by c (Fuengfusin and Tamukoh, arXiv 2411.18993).

An error e in the stored value becomes e/c. In fixed point the largest c that still fits is good, for a larger one
saturates; in floats only exponent bits depend on c, and with |c·w| < 2 the exponent's top bit is 0 in every word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from faultcli.errors import FormatError, UsageError
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.formats.floats import FloatFormat
from faultcli.formats.integers import NativeIntegerFormat
from faultcli.protect.base import per_element

GRANULARITIES = ("model", "tensor", "channel")
FACTOR_BITS = {"model": 32, "tensor": 16, "channel": 16}  # factors that we choose are rounded to bfloat16


@dataclass(frozen=True)
class Scale:
    """The link `scale=X|max|auto[:GRANULARITY]` of a chain.

    `factor`: a number, `max` (the largest that fits the format's range) or `auto` (the one of least expected error of
    the whole chain). `granularity`: one factor per `model`, `tensor` (the default) or output `channel`.
    """

    factor: float | str
    granularity: str = "tensor"

    @property
    def text(self) -> str:
        value = self.factor if isinstance(self.factor, str) else f"{self.factor:g}"
        return f"scale={value}" + ("" if self.granularity == "tensor" else f":{self.granularity}")

    @classmethod
    def parse(cls, value: str | None) -> Scale:
        """Read what follows `scale=`.

        Raises:
            UsageError: no factor, one that is not positive and finite, or an unknown granularity.
        """
        factor, _, granularity = (value or "").partition(":")
        granularity = granularity or "tensor"
        if granularity not in GRANULARITIES:
            raise UsageError(
                f"scale={value}: unknown granularity {granularity!r}", f"one of {', '.join(GRANULARITIES)}"
            )
        if factor in ("max", "auto"):
            return cls(factor, granularity)
        try:
            number = float(factor)
        except ValueError:
            raise UsageError(f"scale={value or ''}: a factor is a number, max or auto", "try: scale=auto") from None
        return cls(positive(number), granularity)


def positive(factor: float) -> float:
    """Return a factor if it is one.

    Raises:
        UsageError: it is not positive and finite.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(f"a scaling factor of {factor:g}: it has to be positive and finite", "try: 0.25, max or auto")
    return factor


@dataclass(frozen=True)
class Factors:
    """The constants of one tensor: float32 [1] or [channels]; and what storing them takes, in bits."""

    values: Tensor
    side_bits: int

    def multiply(self, weights: Tensor) -> Tensor:
        """Return c·w in the dtype of `weights`, float32 at the least."""
        wide = weights if weights.dtype in (torch.float32, torch.float64) else weights.float()
        return wide * per_element(self.values.to(wide.dtype), wide, tuple(wide.shape), None)

    def divide(self, stored: Tensor, shape: tuple[int, ...], index: Tensor | None) -> Tensor:
        """Return v/c for stored values, all of them or those at `index`."""
        return stored / per_element(self.values.to(stored.dtype), stored, shape, index)


def largest_fitting(weights: Tensor, format: NumberFormat, granularity: str = "tensor", spare: int = 0) -> Tensor:
    """Return the largest factors with which the weights fit the format: float32 [1] or [channels].

    Fixed point: c·max|w| is the largest positive value. Floats of 16 bits and more: |c·w| < 2, a power of two, so that
    nothing is rounded. Narrow floats: c·max|w| is the largest finite value. Formats with scales of their own: 1.
    Where all weights are 0 the factor is 1. `spare` is how many of the word's lowest bits do not hold the value.

    Raises:
        FormatError: the weights hold NaN or infinities.
    """
    groups = weights.flatten(1) if granularity == "channel" and weights.dim() >= 2 else weights.reshape(1, -1)
    peak = torch.zeros(len(groups)).double()
    if groups.numel():
        low, high = (groups if groups.dtype == torch.float64 else groups.float()).aminmax(dim=1)
        peak = torch.maximum(-low, high).double()
    if not bool(peak.isfinite().all()):
        raise FormatError("holds NaN or infinite values; they cannot be scaled to fit a range")
    if isinstance(format, ScaledFormat | NativeIntegerFormat):
        return torch.ones(len(peak))
    if isinstance(format, FloatFormat) and format.bits >= 16:
        # frexp: peak = m·2^e with m in [0.5, 1), so peak·2^(1−e) lies in [1, 2)
        exponent = 1 - torch.frexp(peak).exponent
        factor = torch.ldexp(torch.ones_like(peak), exponent.clamp(-126, 126))
    else:
        largest: float = format.largest  # type: ignore[attr-defined]
        if spare and not isinstance(format, FloatFormat):
            top = (1 << format.bits - 1) - 1
            largest *= (top >> spare << spare) / top
        factor = _rounded_down(largest / peak)
    return torch.where(peak > 0, factor, 1.0).float()


def _rounded_down(factors: Tensor) -> Tensor:
    """Return positive float64 factors rounded towards 0 to bfloat16's 8 significant bits."""
    mantissa, exponent = torch.frexp(factors)
    return torch.ldexp(torch.floor(mantissa * 256) / 256, exponent)
