"""What no checkpoint should look like, as `verify` found it without a seal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from faultcli.report.layout import new_table
from faultcli.report.text import counted
from faultcli.seal.signs import LOOKED_FOR, Sign


def signs_document(model: Path, signs: Sequence[Sign]) -> dict[str, Any]:
    """Return everything that was found as one JSON object; that nothing was is no proof, so `whole` is null then."""
    return {
        "schema": "faultcli.verify/1",
        "model": str(model),
        "seal": None,
        "whole": False if signs else None,
        "damaged_blocks": None,
        "recoverable_blocks": None,
        "parity_blocks": None,
        "files": None,
        "signs": [
            {"tensor": one.tensor, "kind": one.kind, "count": one.count, "first": one.first, "detail": one.detail}
            for one in signs
        ],
        "looked_for": list(LOOKED_FOR),
    }


def signs_table(model: Path, signs: Sequence[Sign]) -> Table:
    """Return one row per sign."""
    table = new_table(str(model), tensor="left", what="left", elements="right", first_element="right")
    for one in signs:
        table.add_row(one.tensor, one.detail, f"{one.count:,}", f"{one.first:,}")
    return table


def signs_summary(model: Path, tensors: int, signs: Sequence[Sign]) -> list[str]:
    """Say what was looked for, and what was found."""
    looked = f"Looked for, in {counted(tensors, 'tensor')}: {'; '.join(LOOKED_FOR)}."
    if signs:
        return [f"{model}: {counted(len(signs), 'sign')} of damage, which no checkpoint should have", looked]
    return [
        f"{model}: no sign of damage. That proves nothing: most flips leave none. A seal of an intact copy proves it.",
        looked,
    ]
