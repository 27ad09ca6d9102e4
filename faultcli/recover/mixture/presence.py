"""Which classes a window holds, and how much of each.

A mixture that must find every class, each as often as in training, cuts those that come often in two, makes those one
that come rarely, and the law of the damage does not explain the means of such components. So fits of other class mixes
are looked for, and the one is taken that the window's likelihood and the law explain best together:

- from the raw answers, and from answers aligned for the class shares that were found last, again and again;
- with the two closest components made one, again and again;
- with a component cut in two, or two made one and another cut.

What is mostly one class is believed last: heavy damage gives most rows one class, whatever the window holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from faultcli.recover.mixture.cluster_matching import Labels
from faultcli.recover.mixture.gaussians import Array, Fit, Rows, fitted_weights
from faultcli.recover.mixture.part_naming import PartNaming

MOST_COUNTED = 20  # classes; with more, all are taken to be there: there are too many namings of a part of them
_SEARCHED = 1000  # rows of the window that fits are compared on; the one that is taken is fitted to all
_LIKELIHOOD, _HALF = 22.0, 100.0  # weight of the mean of a row beside the law of the damage, and the rows that get half
_ROUNDS, _FROM_ANSWERS, _MOVED, _LAST = 3, 8, 5, 15  # of expectation maximisation: when one was made of two; …
_HOPELESS = 20.0  # below the best score: no more components are made one
_FEWEST_CLASSES = 2
_FEWEST_ROWS, _FEWEST_PART = 5.0, 0.008  # of those searched, in a component: the larger of both
_PER_NAMING = 3.0  # taken off for the logarithm of the number of namings: of many, one agrees by chance
_SAME = 0.9  # of the rows
_CLEARLY = 1.0  # better, for a fit to be taken in place of one that was found before
_SURELY = 4.0  # better than the fit of the training mix, for another mix to be believed
_PER_SHARE = 60.0  # taken off for what the largest share has above the likely ones: heavy damage looks like that
_LIKELY, _MORE = 0.6, 0.3  # shares up to so much are likely, or so much more than the largest one of training
_APART = 0.1  # nats between the shares found and those of training, for it to be another mix
_SETTLED, _MOST_MOVES, _LIKELIEST = 5, 8, 4  # alignments; moves; how many of those tried at once are named


@dataclass(frozen=True)
class Present:
    """The classes of a window: component c of the fit is class `labels[c]`; `score` is comparable between them."""

    fit: Fit
    labels: Labels
    score: float

    def shares(self, classes: int) -> Array:
        """Return the share [K] of every class in the window."""
        found = np.zeros(classes)
        found[self.labels] = self.fit.posterior.mean(axis=1)
        return found

    def is_another_mix(self, first: Present, prior: Array) -> bool:
        """Return whether this is surely better than the first fit, and its shares lie apart from the prior [K]."""
        from scipy.special import rel_entr

        return self.score > first.score + _SURELY and float(rel_entr(self.shares(len(prior)), prior).sum()) > _APART


def present_classes(
    x: Array, fit: Fit, prior: Array, raw: Labels, naming: PartNaming, aligned_for: Callable[[Array], Labels]
) -> Present:
    """Return the classes that a window holds.

    Args:
        x: [n, K], the window, standardised over itself.
        fit: of one component for every class, in the order of the classes.
        prior: [K], the class mix of training.
        raw: [n], the top class of every row's raw logits, which vote for names.
        naming: how components are named.
        aligned_for: gives the top classes [n] of the rows once they are aligned for class shares [K].
    """
    search = _ClassMixes.of(x, raw, naming, aligned_for, prior)
    first = search.look(search.rows.fit(fit.posterior[:, :: search.every], _ROUNDS))
    settled = search.settled(raw)
    best = search.fewer(search.from_answers(first, raw, settled))
    if best.is_another_mix(first, prior) or not search.agree(settled, first):
        best = search.moved(best)
    if not best.is_another_mix(first, prior) and len(first.labels) == len(prior):
        return Present(fit, np.arange(len(fit.means)), first.score)
    whole = Rows(x, exact=False)
    start = whole.expect(best.fit.means, best.fit.covariances, fitted_weights(best.fit.posterior))
    return replace(best, fit=whole.fit(start.posterior, _LAST))


@dataclass(frozen=True)
class _ClassMixes:
    rows: Rows
    votes: Array
    every: int
    naming: PartNaming
    aligned_for: Callable[[Array], Labels]
    prior: Array

    @classmethod
    def of(
        cls, x: Array, raw: Labels, naming: PartNaming, aligned_for: Callable[[Array], Labels], prior: Array
    ) -> _ClassMixes:
        every = max(1, -(-len(x) // _SEARCHED))
        votes = np.eye(len(prior))[raw[::every]]
        return cls(Rows(x[::every], exact=False), votes, every, naming, aligned_for, prior)

    @property
    def classes(self) -> int:
        return len(self.prior)

    def look(self, fit: Fit) -> Present:
        """Name a fit's components, and say how well it explains window and damage, and how likely its mix is.

        Those of a few rows are dropped first: their means are where chance puts them, which may be where the law would.
        """
        many = fit.posterior.sum(axis=1) >= max(_FEWEST_ROWS, _FEWEST_PART * len(self.votes))
        if not many.all() and many.sum() >= _FEWEST_CLASSES:
            fit = self.rows.fit(fit.posterior[many], _ROUNDS)
        labels, agreement = self.naming.name(fit, fit.posterior @ self.votes)
        likelihood = _LIKELIHOOD * len(self.votes) / (len(self.votes) + _HALF) * float(fit.log_likelihood)
        chance = _PER_NAMING * (math.lgamma(self.classes + 1) - math.lgamma(self.classes - len(labels) + 1))
        likely = max(_LIKELY, float(self.prior.max()) + _MORE)
        unlikely = _PER_SHARE * max(0.0, float(fit.posterior.mean(axis=1).max()) - likely)
        return Present(fit, labels, likelihood + agreement - chance - unlikely)

    def settled(self, raw: Labels) -> Labels:
        """Return the answers [n] aligned for the class shares that they tell, again and again."""
        answers = raw
        for _ in range(_SETTLED):
            answers = self.aligned_for(np.bincount(answers, minlength=self.classes) / len(answers))
        return answers

    def agree(self, answers: Labels, present: Present) -> bool:
        """Return whether a fit gives nearly these answers, so that what is fitted to them would lead back to it."""
        own = present.labels[present.fit.posterior.argmax(axis=0)]
        return bool((answers[:: self.every] == own).mean() > _SAME)

    def from_answers(self, best: Present, raw: Labels, settled: Labels) -> Present:
        """Return the best of this, fits to raw and aligned answers, and to those aligned for the shares found last."""
        for answers in (raw, settled):
            best = self._better(best, self._started(answers, best))
        while (again := self._better(best, self._realigned(best))) is not best:
            best = again
        return best

    def fewer(self, best: Present) -> Present:
        """Return the best of this and of those with close components made one."""
        found = best
        while len(found.labels) > _FEWEST_CLASSES and found.score > best.score - _HOPELESS:
            found = self.look(self.rows.fit(merged(found.fit, *found.fit.closest()), _ROUNDS))
            best = max(best, found, key=lambda present: present.score)
        return best

    def moved(self, best: Present) -> Present:
        """Return where moves lead, as long as one is for the better."""
        for _ in range(_MOST_MOVES):
            tried = [self.rows.fit(starts, _MOVED) for starts in moves(self.rows.x, best.fit, self.classes)]
            likely = [fits.one(n) for fits in tried for n in np.argsort(-fits.log_likelihood)[:_LIKELIEST]]
            found = max([best, *map(self.look, likely), *self._realigned(best)], key=lambda present: present.score)
            again = self._better(best, [found])
            if again is best:
                break
            best = again
        return best

    def _realigned(self, present: Present) -> list[Present]:
        return self._started(self.aligned_for(present.shares(self.classes)), present)

    def _started(self, answers: Labels, present: Present) -> list[Present]:
        """Return the fit from answers; none where they lead back to one that is there."""
        some = answers[:: self.every]
        held = np.unique(some)
        if len(held) < _FEWEST_CLASSES or self.agree(answers, present):
            return []
        return [self.look(self.rows.fit((some == held[:, None]).astype(np.float64), _FROM_ANSWERS))]

    @staticmethod
    def _better(best: Present, others: list[Present]) -> Present:
        return next((one for one in others if one.score > best.score + _CLEARLY), best)


def merged(fit: Fit, one: int, other: int) -> Array:
    """Return responsibilities [C − 1, n] with two components made one, the last."""
    rest = np.delete(fit.posterior, [one, other], axis=0)
    return np.concatenate([rest, [fit.posterior[one] + fit.posterior[other]]])


def moves(x: Array, fit: Fit, classes: int) -> list[Array]:
    """Return responsibilities to go on from, [M, C + 1, n] and [M, C, n]: every component cut in two, if there are
    fewer than classes; and the two closest made one while a third is cut.

    A component is cut across the direction in which it is widest beside what all have in common.

    Args:
        x: [n, K], rows.
        fit: of C components to these.
        classes: the most components.
    """
    count, whole = len(fit.means), fit.posterior
    pooled = np.einsum("c,cij->ij", whole.mean(axis=1), fit.covariances)
    white = np.linalg.inv(np.linalg.cholesky(pooled))
    axes = np.linalg.eigh(white @ fit.covariances @ white.T)[1][:, :, -1] @ white
    above = ((fit.means * axes).sum(axis=1)[:, None] < (x @ axes.T).T).astype(whole.dtype)
    halves = np.stack([whole * above, whole * (1 - above)], axis=1)
    found = []
    if count < classes:
        found.append(np.stack([np.concatenate([np.delete(whole, n, axis=0), halves[n]]) for n in range(count)]))
    if count > _FEWEST_CLASSES:
        pair = fit.closest()
        one = whole[list(pair)].sum(axis=0, keepdims=True)
        thirds = [n for n in range(count) if n not in pair]
        cut = [np.concatenate([np.delete(whole, [*pair, n], axis=0), one, halves[n]]) for n in thirds]
        found.append(np.stack(cut))
    return found
