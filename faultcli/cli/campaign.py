"""faultcli campaign: many trials, one table."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note, stdout, write_json

if TYPE_CHECKING:
    from faultcli.campaign.gates import Gate
    from faultcli.campaign.records import CampaignResult

FIXED_TRIALS = 30
SEQUENTIAL_TRIALS = 1000  # where the trials themselves say when there are enough
GATE_FAILED, INCONCLUSIVE = 1, 4


def campaign(
    model: options.OptionalModel = None,
    bers: options.Bers = None,
    fault: options.Faults = None,
    format: options.Formats = "native",
    protect: options.Protects = None,
    recalibrate: options.Recalibrations = None,
    corrector: options.Corrector = None,
    window: options.Window = 1000,
    unlabelled: options.Unlabelled = None,
    config: options.Config = None,
    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Fault maps per arm, at the most.",
            rich_help_panel=options.STOPPING,
            show_default="30; 1000 with a gate or --until-ci",
        ),
    ] = None,
    until_ci: Annotated[
        float | None,
        typer.Option(
            metavar="W",
            help="Stop when the accuracy is known to ± W (a fraction, 0.01 is a point).",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="Gate: mean accuracy of at least A (a fraction).",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="Gate: mean accuracy at most D (a fraction) below that as stored, or below the --baseline.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Let --max-drop compare with this --json of another checkpoint, on the same fault maps.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    max_sdc: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Gate: at most S (a fraction) of the answers silently corrupted.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Start no trial later than this, shared out evenly over the arms.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep every trial in this SQLite file; the same command continues from there.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", help="Processes that run trials; the results are the same.", rich_help_panel=options.RUNNING
        ),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR|local",
            help="Run trials on a Ray cluster; --workers says on how many of its CPUs.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Run part I of N of the trials, to be joined by `merge`. It decides no gate.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Threads that compute, per process. Part of the plan: floating-point results depend on it.",
            rich_help_panel=options.RUNNING,
            show_default="all cores; 1 with --workers, --ray or --shard",
        ),
    ] = None,
    target: options.Target = "weights",
    include: options.Include = None,
    exclude: options.Exclude = None,
    seed: options.Seed = 0,
    arch: options.Arch = None,
    data: options.Data = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    mean: options.Mean = None,
    std: options.Std = None,
    confidence: Annotated[
        float, typer.Option(metavar="C", help="Confidence of the intervals.", rich_help_panel=options.OUTPUT)
    ] = 0.95,
    json: options.Json = None,
    quiet: options.Quiet = False,
) -> None:
    """Inject many fault maps and measure what they do to the model's answers.

    Lists of formats, levels and protections multiply into arms, paired on the same faults. Each trial draws one fault
    map; intervals are over trials.

    Example: faultcli campaign --ber 1e-5,1e-4 --format fp16,q2.5
    """
    from faultcli.campaign.baseline import Baseline
    from faultcli.campaign.plan import Plan, cross
    from faultcli.campaign.runner import run_campaign
    from faultcli.campaign.shard import WHOLE, parse_shard
    from faultcli.campaign.store import Store
    from faultcli.cli.running import command_line, make_executor, set_threads, watching, where_trials_are
    from faultcli.cli.session import load_unlabelled, make_workload, naming, open_model, provenance_of
    from faultcli.errors import UsageError
    from faultcli.faults.laws import parse_law
    from faultcli.faults.selection import select
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.applied import Correct
    from faultcli.recover.batchnorm import parse_recalibration
    from faultcli.scaling import read_weights

    older = None if baseline is None else Baseline(baseline)
    gates = _gates(min_accuracy, max_drop, max_sdc, compared=older is not None)
    if budget is not None and not budget > 0:
        raise UsageError(f"--budget {budget:g}: minutes are more than 0")
    correct = None if corrector is None else Correct.load(corrector, window)
    arms = cross(
        [name.strip() for name in format.split(",")],
        [parse_law(spec) for spec in options.several_faults(bers, fault)],
        [parse_chain(text) for text in protect or []],
        [parse_recalibration(text) for text in recalibrate or []],
        [None] if correct is None else [None, correct],
    )
    if trials is None:
        sequential = older.trials(arms) if older else SEQUENTIAL_TRIALS
        trials = sequential if gates or until_ci is not None else FIXED_TRIALS
    selection = (target, tuple(include or ()), tuple(exclude or ()))
    plan = Plan(arms, trials, seed, *selection, gates=gates, until_half_width=until_ci, confidence=confidence)
    part = parse_shard(shard) if shard else WHOLE
    torch_threads = set_threads(threads, several=workers > 1 or ray is not None or shard is not None)
    checkpoint = open_model(model)
    if correct is not None:
        correct.corrector.check_model(checkpoint.sha256())
    names = select(checkpoint.tensors.values(), target=target, include=plan.include, exclude=plan.exclude)
    workload = make_workload(
        checkpoint, arch=arch, data=data, limit=limit, batch_size=batch_size, device=device, mean=mean, std=std
    )
    read, factors = read_weights(checkpoint)
    if factors:
        note(f"{checkpoint.path}: is scaled; its memory holds c·w where --protect says nothing else", quiet=quiet)
    if model is None:
        note(f"no MODEL named: the embedded demo, {workload.describe()}", quiet=quiet)
    provenance = provenance_of(workload, model or "demo", checkpoint, names, command_line())
    plan = replace(plan, baseline=older.accuracies(plan, provenance, len(workload)) if older else ())
    looks = any(arm.recalibrate or (correct is not None and correct.looks) for arm in arms)
    with (
        naming(checkpoint),
        closing(Store.open(store)) as kept,
        make_executor(workers, ray, torch_threads) as executor,
        watching(plan, part, quiet) as look,
    ):
        try:
            result = run_campaign(
                plan,
                workload,
                {name: read(name) for name in names},
                factors=factors,
                checkpoint_hash=checkpoint.sha256(),
                unlabelled=load_unlabelled(unlabelled, data) if looks else None,
                executor=executor,
                store=kept,
                shard=part,
                budget_seconds=None if budget is None else 60 * budget,
                provenance=provenance,
                on_record=look,
            )
        except KeyboardInterrupt:
            note(where_trials_are(store, kept.trials), quiet=quiet)
            raise
    _show(result, json, quiet=quiet)


def _gates(
    min_accuracy: float | None, max_drop: float | None, max_sdc: float | None, *, compared: bool
) -> tuple[Gate, ...]:
    from faultcli.campaign.gates import Gate
    from faultcli.errors import UsageError

    if compared and max_drop is None:
        raise UsageError("--baseline needs to know how much worse is too much", "try: --max-drop 0.01, a point")
    drop = "max-drop-from-baseline" if compared else "max-drop"
    asked = {"min-accuracy": min_accuracy, drop: max_drop, "max-sdc": max_sdc}
    return tuple(Gate(name, threshold) for name, threshold in asked.items() if threshold is not None)


def _show(result: CampaignResult, json: str | None, *, quiet: bool) -> None:
    """Print a result and end with the exit code of its gates."""
    from faultcli.campaign.gates import Verdict
    from faultcli.report.document import campaign_document
    from faultcli.report.table import campaign_tables, failure_lines, gate_lines, winners

    confidence = result.plan.confidence
    write_json(campaign_document(result, confidence), json)
    if json != "-":
        for table in campaign_tables(result, confidence):
            stdout().print(table)
        for line in [*winners(result, confidence), *failure_lines(result), *gate_lines(result)]:
            stdout().print(line, markup=False, soft_wrap=True)
        note(f"seed {result.plan.seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
    if result.verdict is Verdict.FAIL:
        raise typer.Exit(GATE_FAILED)
    if result.verdict is Verdict.INCONCLUSIVE:
        raise typer.Exit(INCONCLUSIVE)
