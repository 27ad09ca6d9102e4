"""Choosing scaling factors: as given, the largest that fit, or those of least expected error of the whole chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from faultcli.errors import FormatError, UsageError
from faultcli.formats import NumberFormat
from faultcli.protect.chain import Chain
from faultcli.protect.expected import expected_error
from faultcli.protect.scale import FACTOR_BITS, Factors, largest_fitting
from faultcli.protect.stored import StoredTensor

_SAMPLE = 16_384  # weights per tensor that a search looks at
_COARSE = [2.0 ** (k / 2) for k in range(-16, 7)]  # relative to the largest factor that fits
_FINE = [2.0 ** (k / 8) for k in range(-3, 4)]


def choose_factors(
    tensors: Mapping[str, Tensor], format_of: Callable[[str], NumberFormat], chain: Chain, ber: float | None
) -> dict[str, Factors]:
    """Return the factors of every tensor under `chain.scale`; empty without one.

    Raises:
        FormatError: a tensor holds NaN or infinities, so that no factor makes it fit; it is named.
        UsageError: `auto` without a bit-error rate.
    """
    scale = chain.scale
    if scale is None:
        return {}
    bits = FACTOR_BITS[scale.granularity]
    if not isinstance(scale.factor, str):
        given = Factors(torch.tensor([scale.factor], dtype=torch.float32), 32)
        return dict.fromkeys(tensors, given)
    if scale.factor == "auto" and ber is None:
        raise UsageError("scale=auto: needs to know the bit-error rate", "draw faults by --ber, or use scale=max")
    fitting = {name: _fitting(name, weights, format_of(name), chain) for name, weights in tensors.items()}
    if scale.granularity == "model":
        common = torch.stack([f.min() for f in fitting.values()]).min().reshape(1)
        fitting = dict.fromkeys(tensors, common)
    if scale.factor == "max":
        return {name: Factors(fit, bits * len(fit)) for name, fit in fitting.items()}
    assert ber is not None
    errors = {
        name: _Search(name, weights, format_of(name), chain, ber, fitting[name]) for name, weights in tensors.items()
    }
    if scale.granularity == "model":
        ratio = _best(lambda r: sum(float(search(r).sum()) for search in errors.values()))
        return {name: Factors(_rounded(ratio * fit), bits) for name, fit in fitting.items()}
    return {
        name: Factors(_rounded(search.best() * fitting[name]), bits * len(fitting[name]))
        for name, search in errors.items()
    }


def _fitting(name: str, weights: Tensor, format: NumberFormat, chain: Chain) -> Tensor:
    assert chain.scale is not None
    try:
        return largest_fitting(weights, format, chain.scale.granularity, spare=chain.spare_bits(format))
    except FormatError as error:
        raise FormatError(f"tensor {name!r} {error.message}", error.remedy) from None


class _Search:
    """The expected error of one tensor, relative to its weights' power, as a function of the factor's ratio to the
    largest that fits. Looks at a sample of each channel that always has its largest weight."""

    def __init__(
        self, name: str, weights: Tensor, format: NumberFormat, chain: Chain, ber: float, fitting: Tensor
    ) -> None:
        self.name, self.format, self.chain, self.ber, self.fitting = (
            name,
            format,
            replace(chain, scale=None),
            ber,
            fitting,
        )
        rows = weights.reshape(weights.shape[0], -1) if weights.dim() >= 2 else weights.reshape(1, -1)
        stride = max(1, weights.numel() // _SAMPLE)
        if stride > 1 and rows.shape[1] > stride:
            peak = rows.double().abs().argmax(dim=1, keepdim=True)
            rows = torch.cat([rows.gather(1, peak), rows[:, ::stride]], dim=1)
        self.sample = rows
        self.power = float(rows.double().square().sum()) or 1.0

    def __call__(self, ratio: float | Tensor) -> Tensor:
        """Return the relative expected error per factor: float64 [1] or [channels]."""
        factors = Factors(_rounded(ratio * self.fitting), 0)
        stored = StoredTensor.write(self.name, self.sample, self.format, self.chain, ber=self.ber, factors=factors)
        error = expected_error(stored, self.sample, self.ber).reshape(len(self.sample), -1).sum(dim=1) / self.power
        return error if len(self.fitting) > 1 else error.sum().reshape(1)

    def best(self) -> float | Tensor:
        """Return the ratio of least error, per factor where the channels do not share a prior or a bound."""
        shared = any(getattr(link, "granularity", "channel") != "channel" for link in self.chain.links)
        if len(self.fitting) == 1 or shared:
            return _best(lambda ratio: float(self(ratio).sum()))
        return _best_each(self)


def _best(error: Callable[[float], float]) -> float:
    coarse = min(_COARSE, key=error)
    candidates: list[float] = [coarse * fine for fine in _FINE]
    return min(candidates, key=error)


def _best_each(error: _Search) -> Tensor:
    coarse = torch.tensor(_COARSE)[torch.stack([error(r) for r in _COARSE]).argmin(dim=0)]
    fine = torch.tensor(_FINE)[torch.stack([error(coarse * r) for r in _FINE]).argmin(dim=0)]
    return coarse * fine


def _rounded(factors: Tensor) -> Tensor:
    """Return factors as bfloat16 keeps them, in float32."""
    return factors.to(torch.bfloat16).float().clamp(min=torch.finfo(torch.float32).tiny)
