"""faultcli harden: the memory image as a file, and the plain checkpoint back."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.cli.places import WRITES, beside, writes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faultcli.checkpoint import Checkpoint
    from faultcli.hardened.write import HardenedRow
    from faultcli.protect.chain import Chain


@dataclass(frozen=True)
class Image:
    """Where the image goes, or what is made of one."""

    output: Annotated[
        Path | None,
        options.written_to("MODEL.hardened.safetensors beside MODEL; with --read MODEL.plain.safetensors"),
        WRITES,
    ] = None
    read: Annotated[
        bool, options.output("", "MODEL is hardened: write the plain checkpoint as it reads.", "--read")
    ] = False
    device: Annotated[
        Path | None,
        options.output(
            "DIR", "A new folder with what a device needs: the reader in C99, the words, test vectors.", "--device"
        ),
        WRITES,
    ] = None


@grouped
def harden(
    *,
    model: options.Model,
    memory: options.OneMemory,
    ber: Annotated[
        str | None, options.faults("P", "Bit-error rate that scale=auto and posterior are designed for.")
    ] = None,
    at_risk: options.InFile,
    image: Image,
    shown: options.Overwriting,
) -> None:
    """Write a checkpoint as it lies in its memory: stored words, check words and constants, in one safetensors file.

    Every other command reads a hardened file as the model it is, and hits its words with faults. The tensors of a
    quantised checkpoint keep their shapes; check words are added. Example: faultcli harden model.safetensors
    --format q2.5 --protect scale=max:channel,inplace=2
    """
    from faultcli.checkpoint import Checkpoint
    from faultcli.checkpoint.packed import Packed
    from faultcli.cli.session import note_left_out, note_not_at_risk, note_what_was_found, with_channels
    from faultcli.errors import UsageError
    from faultcli.faults.selection import Selection
    from faultcli.hardened.device.export import check_folder
    from faultcli.hardened.read import Hardened
    from faultcli.hardened.write import check_plain, harden_checkpoint
    from faultcli.protect.chain import by_row
    from faultcli.quantised import parts
    from faultcli.report.hardened import hardened_document, rows_of
    from faultcli.workload.process import prepare_to_stream

    prepare_to_stream()
    if image.device is not None:
        check_folder(image.device)
    checkpoint = Checkpoint.open(model)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    if image.read:
        if memory != options.OneMemory() or ber is not None or image.device is not None:
            raise UsageError(
                "--read takes no --format, --protect, --ber or --device: they are in the file", "leave them out"
            )
        _read(checkpoint, image, shown)
        return
    if image.device is None or image.output is not None:
        check_plain(checkpoint)
    if memory == options.OneMemory() and image.device is None:
        raise UsageError(
            "no --format and no --protect: the file would be the plain checkpoint",
            "name one: --format q2.5 --protect scale=max:channel,inplace=2; of a quantised one: --protect secded=64",
        )
    hardened = Hardened.of(checkpoint)
    if hardened is not None and hardened.record.quantised is not None and image.device is not None:
        _refuse_device(checkpoint.path, hardened.record.quantised)
    if hardened is not None and memory == options.OneMemory() and image.output is None and image.device is not None:
        write_json(hardened_document(None, hardened, rows_of(hardened), image.device), shown.json)
        _export(hardened, image.device, shown)
        return
    check_plain(checkpoint)
    packed = Packed.of(checkpoint)
    if packed is not None and image.device is not None:
        _refuse_device(checkpoint.path, packed.layout.title)
    chain = _chain(memory.protect, image.device)
    rate = None if ber is None else options.explained_rate(ber, quiet=shown.quiet).ber_per_bit
    names = Selection(*at_risk.selection).names(checkpoint.tensors.values() if packed is None else parts(packed))
    note_not_at_risk(checkpoint, at_risk, quiet=shown.quiet)
    counts = packed is None and by_row(memory.format, chain)
    checkpoint = with_channels(checkpoint, names, at_risk.arch, counts=counts, quiet=shown.quiet)
    written = image.output or writes("--output", beside(checkpoint.path, "hardened"))
    if packed is not None:
        _note_config(checkpoint, written, shown)
    with byte_progress(shown.quiet, "hardening", checkpoint.nbytes) as advance:
        rows = harden_checkpoint(
            checkpoint,
            written,
            names=names,
            format_name=memory.format,
            chain=chain,
            ber=rate,
            force=shown.force,
            progress=advance,
        )
    note_left_out(checkpoint, written, quiet=shown.quiet)
    _show(written, rows, image.device, shown)


def _chain(protect: str, device: Path | None) -> Chain:
    from faultcli.hardened.device.description import check_readable
    from faultcli.protect.plan_file import read_chain

    chain = read_chain(protect)
    if device is not None:
        check_readable(chain)
    return chain


def _show(written: Path, rows: Sequence[HardenedRow], device: Path | None, shown: options.Overwriting) -> None:
    from faultcli.checkpoint import Checkpoint
    from faultcli.hardened.read import Hardened
    from faultcli.quantised import Quantised
    from faultcli.report.hardened import hardened_document, hardened_summary, hardened_table

    made = Hardened.of(Checkpoint.open(written))
    assert made is not None
    write_json(hardened_document(written, made, rows, device), shown.json)
    if shown.json != "-":
        stdout().print(hardened_table(str(written), rows, made.chain))
        say(*hardened_summary(made, rows))
    if made.record.quantised is None:
        doubts = [doubt for slot in made.slots.values() for doubt in made.chain.doubts(slot.format)]
    else:
        doubts = Quantised(made.packed(), list(made.slots), made).doubts(made.chain)
    for doubt in dict.fromkeys(doubts):
        note(f"warning: {doubt}", quiet=shown.quiet)
    if device is not None:
        _export(made, device, shown)
    note(f"back to a plain checkpoint: faultcli harden {written} --read", quiet=shown.quiet)


def _refuse_device(path: Path, layout: str) -> NoReturn:
    from faultcli.errors import UsageError

    raise UsageError(
        f"--device: the reader in C reads weights; {path} holds words of {layout}, which its own library reads",
        "leave --device out",
    )


def _note_config(checkpoint: Checkpoint, written: Path, shown: options.Overwriting) -> None:
    """Say that a file leaves behind what tells how it is quantised."""
    from faultcli.checkpoint.packed.table import CONFIG, configuration

    said = configuration(checkpoint.directory)
    if checkpoint.kind == "file" and said and configuration(written.absolute().parent) != said:
        text = f"warning: {written}: has no {CONFIG} beside it that says how it is quantised: copy that of the model"
        note(text, quiet=shown.quiet)


def _read(checkpoint: Checkpoint, image: Image, shown: options.Overwriting) -> None:
    from faultcli.cli.session import note_left_out
    from faultcli.errors import CheckpointError
    from faultcli.hardened.read import Hardened, read_checkpoint

    hardened = Hardened.of(checkpoint)
    if hardened is None:
        raise CheckpointError(f"{checkpoint.path}: is not hardened, it is plain already", "use it as it is")
    written = image.output or writes("--output", beside(checkpoint.path, "plain"))
    with byte_progress(shown.quiet, "reading", sum(info.nbytes for info in hardened.infos.values())) as advance:
        read_checkpoint(hardened, written, force=shown.force, progress=advance)
    note_left_out(checkpoint, written, quiet=shown.quiet)
    summary = {
        "schema": "faultcli.harden/1",
        "output": str(written),
        "read_from": str(checkpoint.path),
        "format": hardened.format,
        "protect": hardened.chain.text,
        "tensors": [],
    }
    write_json(summary, shown.json)
    if shown.json != "-":
        say(f"{written}: the plain checkpoint as {checkpoint.path} reads")


def _export(hardened: object, folder: Path, shown: options.Overwriting) -> None:
    from faultcli.errors import CheckpointError
    from faultcli.hardened.device.export import export_device
    from faultcli.hardened.read import Hardened
    from faultcli.hardened.repair import repaired

    assert isinstance(hardened, Hardened)
    tensors = {name: hardened.stored(name) for name in hardened.slots}
    path = hardened.checkpoint.path
    for name, stored in tensors.items():
        found = repaired(stored)
        if found.flips or found.lost:
            raise CheckpointError(f"{path}: tensor {name!r} is damaged", f"repair it first: faultcli repair {path}")
    made = export_device(tensors, folder, title=hardened.checkpoint.path.name)
    if shown.json != "-":
        say(
            f"{folder}: {made.memory_bytes:,} bytes of words, {made.table_bytes:,} of tables, and the reader in C; "
            f"try it: make -C {shlex.quote(str(folder))} test"
        )
