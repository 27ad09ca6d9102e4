"""faultcli repair: a damaged file made whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note, progress, say, stdout, write_json
from faultcli.cli.exit_codes import DAMAGED
from faultcli.cli.grouping import grouped
from faultcli.cli.places import WRITES, beside, writes


@grouped
def repair(
    *,
    model: options.Model,
    output: Annotated[Path | None, options.written_to("MODEL.repaired.safetensors beside MODEL"), WRITES] = None,
    shown: options.Overwriting,
) -> None:
    """Correct the flips in a damaged hardened file, and say which blocks are beyond correction.

    Exit code 1 where something stays lost. Example: faultcli repair model.hardened.safetensors -o whole.safetensors
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.errors import CheckpointError
    from faultcli.hardened.read import Hardened
    from faultcli.hardened.repair import repair_checkpoint
    from faultcli.report.repair import repair_document, repair_summary, repair_table

    checkpoint = Checkpoint.open(model)
    hardened = Hardened.of(checkpoint)
    if hardened is None:
        raise CheckpointError(
            f"{checkpoint.path}: is not hardened, so nothing in it can correct it",
            "harden the original: faultcli harden MODEL --format q2.5 --protect inplace=2",
        )
    written = output or writes("--output", beside(checkpoint.path, "repaired"))
    with progress(shown.quiet) as display:
        task = display.add_task("weights", total=sum(slot.elements for slot in hardened.slots.values()))
        found = repair_checkpoint(
            hardened, written, force=shown.force, progress=lambda weights: display.advance(task, weights)
        )
    write_json(repair_document(written, found), shown.json)
    if shown.json != "-":
        stdout().print(repair_table(str(checkpoint.path), found))
        say(*repair_summary(written, found))
    if found.lost_weights:
        note("blocks beyond correction are left as they are, so that they are known to be lost", quiet=shown.quiet)
        raise typer.Exit(DAMAGED)
