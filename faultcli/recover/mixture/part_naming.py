"""Names for the components of a window that may lack classes, by how damage moves class means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faultcli.recover.mixture.class_distances import DistanceLaw, FoundDistances
from faultcli.recover.mixture.class_volumes import VolumeLaw, log_volumes
from faultcli.recover.mixture.cluster_matching import Labels, MeanStructure, swaps
from faultcli.recover.mixture.gaussians import Array, Fit


@dataclass(frozen=True)
class PartNaming:
    """Names for components where classes may be missing.

    The mean and the spread of a window's logits depend on which classes it holds. So it is the means as they come that
    are compared with the clean model's, and an offset that damage gave a logit, the same for all classes, is left out.

    Args:
        law: how damage moves class means, in clean spreads (`DamageLaw.places`).
        volumes: what damage leaves of the classes' volumes.
        distances: what it leaves of the distances between them.
        spread: [K], of the window's logits, in clean spreads.
    """

    law: MeanStructure
    volumes: VolumeLaw
    distances: DistanceLaw
    spread: Array

    def agreement(self, means: Array, labels: Labels, metric: Array | None = None) -> Array:
        """Return how well the law explains means under namings; see `MeanStructure.agreement`.

        Args:
            means: [C, K], of components, in spreads of the window from its mean.
            labels: [M, C], in each row the classes of the components.
            metric: [M, C, C], what `metric` returns for these labels, if it is known.

        Returns:
            [M], −(C − 1) K / 2 · log(1 − ρ²); ρ after generalised least squares for the offsets, so that C = 1 explains
            nothing.
        """
        metric = self.metric(labels) if metric is None else metric
        moved = means * self.spread
        inner, clean = moved @ self.law.logit_precision, self.law.means @ self.law.logit_precision @ self.law.means.T
        towards = (inner @ self.law.means.T)[np.arange(len(means))[:, None], labels[:, None, :]]
        along = (metric * towards).sum(axis=(1, 2))
        size = metric.reshape(len(labels), -1) @ (inner @ moved.T).ravel()
        total = (metric * clean[labels[:, :, None], labels[:, None, :]]).sum(axis=(1, 2))
        squared = np.maximum(along, 0) ** 2 / np.maximum(size * total, np.finfo(float).tiny)
        freedom = (len(means) - 1) * means.shape[1]
        result: Array = -0.5 * freedom * np.log(np.maximum(1 - squared, 1e-12))
        return result

    def metric(self, labels: Labels) -> Array:
        """Return the inverse covariance [M, C, C] of the noise between the classes of each naming, blind to offsets."""
        covariances = self.law.class_covariance[labels[:, :, None], labels[:, None, :]]
        inverse = np.asarray(np.linalg.inv(covariances), dtype=np.float64)
        ones = inverse.sum(axis=2)
        inverse -= ones[:, :, None] * ones[:, None, :] / ones.sum(axis=1)[:, None, None]
        return inverse

    def name(self, fit: Fit, votes: Array) -> tuple[Labels, float]:
        """Return the class of every component, and how well means, volumes and distances agree with that: the best that
        is reached, by swapping two names and by taking one that is free, from the votes [C, K] of the rows and from the
        clean means' directions."""
        from scipy.optimize import linear_sum_assignment

        classes, means, clean = len(self.spread), fit.means, self.law.means
        towards = means @ (clean / np.maximum(np.linalg.norm(clean, axis=1), 1e-12)[:, None]).T
        towards /= np.maximum(np.linalg.norm(means, axis=1), 1e-12)[:, None]
        starts = sorted({tuple(int(c) for c in linear_sum_assignment(-gain)[1]) for gain in (votes, towards)})
        found = _Traces(
            means,
            log_volumes(fit.covariances),
            FoundDistances.of(means, fit.covariances, fit.posterior.sum(axis=1, dtype=np.float64)),
        )
        climb = self._climb if len(means) < classes else self._climb_with_all
        climbed = [climb(found, np.array(start)) for start in starts]
        return max(climbed, key=lambda found: found[1])

    def _climb_with_all(self, found: _Traces, labels: Labels) -> tuple[Labels, float]:
        """Climb where no class is missing: what the classes' noise has in common is the same in every naming."""
        less = (len(labels) - 1) / len(labels)  # as `agreement` counts
        of_all = self.volumes.of_all(found.volumes)

        def also(components: Labels) -> Array:
            distances = self.distances.agreement(found.distances, np.argsort(components, axis=1))
            result: Array = (of_all(components) + distances) / less
            return result

        components, agreement = self.law.without_offsets.climb(found.means * self.spread, np.argsort(labels), also)
        return np.argsort(components), less * agreement

    def _climb(self, found: _Traces, labels: Labels) -> tuple[Labels, float]:
        means, own = found.means, self.metric(labels[None])
        best = float((self.agreement(means, labels[None], own) + self._also(found, labels[None]))[0])
        pairs = swaps(len(labels))
        while True:
            swapped, changed = labels[pairs], _changed(labels, len(self.spread))
            tried = np.concatenate([swapped, changed])
            among_the_same = own[0][pairs[:, :, None], pairs[:, None, :]]
            scores = np.concatenate([self.agreement(means, swapped, among_the_same), self.agreement(means, changed)])
            scores += self._also(found, tried)
            top = int(scores.argmax())
            if not scores[top] > best + 1e-9:  # NaN is no gain
                return labels, best
            labels, best = tried[top], float(scores[top])
            own = self.metric(labels[None])

    def _also(self, found: _Traces, labels: Labels) -> Array:
        """Return how well volumes and distances agree with namings [M, C]."""
        result: Array = self.volumes.agreement(found.volumes, labels)
        result += self.distances.agreement(found.distances, labels)
        return result


@dataclass(frozen=True)
class _Traces:
    """What names are given by: means [C, K], log volumes [C] and distances of components."""

    means: Array
    volumes: Array
    distances: FoundDistances


def _changed(labels: Labels, classes: int) -> Labels:
    """Return namings [M, C] with one name changed for one that is free."""
    free = np.setdiff1d(np.arange(classes), labels)
    changed = np.tile(labels, (len(free) * len(labels), 1))
    changed[np.arange(len(changed)), np.tile(np.arange(len(labels)), len(free))] = np.repeat(free, len(labels))
    return changed
