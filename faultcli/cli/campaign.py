"""faultcli campaign: many trials, one table."""

from __future__ import annotations

from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note, progress, stdout, write_json


def campaign(
    model: options.OptionalModel = None,
    bers: options.Bers = None,
    fault: options.Faults = None,
    format: options.Formats = "native",
    protect: options.Protects = None,
    recalibrate: options.Recalibrations = None,
    unlabelled: options.Unlabelled = None,
    trials: Annotated[int, typer.Option(metavar="N", help="Fault maps per arm.", rich_help_panel=options.FAULTS)] = 30,
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
    from faultcli.campaign.plan import Plan, cross
    from faultcli.campaign.runner import run_campaign
    from faultcli.cli.session import load_unlabelled, make_workload, naming, open_model
    from faultcli.errors import UsageError
    from faultcli.faults.laws import parse_law
    from faultcli.faults.selection import select
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.batchnorm import parse_recalibration
    from faultcli.report.document import campaign_document
    from faultcli.report.table import campaign_tables, winners
    from faultcli.scaling import read_weights

    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence:g}: lies between 0 and 1", "try: --confidence 0.95")
    laws = [parse_law(spec) for spec in options.several_faults(bers, fault)]
    chains = [parse_chain(text) for text in protect or []]
    recalibrations = [parse_recalibration(text) for text in recalibrate or []]
    arms = cross([name.strip() for name in format.split(",")], laws, chains, recalibrations)
    plan = Plan(arms, trials, seed, target, tuple(include or ()), tuple(exclude or ()))
    checkpoint = open_model(model)
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
            unlabelled=load_unlabelled(unlabelled, data) if any(recalibrations) else None,
            on_record=lambda record: display.update(task, advance=1, description=arms[record.arm].label),
        )
    write_json(campaign_document(result, confidence), json)
    if json != "-":
        for table in campaign_tables(result, confidence):
            stdout().print(table)
        for line in winners(result, confidence):
            stdout().print(line, markup=False)
        note(f"seed {seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
