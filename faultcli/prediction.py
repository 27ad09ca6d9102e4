"""What faults would do to each tensor, predicted without running the model: the error, the bits that carry it, and the
factor that would make it least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faultcli.checkpoint import Checkpoint, TensorInfo
from faultcli.errors import FormatError
from faultcli.formats import format_for
from faultcli.protect.expected import expected_error, single_flips
from faultcli.protect.factor_search import TABLE_BITS, FactorSearch
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.scaling import Scaling


@dataclass(frozen=True)
class Prediction:
    """One tensor. Errors are expected squared errors of a weight, relative to the mean square of its weights."""

    name: str
    error: float  # as it is stored now
    carriers: tuple[tuple[int | str, float], ...]  # bits (of scales: "scale N") and their part of what flips add
    best_factor: float
    best_error: float


class Predictor:
    """Predicts tensor after tensor; a sample of each is looked at.

    Args:
        checkpoint: scaled or not; a scaled one is predicted as its memory holds it.
        format_name: number format of the memory.
        ber: probability that a bit flips.
    """

    def __init__(self, checkpoint: Checkpoint, format_name: str, ber: float) -> None:
        self._scaling = Scaling.of(checkpoint)
        self._factors = self._scaling.charged_factors() if self._scaling else {}
        self._format_name, self._ber = format_name, ber
        self._channels = dict(checkpoint.channels) | dict(self._scaling.channels if self._scaling else {})

    def predict(self, info: TensorInfo, words: Tensor) -> Prediction:
        """Return the prediction of a tensor, from what the file holds of it.

        Raises:
            FormatError: it cannot be stored in the format; it is named.
        """
        name, weights = info.name, self._scaling.read(info.name, words) if self._scaling else words
        if not weights.is_floating_point():
            raise FormatError(f"tensor {name!r} holds whole numbers; errors are predicted for weights", "leave it out")
        given = self._factors.get(name)
        per_channel = given is not None and len(given.values) > 1
        format = format_for(self._format_name, info.dtype)
        own = self._channels.get(name)
        if own is not None and (per_channel or format.by_row):
            weights = own.rows(weights)
        how = {"per_channel": per_channel, "sample_bits": TABLE_BITS}
        search = FactorSearch(name, weights, format, (), self._ber, **how)  # type: ignore[arg-type]
        stored = StoredTensor.write(name, search.sample, search.format, [given] if given else [])
        clean = expected_error(stored, search.sample, 0.0)
        added = {
            _bit(label): float((error - clean).sum().clamp(min=0))
            for label, error in single_flips(stored, search.sample)
        }
        whole = sum(added.values()) or 1.0
        shares = sorted(((bit, part / whole) for bit, part in added.items()), key=lambda pair: -pair[1])
        best = search.best_factor()
        return Prediction(
            name,
            search.error(given.values if given else torch.ones(1)),
            tuple(shares[:3]),
            best,
            search.error(torch.tensor([best])),
        )


def _bit(label: str) -> int | str:
    """Return the position in `bit N` as a number; `scale bit N` as `scale N`."""
    short = label.replace("bit ", "")
    return int(short) if short.isdecimal() else short
