"""What a campaign runs: arms, trials, seed; and the hash of everything that changes a result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypedDict

from faultcli.activations.asked import check_asked, has_scale
from faultcli.activations.guard import GuardId
from faultcli.campaign.gates import Gate
from faultcli.campaign.statistics import StopRule
from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.laws import parse_law
from faultcli.faults.memories import RateRange
from faultcli.faults.selection import Selection
from faultcli.formats import parse_format
from faultcli.protect.chain import UNPROTECTED, Chain, parse_chain
from faultcli.recover.applied import CorrectorId
from faultcli.recover.batchnorm import Recalibrate, parse_recalibration
from faultcli.workload.measures import ACCURACY, UNBOUNDED, Measure
from faultcli.workload.metrics import Outcome, estimate_bounds

RESULT_SCHEMA = "faultcli.campaign/1"  # a change of what a trial's numbers mean is a new version
FIXED_TRIALS = 30
SUBSET_TRIALS = 300  # where each of them runs a part of the inputs
SEQUENTIAL_TRIALS = 1000  # where the trials themselves say when there are enough
MOST_TRIALS = 10_000_000  # per arm; a store that has a trial of a higher number is damaged


class ArmTexts(TypedDict):
    """An arm in texts, by the names that they have in every document, table and store; None: it has no such step."""

    format: str
    protect: str
    fault: str
    corrector: str | None
    recalibrate: str | None
    guard_activations: str | None


@dataclass(frozen=True)
class Arm:
    """One condition of a campaign: the number format of the memory, its protections, and the law its faults follow."""

    format: str
    fault: FaultLaw
    protect: Chain = UNPROTECTED
    recalibrate: Recalibrate | None = None
    correct: CorrectorId | None = None
    guard: GuardId | None = None  # of outputs of layers

    @property
    def texts(self) -> ArmTexts:
        """What it is, in texts."""
        return {
            "format": self.format,
            "protect": self.protect.text,
            "fault": self.fault.spec,
            "corrector": self.correct.text if self.correct else None,
            "recalibrate": self.recalibrate.text if self.recalibrate else None,
            "guard_activations": self.guard.text if self.guard else None,
        }

    @property
    def label(self) -> str:
        """Short text for progress and messages."""
        protected = self.protect != UNPROTECTED
        return " ".join([self.format, self.fault.spec, *([self.protect.label] if protected else []), *self._steps])

    @property
    def hardening(self) -> str:
        """What is done about faults."""
        return " + ".join([self.protect.label, *self._steps])

    @property
    def _steps(self) -> list[str]:
        """What is done after reading the memory."""
        steps = (self.texts["guard_activations"], self.texts["recalibrate"], self.texts["corrector"])
        return [text for text in steps if text]

    @property
    def condition(self) -> str:
        """What it shares with arms that differ in their hardening only."""
        return f"{self.format}, {self.fault.spec}"

    @property
    def identity(self) -> dict[str, object]:
        """What makes it another arm, as plain values; `read_arm` reads them."""
        correct = self.correct
        corrector = correct.identity if correct else None  # a hash in full
        guard = {"guard_activations": [self.guard.mode, self.guard.sha256]} if self.guard else {}
        texts = {name: text for name, text in self.texts.items() if name != "guard_activations"}
        return {**texts, "corrector": corrector, **guard}

    @property
    def looks(self) -> bool:
        """Whether it looks at unlabelled inputs."""
        return self.recalibrate is not None or self.correct is not None

    def check_activations(self, selection: Selection) -> None:
        """Refuse what does not go together with outputs of layers at risk.

        Raises:
            UsageError: there is such a thing.
        """
        check_asked(selection, self.format, self.fault, self.protect)
        if selection.layers is not None and self.looks:
            raise UsageError(
                f"{self._steps[-1]}: looks at inputs of its own, and is not defined with --target {selection.target}",
                "leave out --recalibrate and --corrector",
            )

    def calibrates(self, selection: Selection) -> bool:
        """Whether a scale or bounds of outputs of layers are taken from clean inputs."""
        if self.guard is not None and self.guard.sha256 is None:
            return True
        return selection.layers is not None and has_scale(self.format)

    @property
    def memory(self) -> tuple[str, Chain, float | None]:
        """What decides how the memory is written: format, protections, and the bit-error rate if they need one."""
        return self.format, self.protect, self.fault.ber if self.protect.needs_ber else None


@dataclass(frozen=True)
class Question:
    """What a curve is for: a range of bit-error rates, and the accuracy, if any, whose highest rate is looked for.

    Raises:
        UsageError: an accuracy that is not between 0 and 1.
    """

    axis: RateRange
    hold: float | None = None

    def __post_init__(self) -> None:
        if self.hold is not None and not 0 < self.hold <= 1:
            raise UsageError(f"--min-accuracy {self.hold:g}: is not above 0 and at most 1", "--min-accuracy 0.9")


@dataclass(frozen=True)
class Plan:
    """Everything that is asked of a campaign, apart from the checkpoint and the workload.

    Arms share trial numbers: where format and law are the same, so are the faults in the words of the tensors.
    """

    arms: tuple[Arm, ...]
    trials: int  # per arm, at the most
    seed: int = 0
    target: str = "weights"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()  # an arm stops early when all of its gates are decided
    until_half_width: float | None = None  # and when the interval of its accuracy is as narrow as this
    confidence: float = 0.95  # of intervals, and that no gate's verdict is wrong
    question: Question | None = None  # of a campaign of curves (`campaign.curves`)
    baseline: tuple[
        tuple[float | None, ...], ...
    ] = ()  # per arm and trial, the accuracy of the checkpoint to compare with
    bounds: tuple[tuple[str | None, float, float], ...] = ()  # what scores lie between, by name; None: all others
    inputs_per_trial: int | Literal["auto"] | None = None  # drawn anew for every trial (`campaign.subsets`); None: all

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UsageError(f"--trials {self.trials}: a campaign has at least 1 trial", "--trials 30")
        if self.trials > MOST_TRIALS:
            raise UsageError(
                f"--trials {self.trials}: a campaign has at most {MOST_TRIALS:,} trials per arm",
                f"--trials {MOST_TRIALS}",
            )
        if not 0 < self.confidence < 1:
            raise UsageError(f"--confidence {self.confidence:g}: lies between 0 and 1", "try: --confidence 0.95")
        if self.until_half_width is not None and not 0 < self.until_half_width < (math.inf if self.bounds else 1):
            problem = f"--until-ci {self.until_half_width:g}: half of an interval's width lies between 0 and 1"
            raise UsageError(problem, "try: --until-ci 0.01, which is one point of accuracy")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: a seed is a whole number from 0", "--seed 0")
        for arm in self.arms:
            arm.check_activations(self.selection)
        self._check_subsets()
        repeated = {arm for arm in self.arms if self.arms.count(arm) > 1}
        if repeated:
            raise UsageError(f"the arm {next(iter(repeated)).label} is asked for twice", "name every level once")

    def _check_subsets(self) -> None:
        """Refuse what does not go together with trials that run a part of the inputs."""
        option = f"--inputs-per-trial {self.inputs_per_trial}"
        if self.inputs_per_trial is None:
            return
        if self.inputs_per_trial != "auto" and self.inputs_per_trial < 1:
            raise UsageError(f"{option}: a trial runs at least 1 input", "--inputs-per-trial auto")
        repeating = [arm.fault.spec for arm in self.arms if arm.fault.repeats]
        needs = {
            "a curve": self.question is not None,
            "outputs of layers at risk (--target)": self.selection.layers is not None,
            "--baseline": bool(self.baseline),
            "--corrector": any(arm.correct is not None for arm in self.arms),
            f"{''.join(repeating[:1])}, the same faults in every trial,": bool(repeating),
        }
        for what, asked in needs.items():
            if asked:
                raise UsageError(f"{option}: {what} needs all inputs in every trial", "leave one of the two out")

    @property
    def selection(self) -> Selection:
        """What is at risk."""
        return Selection(self.target, self.include, self.exclude)

    def measure(self, original: Outcome) -> Measure:
        """Return what the campaign is about on a model: its accuracy, or the first of its scores."""
        if original.scores is None:
            return ACCURACY
        name = next(iter(original.scores))
        bounds = {known: (low, high) for known, low, high in self.bounds}
        good = {gate.direction for gate in self.gates if gate.score == name}
        return Measure(name, bounds.get(name, bounds.get(None, UNBOUNDED)), good.pop() if len(good) == 1 else None)

    def measure_in(self, original: Outcome, stored: Outcome) -> Measure:
        """Return what the campaign is about in an arm whose memory gives `stored` without faults: where trials run a
        part of the inputs, their estimates may leave 0 to 1."""
        measure, size = self.measure(original), self.inputs_per_trial
        if size is None or size == "auto" or stored.correct1 is None:
            return measure
        return replace(measure, bounds=estimate_bounds(stored.correct1, stored.n, size))

    def check_measure(self, original: Outcome) -> None:
        """Refuse what a score cannot be asked, and bounds that it leaves.

        Raises:
            UsageError: there is such a thing.
        """
        measure = self.measure(original)
        if measure.score is None:
            if self.bounds:
                raise UsageError("--bounds: is for scores; an accuracy lies between 0 and 1", "leave it out")
            return
        if self.question is not None:
            raise UsageError(
                f"a curve draws accuracies, and {measure.score} is a score",
                "list levels: faultcli campaign --ber 1e-5,1e-4",
            )
        if self.until_half_width is not None and not measure.bounded:
            problem = f"--until-ci: of {measure.score}, a score without bounds, no interval holds at every look"
            raise UsageError(problem, f"say what it lies between: --bounds {measure.score}=0:1")
        measure.checked(original)

    @property
    def stop_rule(self) -> StopRule:
        """When an arm has enough trials."""
        return StopRule(self.trials, self.until_half_width, gates=bool(self.gates))

    def identity(
        self, *, checkpoint: str, workload: str, unlabelled: str | None = None, unread: Sequence[str] = ()
    ) -> Identity:
        """Return everything that changes a trial's result, and nothing else: not how many trials there are, nor what
        is concluded from them.

        Args:
            checkpoint: content hash of the checkpoint.
            workload: `Workload.identity`: architecture, data, preprocessing, batch size, threads.
            unlabelled: content hash of the inputs that recalibration and correctors look at, if any do.
            unread: selected tensors that are not at risk, because the model does not read them.
        """
        base = {
            "schema": RESULT_SCHEMA,
            "checkpoint": checkpoint,
            "workload": json.loads(workload),
            "seed": self.seed,
            "selection": [self.target, list(self.include), list(self.exclude)],
            **({"unread": sorted(unread)} if unread else {}),
            **({} if self.inputs_per_trial is None else {"inputs_per_trial": self.inputs_per_trial}),
        }
        looking = (arm.looks or (unlabelled is not None and arm.calibrates(self.selection)) for arm in self.arms)
        arms = (
            arm.identity | ({"unlabelled": unlabelled} if looks else {})
            for arm, looks in zip(self.arms, looking, strict=True)
        )
        return Identity(_text(base), tuple(_text(arm) for arm in arms))


@dataclass(frozen=True)
class Identity:
    """What makes two campaigns the same, as JSON: `base` is common to all arms, `arms` holds one text each.

    A trial is the same in two campaigns if base and arm are.
    """

    base: str
    arms: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """The hash of it all, whatever the order of the arms."""
        return hashlib.sha256(_text([self.base, *sorted(self.arms)]).encode()).hexdigest()


def _text(content: object) -> str:
    return json.dumps(content, sort_keys=True)


def default_trials(laws: Sequence[FaultLaw], *, sequential: bool, subsets: bool = False) -> int:
    """Return how many fault maps an arm gets if nobody says."""
    if laws and all(law.repeats for law in laws):
        return 1
    return SEQUENTIAL_TRIALS if sequential else SUBSET_TRIALS if subsets else FIXED_TRIALS


def read_arm(identity: Mapping[str, Any]) -> Arm:
    """Return the arm that `Arm.identity` describes; its corrector is known by name and hash only.

    Raises:
        FaultcliError: a part of it is not known to this version.
    """
    name, recalibrate, corrector = identity["format"], identity["recalibrate"], identity["corrector"]
    guard = identity.get("guard_activations")
    _check_format(name)
    return Arm(
        name,
        parse_law(identity["fault"]),
        parse_chain(identity["protect"]),
        parse_recalibration(recalibrate) if recalibrate else None,
        CorrectorId(*corrector) if corrector else None,
        GuardId(*guard) if guard else None,
    )


def cross(
    formats: Sequence[str],
    faults: Sequence[FaultLaw],
    protect: Sequence[Chain] = (),
    recalibrate: Sequence[Recalibrate | None] = (),
    correct: Sequence[CorrectorId | None] = (),
    guard: Sequence[GuardId | None] = (),
) -> tuple[Arm, ...]:
    """Return every format under every law behind every chain (none: unprotected) with every recalibration (none: as
    stored), every corrector (none: logits as they are) and every guard of outputs (none: as they are), formats
    outermost.

    Raises:
        UsageError: no format or no law, or a format that is not in the table.
    """
    if not faults:
        raise UsageError("no fault to inject", "name one with --ber P or --fault SPEC")
    for name in formats:
        _check_format(name)
    return tuple(
        Arm(*conditions)
        for conditions in product(
            formats, faults, protect or [UNPROTECTED], recalibrate or [None], correct or [None], guard or [None]
        )
    )


def _check_format(name: str) -> None:
    if name != "native":
        parse_format(name)
