"""Weight scaling: store c·w, read back and divide by c (Fuengfusin and Tamukoh, arXiv 2411.18993).

An error e in the stored value becomes e/c. In fixed point the largest c that still fits is good, for a larger one
saturates; in floats only exponent bits depend on c, and with |c·w| < 2 the exponent's top bit is 0 in every word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from faultcli.errors import FormatError, UsageError
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.formats.floats import FloatFormat
from faultcli.formats.integers import NativeIntegerFormat
from faultcli.protect.base import per_element

GRANULARITIES = ("model", "tensor", "channel")
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    """The constants of one tensor: float32 [1] or [channels]; and what storing them takes, in bits.

    `multiplied`: c·w where it lies in the checkpoint already, in the checkpoint's dtype. `offsets`: what dividing that
    by c does not give back, see `divided`.
    """

    values: Tensor
    side_bits: int
    multiplied: Tensor | None = None
    offsets: Tensor | None = None

    def multiply(self, weights: Tensor) -> Tensor:
        """Return c·w in the dtype of `weights`, float32 at the least."""
        if self.multiplied is not None:
            return self.multiplied
        wide = weights if weights.dtype in (torch.float32, torch.float64) else weights.float()
        return wide * per_element(self.values.to(wide.dtype), wide, tuple(wide.shape), None)

    def divide(self, stored: Tensor, shape: tuple[int, ...], index: Tensor | None) -> Tensor:
        """Return v/c for stored values, all of them or those at `index`."""
        if self.multiplied is None:
            return stored / per_element(self.values.to(stored.dtype), stored, shape, index)
        words = stored.to(self.multiplied.dtype)  # the checkpoint holds no others
        offsets = self.offsets if index is None or self.offsets is None else self.offsets.view(-1)[index]
        return divided(words, per_element(self.values.double(), words, shape, index), offsets)


def multiplied(weights: Tensor, constants: Tensor) -> Tensor:
    """Return c·w in the dtype of w, rounded once from float64."""
    return _narrow(weights.double() * constants, weights)


def divided(words: Tensor, constants: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Return v/c in the dtype of v, rounded once from float64.

    Args:
        words: v, any shape.
        constants: float64, one for all or spread over the elements.
        offsets: integers as wide as the words, in their shape: what is to be added to the bits of the quotient so that
            the weight comes back of which c·w was written. It is added where that makes sense, that is, where times c
            it gives the word again; a word that a fault has hit is divided, and no more.
    """
    quotient = _narrow(words.double() / constants, words)
    if offsets is None:
        return quotient
    exact = (integers(quotient) + offsets).view(quotient.dtype)
    written = integers(multiplied(exact, constants)) == integers(words)
    return integers(quotient).where(~written, integers(exact)).view(quotient.dtype)


def integers(values: Tensor) -> Tensor:
    """Return the bits of floating-point values as signed integers that share their memory where they are contiguous."""
    return values.contiguous().view(_SIGNED[values.element_size()])


def _narrow(wide: Tensor, like: Tensor) -> Tensor:
    if like.dtype in (torch.float32, torch.float64):
        return wide.to(like.dtype)
    return wide.float().to(like.dtype)  # by way of float32, as numpy and everybody else do it


def charged(constants: Mapping[str, Tensor]) -> dict[str, Factors]:
    """Return constants [1] or [channels] by tensor with the bits that storing them takes: one number that all tensors
    share is stored once, 32 bits (charged to the first); others take 16 bits each where bfloat16 holds them, else 32.
    """
    shared = {float(one) for values in constants.values() for one in values[:1]} if constants else set()
    if len(constants) > 1 and len(shared) == 1 and all(len(values) == 1 for values in constants.values()):
        return {name: Factors(values, 0 if number else 32) for number, (name, values) in enumerate(constants.items())}
    return {name: Factors(values, _bits_of(values) * len(values)) for name, values in constants.items()}


def _bits_of(values: Tensor) -> int:
    return 16 if torch.equal(values.to(torch.bfloat16).to(values.dtype), values) else 32


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
