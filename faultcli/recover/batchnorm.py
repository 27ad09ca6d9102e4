"""Batch-norm recalibration: the statistics of the damaged model, re-estimated on unlabelled inputs.

Faults in the weights shift and stretch what a batch-norm layer sees; its stored statistics then normalise wrongly. On
the device the shift can be measured without labels. Taking over the statistics of a small window as they are would harm
a healthy model, for they differ from the stored ones by more than chance (training used augmented images and a running
mean). So the window's statistics are compared with those that the healthy model had on such a window, and only the
difference is applied:

    mean ← stored mean + λ (damaged mean − healthy mean),    variance ← stored variance · (damaged / healthy)^λ'

layer by layer, each seeing what the recalibrated layers before it give. λ and λ' (0 to 1, per layer) shrink the move by
how much of it the sampling of the windows may explain (James and Stein, with two standard errors of what chance gives
over the layer's channels), so that a healthy model stays as it was. The
healthy means and variances are kept beside the model: two numbers per channel, like the statistics themselves, and two
per layer that say how sure they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from faultcli.errors import UsageError, WorkloadError
from faultcli.foreign import whole_number
from faultcli.workload.classifier import Workload
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.inputs import Inputs

DEFAULT_INPUTS = 1000
_LEAST_INPUTS = 8
REFERENCE_BITS = 16  # every number of the healthy reference is kept as a bfloat16


@dataclass(frozen=True)
class Recalibrate:
    """The option `bn[:N]`: re-estimate on `inputs` unlabelled inputs."""

    inputs: int = DEFAULT_INPUTS

    @property
    def text(self) -> str:
        return f"bn:{self.inputs}"


def parse_recalibration(text: str) -> Recalibrate | None:
    """Read `none` or `bn[:N]`.

    Raises:
        UsageError: anything else, or too few inputs to estimate a variance.
    """
    if text == "none":
        return None
    kind, colon, count = text.partition(":")
    inputs = whole_number(count) if colon else DEFAULT_INPUTS
    if kind != "bn" or inputs is None or (colon and not count.isdecimal()):
        raise UsageError(f"--recalibrate {text}: is not bn, bn:N or none", "try: --recalibrate bn:1000")
    if inputs < _LEAST_INPUTS:
        raise UsageError(f"--recalibrate {text}: {inputs} inputs tell too little", f"use {_LEAST_INPUTS} or more")
    return Recalibrate(inputs)


@dataclass(frozen=True)
class _LayerMoments:
    """What a layer sees, per channel: mean and variance, and the squared standard error of the mean and of the
    logarithm of the variance, inputs being the sampling unit."""

    mean: Tensor
    variance: Tensor
    mean_error: Tensor
    log_variance_error: Tensor


@dataclass(frozen=True)
class _HealthyLayer:
    """What a layer of the healthy model sees, as it is kept: per channel its mean and variance; per layer the mean
    squared error of both, relative to the variance and of its logarithm, sampling and rounding together."""

    mean: Tensor
    variance: Tensor
    shift_error: Tensor
    stretch_error: Tensor

    @classmethod
    def of(cls, seen: _LayerMoments) -> _HealthyLayer:
        mean, variance = _kept_number(seen.mean), _kept_number(seen.variance)
        shift = seen.mean_error / seen.variance + (mean - seen.mean).square() / seen.variance
        stretch = seen.log_variance_error + (variance / seen.variance).log().square()
        return cls(mean, variance, _kept_number(shift.mean()), _kept_number(stretch.mean()))

    @property
    def bits(self) -> int:
        """What keeping it takes."""
        return REFERENCE_BITS * (2 * self.mean.numel() + 2)


class BatchNormRecalibration:
    """Re-estimates a model's batch-norm statistics.

    Args:
        workload: holds the healthy model, as stored.
        unlabelled: inputs that are not evaluated: the first `spec.inputs` give the healthy reference, the next as many
            (the same ones, if there are no more) are what the damaged device sees.
        spec: how many inputs.

    Raises:
        WorkloadError: the model has no batch-norm statistics, or there are too few inputs.

    Attributes:
        side_bits: what the healthy reference takes beside the model.
    """

    def __init__(self, workload: Workload, unlabelled: Dataset, spec: Recalibrate) -> None:
        self._model = workload.model
        self._layers = [m for m in self._model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not self._layers:
            raise WorkloadError(
                f"{workload.architecture.name}: has no batch-norm statistics", "leave out --recalibrate"
            )
        if len(unlabelled) < spec.inputs:
            raise WorkloadError(
                f"{unlabelled.name}: holds {len(unlabelled)} inputs, recalibration wants {spec.inputs}",
                f"try: --recalibrate bn:{len(unlabelled)}",
            )
        inputs = workload.prepare(unlabelled.first(2 * spec.inputs))
        self._window = inputs[spec.inputs :] if len(inputs) == 2 * spec.inputs else inputs[: spec.inputs]
        self._reference: dict[nn.Module, _HealthyLayer] = {}
        self._walk(inputs[: spec.inputs], self._keep_reference)
        self.side_bits = sum(reference.bits for reference in self._reference.values())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the re-estimated statistics for the length of a `with` block; the stored ones come back bit for bit."""
        saved = [(layer, _mean(layer).clone(), _variance(layer).clone()) for layer in self._layers]
        try:
            self._walk(self._window, self._move)
            yield
        finally:
            for layer, mean, variance in saved:
                _mean(layer).copy_(mean)
                _variance(layer).copy_(variance)

    def _walk(self, inputs: Inputs, visit: Callable[[nn.Module, tuple[Tensor, ...]], None]) -> None:
        """Run the model, calling `visit` with every batch-norm layer and what it is about to normalise."""
        hooks = [layer.register_forward_pre_hook(visit) for layer in self._layers]
        try:
            with torch.no_grad():
                inputs.given_to(self._model)
        finally:
            for hook in hooks:
                hook.remove()

    def _keep_reference(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._reference[layer] = _HealthyLayer.of(_moments(arguments[0]))

    def _move(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        healthy, damaged = self._reference[layer], _moments(arguments[0])
        shift = (damaged.mean - healthy.mean) / healthy.variance.sqrt()
        stretch = damaged.variance.log() - healthy.variance.log()
        usable = shift.isfinite() & stretch.isfinite()
        if not bool(usable.any()):
            return
        shift, stretch = torch.where(usable, shift, 0), torch.where(usable, stretch, 0)
        shift_error = (damaged.mean_error / healthy.variance)[usable].mean() + healthy.shift_error
        stretch_error = damaged.log_variance_error[usable].mean() + healthy.stretch_error
        channels = int(usable.sum())
        shift = shift * _kept(shift.square()[usable].mean(), shift_error, channels)
        stretch = stretch * _kept(stretch.square()[usable].mean(), stretch_error, channels)
        _mean(layer).add_(shift * healthy.variance.sqrt())
        _variance(layer).mul_(stretch.exp())


def _kept_number(numbers: Tensor) -> Tensor:
    return numbers.to(torch.bfloat16).to(numbers.dtype)


def _kept(seen: Tensor, by_chance: Tensor, channels: int) -> Tensor:
    """Return the part of a move that is kept when sampling gives its mean square over channels the expectation
    `by_chance`; a mean of n squared normal deviates has the relative standard error √(2/n)."""
    at_most = by_chance * (1 + 2 * math.sqrt(2 / channels))
    return torch.where(seen > 0, 1 - at_most / seen, 0).clamp(0, 1).nan_to_num(0)


def _moments(x: Tensor) -> _LayerMoments:
    """Return the moments of activations [N, C, ...] per channel."""
    n = len(x)
    flat = x.reshape(n, x.shape[1], -1)
    mean_of_input, square_of_input = flat.mean(dim=2), flat.square().mean(dim=2)
    mean = mean_of_input.mean(dim=0)
    variance = (square_of_input.mean(dim=0) - mean.square()).clamp(min=1e-12)
    deviation = square_of_input - 2 * mean_of_input * mean + mean.square()  # of each input from the common mean
    return _LayerMoments(mean, variance, mean_of_input.var(dim=0) / n, deviation.var(dim=0) / n / variance.square())


def _mean(layer: nn.Module) -> Tensor:
    assert isinstance(layer.running_mean, Tensor)
    return layer.running_mean


def _variance(layer: nn.Module) -> Tensor:
    assert isinstance(layer.running_var, Tensor)
    return layer.running_var
