"""Names for the components of a window that may lack classes, by how damage moves class means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faultcli.recover.mixture.cluster_matching import Labels, MeanStructure, swaps
from faultcli.recover.mixture.gaussians import Array


@dataclass(frozen=True)
class PartNaming:
    """Names for components where classes may be missing.

    The mean and the spread of a window's logits depend on which classes it holds. So it is the means as they come that
    are compared with the clean model's, and an offset that damage gave a logit, the same for all classes, is left out.

    Args:
        law: how damage moves class means, in clean spreads (`DamageLaw.places`).
        spread: [K], of the window's logits, in clean spreads.
    """

    law: MeanStructure
    spread: Array

    def agreement(self, means: Array, labels: Labels) -> Array:
        """Return how well the law explains means under namings; see `MeanStructure.agreement`.

        Args:
            means: [C, K], of components, in spreads of the window from its mean.
            labels: [M, C], in each row the classes of the components.

        Returns:
            [M], −(C − 1) K / 2 · log(1 − ρ²); ρ after generalised least squares for the offsets, so that C = 1 explains
            nothing.
        """
        moved, clean = means * self.spread, self.law.means[labels]
        metric = self._metric(labels)
        ones = metric.sum(axis=2)
        metric -= ones[:, :, None] * ones[:, None, :] / ones.sum(axis=1)[:, None, None]
        in_logits, along_clean = moved @ self.law.logit_precision, metric @ clean
        along = (along_clean * in_logits).sum(axis=(1, 2))
        size = ((metric @ moved) * in_logits).sum(axis=(1, 2))
        total = (along_clean * (clean @ self.law.logit_precision)).sum(axis=(1, 2))
        squared = np.maximum(along, 0) ** 2 / np.maximum(size * total, np.finfo(float).tiny)
        freedom = (len(means) - 1) * means.shape[1]
        result: Array = -0.5 * freedom * np.log(np.maximum(1 - squared, 1e-12))
        return result

    def _metric(self, labels: Labels) -> Array:
        """Return the inverse covariance [M, C, C] of the noise between the classes of each naming."""
        if labels.shape[1] == len(self.law.means):
            whole: Array = self.law.class_precision[labels[:, :, None], labels[:, None, :]]
            return whole
        held, which = np.unique(np.sort(labels, axis=1), axis=0, return_inverse=True)
        at = np.argsort(np.argsort(labels, axis=1), axis=1)
        inverse = np.asarray(np.linalg.inv(self.law.class_covariance[held[:, :, None], held[:, None, :]]), np.float64)
        part: Array = inverse[which.ravel()[:, None, None], at[:, :, None], at[:, None, :]]
        return part

    def name(self, means: Array, votes: Array) -> tuple[Labels, float]:
        """Return the class of every component, and the agreement: the best that is reached, by swapping two names and
        by taking one that is free, from the votes [C, K] of the rows and from the clean means' directions."""
        from scipy.optimize import linear_sum_assignment

        clean = self.law.means
        towards = means @ (clean / np.maximum(np.linalg.norm(clean, axis=1), 1e-12)[:, None]).T
        towards /= np.maximum(np.linalg.norm(means, axis=1), 1e-12)[:, None]
        starts = sorted({tuple(int(c) for c in linear_sum_assignment(-gain)[1]) for gain in (votes, towards)})
        climbed = [self._climb(means, np.array(start)) for start in starts]
        return max(climbed, key=lambda found: found[1])

    def _climb(self, means: Array, labels: Labels) -> tuple[Labels, float]:
        best = float(self.agreement(means, labels[None])[0])
        while True:
            candidates = _neighbours(labels, len(self.spread))
            scores = self.agreement(means, candidates)
            top = int(scores.argmax())
            if not scores[top] > best + 1e-9:  # NaN is no gain
                return labels, best
            labels, best = candidates[top], float(scores[top])


def _neighbours(labels: Labels, classes: int) -> Labels:
    """Return namings [M, C] with two names swapped, or one changed for one that is free."""
    swapped = labels[swaps(len(labels))]
    free = np.setdiff1d(np.arange(classes), labels)
    changed = np.tile(labels, (len(free) * len(labels), 1))
    changed[np.arange(len(changed)), np.tile(np.arange(len(labels)), len(free))] = np.repeat(free, len(labels))
    return np.concatenate([swapped, changed])
