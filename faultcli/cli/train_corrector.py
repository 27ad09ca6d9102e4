"""faultcli train-corrector: an external corrector of logits, and proof of what it does."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note, progress, stdout, write_json
from faultcli.cli.places import READS, WRITES

if TYPE_CHECKING:
    from faultcli.faults.maps import FaultMap
    from faultcli.recover.edmn import EdmnOptions

TRAINING = "Training"


def train_corrector(
    model: options.OptionalModel = None,
    data: options.Data = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="edmn|align|mixture|adaptive",
            help="edmn: a perceptron, as published. align: moment alignment over a window. mixture: one Gaussian per "
            "class on a window. adaptive: a blend by estimated severity, that leaves alone what it cannot help.",
            rich_help_panel=TRAINING,
        ),
    ] = "adaptive",
    bers: options.Bers = None,
    fault: options.Faults = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Known damage: train for the very faults of a saved map instead of a law.",
            rich_help_panel=options.FAULTS,
            show_default=False,
        ),
        READS,
    ] = None,
    format: options.Format = "native",
    protect: options.Protect = "none",
    target: options.Target = "weights",
    include: options.Include = None,
    exclude: options.Exclude = None,
    seed: options.Seed = 0,
    train_data: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="Labelled inputs to train on and to look at; never those of the report.",
            rich_help_panel=TRAINING,
            show_default="the training split of the data, else half of the data",
        ),
        READS,
    ] = None,
    train_limit: Annotated[
        int, typer.Option(metavar="N", help="Use at most N of them.", rich_help_panel=TRAINING)
    ] = 5000,
    maps: Annotated[
        int, typer.Option(metavar="N", help="Fault maps per level to train on.", rich_help_panel=TRAINING)
    ] = 6,
    report_maps: Annotated[
        int, typer.Option(metavar="N", help="Other fault maps per level to report on.", rich_help_panel=TRAINING)
    ] = 20,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Unlabelled inputs that the device looks at. Taken from the training inputs, set aside.",
            rich_help_panel=TRAINING,
            show_default="1000; a quarter of the training inputs where they are few",
        ),
    ] = None,
    hidden: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Hidden sizes of the perceptron.", rich_help_panel=TRAINING)
    ] = "256,256",
    alpha: Annotated[
        float, typer.Option(metavar="W", help="Weight of the distillation.", rich_help_panel=TRAINING)
    ] = 1.0,
    gamma: Annotated[
        float, typer.Option(metavar="W", help="Weight of the cross entropy.", rich_help_panel=TRAINING)
    ] = 1.0,
    beta: Annotated[
        float, typer.Option(metavar="W", help="Weight of the squared correction.", rich_help_panel=TRAINING)
    ] = 1e-4,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Temperature of the distillation.", rich_help_panel=TRAINING)
    ] = 2.0,
    clean_share: Annotated[
        float, typer.Option(metavar="P", help="Share of clean samples.", rich_help_panel=TRAINING)
    ] = 0.2,
    epochs: Annotated[
        int, typer.Option(metavar="N", help="Epochs of the perceptron.", rich_help_panel=TRAINING)
    ] = 15,
    arch: options.Arch = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    mean: options.Mean = None,
    std: options.Std = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Where to write the corrector.", show_default=False,
                     rich_help_panel=options.OUTPUT),
        WRITES,
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.{md,svg,png}",
            help="Write gain against severity, measured and predicted, with intervals.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
        WRITES,
    ] = None,
    force: options.Force = False,
    json: options.Json = None,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Train a corrector of logits for faults of a law, or for known faults, and report what it gives back.

    It is trained on some fault maps and reported on others, on data that it has not seen. Without a window of its own
    the device needs nothing; align, mixture and adaptive look at unlabelled inputs as they come in.

    Example: faultcli train-corrector --fault gaussian:0.1 -o corrector.safetensors
    """
    from faultcli.campaign import training
    from faultcli.campaign.subject import Subject
    from faultcli.cli.session import note_what_runs
    from faultcli.errors import UsageError
    from faultcli.faults.laws import parse_law
    from faultcli.faults.maps import FaultMap
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.file import save_corrector
    from faultcli.report.correction import correction_document, correction_table, write_report

    specs = options.several_faults(bers, fault, quiet=quiet)
    if (replay is None) == (not specs):
        problem = (
            "no fault to train for" if replay is None else "--replay names the faults: no --fault or --ber beside it"
        )
        raise UsageError(
            problem, "name a law with --fault SPEC or --ber P, or the faults themselves with --replay FILE"
        )
    perceptron = _edmn_options(hidden, alpha, gamma, beta, temperature, clean_share, epochs)
    plan = training.TrainingPlan(method, seed, train_data, train_limit, window, maps, report_maps, perceptron)
    _check_outputs(output, report, force)
    laws, chain = [parse_law(spec) for spec in specs], parse_chain(protect)
    faults = None if replay is None else FaultMap.load(replay)
    if faults is not None:
        format, target = faults.format, "any"
        include, exclude = _covered(model, faults), []
    subject = Subject.open(
        model,
        data,
        arch=arch,
        limit=limit,
        batch_size=batch_size,
        device=device,
        mean=options.numbers("--mean", mean),
        std=options.numbers("--std", std),
        target=target,
        include=include or (),
        exclude=exclude or (),
    )
    note_what_runs(subject, quiet=quiet)
    inputs = training.training_inputs(subject, plan)
    if inputs.held_out is not None:
        name = inputs.held_out.name
        note(f"{name}: has no training split; trained on one half, reported on the other", quiet=quiet)
    with progress(quiet) as display:
        task = display.add_task("fault maps", total=len(laws) * (maps + report_maps), visible=faults is None)
        result = training.train_corrector(
            subject,
            laws if faults is None else faults,
            plan,
            inputs,
            format=format,
            protect=chain,
            progress=lambda: display.advance(task),
        )
    if output is not None:
        save_corrector(result.corrector, output, force=force)
    if report is not None:
        write_report(report, result.corrector, result.levels, result.inputs, force=force)
    write_json(correction_document(output, result.corrector, result.levels), json)
    if json != "-":
        stdout().print(correction_table(result.corrector, result.levels, result.inputs))
        note(f"{result.corrector.card.setting}; corrector: {output or 'not written, for want of -o'}", quiet=quiet)


def _covered(model: str | None, faults: FaultMap) -> list[str]:
    """Return the tensors that a fault map covers, as globs."""
    from faultcli.campaign.subject import open_checkpoint

    here = open_checkpoint(model).tensors
    return [glob.escape(name) for name in faults.layout if name in here]


def _check_outputs(output: Path | None, report: Path | None, force: bool) -> None:
    from faultcli.files import check_output
    from faultcli.report.correction import check_report

    if output is not None:
        check_output(output, force=force)
    if report is not None:
        check_report(report)
        check_output(report, force=force)


def _edmn_options(
    hidden: str, alpha: float, gamma: float, beta: float, temperature: float, clean_share: float, epochs: int
) -> EdmnOptions:
    from faultcli.errors import UsageError
    from faultcli.foreign import whole_number
    from faultcli.recover.edmn import EdmnOptions

    sizes = [whole_number(size) for size in hidden.split(",")]
    if None in sizes:
        raise UsageError(f"--hidden {hidden}: is no list of whole numbers", "try: --hidden 256,256")
    return EdmnOptions(tuple(size or 0 for size in sizes), alpha, gamma, beta, temperature, clean_share, epochs)
