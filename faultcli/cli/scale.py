"""faultcli scale: store c·w, and undo it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.groups import AtRisk, Output
from faultcli.cli.places import WRITES, writes
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.checkpoint import Checkpoint
    from faultcli.scaling import ScaledTensor


@dataclass(frozen=True)
class ScaleOptions:
    """By what, and what for."""

    factor: Annotated[
        str | None,
        typer.Option(
            metavar="X|auto|max",
            help="What to multiply by: a number; max, the largest that fits the format; auto, the one of least "
            "expected error. Needed unless --undo.",
            rich_help_panel=options.SCALING,
            show_default=False,
        ),
    ] = None
    granularity: Annotated[
        str,
        typer.Option(
            metavar="model|tensor|channel",
            help="One factor for what, with auto and max.",
            rich_help_panel=options.SCALING,
        ),
    ] = "tensor"
    undo: Annotated[
        bool,
        typer.Option(
            "--undo",
            help="Give back every byte of the original, proven by its SHA-256.",
            rich_help_panel=options.SCALING,
            show_default=False,
        ),
    ] = False
    format: options.Format = "native"
    ber: Annotated[
        str,
        typer.Option(metavar="P", help="Bit-error rate to predict the error for.", rich_help_panel=options.SCALING),
    ] = "1e-4"


@dataclass(frozen=True)
class ScaleOutput(Output):
    """What is written."""

    output: Annotated[
        Path | None,
        options.output("MODEL.scaled.safetensors beside MODEL; with --undo MODEL.restored.safetensors"),
        WRITES,
    ] = None
    force: options.Force = False


@grouped()
def scale(scaling: ScaleOptions, at_risk: AtRisk, written: ScaleOutput, model: options.Model) -> None:
    """Multiply the weights by constants, reversibly, and say what that does to the expected error.

    Every other command reads a scaled checkpoint as the model it is. Example: faultcli scale model.safetensors --factor
    max --format q2.5
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.protect.scale import Scale
    from faultcli.scaling import scale_checkpoint
    from faultcli.workload.process import prepare_to_stream

    prepare_to_stream()
    format, quiet = scaling.format, written.quiet
    rate = options.explained_rate(scaling.ber, quiet).ber_per_bit
    checkpoint = Checkpoint.open(model)
    if scaling.undo:
        _undo(checkpoint, scaling, written)
        return
    if scaling.factor is None:
        raise UsageError("no --factor to scale by", "say --factor X, --factor max or --factor auto")
    names = at_risk.names(checkpoint)
    output = written.output or writes("--output", options.beside(checkpoint.path, "scaled"))
    with byte_progress(quiet, "scaling", 2 * checkpoint.nbytes) as advance:
        tensors = scale_checkpoint(
            checkpoint,
            Scale.parse(f"{scaling.factor}:{scaling.granularity}"),
            output,
            names=names,
            format_name=format,
            ber=rate,
            force=written.force,
            progress=advance,
        )
    write_json(_document(output, format, rate, tensors), written.json)
    if written.json != "-":
        _show(checkpoint, output, format, rate, tensors)
        note(f"undo: faultcli scale {output} --undo", quiet=quiet)


def _undo(checkpoint: Checkpoint, scaling: ScaleOptions, written: ScaleOutput) -> None:
    from faultcli.scaling import unscale_checkpoint

    if scaling.factor is not None:
        raise UsageError("--undo takes no --factor: the constants are in the file", "leave --factor out")
    output = written.output or writes("--output", options.beside(checkpoint.path, "restored"))
    with byte_progress(written.quiet, "undoing", 2 * checkpoint.nbytes) as advance:
        sha256 = unscale_checkpoint(checkpoint, output, force=written.force, progress=advance)
    write_json({"schema": "faultcli.scale/1", "output": str(output), "sha256": sha256, "tensors": []}, written.json)
    if written.json != "-":
        say(f"{output}: every byte of the original, SHA-256 {sha256}")


def _document(output: Path, format: str, ber: float, tensors: list[ScaledTensor]) -> dict[str, Any]:
    return {
        "schema": "faultcli.scale/1",
        "output": str(output),
        "format": format,
        "ber": ber,
        "tensors": [
            {
                "name": t.name,
                "factor": t.factor,
                "best_factor": t.best_factor,
                "predicted_error": {"asked": t.asked, "one": t.one, "best": t.best},
                "corrections": t.corrections,
            }
            for t in tensors
        ],
    }


def _show(checkpoint: Checkpoint, output: Path, format: str, ber: float, tensors: list[ScaledTensor]) -> None:
    from faultcli.report.scaling import scaling_table, verdict

    stdout().print(scaling_table(checkpoint.path, format, ber, tensors))
    say(verdict(tensors))
    say(f"written to {output}")
