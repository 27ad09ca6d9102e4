"""What `repair` has found in a hardened file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from faultcli.hardened.repair import Repair, RepairedTensor
from faultcli.report.layout import new_table
from faultcli.report.text import counted

_RUNS = 4  # of lost weights that a row names


def repair_document(output: Path, found: Repair) -> dict[str, Any]:
    """Return everything that was found as one JSON object."""
    return {
        "schema": "faultcli.repair/1",
        "output": str(output),
        "corrected": found.flips,
        "lost_weights": found.lost_weights,
        "unit": found.unit,
        "unchecked": found.unchecked,
        "record_copies_damaged": found.record,
        "ber": None if found.ber is None else asdict(found.ber),
        "tensors": [
            {"name": one.name, "weights": one.weights, "corrected": one.flips, "lost": [list(run) for run in one.lost]}
            for one in found.tensors
        ],
    }


def repair_table(path: str, found: Repair) -> Table:
    """Return one row per tensor: corrected flips, and which weights are lost."""
    sides = {
        "tensor": "left",
        found.unit: "right",
        "corrected": "right",
        "lost": "right",
        f"lost_{found.unit}_at": "left",
    }
    table = new_table(path, **sides)
    for one in found.tensors:
        lost = f"{one.lost_weights:,}" if one.lost else ""
        table.add_row(one.name, f"{one.weights:,}", f"{one.flips:,}", lost, _runs(one))
    return table


def _runs(one: RepairedTensor) -> str:
    named = ", ".join(f"{first:,}…{last:,}" for first, last in one.lost[:_RUNS])
    return named + (f", and {len(one.lost) - _RUNS:,} more" if len(one.lost) > _RUNS else "")


def repair_summary(output: Path, found: Repair) -> Iterator[str]:
    """Say what was corrected, what is lost, and which bit-error rate that implies."""
    yield f"{output}: {counted(found.flips, 'flip')} corrected, {_loss(found)}"
    if found.unchecked:
        yield f"{counted(len(found.unchecked), 'tensor')} without check words: flips there stay, unknown"
    if found.record:
        yield f"{found.record} of 3 copies of the record were damaged and are whole again"
    if found.ber is not None:
        ber = found.ber
        yield f"this implies a bit-error rate of {ber.rate:.3g} [{ber.low:.3g}, {ber.high:.3g}]"


def _loss(found: Repair) -> str:
    if not found.lost_weights:
        return "nothing with check words is lost" if found.unchecked else "nothing is lost"
    return f"{counted(found.lost_weights, found.unit.removesuffix('s'))} in blocks beyond correction"
