"""Looking at the trials of one arm as they come, in the order of their numbers."""

from __future__ import annotations

from faultcli.campaign.gates import FaultFreeAccuracy, GateCheck, GateResult, Verdict, difference, gate_values
from faultcli.campaign.plan import Plan
from faultcli.campaign.records import Record
from faultcli.campaign.statistics import ConfidenceSequence, Interval, certain, mean_interval


class Watch:
    """Says when an arm has enough trials, and what its gates have decided. The same records give the same answers,
    while they come in and when they are read from a store."""

    def __init__(self, plan: Plan, number: int, clean: FaultFreeAccuracy) -> None:
        self.rule = plan.stop_rule
        self._number = number
        self._repeats = plan.arms[number].fault.repeats
        self._confidence = plan.confidence
        self._values: list[float] = []
        self._sequence = ConfidenceSequence(confidence=plan.confidence)
        alpha = (1 - plan.confidence) / max(1, len(plan.gates) * len(plan.arms))
        self._baseline = plan.baseline[number] if plan.baseline else ()
        gates = [gate for gate in plan.gates if self._baseline or not gate.needs_baseline]
        self._checks = [GateCheck(gate, clean=clean, alpha=alpha) for gate in gates]

    def enough(self, record: Record) -> bool:
        """Take the next trial; return whether the arm stops here."""
        values = gate_values(record.outcome)
        old = self._baseline[record.trial] if record.trial < len(self._baseline) else None
        if old is not None:
            values["drop"] = difference(old, record.outcome.top1)
        self._values.append(values["accuracy"])
        self._sequence.add(values["accuracy"])
        for check in self._checks:
            value = values.get(check.gate.quantity)
            if value is not None:
                check.settle(value) if self._repeats else check.add(value)
        if self._repeats:
            return True  # all trials are this one
        undecided = sum(check.verdict is Verdict.INCONCLUSIVE for check in self._checks)
        return self.rule.reason(self._sequence, undecided_gates=undecided) is not None

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """What the arm's gates say so far."""
        return tuple(GateResult(self._number, c.gate, c.limit, c.verdict, c.trials, c.needed()) for c in self._checks)

    @property
    def trials(self) -> int:
        """Trials taken so far."""
        return self._sequence.trials

    def accuracy(self) -> Interval | None:
        """The mean accuracy so far, with the interval that the arm would be reported with if it stopped here."""
        if self._repeats and self._values:
            return certain(self._values[0])
        if self.rule.sequential:
            return self._sequence.interval
        return mean_interval(self._values, confidence=self._confidence)
