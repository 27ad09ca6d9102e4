"""Which cluster is which class: how damage moves the class means of the logits, learned from damaged copies.

A mixture that is fitted without labels finds clusters, and its likelihood does not change when two of them swap names.
Under damage of a known law the class means still move in a recognisable way: U = r·U₀ + noise, with U the class means
of the standardised logits (rows classes, columns logits), U₀ those of the clean model, 0 ≤ r ≤ 1 what is left of them,
and noise that is matrix normal, with one covariance between classes (classes that look alike move together) and one
between logits. Names are given so that this law explains the means best.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Also = Callable[[Labels], Array]  # what else speaks for namings [M, K], [M]

SHRINKAGE = 0.3  # of both covariances towards the identity: there are few damaged copies to learn them from
_FLIP_FLOPS = 5
_LEFT = (0.3, 0.8)  # share of the class means' squares that is still clean, in what is drawn
_THREE_CYCLES_UP_TO = 12  # classes; above, only swaps are tried: there are K³/3 cycles


@dataclass(frozen=True)
class MeanStructure:
    """Where damage of a law leaves the class means.

    Attributes:
        means: [K, K], class means of the clean standardised logits.
        class_precision: [K, K], inverse covariance of the noise between classes, of mean diagonal about 1.
        logit_precision: [K, K], the same between logits.
    """

    means: Array
    class_precision: Array
    logit_precision: Array

    @cached_property
    def class_covariance(self) -> Array:
        """[K, K], of the noise between classes."""
        return _inverse(self.class_precision)

    @cached_property
    def without_offsets(self) -> MeanStructure:
        """The same, blind to an offset of a logit that all classes share; its class precision is singular."""
        ones = self.class_precision.sum(axis=1)
        return replace(self, class_precision=self.class_precision - np.outer(ones, ones) / ones.sum())

    @cached_property
    def _moved_precisions(self) -> list[Array]:
        """The class precision, every move of names made in it instead: [M, K · K] for each kind of moves."""
        back = [np.argsort(kind, axis=1) for kind in _moves(len(self.means))]
        return [self.class_precision[at[:, :, None], at[:, None, :]].reshape(len(at), -1) for at in back]

    @cached_property
    def _factors(self) -> tuple[Array, Array]:
        between, within = (np.linalg.cholesky(c) for c in (self.class_covariance, _inverse(self.logit_precision)))
        return np.asarray(between, dtype=np.float64), np.asarray(within, dtype=np.float64)

    @classmethod
    def learn(cls, means: Array, damaged: Sequence[Array], shrinkage: float = SHRINKAGE) -> MeanStructure:
        """Estimate both covariances by turns (Dutilleul 1999) from class means of damaged copies, each [K, K].

        Every copy counts alike, however far its damage moved the means. Without copies both are the identity.

        Args:
            means: [K, K], of the clean model.
            damaged: of the copies.
            shrinkage: of the covariance between classes towards the identity, 0 to 1.
        """
        classes = len(means)
        class_precision = logit_precision = np.eye(classes)
        noise = []
        for moved in damaged:
            rest = moved - _overlap(moved, means) * means
            size = float(np.sqrt((rest * rest).mean()))
            if size > 0:
                noise.append(rest / size)
        if noise:
            stack = np.stack(noise)
            for _ in range(_FLIP_FLOPS):
                class_precision = _precision(np.einsum("tik,kl,tjl->ij", stack, logit_precision, stack), shrinkage)
                logit_precision = _precision(np.einsum("tik,ij,tjl->kl", stack, class_precision, stack), SHRINKAGE)
        return cls(means, class_precision, logit_precision)

    def agreement(self, means: Array, labels: Labels) -> Array:
        """Return how well the law explains means under namings: a log-likelihood, up to a constant.

        Args:
            means: [K, K], cluster means of standardised logits.
            labels: [M, K], in each row the cluster that is class 0, 1, …

        Returns:
            [M], −K²/2 · log(1 − ρ²), ρ the correlation with the clean means in the noise's metric, 0 if negative.
        """
        towards, among = self._products(means)
        count = len(means)
        along = towards.ravel().take(count * np.arange(count) + labels).sum(axis=1)
        pairs = (count * labels[:, :, None] + labels[:, None, :]).reshape(len(labels), -1)
        return self._agreement(along, among.ravel().take(pairs) @ self.class_precision.ravel())

    def _products(self, means: Array) -> tuple[Array, Array]:
        """Return the inner products [class, cluster] of clean means with clusters', and those [cluster, cluster]."""
        inner = means @ self.logit_precision
        return self.class_precision @ self.means @ inner.T, means @ inner.T

    def _agreement(self, along: Array, size: Array) -> Array:
        squared = np.maximum(along, 0) ** 2 / np.maximum(size * self._size, np.finfo(float).tiny)
        result: Array = -0.5 * self.means.size * np.log(np.maximum(1 - squared, 1e-12))
        return result

    @cached_property
    def _size(self) -> float:
        return self._inner(self.class_precision, self.means, self.means)

    def name_clusters(self, means: Array, also: Also) -> tuple[Labels, float]:
        """Return for every class the cluster that is it, and the agreement: the best that swaps and 3-cycles reach,
        from the naming that came in and from the best linear assignment. `also`: see `climb`."""
        from scipy.optimize import linear_sum_assignment

        classes = len(means)
        towards, _ = self._products(means)
        starts = sorted({tuple(range(classes)), tuple(int(c) for c in linear_sum_assignment(-towards)[1])})
        climbed = [self.climb(means, np.array(start), also) for start in starts]
        return max(climbed, key=lambda found: found[1])

    def climb(self, means: Array, labels: Labels, also: Also) -> tuple[Labels, float]:
        """Return where swaps and 3-cycles lead from a naming [K], and the agreement there, with what `also` speaks for
        namings [M, K].

        Each takes one product of matrices for all moves: to move names is to move the class precision's rows and
        columns the other way, which is the same for all means.
        """
        towards, among = self._products(means)
        best = float((self.agreement(means, labels[None]) + also(labels[None]))[0])
        kinds = _moves(len(means))
        kind, rows = 0, np.arange(len(means))
        while kind < len(kinds):  # 3-cycles are tried where no swap helps: there are many of them
            along = towards[rows, labels[kinds[kind]]].sum(axis=1)
            scores = self._agreement(along, self._moved_precisions[kind] @ among[np.ix_(labels, labels)].ravel())
            scores += also(labels[kinds[kind]])
            top = int(scores.argmax())
            if scores[top] > best + 1e-9:  # NaN is no gain
                labels, best, kind = labels[kinds[kind][top]], float(scores[top]), 0
            else:
                kind += 1
        return labels, best

    def completed(self, means: Array, labels: Labels) -> tuple[Array, Array]:
        """Return the means [K, K] of all classes, those [C, K] of the classes `labels` and where the law expects the
        others, given these; and [K, K, K], the covariance of what is expected: 0 for classes that are given.

        It is the conditional law of a matrix normal (universal kriging). What is left of the clean means, an offset of
        every logit and the scale of the noise are those of the given means, by generalised least squares.
        """
        others = np.setdiff1d(np.arange(len(self.means)), labels)
        covariance, clean = self.class_covariance, self.means[labels]
        metric = _inverse(covariance[np.ix_(labels, labels)])
        ones = metric.sum(axis=1)
        contrasts = metric - np.outer(ones, ones) / ones.sum()  # blind to offsets
        size = self._inner(contrasts, clean, clean)
        left = max(0.0, self._inner(contrasts, means, clean)) / size if size > 0 else 0.0
        noise = means - left * clean
        offset = ones @ noise / ones.sum()
        noise = noise - offset
        slopes = covariance[np.ix_(others, labels)] @ metric
        scale = self._inner(metric, noise, noise) / max(1, noise.size - len(offset))
        unknown = np.diag(covariance[np.ix_(others, others)] - slopes @ covariance[np.ix_(labels, others)])
        unknown = unknown + (1 - slopes.sum(axis=1)) ** 2 / ones.sum()  # of the offset
        result, spread = np.empty_like(self.means), np.zeros((len(self.means), *self.means.shape))
        result[labels] = means
        result[others] = left * self.means[others] + offset + slopes @ noise
        spread[others] = scale * unknown[:, None, None] * np.linalg.inv(self.logit_precision)
        return result, spread

    def explained(self, means: Array, labels: Labels) -> float:
        """Return ρ², the part of the means [C, K] of the classes `labels` that is the clean means', 0 to 1."""
        metric, clean = _inverse(self.class_covariance[np.ix_(labels, labels)]), self.means[labels]
        size = self._inner(metric, means, means) * self._inner(metric, clean, clean)
        return max(0.0, self._inner(metric, means, clean)) ** 2 / max(size, float(np.finfo(float).tiny))

    def _inner(self, metric: Array, one: Array, other: Array) -> float:
        return float(((metric @ one) * (other @ self.logit_precision)).sum())

    def draw(self, size: float, random: np.random.Generator) -> Array:
        """Return class means [K, K], of root mean square `size`, as damage of this law may leave them."""
        between, within = self._factors
        noise = between @ random.standard_normal(self.means.shape) @ within.T
        left = random.uniform(*_LEFT)
        result: Array = size * (np.sqrt(left) * _unit(self.means) + np.sqrt(1 - left) * _unit(noise))
        return result


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _unit(means: Array) -> Array:
    result: Array = means / np.sqrt((means**2).mean())
    return result


def _overlap(moved: Array, means: Array) -> float:
    return float((moved * means).sum() / (means * means).sum())


def _precision(scatter: Array, shrinkage: float) -> Array:
    classes = len(scatter)
    covariance = scatter * (classes / np.trace(scatter))
    return np.linalg.inv((1 - shrinkage) * covariance + shrinkage * np.eye(classes))


def swaps(classes: int) -> Labels:
    """Return every swap of two, as permutations [M, K]."""
    return _moves(classes)[0]


@cache
def _moves(classes: int) -> list[Labels]:
    """Return every swap of two and, for few classes, every cycle of three, as permutations [M, K]."""
    pairs, cycles = [], []
    for i, j in itertools.combinations(range(classes), 2):
        row = list(range(classes))
        row[i], row[j] = j, i
        pairs.append(row)
    if 3 <= classes <= _THREE_CYCLES_UP_TO:
        for i, j, k in itertools.combinations(range(classes), 3):
            for first, second in ((j, k), (k, j)):
                row = list(range(classes))
                row[i], row[first], row[second] = first, second, i
                cycles.append(row)
    return [np.array(rows, dtype=np.int64).reshape(-1, classes) for rows in (pairs, cycles) if rows]
