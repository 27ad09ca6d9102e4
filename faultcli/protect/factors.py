"""The constants of a tensor: weights are multiplied by them on the way into the memory, and divided on the way out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from faultcli.errors import FormatError, NonFiniteError
from faultcli.formats import Channels, NumberFormat, ScaledFormat
from faultcli.formats.floats import FloatFormat
from faultcli.formats.integers import NativeIntegerFormat
from faultcli.formats.values import tiles
from faultcli.protect.base import Constants, Fitted, Protection, Words, Written, floats, per_element

SMALLEST_FACTOR, LARGEST_FACTOR = 2.0**-126, 2.0**126  # so that a factor and its inverse are normal float32 numbers
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class Factors(Protection):
    """The constants of one tensor, as the link that multiplies by them: float32 [1] or [channels]; and what storing
    them takes, in bits.

    `multiplied`: c·w where it lies in the checkpoint already, in the checkpoint's dtype. `offsets`: what dividing that
    by c does not give back, see `divided`.
    """

    name: ClassVar[str] = "scale"
    rank: ClassVar[int] = Protection.VALUE

    values: Tensor
    side_bits: int
    multiplied: Tensor | None = None
    offsets: Tensor | None = None

    def by_rows(self, channels: Channels) -> Factors:
        """Return the factors of the tensor that has these output channels as rows."""
        own = (None if tensor is None else channels.rows(tensor) for tensor in (self.multiplied, self.offsets))
        return Factors(self.values, self.side_bits, *own)

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> Factors:
        several = len(self.values) > 1
        return Factors(
            self.values[rows] if several else self.values,
            self.side_bits,
            None if self.multiplied is None else self.multiplied[rows],
            None if self.offsets is None else self.offsets[rows],
        )

    def write_values(self, values: Tensor) -> Tensor:
        """Return c·w in the dtype of the weights, float32 at the least."""
        if self.multiplied is not None:
            return self.multiplied
        wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
        return wide * per_element(self.values.to(wide.dtype), wide, tuple(wide.shape), None)

    def fit(self, written: Written) -> Fitted:
        return _FittedFactors(self, written.shape)


def restored_factors(constants: Constants, shape: tuple[int, ...]) -> Fitted:
    """Return the factors of a tensor of this shape that lies in a memory; raises as `Protection.restored` does."""
    values = floats(constants["factors"], 1, *shape[:1])
    if not bool(((values >= SMALLEST_FACTOR) & (values <= LARGEST_FACTOR)).all()):
        raise ValueError("factors")
    return _FittedFactors(Factors(values, int(constants["bits"])), shape)


class _FittedFactors(Fitted):
    def __init__(self, factors: Factors, shape: tuple[int, ...]) -> None:
        self.factors, self.shape, self.side_bits = factors, shape, factors.side_bits

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> _FittedFactors:
        return _FittedFactors(self.factors.of_rows(rows, shape), (rows.stop - rows.start, *shape[1:]))

    def constants(self) -> Constants:
        return {"factors": self.factors.values, "bits": self.side_bits}

    def read_values(self, values: Tensor, words: Words, index: Tensor | None, units: Tensor | None) -> Tensor:
        known = self.factors
        if known.multiplied is None:
            return values / per_element(known.values.to(values.dtype), values, self.shape, index)
        stored = values.to(known.multiplied.dtype)  # the checkpoint holds no others
        offsets = known.offsets if index is None or known.offsets is None else known.offsets.view(-1)[index]
        return divided(stored, per_element(known.values.double(), stored, self.shape, index), offsets)


def multiplied(weights: Tensor, constants: Tensor) -> Tensor:
    """Return c·w in the dtype of w, rounded once from float64."""
    if _by_exponent(weights, constants):
        return _narrow(weights.float() * constants.float(), weights)
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
    if _by_exponent(words, constants):
        quotient = _narrow(words.float() * (1 / constants).float(), words)
    else:
        quotient = _narrow(words.double() / constants, words)
    if offsets is None:
        return quotient
    exact = (integers(quotient) + offsets).view(quotient.dtype)
    written = integers(multiplied(exact, constants)) == integers(words)
    return integers(quotient).where(~written, integers(exact)).view(quotient.dtype)


def _by_exponent(values: Tensor, constants: Tensor) -> bool:
    """Whether float32 gives the same: one power of two, on values of no more digits."""
    if values.dtype == torch.float64 or constants.numel() != 1:
        return False
    factor = float(constants)
    return math.frexp(factor)[0] == 0.5 and SMALLEST_FACTOR <= factor <= LARGEST_FACTOR


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
        FormatError: the weights hold NaN or infinities, or are so large that no factor makes them fit.
    """
    groups = weights.flatten(1) if granularity == "channel" and weights.dim() >= 2 else weights.reshape(1, -1)
    peak = torch.zeros(len(groups)).double()
    for tile in tiles(*groups.shape):
        own = groups[tile] if groups.dtype == torch.float64 else groups[tile].float()
        low, high = own.aminmax(dim=1)
        peak[tile[0]] = torch.maximum(peak[tile[0]], torch.maximum(-low, high).double())
    if not bool(peak.isfinite().all()):
        raise NonFiniteError(
            "holds NaN or infinite values; they cannot be scaled to fit a range", "leave the tensor out with --exclude"
        )
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
    if bool(((factor < SMALLEST_FACTOR) & (peak > 0)).any()):
        raise FormatError(
            f"holds values up to {float(peak.max()):.3g}; a factor that makes them fit {format.name} is 0 in float32",
            "leave it out with --exclude",
        )
    return torch.where(peak > 0, factor.clamp(max=LARGEST_FACTOR), 1.0).float()  # of tiny weights: as far as it goes


def _rounded_down(factors: Tensor) -> Tensor:
    """Return positive float64 factors rounded towards 0 to bfloat16's 8 significant bits."""
    mantissa, exponent = torch.frexp(factors)
    return torch.ldexp(torch.floor(mantissa * 256) / 256, exponent)
