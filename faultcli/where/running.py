"""Running single flips over the strata of a memory until what is asked is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Unpack

import numpy as np

from faultcli.campaign.bench import Trial
from faultcli.campaign.pilot import MAPS
from faultcli.campaign.plan import MOST_TRIALS, Arm, Plan
from faultcli.campaign.records import Failure, Record
from faultcli.campaign.store import ArmMemory
from faultcli.campaign.subject import Subject
from faultcli.campaign.trials import ArmTrials, RunWith, opened
from faultcli.errors import UsageError
from faultcli.faults.one_bit import EachLayer, OneBit
from faultcli.faults.sampling import Stream
from faultcli.memory import MemoryImage
from faultcli.where.allocation import Allocation, Seen, Turn
from faultcli.where.layers import Effects, LayerStratum, layers_at_risk
from faultcli.where.strata import Stratum, strata_of
from faultcli.workload.metrics import Outcome

WHERE_SCHEMA = "faultcli.where/1"
ROUND = 64  # trials between two looks
QUANTITIES = ("critical", "sdc", "due", "drop")
CRITERIA = {
    "share": "the part of the inputs whose top-1 answer changes or is not finite (SDC + DUE), mean over flips",
    "any": "flips that change the answer to at least one input, or make it not finite",
    "drop": "flips that cost more than X of the accuracy, as a fraction: drop:0.01",
}


@dataclass(frozen=True)
class Critical:
    """What makes a flip critical: a key of `CRITERIA`, with the loss of accuracy of `drop`."""

    kind: str = "share"
    drop: float = 0.0

    @classmethod
    def parse(cls, spec: str) -> Critical:
        """Read it as on the command line: `share`, `any` or `drop:X`.

        Raises:
            UsageError: it is none of these.
        """
        kind, colon, rest = spec.partition(":")
        try:
            drop = float(rest) if colon else 0.0
        except ValueError:
            drop = -1.0
        if kind not in CRITERIA or bool(colon) != (kind == "drop") or not 0 <= drop < 1:
            raise UsageError(f"--critical {spec}: no such criterion", "name one: share, any, drop:0.01")
        return cls(kind, drop)

    @property
    def text(self) -> str:
        """As it is written, and what it means."""
        if self.kind == "drop":
            return f"drop:{self.drop:g}, flips that cost more than {100 * self.drop:g} points of accuracy"
        return f"{self.kind}, {CRITERIA[self.kind]}"

    def value(self, outcome: Outcome, stored: Outcome) -> float:
        """Return how critical a flip was, 0 to 1."""
        changed = ((outcome.sdc or 0) + outcome.due) / outcome.n
        if self.kind == "share":
            return changed
        if self.kind == "any":
            return float(changed > 0)
        return float(stored.top1 - outcome.top1 > self.drop + 1e-12)


@dataclass(frozen=True)
class Aim:
    """When it is enough.

    `half_width`: of the interval of the whole memory; `per_stratum`: of every stratum's; None: not asked. `trials`: at
    the most.
    """

    half_width: float | None
    per_stratum: float | None
    trials: int
    critical: Critical = field(default_factory=Critical)

    def __post_init__(self) -> None:
        for name, width in (("--half-width", self.half_width), ("--stratum-half-width", self.per_stratum)):
            if width is not None and not 0 < width < 0.5:
                problem = f"{name} {width:g}: half of an interval's width lies between 0 and 0.5"
                raise UsageError(problem, f"try: {name} 0.01, which is one point")

    def check(self, plan: Plan) -> None:
        """Refuse to ask of a part of the inputs what is of all of them.

        Raises:
            UsageError: trials run a part of the inputs, and what is critical is of all.
        """
        if plan.inputs_per_trial is not None and self.critical.kind != "share":
            problem = (
                f"--critical {self.critical.kind}: is of all inputs of a trial, and --inputs-per-trial runs a part"
            )
            raise UsageError(problem, "leave one of the two out")


@dataclass(frozen=True)
class WhereResult:
    """What came out. `means` has the mean over the memory of what `QUANTITIES` names beside `critical`."""

    plan: Plan
    plan_hash: str
    aim: Aim
    inputs: int
    memory: ArmMemory
    allocation: Allocation
    means: dict[str, float]
    effects: Effects | None  # of each layer, where each is hit alone; None: single flips
    failures: tuple[Failure, ...]
    reached: bool  # every half-width that was asked for
    seconds: float


Look = Callable[[int, Allocation], None]  # trials so far


def run_where(
    plan: Plan,
    subject: Subject,
    aim: Aim,
    *,
    channels: bool = False,
    blind: bool = False,
    on_round: Look = lambda trials, allocation: None,
    **means: Unpack[RunWith],
) -> WhereResult:
    """Flip single bits, stratum by stratum, or the bits of one layer at a time, until the half-widths are reached or
    the trials are used up.

    Args:
        plan: one arm, with the law `bit:any`, or that of `EachLayer`: each layer alone at a rate.
        subject: in the same state, bit for bit, when this returns or raises.
        aim: when it is enough.
        channels: strata are output channels by bits, not tensors by bits.
        blind: predict nothing from the codes.
        on_round: called after every round.
        means: see `RunWith`.

    Raises:
        UsageError: the model has a score and no answers to compare, or there are too many strata.
        StoreError: the store holds another campaign.
        WorkloadError: the model fails.
    """
    aim.check(plan)
    draws = partial(_pilot, plan.seed, channels=channels, blind=blind)
    with opened(plan, subject, draws=draws, **means) as run:
        if run.original.outcome.masked is None or run.original.outcome.correct1 is None:
            raise UsageError("where counts answers that change, and this model has a score of its own", "pass --data D")
        arm = next(run.arms())
        memory = arm.memory()
        image = subject.image(plan.arms[0])
        law, effects = plan.arms[0].fault, None
        strata: list[Stratum] | list[LayerStratum]
        if isinstance(law, EachLayer):
            strata = layers_at_risk(image, law.rate)
            effects = Effects(len(strata))
        else:
            strata = strata_of(image, plan.seed, channels=channels, blind=blind)
        allocation = Allocation(strata, plan.confidence, sampled=run.plan.inputs_per_trial is not None)
        found, failures, reached = _grow(aim, arm, memory, allocation, effects, run.budget_seconds, on_round)
        return WhereResult(
            run.plan,
            run.identity.sha256,
            aim,
            len(subject.workload),
            memory,
            allocation,
            found,
            effects,
            tuple(failures),
            reached,
            run.seconds,
        )


def _grow(
    aim: Aim,
    arm: ArmTrials,
    memory: ArmMemory,
    allocation: Allocation,
    effects: Effects | None,
    seconds: float | None,
    on_round: Look,
) -> tuple[dict[str, float], list[Failure], bool]:
    start = time.perf_counter()
    strata, failures, done = allocation.strata, list[Failure](), 0
    others = {name: Seen(allocation.sizes) for name in ("sdc", "due", "drop")}
    while True:
        phase = _phase(aim, allocation)
        if phase is None or done >= aim.trials or (done and seconds and time.perf_counter() - start >= seconds):
            break
        chosen = allocation.next_round(min(ROUND, aim.trials - done), per_stratum=phase.per_stratum)
        if not chosen:
            break
        with closing(arm.run(_trials(arm.number, strata, chosen))) as results:
            for draw, result in zip(chosen, results, strict=True):
                done += 1
                if isinstance(result, Failure):
                    failures.append(result)
                    continue
                _take(result, draw, aim, memory, allocation, others)
                if effects is not None:
                    effects.add(draw.stratum, result, memory.stored)
        on_round(done, allocation)
    means = {name: float(allocation.weights @ own.means()) for name, own in others.items()}
    return means, failures, _phase(aim, allocation) is None


def _take(
    record: Record, draw: Turn, aim: Aim, memory: ArmMemory, allocation: Allocation, others: dict[str, Seen]
) -> None:
    outcome, stored = record.outcome, memory.stored
    allocation.add(draw, aim.critical.value(outcome, stored), _within(outcome))
    others["sdc"].add(draw, (outcome.sdc or 0) / outcome.n)
    others["due"].add(draw, outcome.due / outcome.n)
    others["drop"].add(draw, stored.top1 - outcome.top1)


def _within(outcome: Outcome) -> float:
    """Return the variance of a trial's part of changed answers by the choice of its inputs, as far as it shows."""
    if outcome.sample is None or outcome.n < 2:
        return 0.0
    part = 1 - (outcome.masked or 0) / outcome.n
    return part * (1 - part) / (outcome.n - 1) * (1 - outcome.n / outcome.sample.inputs)


def _pilot(seed: int, number: int, arm: Arm, image: MemoryImage, *, channels: bool, blind: bool) -> Iterator[Trial]:
    """Yield flips where they are predicted to do something, about as often as an allocation asks for them."""
    if isinstance(arm.fault, EachLayer):
        layers = layers_at_risk(image, arm.fault.rate)
        for trial in range(max(MAPS, len(layers))):
            yield Trial(number, MOST_TRIALS + trial, layers[trial % len(layers)].law(trial))
        return
    strata = strata_of(image, seed, channels=channels, blind=blind)
    worth = np.cumsum([stratum.size * stratum.predicted + 1e-9 for stratum in strata])
    chances = Stream("faultcli where", seed, "pilot").uniform(2 * MAPS).reshape(MAPS, 2)
    for trial, (first, second) in enumerate(chances):
        stratum = strata[int(np.searchsorted(worth, first * worth[-1]))]
        law = OneBit(stratum.region, stratum.first_word + int(second * stratum.size), stratum.bit)
        yield Trial(number, image.bits + trial, law)


@dataclass(frozen=True)
class _Phase:
    per_stratum: float | None


def _phase(aim: Aim, allocation: Allocation) -> _Phase | None:
    """Return what the next round is for; None: nothing is left. A stratum of which all is seen is known."""
    whole = allocation.estimate()
    if whole is None or (aim.half_width is not None and (whole.half_width or 0.0) > aim.half_width):
        return _Phase(None)
    if aim.per_stratum is not None and float(allocation.half_widths().max()) > aim.per_stratum:
        return _Phase(aim.per_stratum)
    return None


def _trials(arm: int, strata: Sequence[Stratum] | Sequence[LayerStratum], chosen: Iterable[Turn]) -> Iterator[Trial]:
    for draw in chosen:
        stratum = strata[draw.stratum]
        yield Trial(arm, stratum.number(draw.number), stratum.law(draw.number))
