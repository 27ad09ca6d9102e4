"""faultcli campaign: many trials, one table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from faultcli.cli import options
from faultcli.cli.campaign_options import Gates, Guarding, InParts, inputs_per_trial
from faultcli.cli.console import note
from faultcli.cli.grouping import grouped

if TYPE_CHECKING:
    from faultcli.campaign.baseline import Baseline
    from faultcli.campaign.gates import Gate


@grouped
def campaign(
    *,
    model: options.OptionalModel = None,
    faults: options.Faults,
    hardening: Guarding,
    at_risk: options.AtRisk,
    workload: options.Judged,
    gates: Gates,
    running: InParts,
    shown: options.Configured,
) -> None:
    """Inject many fault maps and measure what they do to the model's answers.

    Lists of formats, levels and protections multiply into arms, paired on the same faults.

    Example: faultcli campaign --ber 1e-5,1e-4 --format fp16,q2.5
    """
    from faultcli.campaign.plan import Plan, default_trials
    from faultcli.campaign.runner import run_campaign
    from faultcli.campaign.shard import WHOLE, parse_shard
    from faultcli.cli.progress import watching
    from faultcli.cli.results import show_preview, show_result
    from faultcli.cli.session import (
        arms_of,
        command_line,
        conducting,
        corrector_of,
        guards_asked,
        in_seconds,
        looking,
        opened_with_notes,
        provenance_of,
        set_threads,
    )

    quiet, older, bounds = shown.quiet, _baseline(gates), gates.between()
    demands = _demands(gates, bounds)
    seconds = in_seconds(gates.budget)
    for gate in demands:
        if gate.name.startswith(("max-drop", "max-sdc")) and gate.threshold == 1:
            note(f"--{gate.name} 1: holds whatever happens, as it is a fraction; 0.01 is one point", quiet=quiet)
    rates = faults.rates(quiet=quiet)
    laws = faults.laws(rates)
    for law in laws:
        if law.repeats:
            note(f"{law.spec}: has the same faults in every trial, so there is one trial", quiet=quiet)
    correct = corrector_of(hardening)
    arms = arms_of(model, hardening, laws, correct, guards_asked(hardening))
    trials, size = gates.trials, inputs_per_trial(gates.inputs_per_trial)
    if trials is None:
        usual = default_trials(laws, sequential=bool(demands) or gates.until_ci is not None, subsets=size is not None)
        trials = older.trials(arms) if older else usual
    plan = Plan(
        arms,
        trials,
        faults.seed,
        *at_risk.selection,
        demands,
        gates.until_ci,
        gates.confidence,
        bounds=tuple((name, low, high) for name, (low, high) in bounds.items()),
        inputs_per_trial=size,
    )
    part = parse_shard(running.shard) if running.shard else WHOLE
    threads = set_threads(running.threads, several=running.several)
    subject = opened_with_notes(model, workload, at_risk, arms, correct, quiet=quiet)
    provenance = provenance_of(subject, command_line(), rates)
    if older is not None:
        plan = replace(plan, baseline=older.accuracies(plan, provenance, len(subject.workload)))
    subject = looking(subject, arms, correct, hardening.unlabelled)
    if running.plan_only:
        show_preview(plan, subject, running.store, shown.json)
        return
    with (
        conducting(plan, subject, running, threads, seconds, provenance, quiet=quiet) as how,
        watching(plan, part, quiet) as look,
    ):
        result = run_campaign(plan, subject, shard=part, on_record=look, **how)
    show_result(result, shown.json, quiet=quiet)


def _baseline(gates: Gates) -> Baseline | None:
    from faultcli.campaign.baseline import Baseline
    from faultcli.errors import UsageError

    if gates.baseline is None:
        return None
    if gates.max_drop is None:
        raise UsageError("--baseline needs to know how much worse is too much", "try: --max-drop 0.01, a point")
    return Baseline(gates.baseline)


def _demands(gates: Gates, bounds: dict[str | None, tuple[float, float]]) -> tuple[Gate, ...]:
    from faultcli.campaign.gates import Gate, parse_gate

    named = {
        "min-accuracy": gates.min_accuracy,
        "max-sdc": gates.max_sdc,
        "max-perplexity": gates.max_perplexity,
        "max-drop" if gates.baseline is None else "max-drop-from-baseline": gates.max_drop,
        "max-drop-from-original": gates.max_drop_from_original,
    }
    asked = (Gate(name, threshold) for name, threshold in named.items() if threshold is not None)
    return (*asked, *(parse_gate(text, bounds) for text in gates.gate or []))
