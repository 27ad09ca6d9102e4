"""Gates: does the model hold what is asked of it, decided from the trials' values alone, as early as they allow.

Every check is a `MeanTest` by betting and therefore valid at every look. All checks of a campaign share one error rate:
with A arms and G gates each may err with (1 − confidence)/(A·G) in either direction, so that, with the confidence
stated, **no** verdict of the campaign is wrong (Bonferroni's union bound; at a given truth only one direction can err).
The combined verdict is then right too, and so is picking the arms that pass.

A true mean exactly at the limit meets it: to fail it there is an error, to pass it is not. Limits are worked out in
fractions (counts of inputs, thresholds as they were typed) and rounded once, so that 470 of 480 lie exactly 0.0125
below 476 of 480.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from statistics import fmean
from typing import Self

from faultcli.campaign.statistics.sequences import MeanTest, trials_to_show
from faultcli.errors import UsageError, unknown_name
from faultcli.workload.measures import Bounds, Side, within
from faultcli.workload.metrics import Outcome


class Verdict(StrEnum):
    """What a gate says."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    INCOMPLETE = "incomplete"  # of a campaign: arms or trials that were asked for have not been run


@dataclass(frozen=True)
class FaultFreeAccuracy:
    """What an arm's accuracy is compared with: of the checkpoint as it is, and as stored in the arm's memory."""

    original: float
    stored: float

    @classmethod
    def of(cls, original: Outcome, stored: Outcome) -> Self:
        """Return it of two runs; 0 for a task that has no accuracy, whose gates do not ask for it."""
        return cls(*(0.0 if run.scores is not None else run.top1 for run in (original, stored)))


@dataclass(frozen=True)
class _Kind:
    quantity: str  # key of a trial's values
    good: Side  # the side of the limit where the gate holds
    limit: Callable[[float, FaultFreeAccuracy], float]  # of the threshold: the mean where it just holds
    least: float = 0.0  # the thresholds that make sense
    most: float = 1.0
    bounds: Bounds = (0.0, 1.0)  # of a trial's value
    needs_baseline: bool = False
    example: float = 0.01  # a threshold, for messages


_COUNTS = 10**8  # more answers than an accuracy is a fraction of


def _itself(threshold: float, clean: FaultFreeAccuracy) -> float:
    return threshold


def difference(minuend: float, subtrahend: float) -> float:
    """Return the difference of two accuracies (fractions of counts), or of an accuracy and a threshold (a decimal),
    rounded once: equal differences of counts are equal numbers."""
    exact = [Fraction(repr(number)) for number in (minuend, subtrahend)]
    nearest = [number.limit_denominator(_COUNTS) for number in exact]
    # A fraction of counts is the one of small denominator that rounds to the number; a decimal is itself.
    parts = [near if float(near) == float(number) else number for near, number in zip(nearest, exact, strict=True)]
    return float(parts[0] - parts[1])


GATES = {
    "min-accuracy": _Kind("accuracy", "above", _itself, example=0.9),
    "max-drop": _Kind("accuracy", "above", lambda threshold, clean: difference(clean.stored, threshold)),
    "max-drop-from-original": _Kind(
        "accuracy", "above", lambda threshold, clean: difference(clean.original, threshold)
    ),
    "max-sdc": _Kind("sdc", "below", _itself),
    "max-perplexity": _Kind(
        "token probability",
        "above",
        lambda threshold, clean: 1 / threshold,
        least=1.0,
        most=sys.float_info.max,
        example=30.0,
    ),
    "max-drop-from-baseline": _Kind("drop", "below", _itself, bounds=(-1.0, 1.0), needs_baseline=True),
}


_SPELLINGS = {  # as --gate takes them: quantity and sign
    ("accuracy", ">="): "min-accuracy",
    ("drop", "<="): "max-drop",
    ("drop-from-original", "<="): "max-drop-from-original",
    ("drop-from-baseline", "<="): "max-drop-from-baseline",
    ("sdc", "<="): "max-sdc",
    ("perplexity", "<="): "max-perplexity",
}
_SIDES: dict[str, Side] = {">=": "above", "<=": "below"}
_DEMAND = re.compile(r"\s*(.+?)\s*(>=|<=)\s*(\S+)\s*")
_SCORE = "score "


@dataclass(frozen=True)
class Gate:
    """A demand on a mean over fault maps: one of the table, or on a score of the user's own, `NAME>=` or `NAME<=`.

    `min-accuracy`: mean top-1 accuracy of at least the threshold. `max-drop`: a loss of at most the threshold against
    the accuracy of the fault-free checkpoint *as stored*, by definition: what the number format costs without faults is
    not fault loss and is not counted here. The stored accuracy is a constant of the campaign (the same inputs, no
    faults), so this is `min-accuracy` at stored − threshold. `max-drop-from-original`: the same against the checkpoint
    as it is, so that what the number format costs counts as well. `max-sdc`: a mean part of silently corrupted answers
    of at most the threshold. `max-perplexity`, for language models: a mean token probability, exp(−NLL per token), of
    1/P at least, where a map with a logit that is not finite counts as 0. So it bounds the *harmonic* mean of the
    perplexity over fault maps: perplexity itself has no upper bound, and of a mean without one nothing can be said from
    a sample.
    `max-drop-from-baseline`: a mean loss of at most the threshold against another checkpoint on the same fault maps,
    paired by trial (`faultcli.campaign.baseline`). All speak of the inputs of the campaign and of fault maps at large.

    Of a score the mean is gated on over all maps, where one that is not finite counts as the worst there can be. That
    takes bounds: of a mean without them a sample says nothing at every look.

    Raises:
        UsageError: a name that is not in the table, a threshold outside 0 to 1 (for a perplexity, below 1; for a score,
            outside its bounds), or a score without bounds.
    """

    name: str
    threshold: float
    between: Bounds | None = None  # what a score lies between

    def __post_init__(self) -> None:
        kind = self._kind
        if self.name in GATES and not kind.least <= self.threshold <= kind.most:
            meant = "a fraction from 0 to 1" if kind.most == 1 else f"a number from {kind.least:g}"
            option = f"--{self.name.removesuffix('-from-baseline')}"
            raise UsageError(f"{option} {self.threshold}: a threshold is {meant}", f"{option} {kind.example:g}")
        if not kind.bounds[0] <= self.threshold <= kind.bounds[1] and self.name not in GATES:
            low, high = kind.bounds
            problem = f"--gate {self.text}: the score lies between {low:g} and {high:g} (--bounds)"
            raise UsageError(problem, f"a threshold between them: --gate '{self.name}{(low + high) / 2:g}'")

    @property
    def text(self) -> str:
        """The gate as it is asked for."""
        return f"{self.name} {self.threshold:g}" if self.name in GATES else f"{self.name}{self.threshold:g}"

    @property
    def score(self) -> str | None:
        """The score that it is about; None for a gate of the table."""
        return None if self.name in GATES else self.name[:-2]

    @property
    def _kind(self) -> _Kind:
        if self.name in GATES:
            return GATES[self.name]
        if self.name[-2:] not in _SIDES or len(self.name) < 3:
            raise unknown_name("gate", self.name, GATES)
        if self.between is None:
            problem = f"--gate {self.text}: of a score without bounds nothing can be decided from a sample"
            raise UsageError(problem, f"say what it lies between: --bounds {self.score}=0:1")
        return _Kind(_SCORE + self.name[:-2], _SIDES[self.name[-2:]], _itself, bounds=self.between)

    @property
    def quantity(self) -> str:
        """Which of a trial's values it reads: `accuracy`, `sdc`, `token probability` or `drop`."""
        return self._kind.quantity

    @property
    def direction(self) -> Side:
        """The side of the limit, itself included, where the gate holds."""
        return self._kind.good

    @property
    def bounds(self) -> Bounds:
        """The least and the largest value of a trial."""
        return self._kind.bounds

    @property
    def needs_baseline(self) -> bool:
        """Whether a trial's value needs the same trial of another checkpoint."""
        return self._kind.needs_baseline

    def limit(self, clean: FaultFreeAccuracy) -> float:
        """Return the mean at which the gate just holds; below 0 for a drop larger than the accuracy without faults."""
        return self._kind.limit(self.threshold, clean)

    def check_measured(self, values: Mapping[str, float | None], model: str) -> None:
        """Refuse a gate on what `values`, those of a run of `model`, do not have.

        Raises:
            UsageError: they do not.
        """
        if self.quantity in values or (self.needs_baseline and "accuracy" in values):
            return
        scores = [name.removeprefix(_SCORE) for name in values if name.startswith(_SCORE)]
        if self.score is not None:
            remedy = f"its scores: {', '.join(scores)}" if scores else "try: --gate 'accuracy>=0.9'"
            raise UsageError(f"--gate {self.text}: {model} has no score {self.score!r}", remedy)
        if scores:
            raise UsageError(f"--{self.name}: the scores of {model} are no accuracies", f"--gate '{scores[0]}>=…'")
        raise UsageError(
            f"--{self.name}: {model} has no perplexity on these data", "leave it out, or gate on --min-accuracy"
        )

    def value(self, values: Mapping[str, float | None]) -> float | None:
        """Return what it reads of a trial; None where a trial of the baseline is missing.

        Raises:
            UsageError: a score lies outside its bounds.
        """
        low, high = self.bounds
        found = values.get(self.quantity)
        if self.score is None:
            return found
        if found is None:
            return low if self.direction == "above" else high
        return within(self.score, found, self.bounds)


def parse_gate(text: str, bounds: Mapping[str | None, Bounds]) -> Gate:
    """Read `QUANTITY>=X` or `QUANTITY<=X`: a score's name, or `accuracy`, `drop`, `sdc`, `perplexity`, ….

    Args:
        text: as `--gate` takes it.
        bounds: what scores lie between, by name; None as a name: all others.

    Raises:
        UsageError: it does not read so, or see `Gate`.
    """
    match = _DEMAND.fullmatch(text)
    try:
        threshold = float(match[3]) if match else math.nan
    except ValueError:
        threshold = math.nan
    if match is None or not math.isfinite(threshold):
        raise UsageError(f"--gate {text}: is no demand on a number", "try: --gate 'mAP>=0.4', or 'loss<=1.2'")
    quantity, sign = match[1], match[2]
    if (quantity, sign) in _SPELLINGS:
        return Gate(_SPELLINGS[quantity, sign], threshold)
    if any(quantity == name for name, _ in _SPELLINGS):
        other = "<=" if sign == ">=" else ">="
        raise UsageError(
            f"--gate {text}: a gate on it is {quantity}{other}X", f"try: --gate '{quantity}{other}{match[3]}'"
        )
    return Gate(f"{quantity}{sign}", threshold, bounds.get(quantity, bounds.get(None)))


def gate_values(outcome: Outcome) -> dict[str, float | None]:
    """Return what gates read of a trial: fractions from 0 to 1, and scores (None is not finite); what is not defined
    for this kind of model is absent."""
    values = {
        "accuracy": None if outcome.scores is not None else outcome.top1,
        "sdc": (outcome.sdc or 0) / outcome.n,
        "token probability": outcome.token_probability,
    }
    defined: dict[str, float | None] = {name: value for name, value in values.items() if value is not None}
    return defined | {_SCORE + name: value for name, value in (outcome.scores or {}).items()}


class GateCheck:
    """One gate of one arm, trial by trial. Once decided it stays so.

    Args:
        gate: the demand.
        clean: what accuracy is compared with in this arm.
        alpha: the probability, at most, of a false pass, and of a false fail.
        bounds: the least and the largest value of a trial, where estimates leave what the mean lies between.
    """

    def __init__(self, gate: Gate, *, clean: FaultFreeAccuracy, alpha: float, bounds: Bounds | None = None) -> None:
        self.gate = gate
        self._bounds = bounds or gate.bounds
        self.limit = gate.limit(clean)
        self.trials = 0
        self._alpha = alpha
        self._values: list[float] = []
        bad: Side = "below" if gate.direction == "above" else "above"
        self._good = MeanTest(self.limit, alpha=alpha, direction=gate.direction, bounds=self._bounds)
        self._bad = MeanTest(self.limit, alpha=alpha, direction=bad, bounds=self._bounds)
        self._verdict = Verdict.INCONCLUSIVE
        self._settle()
        low, high = gate.bounds
        if not low <= self.limit <= high:  # beyond every mean there is, though not beyond every estimate of one
            self._verdict = Verdict.PASS if (self.limit < low) == (gate.direction == "above") else Verdict.FAIL
        # A limit at the very end of what is possible is met by every mean there is.
        if self.limit == gate.bounds[0 if gate.direction == "above" else 1]:
            self._verdict = Verdict.PASS

    def add(self, value: float) -> Verdict:
        """Take the next trial's value, in the order of trial numbers; return the verdict so far."""
        if self._verdict is Verdict.INCONCLUSIVE:
            self.trials += 1
            self._values.append(value)
            self._good.add(value)
            self._bad.add(value)
            self._settle()
        return self._verdict

    def settle(self, value: float) -> Verdict:
        """Take the value that all trials have; return the verdict, which is certain."""
        self.trials += 1
        holds = value >= self.limit if self.gate.direction == "above" else value <= self.limit
        self._verdict = Verdict.PASS if holds else Verdict.FAIL
        return self._verdict

    def _settle(self) -> None:
        if self._bad.decided:
            self._verdict = Verdict.FAIL
        elif self._good.decided:
            self._verdict = Verdict.PASS

    @property
    def verdict(self) -> Verdict:
        """The verdict so far."""
        return self._verdict

    def needed(self) -> int | None:
        """Return about how many trials would decide it, if the others are like those so far; None if it is decided,
        nothing is known yet, or no number of them would: their mean lies at the limit."""
        if self._verdict is not Verdict.INCONCLUSIVE or not self._values:
            return None
        above = fmean(self._values) > self.limit
        return trials_to_show(
            self._values,
            self.limit,
            alpha=self._alpha,
            direction="above" if above else "below",
            bounds=self._bounds,
        )


@dataclass(frozen=True)
class GateResult:
    """What became of one gate of one arm."""

    arm: int
    gate: Gate
    limit: float
    verdict: Verdict
    trials: int  # looked at until it was decided, or all
    needed: int | None = None  # about how many would decide it; None where it is decided, or none would


def combine(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return fail if any failed, else incomplete, else inconclusive if any is open, else pass; None of nothing."""
    found = set(verdicts)
    order = (Verdict.FAIL, Verdict.INCOMPLETE, Verdict.INCONCLUSIVE, Verdict.PASS)
    return next((each for each in order if each in found), None)
