"""faultcli diff: what differs between a checkpoint and a memory dump of it, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.places import READS, WRITES
from faultcli.errors import UsageError

_dump = partial(options.option, "Dump")
_GOLDEN = "The checkpoint as it should be: a .safetensors file, a *.safetensors.index.json or a directory with either."
_DUMP = "What the memory held: such a checkpoint, a .npy array of one tensor, or with --raw bytes as they are."


@dataclass(frozen=True)
class Compared(options.AtRisk):
    """Which tensors are compared."""

    target: options.Target = "any"


@dataclass(frozen=True)
class HowDumped:
    """What DUMP holds, where that is not in it."""

    raw: Annotated[
        bool,
        _dump(
            "",
            "DUMP is plain bytes: GOLDEN's file, or its tensors without the header (which of both: by their number).",
            "--raw",
        ),
    ] = False
    base: Annotated[str | None, _dump("OFFSET", "With --raw: the model begins at this byte, e.g. 0x8000.")] = None
    length: Annotated[str | None, _dump("BYTES", "With --raw: it is this long.", default="to the end of DUMP")] = None
    tensor: Annotated[str | None, _dump("NAME", "DUMP holds this tensor alone (--raw and .npy).")] = None
    pitch: Annotated[
        int | None, _dump("WORDS", "Words in a row of the memory array: tests its rows and columns, too.")
    ] = None


@grouped
def diff(
    *,
    golden: Annotated[str, typer.Argument(metavar="GOLDEN", help=_GOLDEN, show_default=False), READS],
    dump: Annotated[str, typer.Argument(metavar="DUMP", help=_DUMP, show_default=False), READS],
    dumped: HowDumped,
    compared: Compared,
    save_faults: Annotated[
        Path | None,
        options.output("FILE", "Save the difference as a fault map, for inject --replay and --fault measured:FILE."),
        WRITES,
    ] = None,
    shown: options.Overwriting,
) -> None:
    """Compare a checkpoint with a memory dump of it: which bits flipped, and which fault law that looks like.

    Ends with 0 whatever differs. Example: faultcli diff model.safetensors dump.safetensors --save-faults
    faults.safetensors
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.cli.session import note_what_was_found
    from faultcli.difference import RawPlace, check_assumptions, compare, fit, open_dump
    from faultcli.faults.selection import Selection, escaped
    from faultcli.files import check_output
    from faultcli.report.difference import difference_document, difference_lines, difference_tables

    place = None
    if dumped.raw:
        length = None if dumped.length is None else _bytes("--length", dumped.length)
        place = RawPlace(_bytes("--base", dumped.base or "0"), length)
    elif dumped.base is not None or dumped.length is not None:
        raise UsageError("--base and --length say where plain bytes lie", "add --raw, or leave them out")
    if dumped.pitch is not None and dumped.pitch < 2:
        raise UsageError(f"--pitch {dumped.pitch}: a row has 2 words or more", "--pitch 256")
    if dumped.tensor is not None and (compared.include or compared.exclude or compared.target != "any"):
        raise UsageError("--tensor says which tensor is compared", "leave --target, --include and --exclude out")
    checkpoint = Checkpoint.open(golden)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    asked = Selection(*compared.selection)
    if dumped.tensor is not None:
        asked = Selection("any", [escaped(checkpoint.info(dumped.tensor).name)])
    opened, names = open_dump(checkpoint, Path(dump), asked, raw=place, tensor=dumped.tensor)
    if save_faults is not None:
        check_output(save_faults, force=shown.force)
    with byte_progress(shown.quiet, "comparing", checkpoint.nbytes) as advance:
        found = compare(checkpoint, opened, names, bind=save_faults is not None, progress=advance)
    tests = check_assumptions(found, dumped.pitch)
    law = fit(found, asked, tests)
    if save_faults is not None:
        found.fault_map().save(save_faults, force=shown.force)
    write_json(difference_document(golden, dump, found, tests, law, save_faults), shown.json)
    if shown.json == "-":
        return
    for table in difference_tables(dump, found, tests):
        stdout().print(table)
    say(*difference_lines(found, tests, law))
    if save_faults is not None:
        bound = (
            "bound to both files by SHA-256" if found.before else "not bound to the files: it fits any of this layout"
        )
        say(f"{save_faults}: the difference as a fault map, {bound}")
        note(f"replay: faultcli inject {golden} --replay {save_faults}", quiet=shown.quiet)


def _bytes(option: str, text: str) -> int:
    """Read a number of bytes, decimal or with 0x hexadecimal."""
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 63:
        raise UsageError(f"{option} {text:.40}: is no number of bytes", f"{option} 32768, or {option} 0x8000")
    return number
