"""Looking at the trials of one arm as they come, in the order of their numbers."""

from __future__ import annotations

from faultcli.campaign.gates import FaultFreeAccuracy, GateCheck, GateResult, Verdict, difference, gate_values
from faultcli.campaign.plan import Plan
from faultcli.campaign.records import Record
from faultcli.campaign.statistics import ConfidenceSequence, Interval, certain, mean_interval
from faultcli.workload.measures import ACCURACY, Measure


class Watch:
    """Says when an arm has enough trials, and what its gates have decided. The same records give the same answers,
    while they come in and when they are read from a store."""

    def __init__(self, plan: Plan, number: int, clean: FaultFreeAccuracy, measure: Measure = ACCURACY) -> None:
        self.rule = plan.stop_rule
        self.arm = number
        self._repeats = plan.arms[number].fault.repeats
        self._confidence = plan.confidence
        self.measure = measure
        self.trials = 0  # taken so far
        self.kept = 0  # of them, those that a store had already
        self.known = 0  # all that a store has of this arm
        self._values: list[float] = []
        self._sequence = ConfidenceSequence(
            confidence=plan.confidence, bounds=measure.bounds if measure.bounded else (0.0, 1.0)
        )
        alpha = (1 - plan.confidence) / max(1, len(plan.gates) * len(plan.arms))
        self._baseline = plan.baseline[number] if plan.baseline else ()
        gates = [gate for gate in plan.gates if self._baseline or not gate.needs_baseline]
        self._checks = [
            GateCheck(gate, clean=clean, alpha=alpha, bounds=measure.bounds if gate.quantity == "accuracy" else None)
            for gate in gates
        ]

    def enough(self, record: Record) -> bool:
        """Take the next trial; return whether the arm stops here."""
        values = gate_values(record.outcome)
        old = self._baseline[record.trial] if record.trial < len(self._baseline) else None
        if old is not None:
            values["drop"] = difference(old, record.outcome.top1)
        self._take(self.measure.checked(record.outcome))
        for check in self._checks:
            value = check.gate.value(values)
            if value is not None:
                check.settle(value) if self._repeats else check.add(value)
        if self._repeats:
            return True  # all trials are this one
        if self.rule.trials is not None and self.trials >= self.rule.trials:
            return True
        undecided = sum(check.verdict is Verdict.INCONCLUSIVE for check in self._checks)
        return self.rule.reason(self._sequence, undecided_gates=undecided) is not None

    def _take(self, value: float | None) -> None:
        self.trials += 1
        if value is None:  # of a score that is not finite
            return
        self._values.append(value)
        if self.rule.sequential and self.measure.bounded:
            self._sequence.add(value)

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """What the arm's gates say so far."""
        return tuple(GateResult(self.arm, c.gate, c.limit, c.verdict, c.trials, c.needed()) for c in self._checks)

    def mean(self) -> Interval | None:
        """The mean so far of what the campaign is about, with the interval that the arm would be reported with if it
        stopped here."""
        if self._repeats and self._values:
            return certain(self._values[0])
        if self.rule.sequential and self.measure.bounded:
            found = self._sequence.interval
        else:
            found = mean_interval(self._values, confidence=self._confidence, bounds=self.measure.bounds)
        return found and found.within(self.measure.of_means)
