"""faultcli train-corrector: an external corrector of logits, and proof of what it does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from faultcli.cli import options
from faultcli.cli.console import note, progress, stdout, write_json
from faultcli.cli.grouping import RARE, grouped
from faultcli.cli.places import READS, WRITES

if TYPE_CHECKING:
    from faultcli.campaign.training import TrainingPlan
    from faultcli.recover.edmn import EdmnOptions

_training = partial(options.option, "Training")


@dataclass(frozen=True)
class Training:
    """How the corrector is trained, and on what."""

    method: Annotated[
        str,
        _training(
            "METHOD",
            "edmn: a perceptron, as published; for --replay. align: moment alignment over a window. mixture: one "
            "Gaussian per class on it. many: for hundreds of classes. language: for language models. adaptive: a blend "
            "by severity, many or language; leaves alone where in doubt.",
            default=True,
        ),
    ] = "adaptive"
    train_data: Annotated[
        str | None,
        _training(
            "D",
            "Labelled inputs to train on and to look at; never those of the report.",
            default="the training split of the data, else half of the data",
        ),
        READS,
    ] = None
    train_limit: Annotated[int, _training("N", "Use at most N of them.", default=True)] = 5000
    maps: Annotated[int, _training("N", "Fault maps per level to train on.", default=True)] = 6
    report_maps: Annotated[int, _training("N", "Other fault maps per level to report on.", default=True)] = 20
    window: Annotated[
        int | None,
        _training(
            "N",
            "Unlabelled inputs (tokens of a text) that the device looks at, of those to train on.",
            default="1000; a quarter of the training inputs where they are few",
        ),
    ] = None

    hidden: Annotated[str, _training("N[,N...]", "Hidden sizes of the perceptron.", default=True), RARE] = "256,256"
    alpha: Annotated[float, _training("W", "Weight of the distillation.", default=True), RARE] = 1.0
    gamma: Annotated[float, _training("W", "Weight of the cross entropy.", default=True), RARE] = 1.0
    beta: Annotated[float, _training("W", "Weight of the squared correction.", default=True), RARE] = 1e-4
    temperature: Annotated[float, _training("T", "Temperature of the distillation.", default=True), RARE] = 2.0
    clean_share: Annotated[float, _training("P", "Share of clean samples.", default=True), RARE] = 0.2
    epochs: Annotated[int, _training("N", "Epochs of the perceptron.", default=True), RARE] = 15

    def edmn(self) -> EdmnOptions:
        """Return how the perceptron is trained."""
        from faultcli.errors import UsageError
        from faultcli.foreign import whole_number
        from faultcli.recover.edmn import EdmnOptions

        sizes = [whole_number(size) for size in self.hidden.split(",")]
        if None in sizes:
            raise UsageError(f"--hidden {self.hidden}: is no list of whole numbers", "try: --hidden 256,256")
        others = self.alpha, self.gamma, self.beta, self.temperature, self.clean_share, self.epochs
        return EdmnOptions(tuple(size or 0 for size in sizes), *others)

    def plan(self, seed: int) -> TrainingPlan:
        """Return what they come to."""
        from faultcli.campaign.training import TrainingPlan

        inputs = self.train_data, self.train_limit, self.window
        return TrainingPlan(self.method, seed, *inputs, self.maps, self.report_maps, self.edmn())


@dataclass(frozen=True)
class Damage(options.Faults):
    """What the corrector is trained for."""

    replay: Annotated[
        Path | None,
        options.faults("FILE", "Known damage: train for the very faults of a saved map instead of a law."),
        READS,
    ] = None


@dataclass(frozen=True)
class Outputs:
    """What is written."""

    output: Annotated[Path | None, options.output("OUT", "Where to write the corrector.", "--output", "-o"), WRITES] = (
        None
    )
    report: Annotated[
        Path | None,
        options.output("FILE.{md,svg,png}", "Write gain against severity, measured and predicted, with intervals."),
        WRITES,
    ] = None

    def check(self, *, force: bool) -> None:
        """Refuse, before any work is done, what cannot be written."""
        from faultcli.files import check_output
        from faultcli.report.correction import check_report

        if self.output is not None:
            check_output(self.output, force=force)
        if self.report is not None:
            check_report(self.report)
            check_output(self.report, force=force)


@grouped
def train_corrector(
    *,
    model: options.OptionalModel = None,
    workload: options.ModelAndData,
    faults: Damage,
    memory: options.OneMemory,
    at_risk: options.AtRisk,
    training: Training,
    outputs: Outputs,
    shown: options.Overwriting,
) -> None:
    """Train a corrector of logits for faults of a law, or for known faults, and report what it gives back.

    Trained on some fault maps, reported on others, on new data. All but edmn look at unlabelled inputs as they come in.

    Example: faultcli train-corrector --fault gaussian:0.1 -o corrector.safetensors
    """
    from faultcli.campaign import training as library
    from faultcli.cli.session import memories_of, note_what_runs, open_subject
    from faultcli.errors import UsageError
    from faultcli.faults.maps import FaultMap
    from faultcli.recover.file import save_corrector
    from faultcli.report.correction import correction_document, correction_table, write_report

    seed, quiet = faults.seed, shown.quiet
    laws = faults.laws(faults.rates(quiet=quiet))
    if (faults.replay is None) == (not laws):
        problem = "--replay names the faults: no --fault or --ber beside it" if laws else "no fault to train for"
        raise UsageError(
            problem, "name a law with --fault SPEC or --ber P, or the faults themselves with --replay FILE"
        )
    plan = training.plan(seed)
    outputs.check(force=shown.force)
    formats, chains = memories_of(model, [memory.format], [memory.protect])
    known = None if faults.replay is None else FaultMap.load(faults.replay)
    if known is not None:
        at_risk = options.AtRisk("any")  # of which the map's own are
    subject = open_subject(model, workload, at_risk)
    note_what_runs(subject, quiet=quiet)
    inputs = library.training_inputs(subject, plan)
    if inputs.held_out is not None:
        name = inputs.held_out.name
        note(f"{name}: has no training split; trained on one part, reported on the other", quiet=quiet)
    with progress(quiet) as display:
        total = len(laws) * (training.maps + training.report_maps)
        task = display.add_task("fault maps", total=total, visible=known is None)
        result = library.train_corrector(
            subject,
            laws if known is None else known,
            plan,
            inputs,
            format=formats[0],
            protect=chains[0],
            progress=lambda: display.advance(task),
        )
    output = outputs.output
    if output is not None:
        save_corrector(result.corrector, output, force=shown.force)
    if outputs.report is not None:
        write_report(outputs.report, result, force=shown.force)
    write_json(correction_document(output, result), shown.json)
    if shown.json != "-":
        stdout().print(correction_table(result))
        for remark in result.remarks:
            note(remark, quiet=quiet)
        note(f"{result.corrector.card.setting}; corrector: {output or 'not written, for want of -o'}", quiet=quiet)
