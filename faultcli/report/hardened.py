"""What `harden` says of a file that it has written, and `inspect` of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from faultcli.hardened.read import Hardened
from faultcli.hardened.write import HardenedRow
from faultcli.protect.chain import Chain, Links
from faultcli.protect.quantised_tensor import weights_by_part
from faultcli.report.layout import new_table
from faultcli.report.text import counted


def hardened_document(
    output: Path | None, hardened: Hardened, rows: Sequence[HardenedRow], device: Path | None
) -> dict[str, Any]:
    """Return what was written as one JSON object."""
    return {
        "schema": "faultcli.harden/1",
        "output": None if output is None else str(output),
        "format": hardened.format,
        "protect": hardened.chain.text,
        **({} if hardened.record.quantised is None else {"quantised": hardened.record.quantised}),
        "ber": hardened.record.ber,
        "device": None if device is None else str(device),
        "overhead_bits_per_weight": overhead(rows),
        "tensors": [
            {
                "name": row.name,
                "weights": row.weights,
                "bits": row.bits,
                "check_bits": row.check_bits,
                "constant_bits": row.constant_bits,
                "protect": Chain(_links(hardened, row)).text,
                **({"overhead_bits_per_weight": overhead([row])} if row.role is None else {"role": row.role}),
            }
            for row in rows
        ],
    }


def _links(hardened: Hardened, row: HardenedRow) -> Links:
    chain = hardened.chain
    return chain.of(row.name) if hardened.record.quantised is None else chain.for_role(row.role)


def overhead(rows: Sequence[HardenedRow]) -> float:
    """Return the bits per weight beside the words: check bits in the memory, and constants in the record."""
    return sum(row.check_bits + row.constant_bits for row in rows) / max(1, sum(row.weights for row in rows))


def hardened_table(path: str, rows: Sequence[HardenedRow], chain: Chain) -> Table:
    """Return one row per tensor that lies in the memory; with its protection and overhead where these differ. Parts of
    quantised weights have constants behind `inplace` alone."""
    numbers = dict.fromkeys(("weights", "stored bits", "check bits"), "right")
    constants = {"constant bits": "right"}
    if any(row.role is not None for row in rows):
        known = any(row.constant_bits for row in rows)
        table = new_table(path, tensor="left", part="left", **numbers, **(constants if known else {}))
        for row in rows:
            weights = f"{row.weights:,}" if row.weights else ""
            own_constants = [f"{row.constant_bits:,}"] if known else []
            table.add_row(row.name, row.role or "", weights, f"{row.bits:,}", f"{row.check_bits:,}", *own_constants)
        return table
    numbers |= constants
    own = {"protect": "left", "bits per weight": "right"} if chain.rules else {}
    table = new_table(path, tensor="left", **numbers, **own)
    for row in rows:
        counts = [f"{n:,}" for n in (row.weights, row.bits, row.check_bits, row.constant_bits)]
        own_cells = [Chain(chain.of(row.name)).text, f"{overhead([row]):.3g}"] if chain.rules else []
        table.add_row(row.name, *counts, *own_cells)
    return table


def hardened_summary(hardened: Hardened, rows: Sequence[HardenedRow]) -> list[str]:
    """Say in a few lines what the memory is, what is at risk, and where constants lie."""
    rest = len(hardened.infos) - len(rows)
    others = f"; {counted(rest, 'other tensor')} byte for byte" if rest else ""
    layout = hardened.record.quantised
    where = ["Constants stand in the metadata three times, each with its checksum; faults are not drawn over them."]
    if layout is not None and hardened.chain.in_place:
        where[:0] = ["Every tensor keeps its name, dtype and shape; behind inplace the lowest bits are check bits."]
    elif layout is not None:
        where = [
            "Every tensor of the checkpoint is there as it was, byte for byte; check words are tensors beside them."
        ]
    return [
        f"{counted(sum(row.weights for row in rows), 'weight')} in {layout or hardened.format} behind"
        f" {hardened.chain.label}: {sum(row.bits + row.check_bits for row in rows):,} stored bits at risk, "
        f"{overhead(rows):.3g} bits per weight beside the words{others}.",
        *where,
    ]


def rows_of(hardened: Hardened) -> list[HardenedRow]:
    """Return the rows of a file that was written before."""
    rows = []
    record = hardened.record
    weights = {} if record.quantised is None else weights_by_part(hardened.packed(), list(hardened.slots))
    for name, slot in hardened.slots.items():
        bits = slot.elements * slot.format.bits
        whole = sum(layout.words * layout.bits for layout in slot.regions.values())
        constants = sum(link.side_bits for link in slot.links) + slot.format.side_bits
        count, role = weights.get(name, slot.elements), record.tensors[name].role
        rows.append(HardenedRow(name, count, bits, whole - bits, constants, role))
    return rows
