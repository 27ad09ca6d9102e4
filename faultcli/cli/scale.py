"""faultcli scale: store c·w, and undo it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.places import WRITES, beside, writes

if TYPE_CHECKING:
    from faultcli.checkpoint import Checkpoint
    from faultcli.scaling import ScaledTensor


_scaling = partial(options.option, "Scaling")


@dataclass(frozen=True)
class ByWhat:
    """By what, or back."""

    factor: Annotated[
        str | None,
        _scaling(
            "X|auto|max",
            "What to multiply by: a number; max, the largest that fits the format; auto, the one of least "
            "expected error. Needed unless --undo.",
        ),
    ] = None
    granularity: Annotated[
        str, _scaling("model|tensor|channel", "One factor for what, with auto and max.", default=True)
    ] = "tensor"
    undo: Annotated[bool, _scaling("", "Give back every byte of the original, proven by SHA-256.", "--undo")] = False
    ber: Annotated[str, _scaling("P", "Bit-error rate to predict the error for.", default=True)] = "1e-4"


@grouped
def scale(
    *,
    model: options.Model,
    asked: ByWhat,
    format: options.Format = "native",
    at_risk: options.InFile,
    output: Annotated[
        Path | None,
        options.written_to("MODEL.scaled.safetensors beside MODEL; with --undo MODEL.restored.safetensors"),
        WRITES,
    ] = None,
    shown: options.Overwriting,
) -> None:
    """Multiply the weights by constants, reversibly, and say what that does to the expected error.

    Every other command reads a scaled checkpoint as the model it is. Example: faultcli scale model.safetensors --factor
    max --format q2.5
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.checkpoint.packed import refuse_quantised
    from faultcli.cli.session import naming, note_left_out, note_not_at_risk, note_what_was_found, with_channels
    from faultcli.errors import UsageError
    from faultcli.faults.selection import Selection
    from faultcli.hardened.read import Hardened
    from faultcli.protect.chain import by_row
    from faultcli.protect.scale import Scale
    from faultcli.scaling import scale_checkpoint, unscale_checkpoint
    from faultcli.workload.process import prepare_to_stream

    prepare_to_stream()
    rate = options.explained_rate(asked.ber, quiet=shown.quiet).ber_per_bit
    checkpoint = Checkpoint.open(model)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    if asked.undo:
        if asked.factor is not None:
            raise UsageError("--undo takes no --factor: the constants are in the file", "leave --factor out")
        restored = output or writes("--output", beside(checkpoint.path, "restored"))
        with byte_progress(shown.quiet, "undoing", 2 * checkpoint.nbytes) as advance:
            sha256 = unscale_checkpoint(checkpoint, restored, force=shown.force, progress=advance)
        note_left_out(checkpoint, restored, quiet=shown.quiet)
        write_json({"schema": "faultcli.scale/1", "output": str(restored), "sha256": sha256, "tensors": []}, shown.json)
        if shown.json != "-":
            say(f"{restored}: every byte of the original, SHA-256 {sha256}")
        return
    if asked.factor is None:
        raise UsageError("no --factor to scale by", "say --factor X, --factor max or --factor auto")
    if Hardened.of(checkpoint) is not None:
        raise UsageError(
            f"{checkpoint.path}: is hardened: its memory holds what the chain has scaled",
            f"take the plain checkpoint: faultcli harden {checkpoint.path} --read",
        )
    refuse_quantised(checkpoint, "scale")
    names = Selection(*at_risk.selection).names(checkpoint.tensors.values())
    note_not_at_risk(checkpoint, at_risk, quiet=shown.quiet)
    how = Scale.parse(f"{asked.factor}:{asked.granularity}")
    counts = how.by_row or by_row(format)
    checkpoint = with_channels(checkpoint, names, at_risk.arch, counts=counts, quiet=shown.quiet)
    written = output or writes("--output", beside(checkpoint.path, "scaled"))
    with byte_progress(shown.quiet, "scaling", 2 * checkpoint.nbytes) as advance, naming(checkpoint, names):
        tensors = scale_checkpoint(
            checkpoint,
            how,
            written,
            names=names,
            format_name=format,
            ber=rate,
            force=shown.force,
            progress=advance,
        )
    note_left_out(checkpoint, written, quiet=shown.quiet)
    write_json(_document(written, format, rate, tensors), shown.json)
    if shown.json != "-":
        _show(checkpoint, written, format, rate, tensors)
        note(f"undo: faultcli scale {written} --undo", quiet=shown.quiet)


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
