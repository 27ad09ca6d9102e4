"""Seals, what damage they show, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from faultcli.report.layout import new_table
from faultcli.report.text import counted
from faultcli.seal.checking import DamagedBlock, Verification
from faultcli.seal.naming import Part
from faultcli.seal.record import SCHEMA, Seal
from faultcli.seal.repair import SealRepair

_FROM = {"header": "the seal's copy of the header", "reference": "the reference", "parity": "parity"}


def seal_document(seal: Seal, seal_bytes: int) -> dict[str, Any]:
    """Return what was written as one JSON object."""
    return {
        "schema": SCHEMA,
        "output": str(seal.path),
        "output_bytes": seal_bytes,
        "parity": seal.parity,
        "files": [one.document() for one in seal.files],
    }


def seal_table(model: str, seal: Seal) -> Table:
    """Return one row per file: how it is cut."""
    table = new_table(model, file="left", bytes="right", block="right", blocks="right", groups="right")
    for one in seal.files:
        numbers = (one.grid.nbytes, one.grid.block, one.grid.blocks, one.grid.groups)
        table.add_row(one.name, *(f"{n:,}" for n in numbers))
    return table


def seal_summary(seal: Seal, seal_bytes: int) -> Iterator[str]:
    """Say what each file's checksum is, as `b3sum` does, what the seal costs and what it is good for."""
    yield from (f"{one.blake3}  {one.name}" for one in seal.files)
    sealed = sum(one.grid.nbytes for one in seal.files)
    yield f"written to {seal.path}: {seal_bytes:,} bytes, {100 * seal_bytes / max(1, sealed):.2g} % of the checkpoint"
    if not seal.parity:
        yield "Damage will be named to the block; without --parity only a header comes back."
        return
    groups = sum(one.grid.groups for one in seal.files)
    burst = min(one.grid.groups * seal.parity for one in seal.files)
    reach = f"Up to {counted(seal.parity, 'damaged block')} of each of the {counted(groups, 'group')} come back"
    yield f"{reach}, a burst of {counted(burst, 'block')} with them."


class _DamageRow(NamedTuple):
    """Neighbouring damaged blocks, as far as they lie in one tensor."""

    file: str
    begin: int
    end: int
    part: Part
    fate: str


def _rows(file: str, blocks: Iterable[DamagedBlock], fates: Iterable[str]) -> list[_DamageRow]:
    rows: list[_DamageRow] = []
    for block, fate in zip(blocks, fates, strict=True):
        for part in block.parts:
            same = [n for n, row in enumerate(rows[-2:], max(0, len(rows) - 2)) if _goes_on(row, block, part, fate)]
            if same:
                old = rows[same[0]]
                rows[same[0]] = old._replace(end=block.end, part=_joined_part(old.part, part))
            else:
                rows.append(_DamageRow(file, block.begin, block.end, part, fate))
    return rows


def _goes_on(row: _DamageRow, block: DamagedBlock, part: Part, fate: str) -> bool:
    same = (row.part.kind, row.part.tensor, row.fate) == (part.kind, part.tensor, fate)
    return same and row.end == block.begin


def _joined_part(one: Part, other: Part) -> Part:
    return Part(one.kind, one.tensor, one.first, other.last, one.row_elements)


def _damage_table(title: str, rows: Sequence[_DamageRow], *, several: bool, fate: str) -> Table:
    columns = {"file": "left"} if several else {}
    columns |= {"damaged": "left", "elements": "right", "rows": "right", "bytes_of_the_file": "right", fate: "left"}
    table = new_table(title, **columns)
    for row in rows:
        part = row.part
        elements = _span(part.first, part.last) if part.kind == "tensor" else ""
        cells = [part.tensor if part.tensor is not None else f"the {part.kind}", elements]
        cells += [_span(*part.rows) if part.rows else "", _span(row.begin, row.end), row.fate]
        table.add_row(*([row.file] if several else []), *cells)
    return table


def _span(first: int, last: int) -> str:
    """Write a range whose end is exclusive."""
    return f"{first:,}" if last == first + 1 else f"{first:,}…{last - 1:,}"


def verification_document(found: Verification) -> dict[str, Any]:
    """Return everything that was found as one JSON object."""
    return {
        "schema": "faultcli.verify/1",
        "model": str(found.model),
        "seal": str(found.seal.path),
        "whole": found.whole,
        "damaged_blocks": found.damaged_blocks,
        "recoverable_blocks": found.recoverable_blocks,
        "parity_blocks": {"stored": found.seal.parity_blocks, "damaged": found.parity_damaged},
        "files": [
            {
                "name": one.sealed.name,
                "bytes": one.sealed.grid.nbytes,
                "found_bytes": one.found_bytes,
                "blocks": one.sealed.grid.blocks,
                "damaged": [{**_block(block), "recoverable": block.recoverable} for block in one.damaged],
            }
            for one in found.files
        ],
        "signs": None,
        "looked_for": None,
    }


def _block(block: DamagedBlock) -> dict[str, Any]:
    return {
        "block": block.number,
        "begin": block.begin,
        "end": block.end,
        "holds": [
            {
                "kind": part.kind,
                "tensor": part.tensor,
                "elements": [part.first, part.last] if part.kind == "tensor" else None,
                "rows": None if part.rows is None else list(part.rows),
            }
            for part in block.parts
        ],
    }


def verification_table(found: Verification) -> Table:
    """Return one row per run of damaged blocks and tensor."""
    rows = [
        row
        for one in found.files
        for row in _rows(one.sealed.name, one.damaged, ("yes" if block.recoverable else "no" for block in one.damaged))
    ]
    return _damage_table(str(found.model), rows, several=len(found.files) > 1, fate="comes_back")


def verification_summary(found: Verification) -> Iterator[str]:
    """Say whether it is whole, and what the seal can do about it."""
    blocks = sum(one.sealed.grid.blocks for one in found.files)
    for one in found.files:
        if one.found_bytes is None:
            yield f"{one.path}: is missing"
        elif one.found_bytes != one.sealed.grid.nbytes:
            yield f"{one.path}: has {one.found_bytes:,} bytes, and had {one.sealed.grid.nbytes:,} when it was sealed"
    if found.whole:
        yield f"{found.model}: whole, every byte of {counted(blocks, 'block')} as {found.seal.path} has it"
    elif found.damaged_blocks:
        part = f"{found.damaged_blocks:,} of {counted(blocks, 'block')} {_are(found.damaged_blocks)} damaged"
        yield f"{found.model}: {part}; {_reach(found)}"
        if found.throughout:
            yield "Not one block of its tensors is as sealed: damaged throughout, or another model of the same shape."
    if found.parity_damaged:
        stored = counted(found.seal.parity_blocks, "parity block")
        yield f"the seal itself: {found.parity_damaged:,} of {stored} damaged, and left out"


def _reach(found: Verification) -> str:
    if found.recoverable_blocks == found.damaged_blocks:
        return "the seal brings back all of them" if found.damaged_blocks > 1 else "the seal brings it back"
    if not found.recoverable_blocks:
        return "the seal brings back none, a reference copy may"
    return f"the seal brings back {found.recoverable_blocks:,}, a reference copy may bring back the rest"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def seal_repair_fields(found: SealRepair) -> dict[str, Any]:
    """Return what came of a repair with a seal, as members of a JSON object."""
    return {
        "output": str(found.output),
        "whole": found.whole,
        "restored_blocks": found.restored_blocks,
        "lost_blocks": found.lost_blocks,
        "files": [
            {
                "name": one.sealed.name,
                "bytes": one.sealed.grid.nbytes,
                "found_bytes": one.found_bytes,
                "blake3": one.sealed.blake3 if one.proven else None,
                "blocks": one.sealed.grid.blocks,
                "damaged": [{**_block(block), "source": one.sources.get(block.number)} for block in one.damaged],
            }
            for one in found.files
        ],
    }


def seal_repair_table(found: SealRepair) -> Table:
    """Return one row per run of damaged blocks and tensor: what it came back from, or that it is lost."""
    rows = [
        row
        for one in found.files
        for row in _rows(
            one.sealed.name,
            one.damaged,
            (_FROM.get(one.sources.get(block.number, ""), "LOST") for block in one.damaged),
        )
    ]
    return _damage_table(str(found.model), rows, several=len(found.files) > 1, fate="back_from")


def seal_repair_summary(found: SealRepair) -> Iterator[str]:
    """Say what came back, what is lost, and whether the output is proven."""
    cut = [one for one in found.files if one.found_bytes is not None and one.found_bytes > one.sealed.grid.nbytes]
    yield from (f"{one.path}: bytes behind its sealed end are left out" for one in cut)
    if found.whole:
        back = (
            f"{counted(found.restored_blocks, 'block')} came back" if found.restored_blocks else "nothing was damaged"
        )
        proof = f", BLAKE3 {found.files[0].sealed.blake3}" if len(found.files) == 1 else ", each file by its BLAKE3"
        yield f"{found.output}: whole, {back}; proven to be what was sealed{proof}"
        return
    lost = f"{counted(found.lost_blocks, 'block')} {_are(found.lost_blocks)} LOST"
    yield f"{found.output}: NOT whole: {lost}, {found.restored_blocks:,} came back"
    yield "What is lost is written as it was found, and as zeros where the file had ended."


def default_seal_note(seal: Path) -> str:
    """Say which seal was taken."""
    return f"checked against {seal}, which lies beside it; --seal SEAL names another"
