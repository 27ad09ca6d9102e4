"""Figures of functional safety, from trials of one flip each and a memory's failure rate.

A trial of `flips:1` is one fault, drawn evenly from all bits of the memory, those of the protections included. What
became of it is one class, and the share of a class times the failure rate of the memory is the rate of that class. All
is a function of the records; `docs/safety.md` says what the figures mean and by which definitions.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from faultcli.campaign.records import ArmResult, CampaignResult, Record
from faultcli.campaign.single_flip import one_flip
from faultcli.campaign.statistics import at_least, at_most
from faultcli.campaign.subject import DEMO
from faultcli.errors import UsageError
from faultcli.protect.chain import UNPROTECTED
from faultcli.workload.metrics import Outcome

MEGABIT = 1 << 20  # bits; JEDEC's, in which capacities of memories are given


class FaultClass(StrEnum):
    """What became of a fault, on all inputs of its trial together. Each fault is of one class, the first that fits of
    detected, SDC, DUE, corrected, masked."""

    SDC = "sdc"  # at least one answer is another one, and nothing said so
    DUE = "due"  # at least one answer is not finite that was before, none is another one, no protection said so
    DETECTED = "detected"  # a protection found words that it could not correct, whatever the answers are
    CORRECTED = "corrected"  # a protection took the flip back, and all answers are as before
    MASKED = "masked"  # nobody noticed anything, and all answers are as before


DANGEROUS = (FaultClass.SDC, FaultClass.DUE)  # what is left to others to notice


def class_of(record: Record, stored: Outcome) -> FaultClass:
    """Return what became of a trial's fault.

    Args:
        record: of a trial of one flip.
        stored: the run of the same memory without faults.
    """
    if record.flip is not None and record.flip.detected:
        return FaultClass.DETECTED
    if record.outcome.sdc:
        return FaultClass.SDC
    if record.outcome.due > stored.due:
        return FaultClass.DUE
    if record.flip is not None and record.flip.corrected:
        return FaultClass.CORRECTED
    return FaultClass.MASKED


@dataclass(frozen=True)
class SafetyRates:
    """What the figures are computed from, besides the trials.

    Attributes:
        fit_per_mbit: failures of the memory in 10⁹ hours and 2²⁰ bits, above 0; each is one flipped bit.
        confidence: of one-sided bounds, from 0.5 and below 1.

    Raises:
        UsageError: they are something else.
    """

    fit_per_mbit: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fit_per_mbit) and self.fit_per_mbit > 0):
            problem = f"--fit-per-mbit {self.fit_per_mbit:g}: a memory's failure rate is above 0"
            raise UsageError(problem, "take it from the memory's data sheet, in FIT per Mbit: --fit-per-mbit 700")
        if not 0.5 <= self.confidence < 1:
            raise UsageError(
                f"--confidence {self.confidence:g}: of a one-sided bound, lies from 0.5 and below 1",
                "--confidence 0.95 or --confidence 0.99",
            )


@dataclass(frozen=True)
class Share:
    """How many of an arm's faults are of a kind, and what that says of all its faults: one-sided bounds each."""

    count: int
    trials: int
    confidence: float

    @property
    def value(self) -> float:
        """The share that was seen."""
        return self.count / self.trials

    @property
    def high(self) -> float:
        """No more than this, at the confidence."""
        return at_most(self.count, self.trials, self.confidence)

    @property
    def low(self) -> float:
        """No less than this, at the confidence."""
        return at_least(self.count, self.trials, self.confidence)


@dataclass(frozen=True)
class Coverage:
    """What part of the dangerous failure rate of the unprotected memory an arm's hardening takes away.

    `value`: None where the unprotected memory showed no dangerous fault. `low`: one-sided; None as well.
    """

    value: float | None
    low: float | None


@dataclass(frozen=True)
class SafetyFigures:
    """The figures of one arm."""

    number: int  # position of the arm in the campaign
    result: ArmResult
    rates: SafetyRates

    @cached_property
    def classes(self) -> tuple[FaultClass, ...]:
        """What became of every trial, in order."""
        return tuple(class_of(record, self.result.stored) for record in self.result.records)

    @property
    def trials(self) -> int:
        """How many faults there are: a trial that could not be run is one, and counts as SDC."""
        return len(self.classes) + len(self.result.failures)

    @cached_property
    def counts(self) -> Mapping[FaultClass, int]:
        """How many faults each class has."""
        found = Counter(self.classes)
        found[FaultClass.SDC] += len(self.result.failures)
        return {one: found[one] for one in FaultClass}

    def share(self, *classes: FaultClass) -> Share:
        """Return the share of faults that are of one of these classes."""
        return Share(sum(self.counts[one] for one in classes), self.trials, self.rates.confidence)

    @property
    def total_fit(self) -> float:
        """Failures of the arm's whole memory in 10⁹ hours, whatever becomes of them."""
        return self.result.bits / MEGABIT * self.rates.fit_per_mbit

    def coverage(self, plain: SafetyFigures) -> Coverage:
        """Return what the arm's hardening takes away of the dangerous rate of the same memory without it.

        1 − λ/λ₀ with λ = bits · share of SDC and DUE. The bound takes the upper bound of λ and the lower one of λ₀,
        each at half of the error rate, so it holds whether or not the faults are the same.
        """
        ours, theirs = self.share(*DANGEROUS), plain.share(*DANGEROUS)
        if not theirs.count:
            return Coverage(None, None)
        bits, half = self.result.bits / plain.result.bits, (1 + self.rates.confidence) / 2
        low = 1 - bits * replace(ours, confidence=half).high / replace(theirs, confidence=half).low
        return Coverage(1 - bits * ours.value / theirs.value, low)


@dataclass(frozen=True)
class SafetyResult:
    """The figures of all arms that have them, and why others have none."""

    campaign: CampaignResult
    rates: SafetyRates
    arms: tuple[SafetyFigures, ...]
    left_out: tuple[str, ...]  # a line each

    def coverage(self, figures: SafetyFigures) -> Coverage | None:
        """Return the coverage of an arm's hardening; None for an arm without any, and where the campaign has no
        unprotected arm of the same format."""
        plain_arm = replace(figures.result.arm, protect=UNPROTECTED, recalibrate=None, correct=None, guard=None)
        if figures.result.arm == plain_arm:
            return None
        plain = next((one for one in self.arms if one.result.arm == plain_arm), None)
        return None if plain is None else figures.coverage(plain)


def safety_of(result: CampaignResult, rates: SafetyRates) -> SafetyResult:
    """Return the figures of a campaign of single flips.

    Raises:
        UsageError: no arm has trials that they follow from; says why, and what to run.
    """
    arms, left_out = [], []
    for number, arm in enumerate(result.arms):
        reason = _unfit(arm)
        if reason is None:
            arms.append(SafetyFigures(number, arm, rates))
        else:
            left_out.append(f"{arm.arm.label} {reason}")
    if not arms:
        raise UsageError(f"no figures of safety follow from these trials: {left_out[0]}", _command(result))
    return SafetyResult(result, rates, tuple(arms), tuple(left_out))


def _unfit(arm: ArmResult) -> str | None:
    """Say why an arm has no figures; None if it has."""
    law = arm.arm.fault
    if not one_flip(law):
        return "has other fault maps than one flip each, and which of several did it, no trial says"
    if law.include or law.bits is not None:
        return "flips a part of the memory only, and the failure rate is of all of it"
    if arm.sequential:
        return "has gates or --until-ci, so its trials decided how many there are, and one-sided bounds do not hold"
    if not arm.records:
        return "has no trials"
    if any(record.outcome.sample is not None for record in arm.records):
        return "has trials of a part of the inputs each, and whether another answer changes nobody looked"
    if any(record.outcome.sdc is None for record in arm.records):
        return "has a score that says of no answer whether it is another one"
    if arm.arm.protect != UNPROTECTED and any(record.flip is None for record in arm.records):
        return "has trials of an older faultcli, which did not keep what protections notice"
    return None


def _command(result: CampaignResult) -> str:
    named = result.provenance.model if result.provenance else "MODEL"
    model = [] if named == DEMO else [shlex.quote(named), "--data DATA"]
    formats = ",".join(dict.fromkeys(arm.arm.format for arm in result.arms))
    chains = dict.fromkeys(["none", *(arm.arm.protect.text for arm in result.arms)])
    options = [f"--format {formats}", *(f"--protect {shlex.quote(chain)}" for chain in chains)]
    more = ["--fault flips:1", *options, "--trials 3000 --store singles.sqlite"]
    return " ".join(["faultcli campaign", *model, *more])
