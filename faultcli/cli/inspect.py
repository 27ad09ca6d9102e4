"""faultcli inspect: what a checkpoint holds, and the tables of what is built in."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.report.text import counted

if TYPE_CHECKING:
    from torch import Tensor

    from faultcli.checkpoint import Checkpoint, TensorInfo
    from faultcli.checkpoint.packed import Packed
    from faultcli.faults.law import FaultLaw
    from faultcli.hardened.read import Hardened

_built_in = partial(options.option, "Tables of what is built in", "")


@dataclass(frozen=True)
class Tables:
    """Which tables of what is built in."""

    formats: Annotated[bool, _built_in("Number formats.", "--formats")] = False
    faults: Annotated[bool, _built_in("Fault laws.", "--faults")] = False
    memories: Annotated[bool, _built_in("Memories that --ber knows, and the sources of their rates.", "--memories")] = (
        False
    )
    protections: Annotated[bool, _built_in("Protections.", "--protections")] = False
    archs: Annotated[bool, _built_in("Architectures.", "--archs")] = False


@grouped
def inspect(
    *,
    model: options.OptionalModel = None,
    tables: Tables,
    fault: options.OneFault,
    format: options.Format = "native",
    at_risk: options.InFile,
    shown: options.Shown,
) -> None:
    """List a checkpoint's tensors, their ranges and the bits that would be at risk; or a table of what is built in.

    Example: faultcli inspect model.safetensors --ber 1e-5
    """
    from faultcli.report import builtin

    asked = [table.name for table in fields(tables) if getattr(tables, table.name)]
    for name in asked:
        rows = builtin.TABLES[name]()
        write_json({"schema": f"faultcli.{name}/1", name: rows}, shown.json)
        if shown.json != "-":
            stdout().print(builtin.render(name, rows))
    if not asked:
        _inspect_checkpoint(model, fault, format, at_risk, shown)


def _inspect_checkpoint(
    model: str | None, asked: options.OneFault, format: str, at_risk: options.InFile, shown: options.Shown
) -> None:
    from faultcli.campaign.subject import open_checkpoint
    from faultcli.checkpoint.packed import Packed
    from faultcli.cli.session import naming, note_not_at_risk, note_what_was_found, with_channels
    from faultcli.errors import UsageError
    from faultcli.faults.selection import TARGETS, Selection
    from faultcli.hardened.read import Hardened
    from faultcli.injection import slots
    from faultcli.prediction import Prediction, Predictor
    from faultcli.protect.chain import by_row
    from faultcli.protect.quantised_tensor import refuse_other_memories
    from faultcli.quantised import parts
    from faultcli.report.inspection import inspection_document, inspection_summary, inspection_table, prediction_table
    from faultcli.survey import survey

    law = asked.law(quiet=shown.quiet) if asked.given else None
    checkpoint = open_checkpoint(model)
    note_what_was_found(checkpoint, quiet=shown.quiet)
    if (hardened := Hardened.of(checkpoint)) is not None:
        _inspect_hardened(hardened, asked, law, format, at_risk, shown)
        return
    if (packed := Packed.of(checkpoint)) is not None:
        refuse_other_memories(packed, [format], [])
    try:
        names = Selection(*at_risk.selection).names(checkpoint.tensors.values() if packed is None else parts(packed))
    except UsageError:
        if at_risk.include or at_risk.exclude or law is not None or at_risk.target not in TARGETS:
            raise
        names = []  # a checkpoint without weights can still be looked at
    note_not_at_risk(checkpoint, at_risk, quiet=shown.quiet)
    counts = packed is None and by_row(format)
    checkpoint = with_channels(checkpoint, names, at_risk.arch, counts=counts, quiet=shown.quiet)
    fault, expected = asked.fault, None
    if law is not None:
        fault = fault or law.spec
        sites = [site for slot in slots(checkpoint, names, format) for site in slot.places]
        expected = law.expected_flips([site for site in sites if law.covers(site)])
    ber = (
        None if law is None or packed is not None else law.ber
    )  # what a word's error does to a weight is for plain ones
    predictor = None if ber is None else Predictor(checkpoint, format, ber)
    predictions: list[Prediction] = []

    def look(info: TensorInfo, words: Tensor) -> None:
        if predictor is not None:
            predictions.append(predictor.predict(info, words))

    with byte_progress(shown.quiet, "reading", checkpoint.nbytes) as advance, naming(checkpoint, names):
        tensors = list(survey(checkpoint, set(names), format, advance, look))
    tensors = tensors if packed is None else [replace(one, role=packed.roles.get(one.name)) for one in tensors]
    write_json(inspection_document(str(checkpoint.path), format, tensors, fault, expected, predictions), shown.json)
    if shown.json != "-":
        stdout().print(inspection_table(str(checkpoint.path), tensors))
        say(inspection_summary(tensors, format, fault, expected))
        if predictions:
            stdout().print(prediction_table(format, predictions))
        _note_what_it_is(checkpoint, packed, shown)


def _note_what_it_is(checkpoint: Checkpoint, packed: Packed | None, shown: options.Shown) -> None:
    if packed is not None:
        types = ", ".join(f"{name} {count}" for name, count in packed.block_types.items())
        weights = counted(len(packed.weights), "weight") + (f" ({types})" if types else "")
        note(f"quantised: {packed.layout.title}, {weights}; --target names parts of them", quiet=shown.quiet)
    if checkpoint.metadata:
        entries = (f"{key}={value:.80}" for key, value in sorted(checkpoint.metadata.items()))
        note("metadata: " + ", ".join(entries), quiet=shown.quiet)


def _inspect_hardened(
    hardened: Hardened,
    asked: options.OneFault,
    law: FaultLaw | None,
    format: str,
    at_risk: options.AtRisk,
    shown: options.Shown,
) -> None:
    from faultcli.faults.selection import Selection
    from faultcli.quantised import FileAtRisk
    from faultcli.report.hardened import hardened_document, hardened_summary, hardened_table, rows_of

    path = hardened.checkpoint.path
    file = FileAtRisk.of(hardened.checkpoint, Selection(*at_risk.selection), format)
    rows = [row for row in rows_of(hardened) if row.name in file.names]
    expected = None
    if law is not None and file.memory is not None:
        expected = law.expected_flips([site for site in file.memory.sites if law.covers(site)])
    spec = None if law is None else asked.fault or law.spec
    found = {**hardened_document(path, hardened, rows, None), "schema": "faultcli.inspect/1"}
    write_json({**found, "checkpoint": str(path), "fault": spec, "expected_flips": expected}, shown.json)
    if shown.json != "-":
        stdout().print(hardened_table(f"{path}: a hardened file", rows, hardened.chain))
        say(*hardened_summary(hardened, rows))
        if spec is not None:
            flips = "depends on what is stored" if expected is None else f"{expected:,.4g} expected flips per trial"
            say(f"{spec}: {flips}")
        note(f"as a plain checkpoint: faultcli harden {path} --read", quiet=shown.quiet)
