"""faultcli scale: store c·w, and undo it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.places import WRITES, writes

if TYPE_CHECKING:
    from faultcli.checkpoint import Checkpoint
    from faultcli.scaling import ScaledTensor


def scale(
    model: options.Model,
    factor: Annotated[
        str | None,
        typer.Option(
            metavar="X|auto|max",
            help="What to multiply by: a number; max, the largest that fits the format; auto, the one of least "
            "expected error. Needed unless --undo.",
            rich_help_panel=options.SCALING,
            show_default=False,
        ),
    ] = None,
    granularity: Annotated[
        str,
        typer.Option(
            metavar="model|tensor|channel",
            help="One factor for what, with auto and max.",
            rich_help_panel=options.SCALING,
        ),
    ] = "tensor",
    undo: Annotated[
        bool,
        typer.Option(
            "--undo",
            help="Give back every byte of the original, proven by its SHA-256.",
            rich_help_panel=options.SCALING,
            show_default=False,
        ),
    ] = False,
    format: options.Format = "native",
    ber: Annotated[
        str,
        typer.Option(metavar="P", help="Bit-error rate to predict the error for.", rich_help_panel=options.SCALING),
    ] = "1e-4",
    target: options.Target = "weights",
    include: options.Include = None,
    exclude: options.Exclude = None,
    output: Annotated[
        Path | None,
        options.output("MODEL.scaled.safetensors beside MODEL; with --undo MODEL.restored.safetensors"),
        WRITES,
    ] = None,
    force: options.Force = False,
    json: options.Json = None,
    quiet: options.Quiet = False,
) -> None:
    """Multiply the weights by constants, reversibly, and say what that does to the expected error.

    Every other command reads a scaled checkpoint as the model it is. Example: faultcli scale model.safetensors --factor
    max --format q2.5
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.errors import UsageError
    from faultcli.faults.selection import select
    from faultcli.protect.scale import Scale
    from faultcli.scaling import scale_checkpoint, unscale_checkpoint

    rate = options.explained_rate(ber, quiet).ber_per_bit
    checkpoint = Checkpoint.open(model)
    if undo:
        if factor is not None:
            raise UsageError("--undo takes no --factor: the constants are in the file", "leave --factor out")
        restored = output or writes("--output", options.beside(checkpoint.path, "restored"))
        with byte_progress(quiet, "undoing", 2 * checkpoint.nbytes) as advance:
            sha256 = unscale_checkpoint(checkpoint, restored, force=force, progress=advance)
        write_json({"schema": "faultcli.scale/1", "output": str(restored), "sha256": sha256, "tensors": []}, json)
        if json != "-":
            say(f"{restored}: every byte of the original, SHA-256 {sha256}")
        return
    if factor is None:
        raise UsageError("no --factor to scale by", "say --factor X, --factor max or --factor auto")
    names = select(checkpoint.tensors.values(), target=target, include=include or (), exclude=exclude or ())
    written = output or writes("--output", options.beside(checkpoint.path, "scaled"))
    with byte_progress(quiet, "scaling", 2 * checkpoint.nbytes) as advance:
        tensors = scale_checkpoint(
            checkpoint,
            Scale.parse(f"{factor}:{granularity}"),
            written,
            names=names,
            format_name=format,
            ber=rate,
            force=force,
            progress=advance,
        )
    write_json(_document(written, format, rate, tensors), json)
    if json != "-":
        _show(checkpoint, written, format, rate, tensors)
        note(f"undo: faultcli scale {written} --undo", quiet=quiet)


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
