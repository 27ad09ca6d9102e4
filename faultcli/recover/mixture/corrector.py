"""Mixture on the window: one Gaussian per class, found without labels, named by how damage moves class means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.align import Alignment
from faultcli.recover.base import Array, Card, Correction, Corrector, CorrectorError
from faultcli.recover.mixture.gaussians import ClassMixture, Rows
from faultcli.recover.mixture.law import DamageLaw
from faultcli.recover.mixture.presence import MOST_COUNTED, PartNaming, present_classes
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
        fit = search(x, over_all(window), reference.prior, law.names, np.random.default_rng(0))
        labels = np.arange(reference.classes)
        if reference.classes <= MOST_COUNTED:
            naming = PartNaming(law.places, over_all.spread / reference.spread)
            present = present_classes(Rows(x, exact=False), fit, window.argmax(axis=1), naming)
            labels = present.labels
            fit = present.fit if len(labels) < reference.classes else fit
        shares = np.zeros(reference.classes)
        shares[labels] = fit.posterior.mean(axis=1)
        alignment = over_all.for_shares(reference, shares)
        scale = over_all.spread / alignment.spread
        found = fit.means * scale + (over_all.mean - alignment.mean) / alignment.spread
        covariances = fit.covariances * np.outer(scale, scale)
        explained = law.names.explained(found, labels)
        means, whole = np.empty_like(law.places.means), covariances
        means[labels] = found
        if len(labels) < reference.classes:
            scale = alignment.spread / reference.spread
            offset = (alignment.mean - reference.mean) / reference.spread
            means, whole = law.places.completed(found * scale + offset, labels)
            means, whole = (means - offset) / scale, whole / np.outer(scale, scale)
            whole += np.einsum("c,cij->ij", shares[labels], covariances)
            whole[labels] = covariances
        prior = (1 - _ABSENT) * shares + _ABSENT * reference.prior
        return cls(alignment, ClassMixture.of(means, whole, prior), shares, explained)

    @property
    def numbers(self) -> int:
        """The Gaussians'; the standardisation is absorbed in them."""
        return self.classes.numbers

    def log_posterior(self, logits: Array) -> Array:
        """Return the log probability of every class, [n, K]."""
        return self.classes.log_posterior(self.alignment.standardise(logits))


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
