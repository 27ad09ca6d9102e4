"""The corrector that estimates how bad the damage is from unlabelled logits, and helps as far as that helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.adaptive.forecast import Forecast, expected_gain
from faultcli.recover.adaptive.policy import ALIGN, BLENDS, IDENTITY, Answers, Case, Policy, blend_name
from faultcli.recover.adaptive.trust import Trust
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
from faultcli.recover.mixture.corrector import FittedMixture
from faultcli.recover.mixture.law import DamageLaw, MovedClasses
from faultcli.recover.parts import array, number
from faultcli.recover.reference import MOST_CLASSES, Reference

_ROWS_PER_CLASS = 20  # of a window that a mixture is fitted to
_CLEARLY = 2.0  # times the shift of the clean model: damage worth aligning on a small window
_JUDGED = 2000  # labelled inputs per window in training
_CLEAN_WINDOWS = 8
_MARGIN = 4.0  # standard deviations between windows of the clean model's shift, above the mean
_STEPS = ("upper", "blends", "heats")  # what a policy is made of
_DRAWS = 2  # windows that are looked at per damaged copy in training
_FOLDS = 3  # of the damaged copies: each is looked at with a law of the damage that was learned from the others


@dataclass(frozen=True)
class Adaptive(Corrector):
    """Chooses by severity among identity, alignment, mixture and blends of them.

    - The logits lie where clean ones lie (whatever the class mix): leave them alone.
    - The classes that were found in the window are not those of the law of the damage: leave them alone, and say so.
    - Else the severity, the share of the window on which alignment and mixture disagree, picks the blend.

    Alignment and mixture are for the classes that the window holds; some may be missing.
    """

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "estimate the severity on a window and blend identity, alignment and mixture; no labels"

    reference: Reference
    law: DamageLaw | None  # None with more classes than a mixture takes
    policy: Policy
    intact_below: float  # `Reference.shift` up to which the model counts as intact
    trust: Trust | None  # None where there is no mixture
    forecast: Forecast

    @property
    def smallest_window(self) -> int:
        return SMALLEST_WINDOW

    def adapt(self, window: Array) -> Correction:
        shift = self.reference.shift(window)
        if shift <= self.intact_below:
            return identity("the logits lie where those of the clean model lie", 0.0)
        alignment = Alignment.between(window, self.reference)
        if self.law is not None and len(window) < _ROWS_PER_CLASS * self.reference.classes:
            reason = f"a mixture needs {_ROWS_PER_CLASS * self.reference.classes} inputs or more"
            if shift <= _CLEARLY * self.intact_below:
                return identity(f"{reason}, and the damage is too light to align so few", 0.0)
            return Correction(alignment, alignment.numbers, "align", reason)
        alignment, fitted = self._look(window, self.law)
        severity = _severity(window, alignment, fitted)
        if self.trust is not None and fitted is not None and self.trust.refuses(fitted.explained):
            return identity("the classes in the window cannot be told from each other with certainty", severity)
        weights, heat = self.policy.chosen(severity)
        if weights == IDENTITY:
            return identity("no blend helps surely at this severity", severity)

        def apply(logits: Array) -> Array:
            return _answers(logits, alignment, fitted).blended(weights) / heat

        numbers = (alignment.numbers if weights[1] else 0) + (fitted.numbers if fitted and weights[2] else 0)
        gain, interval = self.forecast.gain(expected_gain(window, apply(window)))
        return Correction(
            apply, numbers, blend_name(weights), predicted_gain=gain, predicted_interval=interval, severity=severity
        )

    @classmethod
    def train(cls, data: LabelledLogits, card: Card, window: int, seed: int) -> Self:
        """Learn the law of the damage, policy and thresholds from labelled logits of damaged copies.

        Every copy is looked at with a law of the damage that was learned from others, so that policy and thresholds are
        those for copies that are new.

        Args:
            data: at least twice as many inputs as `window`.
            card: what it is trained for.
            window: inputs per window in training; use about as many.
            seed: of the windows.

        Raises:
            CorrectorError: too few inputs, or no damaged copy with a usable window.
        """
        data.check_windows(window)
        random = np.random.default_rng(seed)
        labels = data.labels.numpy()
        clean = data.clean.double().numpy()
        reference = Reference.measure(clean, labels)
        moved = moved_classes(data, reference)
        law = law_of(reference, moved)
        laws = [law_of(reference, [moved[0], *_without(moved[1:], fold)]) for fold in range(_FOLDS)]
        draft = cls(reference, law, _NO_POLICY, 0.0, None, Forecast(), card=card)
        cases: list[Case] = []
        explained: dict[str, list[float]] = {}
        for copy, (fault, logits) in enumerate([("none", clean), *_usable_copies(data)]):
            own = copy - 1
            for_copy = law if own < 0 else laws[own % _FOLDS]
            found = []
            for _ in range(_DRAWS):
                order = random.permutation(len(labels))
                case, one = draft._try(copy, logits, order[:window], order[window:][:_JUDGED], labels, for_copy)
                cases.append(case)
                found.append(one)
            if own >= 0:
                explained.setdefault(fault, []).append(float(np.mean(found)))
        shifts = [
            reference.shift(clean[rows])
            for _ in range(_CLEAN_WINDOWS)
            for rows in unfair_windows(labels, window, random)
        ]
        intact = float(np.mean(shifts) + _MARGIN * np.std(shifts))
        trust = None if law is None else Trust.learn(list(explained.values()))
        return cls(reference, law, Policy.learn(cases), intact, trust, _forecast(cases), card=card)

    def _try(
        self, copy: int, logits: Array, window: NDArray[np.int64], rest: NDArray[np.int64], labels: NDArray[np.int64],
        law: DamageLaw | None,
    ) -> tuple[Case, float]:  # fmt: skip
        """Look at the window's rows of logits [N, K], judge every blend on the rest, and say what the law explains."""
        rows = usable_rows(logits[window])
        alignment, fitted = self._look(rows, law)
        rest = rest[np.isfinite(logits[rest]).all(axis=1)]
        seen, judged = (_answers(x, alignment, fitted) for x in (rows, logits[rest]))
        case = Case.judge(copy, _severity(rows, alignment, fitted), seen, judged, labels[rest])
        return case, 1.0 if fitted is None else fitted.explained

    def _look(self, window: Array, law: DamageLaw | None) -> tuple[Alignment, FittedMixture | None]:
        if law is None:
            return Alignment.between(window, self.reference), None
        fitted = FittedMixture.fit(window, self.reference, law)
        return fitted.alignment, fitted

    @property
    def remarks(self) -> tuple[str, ...]:
        return () if self.trust is None else (self.trust.remark,)

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays = self.reference.arrays()
        if self.law is not None:
            arrays |= self.law.arrays()
        policy = self.policy
        arrays |= {f"policy.{name}": getattr(policy, name) for name in _STEPS}
        values: dict[str, Any] = {"intact_below": self.intact_below}
        values |= {"forecast_slope": self.forecast.slope}
        if np.isfinite(self.forecast.margin):
            values |= {"forecast_margin": self.forecast.margin}
        if self.trust is not None:
            trust = self.trust
            values |= {"least_explained": trust.least, "false_refusals": trust.expected}
            values |= {"trust_maps": trust.maps, "trust_enough": trust.enough}
        return arrays, values

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        reference = Reference.from_arrays(arrays)
        mixed = any(name.startswith("structure.") for name in arrays)
        law = DamageLaw.from_arrays(reference, arrays) if mixed else None
        steps = arrays["policy.upper"].size
        policy = Policy(
            array(arrays, "policy.upper", steps),
            array(arrays, "policy.blends", steps, 3),
            array(arrays, "policy.heats", steps, positive=True),
        )
        if not steps or not (np.diff(policy.upper) >= 0).all():
            raise ValueError("its steps of severity contradict each other")
        trust = None
        if law is not None:
            maps = int(number(values, "trust_maps"))
            if not isinstance(values["trust_enough"], bool):
                raise TypeError("trust_enough is neither true nor false")
            trust = Trust(
                number(values, "least_explained"), number(values, "false_refusals"), maps, values["trust_enough"]
            )
        margin = number(values, "forecast_margin") if "forecast_margin" in values else np.inf
        forecast = Forecast(number(values, "forecast_slope"), margin)
        return cls(reference, law, policy, number(values, "intact_below"), trust, forecast, card=card)


_NO_POLICY = Policy(np.array([np.inf]), np.array([ALIGN]), np.ones(1))


def _severity(window: Array, alignment: Alignment, fitted: FittedMixture | None) -> float:
    """Return the share of the window whose top class differs between aligned logits and mixture; without a mixture,
    between raw and aligned logits."""
    other = window if fitted is None else fitted.log_posterior(window)
    return float((alignment(window).argmax(axis=1) != other.argmax(axis=1)).mean())


def _answers(logits: Array, alignment: Alignment, fitted: FittedMixture | None) -> Answers:
    return Answers(logits, alignment(logits), None if fitted is None else fitted.log_posterior(logits))


def _forecast(cases: Sequence[Case]) -> Forecast:
    """Learn it from damaged copies, each corrected as a policy says that was learned from others."""
    expected: dict[int, list[float]] = {}
    gained: dict[int, list[float]] = {}
    for fold in range(_FOLDS):
        policy = Policy.learn([case for case in cases if not case.copy or case.copy % _FOLDS != fold] or cases)
        for case in cases:
            weights, heat = policy.chosen(case.severity)
            if not case.copy or case.copy % _FOLDS != fold or weights == IDENTITY:
                continue
            corrected = case.window.blended(weights) / heat
            expected.setdefault(case.copy, []).append(expected_gain(case.window.raw, corrected))
            gained.setdefault(case.copy, []).append(float(case.gains[BLENDS.index(weights)]))
    return Forecast.learn([np.array(x) for x in expected.values()], [np.array(x) for x in gained.values()])


def learn_law(data: LabelledLogits, reference: Reference) -> DamageLaw | None:
    """Learn how classes move, from all damaged copies; None with more classes than a mixture takes."""
    return law_of(reference, moved_classes(data, reference))


def _without(moved: Sequence[MovedClasses | None], fold: int) -> list[MovedClasses | None]:
    """Return what is known of the damaged copies that are not in a fold."""
    return [one for number, one in enumerate(moved) if number % _FOLDS != fold]


def law_of(reference: Reference, moved: Sequence[MovedClasses | None]) -> DamageLaw | None:
    """Learn it from what `moved_classes` gives, or some of it; the clean model comes first."""
    clean, *damaged = moved
    return None if clean is None else DamageLaw.learn(reference, clean, [one for one in damaged if one is not None])


def moved_classes(data: LabelledLogits, reference: Reference) -> list[MovedClasses | None]:
    """Return where the classes are in the clean model's logits and in every usable copy's; None where a class is lost
    in NaNs, and with more classes than a mixture takes."""
    labels = data.labels.numpy()
    found: list[MovedClasses | None] = []
    for _, logits in [("none", data.clean.double().numpy()), *_usable_copies(data)]:
        finite = np.isfinite(logits).all(axis=1)
        if reference.classes > MOST_CLASSES or len(np.unique(labels[finite])) < reference.classes:
            found.append(None)
            continue
        alignment = Alignment.between(usable_rows(logits), reference)
        found.append(MovedClasses.of(logits[finite], labels[finite], alignment, reference))
    return found


def _usable_copies(data: LabelledLogits) -> list[tuple[str, Array]]:
    """Return the copies of which at least half of the inputs give usable logits.

    Raises:
        CorrectorError: there is none.
    """
    found = []
    for copy in data.copies:
        logits = copy.logits.double().numpy()
        if len(usable_rows(logits)) >= max(SMALLEST_WINDOW, len(logits) // 2):
            found.append((copy.fault, logits))
    if not found:
        raise CorrectorError("no damaged copy has usable logits to learn from", NOTHING_TO_LEARN)
    return found
