"""faultcli seal: checksums and parity of a checkpoint, beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.places import WRITES, writes

_sealing = partial(options.option, "Sealing")


@grouped
def seal(
    *,
    model: options.Model,
    parity: Annotated[
        int, _sealing("R", "Parity blocks per group: as many damaged blocks of each come back.", default=True)
    ] = 2,
    block: Annotated[
        int | None, _sealing("BYTES", "Bytes of a block.", default="4096 to 65536 by the length of each file")
    ] = None,
    output: Annotated[Path | None, options.written_to("MODEL.seal beside MODEL"), WRITES] = None,
    shown: options.Overwriting,
) -> None:
    """Write down checksums of an intact checkpoint, and parity that brings damaged blocks back.

    Later, `faultcli verify` names what is damaged. Example: faultcli seal model.safetensors --parity 4
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.cli.session import note_what_was_found
    from faultcli.report.seal import seal_document, seal_summary, seal_table
    from faultcli.seal.making import sealed_bytes, write_seal
    from faultcli.seal.record import default_seal

    checkpoint = Checkpoint.open(model)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    written = output or writes("--output", default_seal(checkpoint.path))
    with byte_progress(shown.quiet, "sealing", sealed_bytes(checkpoint, parity)) as advance:
        found = write_seal(checkpoint, written, parity=parity, block=block, force=shown.force, progress=advance)
    size = written.stat().st_size
    write_json(seal_document(found, size), shown.json)
    if shown.json != "-":
        stdout().print(seal_table(model, found))
        say(*seal_summary(found, size))
        beside = "" if written == default_seal(checkpoint.path) else f" --seal {written}"
        note(f"check: faultcli verify {model}{beside}", quiet=shown.quiet)
