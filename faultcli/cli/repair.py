"""faultcli repair: a damaged file made whole, by its own check words or by a seal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, progress, say, stdout, write_json
from faultcli.cli.exit_codes import DAMAGED
from faultcli.cli.grouping import grouped
from faultcli.cli.places import READS, WRITES, beside, writes


@dataclass(frozen=True)
class By:
    """What brings damaged parts back, if not the check words of a hardened file."""

    seal: Annotated[
        Path | None,
        options.option(
            "Repair",
            "SEAL",
            "Bring back what the parity of a seal covers.",
            default="MODEL.seal beside MODEL, if there is one and MODEL is not hardened",
        ),
        READS,
    ] = None
    reference: Annotated[
        Path | None,
        options.option("Repair", "COPY", "Take other blocks from another copy of MODEL, proven by the seal."),
        READS,
    ] = None


@grouped
def repair(
    *,
    model: options.Model,
    by: By,
    output: Annotated[Path | None, options.written_to("MODEL.repaired.safetensors beside MODEL"), WRITES] = None,
    shown: options.Overwriting,
) -> None:
    """Correct the flips in a damaged hardened file, or bring back what a seal covers, and say what stays lost.

    Exit code 1 where something stays lost. Example: faultcli repair model.hardened.safetensors -o whole.safetensors
    """
    from faultcli.errors import UsageError
    from faultcli.report.seal import default_seal_note
    from faultcli.seal.record import default_seal

    written = output or writes("--output", beside(Path(model), "repaired"))
    seal, kept = by.seal, default_seal(Path(model))
    if seal is None and kept.is_file() and (by.reference is not None or not _is_hardened(model)):
        note(default_seal_note(kept), quiet=shown.quiet)
        seal = kept
    if seal is not None:
        lost = _by_seal(model, seal, by.reference, written, shown)
    elif by.reference is not None:
        raise UsageError(f"--reference {by.reference}: without a seal nothing proves it", "name the seal: --seal SEAL")
    else:
        lost = _by_check_words(model, written, shown)
    if lost:
        raise typer.Exit(DAMAGED)


def _is_hardened(model: str) -> bool:
    from faultcli.checkpoint import Checkpoint
    from faultcli.errors import FaultcliError
    from faultcli.hardened.read import Hardened

    try:
        return Hardened.of(Checkpoint.open(model)) is not None
    except FaultcliError:  # so damaged that only a seal helps
        return False


def _by_check_words(model: str, written: Path, shown: options.Overwriting) -> bool:
    """Correct a hardened file; return whether something is lost."""
    from faultcli.checkpoint import Checkpoint
    from faultcli.cli.session import note_left_out, note_what_was_found
    from faultcli.errors import CheckpointError
    from faultcli.hardened.read import Hardened
    from faultcli.hardened.repair import repair_checkpoint
    from faultcli.report.repair import repair_document, repair_summary, repair_table

    checkpoint = Checkpoint.open(model)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    hardened = Hardened.of(checkpoint)
    if hardened is None:
        raise CheckpointError(
            f"{checkpoint.path}: is not hardened, so nothing in it can correct it",
            "name a seal that was made when it was intact: --seal SEAL",
        )
    with progress(shown.quiet) as display:
        task = display.add_task("weights", total=sum(slot.elements for slot in hardened.slots.values()))
        found = repair_checkpoint(
            hardened, written, force=shown.force, progress=lambda weights: display.advance(task, weights)
        )
    note_left_out(checkpoint, written, quiet=shown.quiet)
    write_json(repair_document(written, found), shown.json)
    if shown.json != "-":
        stdout().print(repair_table(str(checkpoint.path), found))
        say(*repair_summary(written, found))
    if found.lost_weights:
        note("blocks beyond correction are left as they are, so that they are known to be lost", quiet=shown.quiet)
    return found.lost_weights > 0


def _by_seal(model: str, path: Path, reference: Path | None, written: Path, shown: options.Overwriting) -> bool:
    """Bring back what a seal covers; return whether something is lost."""
    from faultcli.report.seal import seal_repair_fields, seal_repair_summary, seal_repair_table
    from faultcli.seal.record import Seal
    from faultcli.seal.repair import repair_with_seal

    seal = Seal.open(path)
    with byte_progress(shown.quiet, "repairing", 2 * sum(one.grid.nbytes for one in seal.files)) as advance:
        found = repair_with_seal(Path(model), seal, written, reference=reference, force=shown.force, progress=advance)
    if found.left_out is not None:
        note(found.left_out, quiet=shown.quiet)
    write_json({"schema": "faultcli.repair/1", **seal_repair_fields(found)}, shown.json)
    if shown.json != "-":
        if any(one.damaged for one in found.files):
            stdout().print(seal_repair_table(found))
        say(*seal_repair_summary(found))
    return not found.whole
