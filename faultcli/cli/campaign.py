"""faultcli campaign: many trials, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note
from faultcli.cli.places import KEEPS, READS

if TYPE_CHECKING:
    from faultcli.campaign.baseline import Baseline
    from faultcli.campaign.curves import CurveResult
    from faultcli.campaign.executors.base import Executor
    from faultcli.campaign.gates import Gate
    from faultcli.campaign.plan import Plan, Question
    from faultcli.campaign.provenance import Provenance
    from faultcli.campaign.records import CampaignResult
    from faultcli.campaign.shard import Shard
    from faultcli.campaign.subject import Subject
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.memories import Rate

FIXED_TRIALS = 30
SEQUENTIAL_TRIALS = 1000  # where the trials themselves say when there are enough


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
            show_default="30; 1000 with a gate or --until-ci; for a curve 300, or 5000",
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
    max_drop_from_original: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="Gate: mean accuracy at most D below the original's, so that what the format costs counts, too.",
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
        READS,
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
    max_perplexity: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Gate: a language model's perplexity, harmonic mean over fault maps, of at most P.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEMAND",
            help="Gate on a score of the model, 'mAP>=0.4' or 'loss<=1.2'; or on accuracy, drop, sdc, perplexity. "
            "Repeatable.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None,
    bounds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]LOW:HIGH",
            help="What scores lie between, which a gate on one has to know. Repeatable.",
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
        KEEPS,
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
    curve: Annotated[
        str | None,
        typer.Option(
            metavar="LOW:HIGH",
            help="Accuracy, SDC and DUE at every bit-error rate from LOW to HIGH, from one set of trials; or over "
            "the years of a memory, sram:years=1:20.",
            rich_help_panel=options.FAULTS,
            show_default=False,
        ),
    ] = None,
    find_max_ber: Annotated[
        bool,
        typer.Option(
            "--find-max-ber",
            metavar="",
            help="The highest bit-error rate at which the accuracy --min-accuracy holds; --curve narrows the search.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = False,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only",
            metavar="",
            help="Run no trial: show arms, bits at risk, expected flips, trials for an interval, and time.",
            rich_help_panel=options.RUNNING,
            show_default=False,
        ),
    ] = False,
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
    score: options.Score = None,
    answer: options.Answer = None,
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
    from faultcli.campaign.executors import executor_of
    from faultcli.campaign.plan import Plan, cross
    from faultcli.campaign.shard import WHOLE, parse_shard
    from faultcli.campaign.subject import Subject, open_checkpoint
    from faultcli.cli.curve import ask
    from faultcli.cli.results import show_preview, show_result
    from faultcli.cli.running import command_line, in_seconds, set_threads
    from faultcli.cli.session import looking, note_what_runs, provenance_of
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.applied import Correct
    from faultcli.recover.batchnorm import parse_recalibration

    asked = {"min-accuracy": min_accuracy, "max-sdc": max_sdc, "max-perplexity": max_perplexity}
    drop = {"max-drop" if baseline is None else "max-drop-from-baseline": max_drop}
    drop["max-drop-from-original"] = max_drop_from_original
    others: dict[str, object] = {"--ber": bers, "--fault": fault, "--shard": shard, "--baseline": baseline}
    others |= {"--max-drop": max_drop, "--max-sdc": max_sdc, "--max-perplexity": max_perplexity}
    others |= {"--max-drop-from-original": max_drop_from_original, "--gate": gate, "--bounds": bounds}
    question = ask(curve, find_max_ber, min_accuracy, others, quiet=quiet)
    older = None if baseline is None else _baseline(baseline, max_drop)
    between = options.bounds_of(bounds)
    gates = _gates(asked | drop, gate, between) if question is None else ()
    budget_seconds = in_seconds(budget)
    rates = options.rates(bers, quiet=quiet)
    laws = _laws(rates, fault or [], question, quiet=quiet)
    correct = None if corrector is None else Correct.load(corrector, window)
    arms = cross(
        [name.strip() for name in format.split(",")],
        laws,
        [parse_chain(text) for text in protect or []],
        [parse_recalibration(text) for text in recalibrate or []],
        [None] if correct is None else [None, correct],
    )
    if trials is None:
        usual = _default_trials(laws, question, sequential=bool(gates) or until_ci is not None)
        trials = older.trials(arms) if older else usual
    selection = (target, tuple(include or ()), tuple(exclude or ()))
    scores = tuple((name, low, high) for name, (low, high) in between.items())
    plan = Plan(arms, trials, seed, *selection, gates, until_ci, confidence, question, bounds=scores)
    part = parse_shard(shard) if shard else WHOLE
    torch_threads = set_threads(threads, several=workers > 1 or ray is not None or shard is not None)
    checkpoint = open_checkpoint(model)
    subject = Subject.open(
        None if model is None else checkpoint,
        data,
        arch=arch,
        limit=limit,
        batch_size=batch_size,
        device=device,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        score=score,
        answer=answer,
        target=target,
        include=plan.include,
        exclude=plan.exclude,
    )
    if correct is not None:
        correct.corrector.check_model(subject.checkpoint_hash)
    provenance = provenance_of(subject, command_line(), rates)
    plan = replace(plan, baseline=older.accuracies(plan, provenance, len(subject.workload)) if older else ())
    note_what_runs(subject, quiet=quiet)
    subject = looking(subject, arms, correct, unlabelled)
    if plan_only:
        show_preview(plan, subject, store, json)
        return
    with executor_of(workers, ray, torch_threads) as executor:
        result = _run(
            plan,
            subject,
            part,
            store,
            executor=executor,
            budget_seconds=budget_seconds,
            provenance=provenance,
            quiet=quiet,
        )
    show_result(result, json, quiet=quiet)


def _run(
    plan: Plan,
    subject: Subject,
    shard: Shard,
    store: Path | None,
    *,
    executor: Executor,
    budget_seconds: float | None,
    provenance: Provenance,
    quiet: bool,
) -> CampaignResult | CurveResult:
    from faultcli.campaign.curves import run_curves
    from faultcli.campaign.runner import run_campaign
    from faultcli.campaign.store import Store
    from faultcli.cli.curve import watching_curves
    from faultcli.cli.running import watching, where_trials_are

    with closing(Store.open(store)) as kept:
        try:
            if plan.question is not None:
                with watching_curves(plan, quiet) as look_at_curve:
                    return run_curves(
                        plan,
                        subject,
                        executor=executor,
                        store=kept,
                        budget_seconds=budget_seconds,
                        provenance=provenance,
                        on_record=look_at_curve,
                    )
            with watching(plan, shard, quiet) as look:
                return run_campaign(
                    plan,
                    subject,
                    executor=executor,
                    store=kept,
                    shard=shard,
                    budget_seconds=budget_seconds,
                    provenance=provenance,
                    on_record=look,
                )
        except KeyboardInterrupt:
            note(where_trials_are(store, kept.trials), quiet=quiet)
            raise


def _default_trials(laws: Sequence[FaultLaw], question: Question | None, *, sequential: bool) -> int:
    from faultcli.cli.curve import CURVE_TRIALS, MOST_TRIALS

    if question is not None:
        return MOST_TRIALS if sequential else CURVE_TRIALS
    if laws and all(law.repeats for law in laws):
        return 1
    return SEQUENTIAL_TRIALS if sequential else FIXED_TRIALS


def _baseline(path: Path, max_drop: float | None) -> Baseline:
    from faultcli.campaign.baseline import Baseline
    from faultcli.errors import UsageError

    if max_drop is None:
        raise UsageError("--baseline needs to know how much worse is too much", "try: --max-drop 0.01, a point")
    return Baseline(path)


def _gates(
    asked: dict[str, float | None], demands: list[str] | None, bounds: Mapping[str | None, tuple[float, float]]
) -> tuple[Gate, ...]:
    from faultcli.campaign.gates import Gate, parse_gate

    named = (Gate(name, threshold) for name, threshold in asked.items() if threshold is not None)
    return (*named, *(parse_gate(text, bounds) for text in demands or []))


def _laws(rates: list[Rate], faults: list[str], question: Question | None, *, quiet: bool) -> list[FaultLaw]:
    from faultcli.faults.laws import AnyFlips, parse_law

    if question is not None:
        return [AnyFlips()]
    specs = [*(rate.law.spec for rate in rates), *faults]
    laws = [parse_law(spec) for spec in specs]
    for spec, law in zip(specs, laws, strict=True):
        if law.repeats:
            note(f"{spec}: has the same faults in every trial, so there is one trial", quiet=quiet)
    return laws
