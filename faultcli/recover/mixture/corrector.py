"""Mixture on the window: one Gaussian per class, found without labels, named by how damage moves class means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.align import Alignment
from faultcli.recover.base import Array, Card, Correction, Corrector, CorrectorError
from faultcli.recover.mixture.cluster_matching import Labels
from faultcli.recover.mixture.gaussians import ClassMixture, Fit
from faultcli.recover.mixture.law import DamageLaw
from faultcli.recover.mixture.part_naming import PartNaming
from faultcli.recover.mixture.presence import MOST_COUNTED, present_classes
from faultcli.recover.mixture.search import search
from faultcli.recover.reference import MOST_CLASSES, Reference

_ABSENT = 0.5  # weight of the training mix beside the window's: classes that are missing may come back
_ROWS_PER_CLASS = 4  # fewer, and components are single inputs


@dataclass(frozen=True)
class FittedMixture:
    """A mixture on a window: the alignment that standardises, and the Gaussians.

    Attributes:
        alignment: for the classes that the window holds.
        classes: the Gaussians, of missing classes where the law of the damage leaves them.
        shares: [K], of the classes in the window.
        explained: part of the found class means that is the clean means', 0 to 1: whether the names can be trusted.
    """

    alignment: Alignment
    classes: ClassMixture
    shares: Array
    explained: float

    @classmethod
    def fit(cls, window: Array, reference: Reference, law: DamageLaw) -> FittedMixture:
        """Fit a window [n, K]; the same window gives the same fit."""
        over_all = Alignment.between(window, reference)
        x = over_all.standardise(window)
        fit = search(x, over_all(window), reference.prior, law, np.random.default_rng(0))
        found = _NamedComponents.of(fit, np.arange(reference.classes), over_all, reference, law)
        if reference.classes <= MOST_COUNTED:
            naming = PartNaming(law.places, law.volumes, law.distances, over_all.spread / reference.spread)

            def aligned_for(shares: Array) -> Labels:
                answers: Labels = over_all.for_shares(reference, shares)(window).argmax(axis=1)
                return answers

            present = present_classes(x, fit, reference.prior, window.argmax(axis=1), naming, aligned_for)
            other = _NamedComponents.of(present.fit, present.labels, over_all, reference, law)
            found = other if other.explained > found.explained else found
        return found.completed(reference, law)

    @property
    def numbers(self) -> int:
        """The Gaussians'; the standardisation is absorbed in them."""
        return self.classes.numbers

    def log_posterior(self, logits: Array) -> Array:
        """Return the log probability of every class, [n, K]."""
        return self.classes.log_posterior(self.alignment.standardise(logits))


@dataclass(frozen=True)
class _NamedComponents:
    """Named components: class `labels[c]` is component c of means [C, K] and covariances [C, K, K], standardised by an
    alignment for their shares [K]."""

    labels: Labels
    shares: Array
    alignment: Alignment
    means: Array
    covariances: Array
    explained: float

    @classmethod
    def of(cls, fit: Fit, labels: Labels, over_all: Alignment, reference: Reference, law: DamageLaw) -> Self:
        """Take components of a window that was standardised over all of it."""
        shares = np.zeros(reference.classes)
        shares[labels] = fit.posterior.mean(axis=1)
        alignment = over_all.for_shares(reference, shares)
        scale = over_all.spread / alignment.spread
        means = fit.means * scale + (over_all.mean - alignment.mean) / alignment.spread
        covariances = fit.covariances * np.outer(scale, scale)
        return cls(labels, shares, alignment, means, covariances, law.names.explained(means, labels))

    def completed(self, reference: Reference, law: DamageLaw) -> FittedMixture:
        """Put the classes that are missing where the law leaves them."""
        labels, alignment = self.labels, self.alignment
        means, whole = np.empty_like(law.places.means), self.covariances
        means[labels] = self.means
        if len(labels) < reference.classes:
            scale = alignment.spread / reference.spread
            offset = (alignment.mean - reference.mean) / reference.spread
            means, whole = law.places.completed(self.means * scale + offset, labels)
            means, whole = (means - offset) / scale, whole / np.outer(scale, scale)
            whole += np.einsum("c,cij->ij", self.shares[labels], self.covariances)
            whole[labels] = self.covariances
        elif not np.array_equal(labels, np.arange(len(labels))):
            whole = np.empty_like(whole)
            whole[labels] = self.covariances
        prior = (1 - _ABSENT) * self.shares + _ABSENT * reference.prior
        return FittedMixture(alignment, ClassMixture.of(means, whole, prior), self.shares, self.explained)


@dataclass(frozen=True)
class Mixture(Corrector):
    """EM on the window from many starts, for as many of the classes as the window holds."""

    name: ClassVar[str] = "mixture"
    summary: ClassVar[str] = "fit one Gaussian per class to a window by EM and classify by it; no labels"

    reference: Reference
    law: DamageLaw

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
        fitted = FittedMixture.fit(window, self.reference, self.law)
        return Correction(fitted.log_posterior, fitted.numbers, "mixture")

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return self.reference.arrays() | self.law.arrays(), {}

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        reference = Reference.from_arrays(arrays)
        return cls(reference, DamageLaw.from_arrays(reference, arrays), card=card)
