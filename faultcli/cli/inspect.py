"""faultcli inspect: what a checkpoint holds, and the tables of what is built in."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Annotated

from faultcli.cli import options
from faultcli.cli.console import byte_progress, note, say, stdout, write_json
from faultcli.cli.grouping import grouped

if TYPE_CHECKING:
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
    from faultcli.cli.session import channels_in, note_left_out
    from faultcli.errors import UsageError
    from faultcli.faults.selection import TARGETS, Selection
    from faultcli.hardened.read import Hardened
    from faultcli.injection import slots
    from faultcli.prediction import Predictor
    from faultcli.protect.chain import by_channel
    from faultcli.report.inspection import inspection_document, inspection_summary, inspection_table, prediction_table
    from faultcli.survey import survey

    law = asked.law(quiet=shown.quiet) if asked.given else None
    checkpoint = open_checkpoint(model)
    if (hardened := Hardened.of(checkpoint)) is not None:
        _inspect_hardened(hardened, asked, law, format, at_risk, shown)
        return
    try:
        names = Selection(*at_risk.selection).names(checkpoint.tensors.values())
    except UsageError:
        if at_risk.include or at_risk.exclude or law is not None or at_risk.target not in TARGETS:
            raise
        names = []  # a checkpoint without weights can still be looked at
    note_left_out(checkpoint, at_risk, quiet=shown.quiet)
    counts = by_channel(format)
    channels = channels_in(checkpoint, names, at_risk.arch, by_channel=counts, quiet=shown.quiet)
    fault, expected = asked.fault, None
    if law is not None:
        fault = fault or law.spec
        sites = [site for slot in slots(checkpoint, names, format, channels) for site in slot.places]
        expected = law.expected_flips([site for site in sites if law.covers(site)])
    predictor = None if law is None or law.ber is None else Predictor(checkpoint, format, law.ber, channels)
    looking = {} if predictor is None else {"look": predictor.look}
    with byte_progress(shown.quiet, "reading", checkpoint.nbytes) as advance:
        tensors = list(survey(checkpoint, set(names), format, advance, channels=channels, **looking))
    predictions, refused = ([], []) if predictor is None else (predictor.found, predictor.refused)
    if refused:
        more = f"; and of {len(refused) - 1} more" if len(refused) > 1 else ""
        note(f"warning: no error is predicted: {refused[0]}{more}", quiet=shown.quiet)
    write_json(inspection_document(str(checkpoint.path), format, tensors, fault, expected, predictions), shown.json)
    if shown.json != "-":
        stdout().print(inspection_table(str(checkpoint.path), tensors))
        say(inspection_summary(tensors, format, fault, expected))
        if predictions:
            stdout().print(prediction_table(format, predictions))
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
    from faultcli.hardened.damage import HardenedMemory
    from faultcli.hardened.read import names_at_risk, stored_as
    from faultcli.report.hardened import hardened_document, hardened_summary, hardened_table, rows_of

    path = hardened.checkpoint.path
    stored_as(hardened, [format], [])
    names = names_at_risk(hardened.checkpoint, hardened, Selection(*at_risk.selection))
    rows = [row for row in rows_of(hardened) if row.name in names]
    expected = None
    if law is not None:
        expected = law.expected_flips([site for site in HardenedMemory(hardened, names).sites if law.covers(site)])
    spec = None if law is None else asked.fault or law.spec
    found = {**hardened_document(path, hardened, rows, None), "schema": "faultcli.inspect/1"}
    write_json({**found, "checkpoint": str(path), "fault": spec, "expected_flips": expected}, shown.json)
    if shown.json != "-":
        stdout().print(hardened_table(f"{path}: a hardened file", rows))
        say(*hardened_summary(hardened, rows))
        if spec is not None:
            flips = "depends on what is stored" if expected is None else f"{expected:,.4g} expected flips per trial"
            say(f"{spec}: {flips}")
        note(f"as a plain checkpoint: faultcli harden {path} --read", quiet=shown.quiet)
