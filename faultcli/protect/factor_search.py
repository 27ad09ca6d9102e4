"""The search for the scaling factors of least expected error of the whole chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, split

from faultcli.errors import FormatError, NonFiniteError
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.formats.floats import FloatFormat
from faultcli.formats.values import TILE
from faultcli.protect.base import Protection
from faultcli.protect.expected import expected_error
from faultcli.protect.factors import LARGEST_FACTOR, Factors, largest_fitting
from faultcli.protect.protected_tensor import StoredTensor

_SAMPLE_BITS = 1 << 17  # bits of a tensor's words that a search looks at: 16 thousand weights of 8 bits
TABLE_BITS = 1 << 15  # of one that is only shown, where a few percent of an error do not matter
_LEAST_PER_CHANNEL = 4  # weights of each channel that it looks at beside the largest
_COARSE = [2.0 ** (k / 2) for k in range(-16, 7)]  # relative to the largest factor that fits
_FINE = [2.0 ** (k / 8) for k in range(-3, 4)]
_ALIKE = 1.01  # errors that differ by less are no reason to choose another factor
_OCTAVES = [2.0**k for k in range(-12, 7)]  # for floats, in which a power of two rounds nothing


def fitting_factors(
    name: str, weights: Tensor, format: NumberFormat, links: Sequence[Protection], granularity: str = "tensor"
) -> Tensor:
    """Return the largest factors with which a tensor fits the format behind these links; raises as `largest_fitting`,
    with the tensor's name."""
    try:
        return largest_fitting(weights, format, granularity, spare=sum(link.spare_bits(format) for link in links))
    except FormatError as error:
        raise type(error)(f"tensor {name!r} {error.message}", error.remedy) from None


class FactorSearch:
    """The expected squared error of one tensor, relative to its weights' mean square, as a function of its factor.

    Looks at a sample of each channel that always has the channel's largest weight.

    Args:
        name: of the tensor, for messages.
        weights: any shape.
        format: what one word is.
        links: the protections behind the scale.
        ber: bit-error rate.
        per_channel: whether factors may differ by output channel; else the sample is one of the whole tensor.
        sample_bits: how many bits of words are looked at, about.
    """

    def __init__(
        self,
        name: str,
        weights: Tensor,
        format: NumberFormat,
        links: Sequence[Protection],
        ber: float,
        *,
        per_channel: bool = True,
        sample_bits: int = _SAMPLE_BITS,
    ) -> None:
        self.name, self.format, self.ber = name, format, ber
        self.links = tuple(links)
        rounds = not (isinstance(format, FloatFormat) and format.bits >= 16)
        self.ratios = (_COARSE, _FINE) if rounds else (_OCTAVES, [1.0])
        by_row = weights.dim() >= 2 and (per_channel or isinstance(format, ScaledFormat))
        rows = weights.flatten(1) if by_row else weights.reshape(1, -1)
        stride = min(weights.numel() * format.bits // sample_bits, rows.shape[1] // _LEAST_PER_CHANNEL)
        if stride > 1:
            wide = torch.float64 if weights.dtype == torch.float64 else torch.float32
            if by_row:
                height = max(1, TILE // rows.shape[1])
                peak = torch.cat([part.to(wide).abs().argmax(dim=1, keepdim=True) for part in split(rows, height)])
            else:
                tiles = split(rows[0], TILE)
                top = max(range(len(tiles)), key=lambda number: _magnitude(tiles[number]))
                peak = (tiles[top].to(wide).abs().argmax() + top * TILE).reshape(1, 1)
            rows = torch.cat([rows.gather(1, peak), rows[:, ::stride]], dim=1)
        self.sample = rows
        self.power = float(rows.double().square().sum()) or 1.0
        if not math.isfinite(self.power):
            problem = f"tensor {name!r} holds NaN, infinite or huge values; no error can be predicted"
            raise NonFiniteError(problem, "leave it out with --exclude")

    def errors(self, factors: Tensor) -> Tensor:
        """Return what each of the factors (float32 [1] or [channels]) contributes to the error: float64, same shape."""
        links = (Factors(factors, 0), *self.links)
        stored = StoredTensor.write(self.name, self.sample, self.format, links, ber=self.ber)
        error = expected_error(stored, self.sample, self.ber).sum(dim=1) / self.power
        return error if len(factors) > 1 else error.sum().reshape(1)

    def error(self, factors: Tensor) -> float:
        """Return the error under factors: float32 [1] or [channels]."""
        return float(self.errors(factors).sum())

    def best(self, fitting: Tensor) -> Tensor:
        """Return the factors of least error near `fitting`, the largest that fit: one common ratio to them, or one for
        each where channels do not share a prior or a bound."""
        shared = any(getattr(link, "granularity", "channel") != "channel" for link in self.links)
        if len(fitting) == 1 or shared:
            return _rounded(_best(lambda ratio: self.error(_rounded(ratio * fitting)), self.ratios) * fitting)
        coarse = torch.tensor(self.ratios[0])[self._least([_rounded(r * fitting) for r in self.ratios[0]])]
        fine = torch.tensor(self.ratios[1])[self._least([_rounded(coarse * r * fitting) for r in self.ratios[1]])]
        return _rounded(coarse * fine * fitting)

    def best_factor(self) -> float:
        """Return the one factor of least error."""
        return float(self.best(fitting_factors(self.name, self.sample, self.format, self.links)))

    def _least(self, candidates: list[Tensor]) -> Tensor:
        return torch.stack([self.errors(factors) for factors in candidates]).argmin(dim=0)


def best_together(searches: Mapping[str, FactorSearch], fitting: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the factors of least error of all tensors together: one ratio to `fitting` for all."""
    ratios = next(iter(searches.values())).ratios
    ratio = _best(lambda r: sum(s.error(_rounded(r * fitting[name])) for name, s in searches.items()), ratios)
    return {name: _rounded(ratio * fit) for name, fit in fitting.items()}


def _magnitude(values: Tensor) -> float:
    """Return the largest magnitude of values; infinity where one is NaN. In their own dtype, which is the fastest."""
    low, high = values.aminmax()
    largest = max(-float(low), float(high))
    return math.inf if math.isnan(largest) else largest


def _best(error: Callable[[float], float], ratios: tuple[list[float], list[float]]) -> float:
    coarse = _nearest_best(ratios[0], error)
    return _nearest_best([coarse * fine for fine in ratios[1]], error) if len(ratios[1]) > 1 else coarse


def _nearest_best(ratios: list[float], error: Callable[[float], float]) -> float:
    """Return the ratio nearest to 1 of those that are as good as the best: where the factor hardly matters, as in
    floats without a guard, the largest that fits is as good as any."""
    errors = [error(ratio) for ratio in ratios]
    alike = [ratio for ratio, found in zip(ratios, errors, strict=True) if found <= min(errors) * _ALIKE]
    return min(alike, key=lambda ratio: abs(math.log(ratio)))


def _rounded(factors: Tensor) -> Tensor:
    """Return factors as bfloat16 keeps them, in float32."""
    return factors.to(torch.bfloat16).float().clamp(min=torch.finfo(torch.float32).tiny, max=LARGEST_FACTOR)
