"""Hundreds of classes: biases of the logits, from a window that holds few inputs of any class or none.

A mixture cannot be fitted there, and the spread of a logit over some sixty inputs is mostly noise. What such a window
does tell:

- the mean of every logit. The part of it that the clean model has, too, comes back; damage takes the rest of the
  meaning out of the clean means, so it comes back in part only;
- which classes are given too often. Biases are fitted until the probabilities, over the window, add up to the class mix
  of training as far as a penalty on large biases lets them (class-marginal matching, as for label shift: Saerens,
  Latinne and Decaestecker 2002, with the logits and not the mix as what has moved).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.align import SMALLEST_WINDOW, Alignment
from faultcli.recover.base import (
    NOTHING_TO_LEARN,
    Array,
    Card,
    Correction,
    Corrector,
    CorrectorError,
    identity,
    usable_rows,
)
from faultcli.recover.class_mixes import unfair_windows
from faultcli.recover.damaged_logits import LabelledLogits
from faultcli.recover.mixture.gaussians import log_normalised, softmax
from faultcli.recover.parts import array, number
from faultcli.recover.reference import Reference, check_finite

_WARMTH = 1.5  # temperature that classes are counted at
_PENALTY = 0.05  # on the square of a bias, per row that a class is counted in
_DAMPED = 0.7  # part of a Newton step that is gone
_ROUNDS = 40
_NEAR = 1e-3  # change of a bias that ends the rounds
_COUNTED = 2000  # rows of a window that classes are counted in
_JUDGED = 2000  # labelled inputs per window in training
_DRAWS = 2  # windows per damaged copy in training
_CLEAN_WINDOWS = 12
_MARGIN = 4.0  # standard deviations between windows of the clean model's severity, above the mean
_LESS_SHARP = 2.0  # standard deviations between windows of the clean model's sharpness, below the mean
_BEYOND = 2.0  # times the severest window of training: up to here a window is believed
_WINDOWS_PER_STEP = 8
_MOST_STEPS = 5
_SURELY = 2.0  # standard errors over copies that a gain has to be
_FOLDS = 3  # of the inputs that are judged, where few others are left
_PER_CLASS = 2  # inputs of a window, from which on windows that lack classes are looked at in training, too
_HEATS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


@dataclass(frozen=True)
class Way:
    """One way to correct.

    `kept`: part of the clean mean that comes back. `evened`: power of the spreads of the window's logits that these
    are divided by. `share`: how far to go from the raw logits to the corrected ones. `aligned`: in place of all this,
    the clean mean and spread come back as `align` gives them, and classes are not counted.
    """

    kept: float = 1.0
    evened: float = 0.0
    share: float = 1.0
    aligned: bool = False

    @property
    def name(self) -> str:
        if self.aligned:
            return "align"
        share = f"{self.share:g} of " if self.share < 1 else ""
        return f"{share}means and marginals" + (f", spread^{self.evened:g}" if self.evened else "")


# The first: leave alone. The place of a way is what corrector files hold: new ones come last.
WAYS = (Way(share=0.0), Way(0.6, share=0.5), Way(0.6), Way(0.6, 0.3), Way(0.3, 0.3), Way(aligned=True))


@dataclass(frozen=True)
class ManyClasses(Corrector):
    """Means and class marginals over a window, as far as that helped on copies of this severity in training.

    Attributes:
        upper: [S], ascending, the severity up to which a step goes; the last one is where windows stop being believed.
        ways: [S], the place in `WAYS` of what did best there.
        heats: [S], temperatures that corrected logits are divided by.
        gains: [S], gain in top-1 accuracy to be expected, from copies that the way was not chosen by.
        intact_below: severity up to which the model counts as intact.
        sharp_above: sharpness from which on it does, too: an intact model whose window has another class mix.
    """

    name: ClassVar[str] = "many"
    summary: ClassVar[str] = "for many classes: give logits their means and classes their shares back, over a window"

    reference: Reference
    upper: Array
    ways: Array
    heats: Array
    gains: Array
    intact_below: float
    sharp_above: float

    @property
    def smallest_window(self) -> int:
        return SMALLEST_WINDOW

    def adapt(self, window: Array) -> Correction:
        severity = _severity(window, self.reference)
        if severity <= self.intact_below:
            return identity("the logits lie where those of the clean model lie", 0.0)
        if _sharpness(window) >= self.sharp_above:
            return identity("the answers are as sharp as those of the clean model", 0.0)
        if severity > self.upper[-1]:
            return identity("worse damage, or another class mix, than any in training", severity)
        step = int(np.searchsorted(self.upper, severity))
        way = WAYS[int(self.ways[step])]
        if not way.share:
            return identity("nothing helps surely at this severity", severity)
        heat, numbers = float(self.heats[step]), (2 if way.evened or way.aligned else 1) * self.reference.classes
        corrected = _corrected(way, window, self.reference)
        gain = float(self.gains[step])
        return Correction(lambda z: corrected(z) / heat, numbers, way.name, predicted_gain=gain, severity=severity)

    @classmethod
    def train(cls, data: LabelledLogits, card: Card, window: int) -> Self:
        """Learn from which severity on which way helps, from windows of damaged copies.

        Args:
            data: at least twice as many inputs as `window`.
            card: what it is trained for; its seed is that of the windows.
            window: inputs per window in training; use about as many.

        Raises:
            CorrectorError: too few inputs, or no damaged copy with a usable window.
        """
        data.check_windows(window)
        random, labels = np.random.default_rng(card.seed), data.labels.numpy()
        clean = data.clean.double().numpy()
        check_finite(clean)
        reference = _reference(clean, labels)
        mixed = window >= _PER_CLASS * data.classes
        cases: list[_Case] = []
        for number_, copy in enumerate(data.copies):
            logits = copy.logits.double().numpy()
            for _ in range(_DRAWS):
                order = random.permutation(len(labels))
                rows, rest = usable_rows(logits[order[:window]]), order[window:]
                if len(rows) < SMALLEST_WINDOW:
                    continue
                others = np.concatenate([order[:window], rest[_JUDGED:]])
                half = others[next(unfair_windows(labels[others], window, random))] if mixed else others[:0]
                tried = [
                    _tried((rows, usable_rows(logits[half])), logits[judged], labels[judged], _reference(*known))
                    for judged, known in _folds(rest, np.isfinite(logits).all(axis=1), clean, labels)
                ]
                if tried:
                    means = (np.mean(parts, axis=0) for parts in zip(*tried, strict=True))
                    cases.append(_Case(number_, _severity(rows, reference), *means))
        if not cases:
            raise CorrectorError("no damaged copy has usable logits to learn from", NOTHING_TO_LEARN)
        healthy = [clean[random.permutation(len(labels))[:window]] for _ in range(_CLEAN_WINDOWS)]
        apart = (len(labels) + window) / (len(labels) - window)  # windows of new inputs scatter more than these parts
        moved = apart * np.array([_severity(rows, reference) for rows in healthy])
        if mixed:
            healthy += [clean[rows] for _ in healthy for rows in unfair_windows(labels, window, random)]
        sharp = np.array([_sharpness(rows) for rows in healthy])
        intact = float(moved.mean() + _MARGIN * moved.std())
        return cls(reference, *_steps(cases), intact, float(sharp.mean() - _LESS_SHARP * sharp.std()), card=card)

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        steps = {
            "steps.upper": self.upper,
            "steps.ways": self.ways,
            "steps.heats": self.heats,
            "steps.gains": self.gains,
        }
        return self.reference.arrays() | steps, {"intact_below": self.intact_below, "sharp_above": self.sharp_above}

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        steps = arrays["steps.upper"].size
        upper, ways = array(arrays, "steps.upper", steps), array(arrays, "steps.ways", steps)
        if not steps or not (np.diff(upper) >= 0).all() or not np.isin(ways, np.arange(len(WAYS))).all():
            raise ValueError("its steps of severity contradict each other")
        heats, gains = array(arrays, "steps.heats", steps, positive=True), array(arrays, "steps.gains", steps)
        reference = Reference.from_arrays(arrays)
        ends = number(values, "intact_below"), number(values, "sharp_above")
        return cls(reference, upper, ways, heats, gains, *ends, card=card)


def class_mix(counts: NDArray[np.int64]) -> Array:
    """Return the class mix [K] that counts tell: near the counts where these are many, else near uniform.

    It is the mean of the posterior under a Dirichlet prior of the concentration that makes the counts likeliest.
    """
    from scipy.special import gammaln

    n, k = counts.sum(), len(counts)
    pseudo = np.geomspace(0.01, 1000, 41)
    likelihood = [gammaln(a * k) - gammaln(n + a * k) + (gammaln(counts + a) - gammaln(a)).sum() for a in pseudo]
    best = pseudo[int(np.argmax(likelihood))]
    result: Array = (counts + best) / (n + best * k)
    return result


def marginal_biases(scores: Array, mix: Array) -> Array:
    """Return biases [K] with which the probabilities of rows [n, K] add up to n · `mix`, but for the penalty.

    A Newton step per class and round, damped; classes are taken to be independent in it.
    """
    biases = np.zeros(scores.shape[1])
    for _ in range(_ROUNDS):
        p = softmax((scores + biases) / _WARMTH)
        slope = p.sum(axis=0) - len(scores) * mix + _PENALTY * _WARMTH * biases
        step = _DAMPED * slope / ((p * (1 - p)).sum(axis=0) / _WARMTH + _PENALTY * _WARMTH)
        biases -= step
        if np.abs(step).max() < _NEAR:
            break
    return biases


def _severity(window: Array, reference: Reference) -> float:
    """Return how far the means of a window lie from the clean ones: about 1 for the clean model, whatever the size."""
    moved = (window.mean(axis=0) - reference.mean) / reference.spread
    return float((moved**2).mean() * len(window))


def _sharpness(window: Array) -> float:
    """Return by how many spreads the largest logit of a row lies above the row's mean, on average."""
    above = window.max(axis=1) - window.mean(axis=1)
    return float((above / np.maximum(window.std(axis=1), 1e-9)).mean())


def _corrected(way: Way, window: Array, reference: Reference) -> Callable[[Array], Array]:
    """Return what a way makes of logits, from a window."""
    if way.aligned:
        return Alignment.between(window, reference)
    if not way.share:
        return lambda z: z
    mean, scale = window.mean(axis=0), np.ones(window.shape[1])
    if way.evened:
        spread = np.maximum(window.std(axis=0), 1e-9)
        scale = np.exp(-way.evened * (np.log(spread) - np.log(spread).mean()))
    base = way.kept * reference.mean - mean * scale
    biases = base + marginal_biases(window[:_COUNTED] * scale + base, reference.prior)
    share = way.share
    slope, offset = 1 + share * (scale - 1), share * biases
    return lambda z: z * slope + offset


@dataclass(frozen=True)
class _Case:
    """One window of one damaged copy in training.

    `gains`: [W], of every way. `chosen_by`: [W], these and those from a window of half of the classes, on average.
    `losses`: [W, H], by temperature.
    """

    copy: int
    severity: float
    gains: Array
    chosen_by: Array
    losses: Array


def _folds(
    rest: NDArray[np.int64], usable: NDArray[np.bool_], clean: Array, labels: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], tuple[Array, NDArray[np.int64]]]]:
    """Yield rows to judge by, and clean logits and labels of the other rows of `rest`.

    What the clean logits look like is never taken from inputs that are judged: with few inputs per class it tells which
    classes these are of.
    """
    for judged in np.array_split(rest[:_JUDGED], 1 if len(rest) > 2 * _JUDGED else _FOLDS):
        known = np.setdiff1d(rest, judged)
        if usable[judged].any():
            yield judged[usable[judged]], (clean[known], labels[known])


def _tried(
    windows: tuple[Array, Array], logits: Array, labels: NDArray[np.int64], reference: Reference
) -> tuple[Array, Array, Array]:
    """Try every way on labelled inputs, from a window as in training and one of half of the classes; see `_Case`.

    The second may be too small to be one; then it counts for nothing.
    """
    at = np.arange(len(labels))
    right, losses = np.zeros((2, len(WAYS))), []
    fair, half = windows
    for number_, way in enumerate(WAYS):
        scores = _corrected(way, fair, reference)(logits)
        losses.append([-float(log_normalised(scores / heat)[at, labels].mean()) for heat in _HEATS])
        right[0, number_] = (scores.argmax(axis=1) == labels).mean()
        if len(half) >= SMALLEST_WINDOW:
            scores = _corrected(way, half, reference)(logits)
        right[1, number_] = (scores.argmax(axis=1) == labels).mean()
    gains = right - right[:, :1]
    return gains[0], gains.mean(axis=0), np.array(losses)


def _reference(clean: Array, labels: NDArray[np.int64]) -> Reference:
    """Return means, spreads and class mix of clean logits; class means cannot be told."""
    mix = class_mix(np.bincount(labels, minlength=clean.shape[1]))
    return Reference(clean.mean(axis=0), np.maximum(clean.std(axis=0), 1e-9), mix)


def _steps(cases: Sequence[_Case]) -> tuple[Array, Array, Array, Array]:
    """Cut windows, sorted by severity, into steps; return their upper ends, ways, temperatures and expected gains."""
    ordered = sorted(cases, key=lambda case: case.severity)
    count = max(1, min(_MOST_STEPS, len(ordered) // _WINDOWS_PER_STEP))
    groups = [[ordered[i] for i in part] for part in np.array_split(np.arange(len(ordered)), count)]
    found = []
    for at, group in enumerate(groups):
        table, copies = np.stack([case.gains for case in group]), np.array([case.copy for case in group])
        chosen_by = np.stack([case.chosen_by for case in group])
        best = int(chosen_by.mean(axis=0).argmax())
        each = []
        for copy in np.unique(copies):
            own = copies == copy
            taken = best if own.all() else int(chosen_by[~own].mean(axis=0).argmax())
            each.append(table[own, taken].mean())
        gain, error = (
            float(np.mean(each)),
            float(np.std(each, ddof=1) / np.sqrt(len(each))) if len(each) > 1 else np.inf,
        )
        if gain <= _SURELY * error:
            best, gain = 0, 0.0
        heat = _HEATS[int(np.stack([case.losses[best] for case in group]).mean(axis=0).argmin())] if best else 1.0
        last = at + 1 == len(groups)
        upper = _BEYOND * group[-1].severity if last else (group[-1].severity + groups[at + 1][0].severity) / 2
        found.append((upper, best, heat, gain))
    upper, ways, heats, gains = np.array(found, dtype=np.float64).T
    return upper.copy(), ways.copy(), heats.copy(), gains.copy()
