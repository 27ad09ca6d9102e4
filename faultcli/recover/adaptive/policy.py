"""From severity to action: which blend of raw logits, aligned logits and mixture helps where, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.base import Array
from faultcli.recover.mixture.gaussians import log_normalised

Blend = tuple[float, float, float]  # weights of raw logits, aligned logits and the mixture's log probabilities

IDENTITY: Blend = (1.0, 0.0, 0.0)
ALIGN: Blend = (0.0, 1.0, 0.0)
BLENDS: tuple[Blend, ...] = (
    IDENTITY,
    (0.5, 0.5, 0.0),
    ALIGN,
    *((0.0, weight, 1.0) for weight in (4.0, 2.0, 1.0, 0.6, 0.3, 0.15)),
    (0.0, 0.0, 1.0),
)
HEATS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 12.0)
_CASES_PER_STEP = 8
_MOST_STEPS = 10
_REACH = 1.0  # of a step: how far beside it cases count


def blend_name(blend: Blend) -> str:
    """Say what is blended: `identity`, `align`, `mixture + 0.3 align`, …"""
    raw, align, mixture = blend
    if blend == IDENTITY:
        return "identity"
    named = ((mixture, "mixture"), (align, "align"), (raw, "raw"))
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for weight, name in named if weight)


def blend(weights: Blend, raw: Array, aligned: Array, log_posterior: Array | None) -> Array:
    """Return the weighted sum of what the experts say, [n, K]."""
    total = weights[0] * raw + weights[1] * aligned
    return total if log_posterior is None or not weights[2] else total + weights[2] * log_posterior


@dataclass(frozen=True, eq=False)
class Answers:
    """What the experts say on some inputs, each [n, K]: raw and aligned logits, log probabilities of the mixture."""

    raw: Array
    aligned: Array
    log_posterior: Array | None

    def blended(self, weights: Blend) -> Array:
        return blend(weights, self.raw, self.aligned, self.log_posterior)


@dataclass(frozen=True, eq=False)
class Case:
    """One window of one damaged copy in training.

    Attributes:
        copy: its number.
        severity: of the window.
        window: what the experts say on it.
        judged: the same on other inputs.
        labels: of these.
        gains: [B], by every blend on these: change of the top-1 accuracy, a fraction.
    """

    copy: int
    severity: float
    window: Answers
    judged: Answers
    labels: NDArray[np.int64]
    gains: Array

    @classmethod
    def judge(cls, copy: int, severity: float, window: Answers, judged: Answers, labels: NDArray[np.int64]) -> Case:
        """Try every blend on labelled inputs."""
        gains = np.full(len(BLENDS), -np.inf)
        before = float((judged.raw.argmax(axis=1) == labels).mean())
        for number, weights in enumerate(BLENDS):
            if not weights[2] or judged.log_posterior is not None:
                gains[number] = float((judged.blended(weights).argmax(axis=1) == labels).mean()) - before
        return cls(copy, severity, window, judged, labels, gains)

    def losses(self, weights: Blend) -> Array:
        """Return the cross entropy of a blend at every temperature, [H]."""
        scores, rows = self.judged.blended(weights), np.arange(len(self.labels))
        return np.array([-float(log_normalised(scores / heat)[rows, self.labels].mean()) for heat in HEATS])


@dataclass(frozen=True)
class Policy:
    """Steps of severity, each with the blend that did best there in training.

    Attributes:
        upper: [S], ascending, the severity up to which a step goes; the last one is infinite.
        blends: [S, 3], weights of raw logits, aligned logits and mixture.
        heats: [S], temperatures that the blend is divided by.
    """

    upper: Array
    blends: Array
    heats: Array

    @classmethod
    def learn(cls, cases: Sequence[Case]) -> Policy:
        """Cut the cases, sorted by severity, into steps and take for each the blend of the best mean gain.

        Cases of the steps beside count, too, the less the farther: a step alone has few. What is gained is judged on
        every copy by the blend that does best on the others. Where that is not above its own standard error over
        copies, the identity is taken: leave alone when in doubt.
        """
        ordered = sorted(cases, key=lambda case: case.severity)
        steps = max(1, min(_MOST_STEPS, len(ordered) // _CASES_PER_STEP))
        groups = [[ordered[i] for i in part] for part in np.array_split(np.arange(len(ordered)), steps)]
        table, copies = np.stack([case.gains for case in ordered]), np.array([case.copy for case in ordered])
        upper, blends, heats = [], [], []
        begin = 0.0
        for number, group in enumerate(groups):
            middle, begin = begin + (len(group) - 1) / 2, begin + len(group)
            weights = np.exp(-0.5 * ((np.arange(len(ordered)) - middle) / (_REACH * len(group))) ** 2)
            best = int((weights @ table).argmax())
            gain, error = _expected(table, copies, weights)
            if not gain > error:
                best = 0
            heat = int(np.mean([case.losses(BLENDS[best]) for case in group], axis=0).argmin()) if best else 0
            last = number + 1 == len(groups)
            upper.append(np.inf if last else (group[-1].severity + groups[number + 1][0].severity) / 2)
            blends.append(BLENDS[best])
            heats.append(1.0 if best == 0 else HEATS[heat])
        return cls(*(np.array(values, dtype=np.float64) for values in (upper, blends, heats)))

    def step(self, severity: float) -> int:
        """Return the step that a severity falls in."""
        return int(np.searchsorted(self.upper[:-1], severity))

    def chosen(self, severity: float) -> tuple[Blend, float]:
        """Return the blend for a severity, and its temperature."""
        step = self.step(severity)
        return self.blend(step), float(self.heats[step])

    def blend(self, step: int) -> Blend:
        raw, align, mixture = (float(w) for w in self.blends[step])
        return raw, align, mixture


def _expected(table: Array, copies: NDArray[np.int64], weights: Array) -> tuple[float, float]:
    """Return the mean over copies of what a blend gains that was chosen on the other copies, and its standard error.

    Args:
        table: [W, B], gain of every blend in every window.
        copies: [W], the damaged copy of every window.
        weights: [W], how much a window counts.
    """
    found, counted = [], []
    for copy in np.unique(copies):
        own = copies == copy
        others = own if own.all() else ~own
        chosen = int((weights[others] @ table[others]).argmax())
        found.append(float(weights[own] @ table[own, chosen] / weights[own].sum()))
        counted.append(float(weights[own].sum()))
    parts = np.array(counted) / sum(counted)
    mean = float(parts @ found)
    spread = float(parts @ (np.array(found) - mean) ** 2)
    effective = 1 / float(parts @ parts)
    return mean, float(np.sqrt(spread / max(effective - 1, 1)))
