"""The corrector that estimates how bad the damage is from unlabelled logits, and helps as far as that helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.adaptive.policy import ALIGN, IDENTITY, Case, Policy, blend, blend_name
from faultcli.recover.adaptive.symptoms import ClassMixTest, Symptoms
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
from faultcli.recover.damaged_logits import LabelledLogits
from faultcli.recover.mixture.cluster_matching import MeanStructure
from faultcli.recover.mixture.corrector import FittedMixture, structure_arrays, structure_from
from faultcli.recover.parts import array, number
from faultcli.recover.reference import MOST_CLASSES, Reference, class_means

_ROWS_PER_CLASS = 20  # of a window that a mixture is fitted to
_CLEARLY = 2.0  # times the shift of the clean model: damage worth aligning on a small window
_JUDGED = 3000  # labelled inputs per window in training
_CLEAN_WINDOWS = 8
_STEPS = ("upper", "blends", "heats", "gains")  # what a policy is made of
_DRAWS = 2  # windows of the training mix, and of each other mix, that are looked at per damaged copy in training
_FEWEST_UNFAIR = 6


@dataclass(frozen=True)
class Adaptive(Corrector):
    """Chooses by severity among identity, alignment, mixture and blends of them.

    - The logits lie where clean ones lie (whatever the class mix): leave them alone.
    - The window's class mix seems to be another one than in training: leave them alone, and say so.
    - Else the severity, the share of the window on which alignment and mixture disagree, picks the blend.
    """

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "estimate the severity on a window and blend identity, alignment and mixture; no labels"

    reference: Reference
    structure: MeanStructure | None  # None with more classes than a mixture takes
    policy: Policy
    intact_below: float  # `Reference.shift` up to which the model counts as intact
    mix_test: ClassMixTest | None

    @property
    def smallest_window(self) -> int:
        return SMALLEST_WINDOW

    def adapt(self, window: Array) -> Correction:
        shift = self.reference.shift(window)
        if shift <= self.intact_below:
            return identity("the logits lie where those of the clean model lie", 0.0)
        alignment = Alignment.between(window, self.reference)
        if self.structure is not None and len(window) < _ROWS_PER_CLASS * self.reference.classes:
            reason = f"a mixture needs {_ROWS_PER_CLASS * self.reference.classes} inputs or more"
            if shift <= _CLEARLY * self.intact_below:
                return identity(f"{reason}, and the damage is too light to align so few", 0.0)
            return Correction(alignment, alignment.numbers, "align", reason)
        symptoms, alignment, fitted = self._look(window)
        if self.mix_test is not None and self.mix_test.suspects(symptoms):
            return identity("the window's class mix seems to be another one than in training", symptoms.split)
        step = self.policy.step(symptoms.split)
        weights, heat = self.policy.blend(step), float(self.policy.heats[step])
        if weights == IDENTITY:
            return identity("no blend helps surely at this severity", symptoms.split)

        def apply(logits: Array) -> Array:
            posterior = fitted.log_posterior(logits) if fitted is not None and weights[2] else None
            return blend(weights, logits, alignment(logits), posterior) / heat

        numbers = (alignment.numbers if weights[1] else 0) + (fitted.numbers if fitted and weights[2] else 0)
        gain = float(self.policy.gains[step])
        return Correction(apply, numbers, blend_name(weights), predicted_gain=gain, severity=symptoms.split)

    @classmethod
    def train(cls, data: LabelledLogits, card: Card, window: int, seed: int) -> Self:
        """Learn structure, policy and class-mix test from labelled logits of damaged copies.

        Args:
            data: at least twice as many inputs as `window`.
            card: what it is trained for.
            window: inputs per window in training; use about as many.
            seed: of the windows.

        Raises:
            CorrectorError: too few inputs, or no damaged copy with a usable window.
        """
        if len(data.labels) < 2 * window:
            raise CorrectorError(
                f"{len(data.labels)} training inputs are too few for windows of {window}: twice as many are needed",
                "give more --data, or a smaller --window",
            )
        random = np.random.default_rng(seed)
        labels = data.labels.numpy()
        clean = data.clean.double().numpy()
        reference = Reference.measure(clean, labels)
        structure = learn_structure(data, reference)
        draft = cls(reference, structure, _NO_POLICY, 0.0, None, card=card)
        copies = [clean, *(logits for _, logits in _usable_copies(data))]
        orders = [(logits, random.permutation(len(labels))) for logits in copies for _ in range(_DRAWS)]
        fair = [draft._try(logits, order[:window], order[window:][:_JUDGED], labels) for logits, order in orders]
        drawn = [rows for _ in range(_CLEAN_WINDOWS) for rows in unfair_windows(labels, window, random)]
        intact = [reference.shift(clean[rows]) for rows in drawn] + [symptoms.shift for symptoms, _ in fair[:_DRAWS]]
        unfair = []
        if structure is not None:  # without a mixture nothing shows another class mix
            unfair = [
                draft._look(usable_rows(logits[rows]))[0]
                for logits in copies
                for _ in range(_DRAWS)
                for rows in unfair_windows(labels, window, random)
            ]
        test = None
        if len(unfair) >= _FEWEST_UNFAIR:
            test = ClassMixTest.learn([symptoms for symptoms, _ in fair], unfair)
        policy = Policy.learn([case for _, case in fair])
        return cls(reference, structure, policy, max(intact), test, card=card)

    def _try(
        self, logits: Array, window: NDArray[np.int64], rest: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> tuple[Symptoms, Case]:
        """Look at the window's rows of logits [N, K] and judge every blend on the rest of them."""
        symptoms, alignment, fitted = self._look(usable_rows(logits[window]))
        rest = rest[np.isfinite(logits[rest]).all(axis=1)]
        rows = logits[rest]
        posterior = None if fitted is None else fitted.log_posterior(rows)
        return symptoms, Case.judge(symptoms.split, labels[rest], rows, alignment(rows), posterior)

    def _look(self, window: Array) -> tuple[Symptoms, Alignment, FittedMixture | None]:
        alignment = Alignment.between(window, self.reference)
        fitted = None if self.structure is None else FittedMixture.fit(window, self.reference, self.structure)
        return Symptoms.of(window, self.reference, alignment, fitted, self.structure), alignment, fitted

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays = self.reference.arrays()
        if self.structure is not None:
            arrays |= structure_arrays(self.structure)
        policy = self.policy
        arrays |= {f"policy.{name}": getattr(policy, name) for name in _STEPS}
        values: dict[str, Any] = {"intact_below": self.intact_below}
        if self.mix_test is not None:
            test = self.mix_test
            arrays |= {"mix.centre": test.centre, "mix.scale": test.scale, "mix.weights": test.weights}
            values["mix_threshold"] = test.threshold
        return arrays, values

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        reference = Reference.from_arrays(arrays)
        mixed = any(name.startswith("structure.") for name in arrays)
        structure = structure_from(reference, arrays) if mixed else None
        steps = arrays["policy.upper"].size
        policy = Policy(
            array(arrays, "policy.upper", steps),
            array(arrays, "policy.blends", steps, 3),
            array(arrays, "policy.heats", steps, positive=True),
            array(arrays, "policy.gains", steps),
        )
        if not steps or not (np.diff(policy.upper) >= 0).all():
            raise ValueError("its steps of severity contradict each other")
        test = None
        if "mix_threshold" in values or "mix.centre" in arrays:
            if structure is None:
                raise ValueError("its class-mix test looks at a mixture that it has not")
            symptoms = arrays["mix.centre"].size
            test = ClassMixTest(
                array(arrays, "mix.centre", symptoms),
                array(arrays, "mix.scale", symptoms, positive=True),
                array(arrays, "mix.weights", arrays["mix.weights"].size),
                number(values, "mix_threshold"),
            )
        return cls(reference, structure, policy, number(values, "intact_below"), test, card=card)


_NO_POLICY = Policy(np.array([np.inf]), np.array([ALIGN]), np.ones(1), np.zeros(1))


def learn_structure(data: LabelledLogits, reference: Reference) -> MeanStructure | None:
    """Learn how class means move, from all damaged copies; None with more classes than a mixture takes."""
    if reference.classes > MOST_CLASSES:
        return None
    labels = data.labels.numpy()
    moved = []
    for _, logits in _usable_copies(data):
        finite = np.isfinite(logits).all(axis=1)
        if len(np.unique(labels[finite])) == reference.classes:
            alignment = Alignment.between(usable_rows(logits), reference)
            moved.append(class_means(alignment.standardise(logits[finite]), labels[finite], reference.classes))
    return MeanStructure.learn(reference.standard_means, moved)


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


def unfair_windows(labels: NDArray[np.int64], window: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield windows of another class mix: twice half of the classes only, and every class at a rate of its own."""
    classes = int(labels.max()) + 1
    order = np.argsort(random.random((2, classes)), axis=1)
    halves = (order < max(1, classes // 2)).astype(float)
    for weight in (*halves, random.dirichlet(np.ones(classes))):
        chance = weight[labels]
        few = int((chance > 1e-4 * chance.max()).sum())
        yield random.choice(len(labels), min(window, few), replace=False, p=chance / chance.sum())
