"""faultcli campaign: many trials, one table."""

from __future__ import annotations

from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note, progress, stdout, write_json

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
            help="Gate: mean accuracy at most D (a fraction) below that as stored.",
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
    from faultcli.campaign.gates import Gate, Verdict
    from faultcli.campaign.plan import Plan, cross
    from faultcli.campaign.runner import run_campaign
    from faultcli.cli.session import load_unlabelled, make_workload, naming, open_model
    from faultcli.faults.laws import parse_law
    from faultcli.faults.selection import select
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.applied import Correct
    from faultcli.recover.batchnorm import parse_recalibration
    from faultcli.report.document import campaign_document
    from faultcli.report.table import campaign_tables, gate_lines, winners
    from faultcli.scaling import read_weights

    asked = {"min-accuracy": min_accuracy, "max-drop": max_drop, "max-sdc": max_sdc}
    gates = tuple(Gate(name, threshold) for name, threshold in asked.items() if threshold is not None)
    if trials is None:
        trials = SEQUENTIAL_TRIALS if gates or until_ci is not None else FIXED_TRIALS
    laws = [parse_law(spec) for spec in options.several_faults(bers, fault)]
    chains = [parse_chain(text) for text in protect or []]
    recalibrations = [parse_recalibration(text) for text in recalibrate or []]
    correct = None if corrector is None else Correct.load(corrector, window)
    correctors = [None] if correct is None else [None, correct]
    looks = any(recalibrations) or (correct is not None and correct.corrector.needs_window)
    arms = cross([name.strip() for name in format.split(",")], laws, chains, recalibrations, correctors)
    plan = Plan(
        arms,
        trials,
        seed,
        target,
        tuple(include or ()),
        tuple(exclude or ()),
        gates=gates,
        until_half_width=until_ci,
        confidence=confidence,
    )
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
    with progress(quiet) as display, naming(checkpoint):
        task = display.add_task("trials", total=len(arms) * trials)
        result = run_campaign(
            plan,
            workload,
            {name: read(name) for name in names},
            factors=factors,
            checkpoint_hash=checkpoint.sha256(),
            unlabelled=load_unlabelled(unlabelled, data) if looks else None,
            on_record=lambda record: display.update(task, advance=1, description=arms[record.arm].label),
        )
    write_json(campaign_document(result, confidence), json)
    if json != "-":
        for table in campaign_tables(result, confidence):
            stdout().print(table)
        for line in [*winners(result, confidence), *gate_lines(result)]:
            stdout().print(line, markup=False, soft_wrap=True)
        note(f"seed {seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
    if result.verdict is Verdict.FAIL:
        raise typer.Exit(GATE_FAILED)
    if result.verdict is Verdict.INCONCLUSIVE:
        raise typer.Exit(INCONCLUSIVE)
