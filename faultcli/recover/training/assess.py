"""What a corrector does on held-out fault maps and held-out data: outcomes with and without it, map by map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from faultcli.recover.base import Correction, Corrector
from faultcli.recover.damaged_logits import Copy
from faultcli.workload.metrics import GoldenRun, Outcome, measure

_LARGEST_LOSS = 700.0  # whose exponential is finite


@dataclass(frozen=True)
class HeldOutMap:
    """One held-out fault map with and without the corrector."""

    fault: str
    trial: int
    corrupted: Outcome
    corrected: Outcome
    correction: Correction

    @property
    def gain(self) -> float:
        """Change in top-1 accuracy, a fraction."""
        return self.corrected.top1 - self.corrupted.top1


@dataclass(frozen=True)
class Level:
    """All held-out maps of one fault specification."""

    fault: str
    clean: Outcome
    maps: tuple[HeldOutMap, ...]

    @property
    def gains(self) -> list[float]:
        return [one.gain for one in self.maps]

    def mean(self, which: str) -> float:
        """Mean top-1 accuracy over maps of `corrupted` or `corrected`."""
        return float(np.mean([getattr(one, which).top1 for one in self.maps]))

    @property
    def tokens(self) -> bool:
        """Whether the answers are tokens of a language model, of which the loss counts as well."""
        return self.clean.scored is not None

    @property
    def loss_falls(self) -> list[float]:
        """By how much the cross entropy per answer fell, in nats, of every map with a finite answer."""
        pairs = [(one.corrupted.loss, one.corrected.loss) for one in self.maps]
        return [before - after for before, after in pairs if before is not None and after is not None]

    def perplexity(self, which: str) -> float | None:
        """exp of the mean loss over maps of `corrupted` or `corrected`, of their finite answers; None without any."""
        known = [loss for one in self.maps if (loss := getattr(one, which).loss) is not None]
        return float(np.exp(min(np.mean(known), _LARGEST_LOSS))) if known else None

    @property
    def share_back(self) -> float | None:
        """(corrected − corrupted) / (clean − corrupted), of means over maps; None where nothing was lost."""
        lost = self.clean.top1 - self.mean("corrupted")
        return None if lost <= 0 else (self.mean("corrected") - self.mean("corrupted")) / lost

    @property
    def predicted_gain(self) -> float | None:
        """Mean of what the corrector itself expected, from the windows alone; None where it expects nothing."""
        known = [one.correction.predicted_gain for one in self.maps if one.correction.predicted_gain is not None]
        return float(np.mean(known)) if known else None

    @property
    def predicted_interval(self) -> tuple[float, float] | None:
        """Mean of the intervals' ends that the corrector itself gave for the gain; None where it gave none."""
        known = [one.correction.predicted_interval for one in self.maps if one.correction.predicted_interval]
        return (
            (float(np.mean([low for low, _ in known])), float(np.mean([high for _, high in known]))) if known else None
        )

    @property
    def predicted_covers(self) -> int | None:
        """Maps whose gain lies in the interval that the corrector gave for it; None where it gave none."""
        known = [
            (one.gain, one.correction.predicted_interval) for one in self.maps if one.correction.predicted_interval
        ]
        return sum(low <= gain <= high for gain, (low, high) in known) if known else None

    @property
    def severity(self) -> float | None:
        """Mean of the corrector's own estimates."""
        known = [one.correction.severity for one in self.maps if one.correction.severity is not None]
        return float(np.mean(known)) if known else None


def measured(logits: Tensor, labels: Tensor, golden: GoldenRun, *, tokens: bool) -> Outcome:
    """Return what answers are worth; those of a language model, `tokens`, are all scored positions."""
    outcome = measure(logits, labels, golden)
    return replace(outcome, scored=outcome.n, agreed=outcome.masked) if tokens else outcome


def assess(
    corrector: Corrector,
    copy: Copy,
    window: Tensor | None,
    labels: Tensor,
    golden: GoldenRun,
    *,
    tokens: bool = False,
) -> HeldOutMap:
    """Measure one damaged copy.

    Args:
        corrector: to be measured.
        copy: its logits [N, K] on the held-out inputs.
        window: [n, K], of unlabelled inputs that are not among the held-out ones; None where none is needed.
        labels: [N].
        golden: the run without faults on the same inputs.
        tokens: the answers are those of a language model.
    """
    correction = corrector.observe(window)
    corrupted = measured(copy.logits, labels, golden, tokens=tokens)
    corrected = measured(correction(copy.logits), labels, golden, tokens=tokens)
    return HeldOutMap(copy.fault, copy.trial, corrupted, corrected, correction)


def levels(maps: Iterable[HeldOutMap], clean: Outcome) -> list[Level]:
    """Group maps by fault, in the order in which faults come first."""
    grouped: dict[str, list[HeldOutMap]] = {}
    for one in maps:
        grouped.setdefault(one.fault, []).append(one)
    return [Level(fault, clean, tuple(group)) for fault, group in grouped.items()]
