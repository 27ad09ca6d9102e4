"""From options to a result: what `campaign` and `curve` do alike."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from faultcli.cli.console import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faultcli.campaign.baseline import Baseline
    from faultcli.campaign.curves import CurveResult
    from faultcli.campaign.executors.base import Executor
    from faultcli.campaign.plan import Arm, Plan
    from faultcli.campaign.provenance import Provenance
    from faultcli.campaign.records import CampaignResult
    from faultcli.campaign.shard import Shard
    from faultcli.campaign.subject import Subject
    from faultcli.cli.groups import AtRisk, Hardening, Judged, Output, Running, Stopping
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.memories import Rate
    from faultcli.recover.applied import Correct


class Executing(TypedDict):
    """Who runs trials, and how long: as `run_campaign` and `run_curves` take it."""

    executor: Executor
    budget_seconds: float | None


def arms_of(hardening: Hardening, laws: Sequence[FaultLaw], correct: Correct | None) -> tuple[Arm, ...]:
    """Multiply the lists of formats, laws, protections and corrections into arms."""
    from faultcli.campaign.plan import cross
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.batchnorm import parse_recalibration

    return cross(
        [name.strip() for name in hardening.format.split(",")],
        laws,
        [parse_chain(text) for text in hardening.protect or []],
        [parse_recalibration(text) for text in hardening.recalibrate or []],
        [None] if correct is None else [None, correct],
    )


class Conduct:
    """One campaign from the command line, of a model that is opened once.

    Args:
        model: as the user named it; None: the embedded demo.
        opened, at_risk, running, output: the options of these groups.
        part: of the trials.
    """

    def __init__(
        self, model: str | None, opened: Judged, at_risk: AtRisk, running: Running, output: Output, part: Shard | None
    ) -> None:
        self.model, self.opened, self.at_risk = model, opened, at_risk
        self.running, self.output, self.part = running, output, part

    def run(
        self,
        plan: Plan,
        hardening: Hardening,
        correct: Correct | None,
        stopping: Stopping,
        *,
        rates: Sequence[Rate] = (),
        older: Baseline | None = None,
    ) -> None:
        """Open the model, run the plan on it, or show what it would do, and end with the exit code of its gates."""
        from faultcli.campaign.executors import executor_of
        from faultcli.campaign.subject import Subject, open_checkpoint
        from faultcli.cli.results import show_preview, show_result
        from faultcli.cli.running import command_line, in_seconds, set_threads
        from faultcli.cli.session import looking, note_what_runs, provenance_of

        running, quiet = self.running, self.output.quiet
        seconds = in_seconds(stopping.budget)
        several = running.workers > 1 or running.ray is not None or self.part is not None
        threads = set_threads(running.threads, several=several)
        checkpoint = open_checkpoint(self.model)
        named = None if self.model is None else checkpoint
        subject = Subject.open(named, self.opened.data, **self.opened.opening(self.at_risk))
        if correct is not None:
            correct.corrector.check_model(subject.checkpoint_hash)
        provenance = provenance_of(subject, command_line(), rates)
        if older is not None:
            plan = replace(plan, baseline=older.accuracies(plan, provenance, len(subject.workload)))
        note_what_runs(subject, quiet=quiet)
        subject = looking(subject, plan.arms, correct, hardening.unlabelled)
        if running.plan_only:
            show_preview(plan, subject, running.store, self.output.json)
            return
        with executor_of(running.workers, running.ray, threads) as executor:
            result = self._trials(plan, subject, {"executor": executor, "budget_seconds": seconds}, provenance)
        show_result(result, self.output.json, quiet=quiet)

    def _trials(
        self, plan: Plan, subject: Subject, how: Executing, provenance: Provenance
    ) -> CampaignResult | CurveResult:
        from faultcli.campaign.curves import run_curves
        from faultcli.campaign.runner import run_campaign
        from faultcli.campaign.shard import WHOLE
        from faultcli.campaign.store import Store
        from faultcli.cli.running import watching, watching_curves, where_trials_are

        quiet, part = self.output.quiet, self.part or WHOLE
        with closing(Store.open(self.running.store)) as kept:
            try:
                if plan.question is not None:
                    with watching_curves(plan, quiet) as look_at_curve:
                        return run_curves(
                            plan, subject, store=kept, provenance=provenance, on_record=look_at_curve, **how
                        )
                with watching(plan, part, quiet) as look:
                    return run_campaign(
                        plan, subject, store=kept, shard=part, provenance=provenance, on_record=look, **how
                    )
            except KeyboardInterrupt:
                note(where_trials_are(self.running.store, kept.trials), quiet=quiet)
                raise
