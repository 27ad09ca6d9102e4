"""What a window of unlabelled logits shows: how far the damage went, and whether its class mix is to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faultcli.recover.align import Alignment
from faultcli.recover.base import Array
from faultcli.recover.mixture.cluster_matching import MeanStructure
from faultcli.recover.mixture.corrector import FittedMixture
from faultcli.recover.reference import Reference

_RIDGE = 0.3  # of the class-mix test
_NEWTON_STEPS = 30
_COUNT = 8  # symptoms that the test looks at
_FARTHEST = 5.0  # a symptom counts as at most so many standard deviations from the mean
_FALSE_ALARMS = 0.03  # of the fair windows in training, at most; they cost a correction, not an answer


@dataclass(frozen=True)
class Symptoms:
    """Numbers that need no label.

    Attributes:
        moved: share of the window whose top class is another one once the logits are aligned.
        split: share whose top class differs between aligned logits and mixture: the severity; `moved` without one.
        retention: what is left of the clean class means, about 1 for the clean model; None without a mixture.
        agreement: how well the mixture's means fit the way that damage moves them, per entry; None without a mixture.
        free_weights: how much likelier a row gets when class shares are fitted, too; None without a mixture.
        separation: of the mixture's classes. Where classes are missing from the window, others are split among their
            names and lie close together, which tells such windows better than all else. None without a mixture.
        histogram: chi-square of the raw logits' top classes against the class mix of training.
    """

    shift: float
    moved: float
    split: float
    histogram: float
    retention: float | None = None
    agreement: float | None = None
    free_weights: float | None = None
    separation: float | None = None

    @classmethod
    def of(
        cls, window: Array, reference: Reference, alignment: Alignment, fitted: FittedMixture | None,
        structure: MeanStructure | None,
    ) -> Symptoms:  # fmt: skip
        """Measure a window [n, K] whose alignment and mixture are there already."""
        raw, aligned = window.argmax(axis=1), alignment(window).argmax(axis=1)
        shares = np.bincount(raw, minlength=reference.classes) / len(window)
        histogram = float(((shares - reference.prior) ** 2 / reference.prior).sum())
        shift, moved = reference.shift(window), float((raw != aligned).mean())
        if fitted is None or structure is None:
            return cls(shift, moved, moved, histogram)
        log_posterior = fitted.log_posterior(window)
        split = float((aligned != log_posterior.argmax(axis=1)).mean())
        means = fitted.classes.means
        names = np.arange(len(means))
        return cls(
            shift,
            moved,
            split,
            histogram,
            structure.retention(means),
            float(structure.agreement(means, names[None])[0]) / means.size,
            fitted.free_weights,
            fitted.classes.separation(),
        )

    def vector(self) -> Array:
        """Return them on scales on which they are about normal, for the class-mix test."""
        assert self.retention is not None
        assert self.agreement is not None
        assert self.free_weights is not None
        assert self.separation is not None
        return np.array(
            [
                np.log(self.shift + 1e-3),
                np.log(self.moved + 0.005),
                np.log(self.split + 0.005),
                np.log(self.histogram + 0.003),
                self.retention,
                self.agreement,
                np.log(max(self.free_weights, 0) + 0.003),
                np.log(self.separation + 0.01),
            ]
        )


@dataclass(frozen=True)
class ClassMixTest:
    """Tells windows with the class mix of training from those with another, by logistic regression on symptoms.

    Attributes:
        centre, scale: [F], which standardise the symptoms.
        weights: [1 + F + F (F + 1) / 2], of 1, the standardised symptoms, their squares and products.
        threshold: score above which a window is not trusted.
    """

    centre: Array
    scale: Array
    weights: Array
    threshold: float

    def __post_init__(self) -> None:
        count = len(self.centre)
        expected = 1 + count + count * (count + 1) // 2
        if count != _COUNT or len(self.scale) != count or len(self.weights) != expected:
            raise ValueError(f"its class-mix test looks at {count} symptoms, and there are {_COUNT}")

    @classmethod
    def learn(cls, fair: Sequence[Symptoms], unfair: Sequence[Symptoms]) -> ClassMixTest:
        """Fit it by Newton's method with a ridge; at most 3 % of the fair windows lie above the threshold."""
        vectors = np.stack([s.vector() for s in (*fair, *unfair)])
        centre, scale = vectors.mean(axis=0), np.maximum(vectors.std(axis=0), 1e-6)
        x = _expanded(_standardised(vectors, centre, scale))
        y = np.r_[np.zeros(len(fair)), np.ones(len(unfair))]
        weights = np.zeros(x.shape[1])
        ridge = _RIDGE * np.eye(len(weights))
        ridge[0, 0] = 1e-6
        for _ in range(_NEWTON_STEPS):
            p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
            gradient = x.T @ (p - y) + ridge @ weights
            weights = weights - np.linalg.solve((x.T * (p * (1 - p))) @ x + ridge, gradient)
        scores = x[: len(fair)] @ weights
        return cls(centre, scale, weights, float(np.quantile(scores, 1 - _FALSE_ALARMS)))

    def suspects(self, symptoms: Symptoms) -> bool:
        """Return whether the window's class mix seems to be another one than in training."""
        standard = _standardised(symptoms.vector()[None], self.centre, self.scale)
        return float(_expanded(standard)[0] @ self.weights) > self.threshold


def _standardised(vectors: Array, centre: Array, scale: Array) -> Array:
    return np.clip((vectors - centre) / scale, -_FARTHEST, _FARTHEST)


def _expanded(x: Array) -> Array:
    products = [x[:, i : i + 1] * x[:, i:] for i in range(x.shape[1])]
    return np.concatenate([np.ones((len(x), 1)), x, *products], axis=1)
