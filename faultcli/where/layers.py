"""Layers as strata: each is hit alone at a bit-error rate, and the more its fault maps differ the more it gets."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faultcli.campaign.records import Record
from faultcli.campaign.statistics import Interval, mean_interval
from faultcli.faults.law import FaultLaw
from faultcli.faults.laws import BitFlip
from faultcli.memory import MemoryImage
from faultcli.workload.metrics import Outcome

_ENDLESS = 1 << 40  # fault maps of a layer: no sample of them is a part worth counting
EFFECTS = ("sdc", "due", "accuracy_change")


@dataclass(frozen=True)
class LayerStratum:
    """The fault maps of one tensor, its scales and check words included. All layers weigh the same.

    Attributes:
        region: the tensor.
        bits: stored bits of it.
        place: its position among the layers.
        layers: how many there are.
        rate: of the flips, per bit.
    """

    region: str
    bits: int
    place: int
    layers: int
    rate: float
    size: int = _ENDLESS
    predicted: float = 1.0
    channel: None = None
    bit: int = 0
    word_bits: int = 0
    group: None = None

    def law(self, turn: int) -> FaultLaw:
        """Return the law of its faults, the same in every turn."""
        return BitFlip(self.rate, include=(glob.escape(self.region),))

    def number(self, turn: int) -> int:
        """Return the number of the trial of the `turn`-th fault map."""
        return turn * self.layers + self.place


def layers_at_risk(image: MemoryImage, rate: float) -> list[LayerStratum]:
    """Return the layers of a memory."""
    bits = {
        name: sum(region.layout.words * region.layout.bits for region in tensor.regions)
        for name, tensor in image.tensors.items()
    }
    return [LayerStratum(name, own, place, len(bits), rate) for place, (name, own) in enumerate(bits.items())]


class Effects:
    """What the trials of each layer did, trial by trial."""

    def __init__(self, layers: int) -> None:
        self._values: list[dict[str, list[float]]] = [{name: [] for name in EFFECTS} for _ in range(layers)]

    def add(self, layer: int, record: Record, stored: Outcome) -> None:
        """Take a trial."""
        outcome, own = record.outcome, self._values[layer]
        own["sdc"].append((outcome.sdc or 0) / outcome.n)
        own["due"].append(outcome.due / outcome.n)
        own["accuracy_change"].append(outcome.top1 - stored.top1)

    def of(self, layer: int, confidence: float) -> dict[str, Interval | None]:
        """Return the mean of each of `EFFECTS` with its interval; None without trials."""
        return {
            name: mean_interval(values, confidence=confidence, bounds=(-1.0 if name == EFFECTS[2] else 0.0, 1.0))
            for name, values in self._values[layer].items()
        }

    def order(self) -> Sequence[int]:
        """Return the layers by what they cost, the worst first: accuracy, then answers that change."""
        lost = [np.mean(one["accuracy_change"] or [0.0]) for one in self._values]
        changed = [np.mean(one["sdc"] or [0.0]) + np.mean(one["due"] or [0.0]) for one in self._values]
        return sorted(range(len(lost)), key=lambda layer: (lost[layer], -changed[layer]))
