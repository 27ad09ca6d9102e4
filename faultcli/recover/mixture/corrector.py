"""Mixture on the window: one Gaussian per class, found without labels, named by how damage moves class means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.align import Alignment
from faultcli.recover.base import Array, Card, Correction, Corrector, CorrectorError
from faultcli.recover.mixture.cluster_matching import MeanStructure
from faultcli.recover.mixture.gaussians import ClassMixture, Rows, search
from faultcli.recover.parts import precision
from faultcli.recover.reference import MOST_CLASSES, Reference

_FARTHEST = 1e6  # spreads, of a class mean from the mean
_ROWS_PER_CLASS = 4  # fewer, and components are single inputs


@dataclass(frozen=True)
class FittedMixture:
    """A mixture on a window: the alignment that standardises, the Gaussians, and what the window says of its class mix.

    Attributes:
        free_weights: by how much the window's log-likelihood per row grows when class shares are fitted as well.
    """

    alignment: Alignment
    classes: ClassMixture
    free_weights: float

    @classmethod
    def fit(cls, window: Array, reference: Reference, structure: MeanStructure) -> FittedMixture:
        """Fit a window [n, K]; the same window gives the same fit."""
        alignment = Alignment.between(window, reference)
        x = alignment.standardise(window)
        fit = search(x, alignment(window), reference.prior, structure, np.random.default_rng(0))
        classes = ClassMixture.of(fit.means, fit.covariances, reference.prior)
        return cls(alignment, classes, Rows(x, reference.prior).gain_of_free_weights(fit))

    @property
    def numbers(self) -> int:
        """The Gaussians'; the standardisation is absorbed in them."""
        return self.classes.numbers

    def log_posterior(self, logits: Array) -> Array:
        """Return the log probability of every class, [n, K]."""
        return self.classes.log_posterior(self.alignment.standardise(logits))


@dataclass(frozen=True)
class Mixture(Corrector):
    """EM on the window from many starts. It takes the window's class mix to be that of training."""

    name: ClassVar[str] = "mixture"
    summary: ClassVar[str] = "fit one Gaussian per class to a window by EM and classify by it; no labels"

    reference: Reference
    structure: MeanStructure

    def __post_init__(self) -> None:
        if self.reference.classes > MOST_CLASSES:
            raise CorrectorError(
                f"a mixture of {self.reference.classes} classes cannot be fitted to a window (at most {MOST_CLASSES})",
                "--method align or adaptive",
            )

    @property
    def smallest_window(self) -> int:
        return _ROWS_PER_CLASS * self.reference.classes

    def adapt(self, window: Array) -> Correction:
        fitted = FittedMixture.fit(window, self.reference, self.structure)
        return Correction(fitted.log_posterior, fitted.numbers, "mixture")

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return self.reference.arrays() | structure_arrays(self.structure), {}

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        reference = Reference.from_arrays(arrays)
        return cls(reference, structure_from(reference, arrays), card=card)


def structure_arrays(structure: MeanStructure) -> dict[str, NDArray[Any]]:
    """Return the two covariances' inverses; the means come from the reference."""
    return {"structure.classes": structure.class_precision, "structure.logits": structure.logit_precision}


def structure_from(reference: Reference, arrays: Mapping[str, NDArray[Any]]) -> MeanStructure:
    """Build the structure from what `structure_arrays` returned. KeyError or ValueError where that is damaged."""
    k = reference.classes
    if reference.class_means is None or k > MOST_CLASSES:
        raise ValueError(f"it has no class means for a mixture, or too many classes: {k}")
    means = reference.standard_means
    if not 0 < np.abs(means).max() < _FARTHEST:
        raise ValueError("its class means lie absurdly far apart, or all at one place")
    parts = ("structure.classes", "structure.logits")
    return MeanStructure(means, *(precision(arrays, name, k) for name in parts))
