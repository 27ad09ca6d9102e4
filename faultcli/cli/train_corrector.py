"""faultcli train-corrector: an external corrector of logits, and proof of what it does."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note, progress, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.groups import AtRisk, Faults, OneMemory, Opened, Output
from faultcli.cli.places import READS, WRITES

if TYPE_CHECKING:
    from faultcli.campaign.training import TrainingPlan
    from faultcli.faults.law import FaultLaw
    from faultcli.faults.maps import FaultMap
    from faultcli.recover.edmn import EdmnOptions

TRAINING = "Training"
RARE = (
    *("hidden", "alpha", "gamma", "beta", "temperature", "clean_share", "epochs"),
    *("target", "include", "exclude", "batch_size", "device", "mean", "std"),
)


@dataclass(frozen=True)
class Known(Faults):
    """Faults of laws, or known ones."""

    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Known damage: train for the very faults of a saved map instead of a law.",
            rich_help_panel=options.FAULTS,
            show_default=False,
        ),
        READS,
    ] = None

    def laws(self, *, quiet: bool) -> tuple[list[FaultLaw], FaultMap | None]:
        """Return the laws, or else the faults themselves."""
        from faultcli.errors import UsageError
        from faultcli.faults.laws import parse_law
        from faultcli.faults.maps import FaultMap

        laws = [rate.law for rate in options.rates(self.bers, quiet=quiet)]
        laws += [parse_law(spec) for spec in self.fault or []]
        if (self.replay is None) == (not laws):
            beside = "--replay names the faults: no --fault or --ber beside it"
            raise UsageError(
                "no fault to train for" if self.replay is None else beside,
                "name a law with --fault SPEC or --ber P, or the faults themselves with --replay FILE",
            )
        return laws, None if self.replay is None else FaultMap.load(self.replay)


@dataclass(frozen=True)
class Training:
    """What is trained, on what."""

    method: Annotated[
        str,
        typer.Option(
            metavar="edmn|align|mixture|adaptive",
            help="edmn: a perceptron, as published. align: moment alignment over a window. mixture: one Gaussian per "
            "class on a window. adaptive: a blend by estimated severity, that leaves alone what it cannot help.",
            rich_help_panel=TRAINING,
        ),
    ] = "adaptive"
    train_data: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="Labelled inputs to train on and to look at; never those of the report.",
            rich_help_panel=TRAINING,
            show_default="the training split of the data, else half of the data",
        ),
        READS,
    ] = None
    train_limit: Annotated[int, typer.Option(metavar="N", help="Use at most N of them.", rich_help_panel=TRAINING)] = (
        5000
    )
    maps: Annotated[
        int, typer.Option(metavar="N", help="Fault maps per level to train on.", rich_help_panel=TRAINING)
    ] = 6
    report_maps: Annotated[
        int, typer.Option(metavar="N", help="Other fault maps per level to report on.", rich_help_panel=TRAINING)
    ] = 20
    window: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Unlabelled inputs that the device looks at. Taken from the training inputs, set aside.",
            rich_help_panel=TRAINING,
            show_default="1000; a quarter of the training inputs where they are few",
        ),
    ] = None

    def plan(self, seed: int, perceptron: EdmnSettings) -> TrainingPlan:
        """Return what they come to."""
        from faultcli.campaign.training import TrainingPlan

        inputs = self.train_data, self.train_limit, self.window
        return TrainingPlan(self.method, seed, *inputs, self.maps, self.report_maps, perceptron.edmn())


@dataclass(frozen=True)
class EdmnSettings:
    """How the perceptron of `edmn` and its loss are made."""

    hidden: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Hidden sizes of the perceptron.", rich_help_panel=TRAINING)
    ] = "256,256"
    alpha: Annotated[float, typer.Option(metavar="W", help="Weight of the distillation.", rich_help_panel=TRAINING)] = (
        1.0
    )
    gamma: Annotated[
        float, typer.Option(metavar="W", help="Weight of the cross entropy.", rich_help_panel=TRAINING)
    ] = 1.0
    beta: Annotated[
        float, typer.Option(metavar="W", help="Weight of the squared correction.", rich_help_panel=TRAINING)
    ] = 1e-4
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Temperature of the distillation.", rich_help_panel=TRAINING)
    ] = 2.0
    clean_share: Annotated[
        float, typer.Option(metavar="P", help="Share of clean samples.", rich_help_panel=TRAINING)
    ] = 0.2
    epochs: Annotated[int, typer.Option(metavar="N", help="Epochs of the perceptron.", rich_help_panel=TRAINING)] = 15

    def edmn(self) -> EdmnOptions:
        """Return what they come to."""
        from faultcli.errors import UsageError
        from faultcli.foreign import whole_number
        from faultcli.recover.edmn import EdmnOptions

        sizes = [whole_number(size) for size in self.hidden.split(",")]
        if None in sizes:
            raise UsageError(f"--hidden {self.hidden}: is no list of whole numbers", "try: --hidden 256,256")
        weights = self.alpha, self.gamma, self.beta
        return EdmnOptions(
            tuple(size or 0 for size in sizes), *weights, self.temperature, self.clean_share, self.epochs
        )


@dataclass(frozen=True)
class CorrectorOutput(Output):
    """What is written."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Where to write the corrector.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
        WRITES,
    ] = None
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.{md,svg,png}",
            help="Write gain against severity, measured and predicted, with intervals.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
        WRITES,
    ] = None
    force: options.Force = False


@grouped(rare=RARE)
def train_corrector(
    training: Training,
    known: Known,
    memory: OneMemory,
    at_risk: AtRisk,
    perceptron: EdmnSettings,
    opened: Opened,
    written: CorrectorOutput,
    model: options.OptionalModel = None,
) -> None:
    """Train a corrector of logits for faults of a law, or for known faults, and report what it gives back.

    It is trained on some fault maps and reported on others, on data that it has not seen. Without a window of its own
    the device needs nothing; align, mixture and adaptive look at unlabelled inputs as they come in.

    Example: faultcli train-corrector --fault gaussian:0.1 -o corrector.safetensors
    """
    from faultcli.campaign import training as library
    from faultcli.campaign.subject import Subject
    from faultcli.cli.session import note_what_runs
    from faultcli.protect.chain import parse_chain
    from faultcli.recover.file import save_corrector
    from faultcli.report.correction import correction_document, correction_table, write_report

    quiet = written.quiet
    laws, faults = known.laws(quiet=quiet)
    plan = training.plan(known.seed, perceptron)
    _check_outputs(written)
    format, chain = memory.format, parse_chain(memory.protect)
    if faults is not None:
        format, at_risk = faults.format, AtRisk("any", _covered(model, faults), [])
    subject = Subject.open(model, opened.data, **opened.opening(at_risk))
    note_what_runs(subject, quiet=quiet)
    inputs = library.training_inputs(subject, plan)
    if inputs.held_out is not None:
        name = inputs.held_out.name
        note(f"{name}: has no training split; trained on one half, reported on the other", quiet=quiet)
    with progress(quiet) as display:
        total = len(laws) * (training.maps + training.report_maps)
        task = display.add_task("fault maps", total=total, visible=faults is None)
        result = library.train_corrector(
            subject,
            laws if faults is None else faults,
            plan,
            inputs,
            format=format,
            protect=chain,
            progress=lambda: display.advance(task),
        )
    if written.output is not None:
        save_corrector(result.corrector, written.output, force=written.force)
    if written.report is not None:
        write_report(written.report, result.corrector, result.levels, result.inputs, force=written.force)
    write_json(correction_document(written.output, result.corrector, result.levels), written.json)
    if written.json != "-":
        stdout().print(correction_table(result.corrector, result.levels, result.inputs))
        setting = result.corrector.card.setting
        note(f"{setting}; corrector: {written.output or 'not written, for want of -o'}", quiet=quiet)


def _covered(model: str | None, faults: FaultMap) -> list[str]:
    """Return the tensors that a fault map covers, as globs."""
    from faultcli.campaign.subject import open_checkpoint

    here = open_checkpoint(model).tensors
    return [glob.escape(name) for name in faults.layout if name in here]


def _check_outputs(written: CorrectorOutput) -> None:
    from faultcli.files import check_output
    from faultcli.report.correction import check_report

    if written.output is not None:
        check_output(written.output, force=written.force)
    if written.report is not None:
        check_report(written.report)
        check_output(written.report, force=written.force)
