"""Which classes a window holds, and how much of each.

A mixture that must find every class cuts those that are there in two where others are missing, and the law of the
damage does not explain the means of such halves. So the two closest components are made one, again and again, with the
components' weights fitted, and of all numbers of classes the one is taken whose named means the law explains best.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.mixture.cluster_matching import Labels, MeanStructure
from faultcli.recover.mixture.gaussians import Array, Fit, Rows

MOST_COUNTED = 20  # classes; with more, all are taken to be there: there are too many namings of a part of them
_LIKELIHOOD_WEIGHT = 0.01  # of the window's rows beside the law of the damage: a cut class is always a bit likelier
_ROUNDS = 5  # of expectation maximisation after two components became one
_HOPELESS = 10.0  # below the best score: the search ends
_FEWEST_CLASSES = 2
_SMALLEST = 1e-3  # variance of a clean logit over the classes that are there


@dataclass(frozen=True)
class Present:
    """The classes of a window: component c of the fit is class `labels[c]`; `score` is comparable between them."""

    fit: Fit
    labels: Labels
    score: float


@dataclass(frozen=True)
class PartNaming:
    """Names for components where classes may be missing.

    The damaged logits' mean and spread over a window are those of the classes in it, so both are compared with the
    clean model's over the same classes, at the same shares.

    Args:
        structure: how damage moves class means.
        within: [K], variance of the clean standardised logits within classes.
    """

    structure: MeanStructure
    within: Array

    def agreement(self, means: Array, shares: Array, labels: Labels) -> Array:
        """Return how well the law explains means under namings; see `MeanStructure.agreement`.

        Args:
            means: [C, K], of components, in spreads of the window from its mean.
            shares: [C], of the components.
            labels: [M, C], in each row the classes of the components.

        Returns:
            [M], −(C − 1) K / 2 · log(1 − ρ²); ρ is centred, so that C = 1 explains nothing.
        """
        law = self.structure
        clean = law.means[labels]  # [M, C, K]
        centre = np.einsum("c,mck->mk", shares, clean)
        variance = np.einsum("c,mck->mk", shares, clean**2) - centre**2 + self.within
        moved = np.sqrt(np.maximum(variance, _SMALLEST))[:, None, :] * means
        clean = clean - centre[:, None, :]
        covariance = np.linalg.inv(law.class_precision)
        metric = np.linalg.inv(covariance[labels[:, :, None], labels[:, None, :]])
        in_classes, in_logits = metric @ moved, moved @ law.logit_precision
        along = ((metric @ clean) * in_logits).sum(axis=(1, 2))
        size = (in_classes * in_logits).sum(axis=(1, 2))
        total = ((metric @ clean) * (clean @ law.logit_precision)).sum(axis=(1, 2))
        squared = np.maximum(along, 0) ** 2 / np.maximum(size * total, np.finfo(float).tiny)
        freedom = (len(means) - 1) * means.shape[1]
        result: Array = -0.5 * freedom * np.log(np.maximum(1 - squared, 1e-12))
        return result

    def name(self, means: Array, shares: Array, votes: Array) -> tuple[Labels, float]:
        """Return the class of every component, and the agreement: the best that is reached, by swapping two names and
        by taking one that is free, from the votes [C, K] of the rows and from the clean means' directions."""
        from scipy.optimize import linear_sum_assignment

        clean = self.structure.means
        towards = means @ (clean / np.maximum(np.linalg.norm(clean, axis=1), 1e-12)[:, None]).T
        towards /= np.maximum(np.linalg.norm(means, axis=1), 1e-12)[:, None]
        starts = sorted({tuple(int(c) for c in linear_sum_assignment(-gain)[1]) for gain in (votes, towards)})
        climbed = [self._climb(means, shares, np.array(start)) for start in starts]
        return max(climbed, key=lambda found: found[1])

    def _climb(self, means: Array, shares: Array, labels: Labels) -> tuple[Labels, float]:
        best = float(self.agreement(means, shares, labels[None])[0])
        while True:
            candidates = _neighbours(labels, len(self.within))
            scores = self.agreement(means, shares, candidates)
            top = int(scores.argmax())
            if not scores[top] > best + 1e-9:  # NaN is no gain
                return labels, best
            labels, best = candidates[top], float(scores[top])


def _neighbours(labels: Labels, classes: int) -> Labels:
    """Return namings [M, C] with two names swapped, or one changed for one that is free."""
    found = []
    for i, j in itertools.combinations(range(len(labels)), 2):
        row = labels.copy()
        row[i], row[j] = row[j], row[i]
        found.append(row)
    for free in sorted(set(range(classes)) - set(labels.tolist())):
        for i in range(len(labels)):
            row = labels.copy()
            row[i] = free
            found.append(row)
    return np.array(found, dtype=np.int64).reshape(-1, len(labels))


def present_classes(rows: Rows, fit: Fit, raw: NDArray[np.int64], naming: PartNaming) -> Present:
    """Return the classes that a window holds.

    Args:
        rows: the window, standardised over itself.
        fit: of one component for every class, in the order of the classes.
        raw: [n], the top class of every row's raw logits, which vote for names.
        naming: how components are named.
    """
    classes = len(fit.means)
    votes = np.eye(classes)[raw]

    def look(found: Fit) -> Present:
        shares = found.posterior.mean(axis=1)
        labels, agreement = naming.name(found.means, shares, found.posterior @ votes)
        likelihood = _LIKELIHOOD_WEIGHT * len(raw) * float(found.log_likelihood)
        return Present(found, labels, likelihood + agreement)

    found = best = look(rows.fit(fit.posterior, _ROUNDS))
    while len(found.labels) > _FEWEST_CLASSES and found.score > best.score - _HOPELESS:
        one, other = found.fit.closest()
        posterior = found.fit.posterior
        merged = np.concatenate([np.delete(posterior, [one, other], axis=0), [posterior[one] + posterior[other]]])
        found = look(rows.fit(merged, _ROUNDS))
        best = max(best, found, key=lambda present: present.score)
    return best
