"""What trials leave behind, and what an arm's trials say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from faultcli.campaign.gates import GateResult, Verdict, combine
from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.single_flip import SingleFlip
from faultcli.campaign.statistics import Interval, certain, mean_interval, sequence_interval, unseen_share
from faultcli.protect.chain import UNPROTECTED
from faultcli.workload.measures import ACCURACY, UNBOUNDED, Bounds, Measure
from faultcli.workload.metrics import Outcome


@dataclass(frozen=True)
class Record:
    """One finished trial."""

    arm: int  # position in the plan
    trial: int
    flips: int  # stored bits that differed
    values_changed: int  # values that read differently because of them
    outcome: Outcome
    seconds: float
    flip: SingleFlip | None = None  # where it is; None but for trials of one flip, and for those of older versions


@dataclass(frozen=True)
class Failure:
    """A trial that could not be run: it took its worker with it, or hung, time after time. It counts nowhere."""

    arm: int
    trial: int
    cause: str


@dataclass(frozen=True)
class ArmResult:
    """An arm with its fault-free run in the memory and its trials."""

    arm: Arm
    bits: int  # stored bits at risk
    overhead_bits_per_weight: float  # what the protections add
    stored: Outcome
    records: tuple[Record, ...]
    gates: tuple[GateResult, ...] = ()
    sequential: bool = False  # whether the trials themselves decided how many there are
    failures: tuple[Failure, ...] = ()
    outstanding: int = 0  # trials that were asked for, that nothing made needless, and that have not been run
    measure: Measure = ACCURACY  # what the campaign is about

    @property
    def repeats(self) -> bool:
        """Whether all fault maps of the arm are the same one, so that nothing is uncertain."""
        return self.arm.fault.repeats

    def unseen(self, confidence: float = 0.95) -> float:
        """Return the largest part of fault maps that may be of a kind that no trial showed; 0 where there is one map.

        Beside the interval of the kinds that were seen it is the other half of what is not known."""
        return 0.0 if self.repeats else unseen_share(len(self.records), confidence)

    def mean(self, values: Sequence[float], confidence: float = 0.95, bounds: Bounds = (0.0, 1.0)) -> Interval | None:
        """Return the mean of one number per trial with its interval: that of the kinds of fault map that were seen, or,
        if the trials decided how many there are, the one that holds at every look (none where there are no bounds)."""
        if self.repeats and values:
            return certain(values[0])
        if not self.sequential:
            return mean_interval(values, confidence=confidence, bounds=bounds)
        if not all(map(math.isfinite, bounds)):
            return Interval(float(np.mean(values)), None, None) if values else None
        return sequence_interval(values, confidence=confidence, bounds=bounds)

    @property
    def values(self) -> list[float]:
        """What the campaign is about, per trial that has it, as fractions or as a score is."""
        found = (self.measure.of(record.outcome) for record in self.records)
        return [value for value in found if value is not None]

    def headline(self, confidence: float = 0.95) -> Interval | None:
        """Mean over trials of what the campaign is about, with its interval; see `mean`."""
        if confidence not in self._headlines:
            found = self.mean(self.values, confidence, self.measure.bounds)
            self._headlines[confidence] = found and found.within(self.measure.of_means)
        return self._headlines[confidence]

    @cached_property
    def _headlines(self) -> dict[float, Interval | None]:
        return {}  # by confidence: tables and plots ask again and again, and a sequence takes its time

    def accuracy(self, confidence: float = 0.95) -> Interval | None:
        """Mean top-1 accuracy over trials with its interval.

        Raises:
            ValueError: the answers are no classes; see `score`.
        """
        if self.measure.score is not None:
            raise ValueError(f"the trials have scores and no accuracy: score({self.measure.score!r})")
        return self.headline(confidence)

    def score(self, name: str, confidence: float = 0.95) -> Interval | None:
        """Mean over trials of one of a task's scores, with its interval."""
        if name == self.measure.score:
            return self.headline(confidence)
        found = [(record.outcome.scores or {}).get(name) for record in self.records]
        return self.mean([value for value in found if value is not None], confidence, UNBOUNDED)

    def acc_norm(self, confidence: float = 0.95) -> Interval | None:
        """Mean over trials of the part of questions that are answered right by score per character, with its interval;
        None for tasks without choices."""
        found = [record.outcome.acc_norm for record in self.records]
        return self.mean([value for value in found if value is not None], confidence)

    def perplexity(self, confidence: float = 0.95) -> Interval | None:
        """Harmonic mean of a language model's perplexity over trials, with its interval: 1 over that of the mean token
        probability, which has bounds; a trial with a logit that is not finite counts as infinite. None where the mean
        is infinite, and for classifiers; an end that is infinite is None."""
        values = [record.outcome.token_probability for record in self.records]
        mean = self.mean([value for value in values if value is not None], confidence)
        if mean is None or not mean.mean:
            return None
        return Interval(1 / mean.mean, 1 / mean.high if mean.high else None, 1 / mean.low if mean.low else None)

    @property
    def worst(self) -> float | None:
        """The worst trial's value; None where nobody said which side is worse, and where no trial ran all inputs."""
        if self.measure.good is None or (self.records and self.records[0].outcome.sample is not None):
            return None
        return (min if self.measure.good == "above" else max)(self.values, default=None)

    @property
    def flips_mean(self) -> float | None:
        """Mean number of flipped bits per trial."""
        return float(np.mean([record.flips for record in self.records])) if self.records else None

    def mean_rates(self) -> dict[str, float | None]:
        """Return `Outcome.rates` averaged over trials, each over the trials where it is defined."""
        rates = [record.outcome.rates() for record in self.records]
        return {name: _mean([rate[name] for rate in rates]) for name in (rates[0] if rates else {})}


@dataclass(frozen=True)
class CampaignResult:
    """A finished campaign: what was planned, what it ran on, what came out."""

    plan: Plan
    plan_hash: str
    inputs: int
    original: Outcome  # the checkpoint as it is, without the memory
    arms: tuple[ArmResult, ...]
    seconds: float
    provenance: Provenance | None = None  # None where a caller of the library did not say
    missing: tuple[str, ...] = ()  # arms that were asked for, and of which nothing has been run, by their labels

    @property
    def measure(self) -> Measure:
        """What the campaign is about."""
        return self.plan.measure(self.original)

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for has been run, or made needless by what was."""
        return not self.missing and not any(arm.outstanding for arm in self.arms)

    @property
    def verdict(self) -> Verdict | None:
        """What the gates say together; incomplete, with gates or without, if no gate has failed and something that was
        asked for has not been run; None for a complete campaign without gates."""
        found = [gate.verdict for arm in self.arms for gate in arm.gates]
        return combine(found if self.complete else [*found, Verdict.INCOMPLETE])

    def gain_over_none(self, arm: ArmResult, confidence: float = 0.95) -> Interval | None:
        """Mean gain over the unprotected arm of the same format and law, paired by trial; None where there is no such
        arm, and for that arm itself."""
        plain_arm = replace(arm.arm, protect=UNPROTECTED, recalibrate=None, correct=None, guard=None)
        if arm.arm == plain_arm:
            return None
        plain = next((a for a in self.arms if a.arm == plain_arm), None)
        if plain is None:
            return None
        without = {record.trial: arm.measure.of(record.outcome) for record in plain.records}
        pairs = ((arm.measure.of(record.outcome), without.get(record.trial)) for record in arm.records)
        gains = [value - before for value, before in pairs if value is not None and before is not None]
        (low, high), (least, most) = arm.measure.bounds, plain.measure.bounds
        found = arm.mean(gains, confidence, (low - most, high - least))
        low, high = arm.measure.of_means
        return found and found.within((low - high, high - low))


def trials_using_labels(used: Iterable[bool | None]) -> int | None:
    """Return in how many trials labelled inputs bettered the correction, by `Outcome.labels_used` of each; None where
    none is known to have been given any."""
    used = list(used)
    return sum(map(bool, used)) if any(one is not None for one in used) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
