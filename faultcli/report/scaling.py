"""What `scale` says of the factors it used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from faultcli.faults.law import shortest
from faultcli.report.layout import new_table
from faultcli.report.text import counted
from faultcli.scaling import ScaledTensor

_RUINOUS = 1e6  # relative errors that only an unguarded exponent makes
_ALIKE = 1.02  # ratios of error below which nobody would care


def scaling_table(path: Path, format: str, ber: float, tensors: Sequence[ScaledTensor]) -> Table:
    """Return one row per tensor: its factor, and the predicted error with it, with 1 and with the best one."""
    table = new_table(
        f"{path}: predicted error in {format} at BER {shortest(ber)}, squared, relative to the weights' mean square",
        tensor="left",
        factor="right",
        error="right",
        error_with_1="right",
        best_factor="right",
        error_with_best="right",
    )
    for t in tensors:
        factor = f"{t.factor:.5g}" if isinstance(t.factor, float) else f"{min(t.factor):.4g} … {max(t.factor):.4g}"
        table.add_row(t.name, factor, *(f"{x:.3g}" for x in (t.asked, t.one, t.best_factor, t.best)))
    return table


def verdict(tensors: Sequence[ScaledTensor]) -> str:
    """Say plainly whether the factors help, in terms of the summed predicted error."""
    asked, one, best = (sum(getattr(t, name) for t in tensors) for name in ("asked", "one", "best"))
    corrected = sum(t.corrections for t in tensors)
    rounded = f"{counted(corrected, 'value')} {'is' if corrected == 1 else 'are'} rounded"
    kept = f" {rounded}; what undoing that needs is in the file." if corrected else ""
    if one > _RUINOUS:
        kept += " Flips of exponent bits outweigh all else here; `--protect guard` or `inplace` deals with them."
    room = f"; the best factors (--factor auto) make it {asked / best:.3g} × smaller" if asked > best * _ALIKE else ""
    if asked > one * _ALIKE:
        return (
            f"These factors make faults WORSE: the expected squared error is {asked / one:.3g} × that of 1{room}.{kept}"
        )
    if one > asked * _ALIKE:
        return f"The expected squared error is {one / asked:.3g} × smaller than with factor 1{room}.{kept}"
    return f"These factors leave the expected squared error as it is with factor 1{room}.{kept}"
