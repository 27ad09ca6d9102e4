"""faultcli verify: a checkpoint against its seal, or looked over without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.exit_codes import DAMAGED
from faultcli.cli.grouping import grouped
from faultcli.cli.places import READS


@grouped
def verify(
    *,
    model: options.Model,
    seal: Annotated[
        Path | None,
        options.option(
            "Sealing", "SEAL", "What `faultcli seal` wrote.", default="MODEL.seal beside MODEL, if it is there"
        ),
        READS,
    ] = None,
    shown: options.Shown,
) -> None:
    """Name every damaged block of a sealed checkpoint; of any other, what no checkpoint should look like.

    Exit code 1 where damage is found. Example: faultcli verify model.safetensors --seal model.safetensors.seal
    """
    from faultcli.report.seal import default_seal_note
    from faultcli.seal.record import default_seal

    if seal is None and (beside := default_seal(Path(model))).is_file():
        note(default_seal_note(beside), quiet=shown.quiet)
        seal = beside
    damaged = _look_over(model, shown) if seal is None else _compare(model, seal, shown)
    if damaged:
        raise typer.Exit(DAMAGED)


def _compare(model: str, path: Path, shown: options.Shown) -> bool:
    """Compare with a seal; return whether there is damage."""
    from faultcli.report.seal import verification_document, verification_summary, verification_table
    from faultcli.seal.checking import verify_with_seal
    from faultcli.seal.record import Seal

    seal = Seal.open(path)
    with byte_progress(shown.quiet, "verifying", sum(one.grid.nbytes for one in seal.files)) as advance:
        found = verify_with_seal(model, seal, progress=advance)
    write_json(verification_document(found), shown.json)
    if shown.json != "-":
        if found.damaged_blocks:
            stdout().print(verification_table(found))
        say(*verification_summary(found))
        if not found.whole:
            note(f"bring back what can be: faultcli repair {model} --seal {path}", quiet=shown.quiet)
    return not found.whole


def _look_over(model: str, shown: options.Shown) -> bool:
    """Look for signs of damage without a seal; return whether there are any."""
    from faultcli.checkpoint import Checkpoint
    from faultcli.cli.session import note_what_was_found
    from faultcli.hardened.read import Hardened
    from faultcli.report.signs import signs_document, signs_summary, signs_table
    from faultcli.seal.record import default_seal
    from faultcli.seal.signs import find_signs
    from faultcli.workload.process import prepare_to_stream

    prepare_to_stream()
    checkpoint = Checkpoint.open(model)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    with byte_progress(shown.quiet, "looking", checkpoint.nbytes) as advance:
        signs = find_signs(checkpoint, progress=advance)
    write_json(signs_document(checkpoint.path, signs), shown.json)
    if shown.json != "-":
        if signs:
            stdout().print(signs_table(checkpoint.path, signs))
        say(*signs_summary(checkpoint.path, len(checkpoint.tensors), signs))
        name = default_seal(Path(model)).name
        note(f"no seal named {name} lies beside it; a seal made of an intact copy: --seal SEAL", quiet=shown.quiet)
        if Hardened.of(checkpoint) is not None:
            note(f"it is hardened, and its check words say more: faultcli repair {model}", quiet=shown.quiet)
    return bool(signs)
