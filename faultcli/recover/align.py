"""Moment alignment: every logit gets back the mean and the spread that it has in the clean model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.base import Array, Card, Correction, Corrector
from faultcli.recover.reference import Reference

SMALLEST_WINDOW = 20


@dataclass(frozen=True)
class Alignment:
    """z → (z − mean) / spread · clean spread + clean mean, per logit; 2 K numbers once it is multiplied out."""

    mean: Array
    spread: Array
    clean_mean: Array
    clean_spread: Array

    @classmethod
    def between(cls, window: Array, reference: Reference) -> Alignment:
        """Measure a window [n, K]. A logit that never changes is only moved."""
        spread = window.std(axis=0)
        return cls(
            window.mean(axis=0), np.where(spread > 1e-9, spread, reference.spread), reference.mean, reference.spread
        )

    @property
    def numbers(self) -> int:
        return 2 * len(self.mean)

    def for_shares(self, reference: Reference, shares: Array) -> Alignment:
        """Return the alignment for a window whose classes come at these shares [K] instead of those of training."""
        mean, spread = reference.moments(shares)
        scale = self.spread / spread
        moved = self.mean + (reference.mean - mean) * scale
        return Alignment(moved, reference.spread * scale, reference.mean, reference.spread)

    def standardise(self, logits: Array) -> Array:
        """Return logits with mean 0 and spread 1 over the window."""
        return (logits - self.mean) / self.spread

    def __call__(self, logits: Array) -> Array:
        return self.standardise(logits) * self.clean_spread + self.clean_mean


@dataclass(frozen=True)
class Align(Corrector):
    """Moment alignment over a window. It takes the window's class mix to be that of training."""

    name: ClassVar[str] = "align"
    summary: ClassVar[str] = "give every logit its clean mean and spread back, over a window; no labels"

    reference: Reference

    @property
    def smallest_window(self) -> int:
        return SMALLEST_WINDOW

    def adapt(self, window: Array) -> Correction:
        alignment = Alignment.between(window, self.reference)
        return Correction(alignment, alignment.numbers, "align")

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return self.reference.arrays(), {}

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        return cls(Reference.from_arrays(arrays), card=card)
