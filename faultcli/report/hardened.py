"""What `harden` says of a file that it has written, and `inspect` of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from faultcli.hardened.read import Hardened
from faultcli.hardened.write import HardenedRow
from faultcli.protect.chain import Chain
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
                "protect": Chain(hardened.chain.of(row.name)).text,
                "overhead_bits_per_weight": overhead([row]),
            }
            for row in rows
        ],
    }


def overhead(rows: Sequence[HardenedRow]) -> float:
    """Return the bits per weight beside the words: check bits in the memory, and constants in the record."""
    return sum(row.check_bits + row.constant_bits for row in rows) / max(1, sum(row.weights for row in rows))


def hardened_table(path: str, rows: Sequence[HardenedRow], chain: Chain) -> Table:
    """Return one row per tensor that lies in the memory; with its protection and overhead where these differ."""
    numbers = dict.fromkeys(("weights", "stored bits", "check bits", "constant bits"), "right")
    own = {"protect": "left", "bits per weight": "right"} if chain.rules else {}
    table = new_table(path, tensor="left", **numbers, **own)
    for row in rows:
        counts = [f"{n:,}" for n in (row.weights, row.bits, row.check_bits, row.constant_bits)]
        own_cells = [Chain(chain.of(row.name)).text, f"{overhead([row]):.3g}"] if chain.rules else []
        table.add_row(row.name, *counts, *own_cells)
    return table


def hardened_summary(hardened: Hardened, rows: Sequence[HardenedRow]) -> list[str]:
    """Say in two lines what the memory is, what is at risk, and where constants lie."""
    rest = len(hardened.infos) - len(rows)
    others = f"; {counted(rest, 'other tensor')} byte for byte" if rest else ""
    return [
        f"{counted(sum(row.weights for row in rows), 'weight')} in {hardened.format} behind {hardened.chain.label}: "
        f"{sum(row.bits + row.check_bits for row in rows):,} stored bits at risk, "
        f"{overhead(rows):.3g} bits per weight beside the words{others}.",
        "Constants stand in the metadata three times, each with its checksum; faults are not drawn over them.",
    ]


def rows_of(hardened: Hardened) -> list[HardenedRow]:
    """Return the rows of a file that was written before."""
    rows = []
    for name, slot in hardened.slots.items():
        bits = slot.elements * slot.format.bits
        whole = sum(layout.words * layout.bits for layout in slot.regions.values())
        constants = sum(link.side_bits for link in slot.links) + slot.format.side_bits
        rows.append(HardenedRow(name, slot.elements, bits, whole - bits, constants))
    return rows
