"""What `inspect` says of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from faultcli.checkpoint.packed import ROLES
from faultcli.prediction import Prediction
from faultcli.report.layout import new_table
from faultcli.report.numbers import UNDEFINED
from faultcli.report.text import counted
from faultcli.survey import TensorSurvey

_OTHER = "other tensors"


def inspection_document(
    path: str,
    format: str,
    tensors: Sequence[TensorSurvey],
    fault: str | None,
    expected_flips: float | None,
    predictions: Sequence[Prediction] = (),
) -> dict[str, Any]:
    """Return everything that is known as one JSON object."""
    return {
        "schema": "faultcli.inspect/1",
        "checkpoint": path,
        "format": format,
        "bits": sum(tensor.bits for tensor in tensors),
        "bits_by_role": _bits_by_role(tensors),
        "fault": fault,
        "expected_flips": expected_flips,
        "tensors": [{**asdict(tensor), "bits": tensor.bits} for tensor in tensors],
        "predictions": [asdict(prediction) for prediction in predictions],
    }


def inspection_table(path: str, tensors: Sequence[TensorSurvey]) -> Table:
    """Return one row per tensor; those at risk are marked. Where weights are quantised, each has the part that it is in
    place of the range of its words."""
    quantised = any(tensor.role for tensor in tensors)
    ranges = {"min": "right", "max": "right", "std": "right", "NaN/inf": "right"}
    own = {"part": "left"} if quantised else ranges
    table = new_table(path, tensor="left", dtype="left", shape="left", **own, bits_at_risk="right")
    for tensor in tensors:
        numbers = (UNDEFINED if x is None else f"{x:.4g}" for x in (tensor.low, tensor.high, tensor.std))
        found = (*numbers, f"{tensor.nonfinite:,}" if tensor.nonfinite else "")
        table.add_row(
            tensor.name,
            tensor.dtype if tensor.stored_as is None else f"{tensor.dtype} of {tensor.stored_as}",
            "×".join(map(str, tensor.shape)) or "scalar",
            *([tensor.role or ""] if quantised else found),
            f"{tensor.bits:,}" if tensor.at_risk else "",
            style=None if tensor.at_risk else "dim",
        )
    return table


def inspection_summary(
    tensors: Sequence[TensorSurvey], format: str, fault: str | None, expected_flips: float | None
) -> str:
    """Say in one line how much is at risk, and what a law would hit."""
    at_risk = [tensor for tensor in tensors if tensor.at_risk]
    elements = sum(tensor.elements for tensor in tensors)
    hit = sum(tensor.elements for tensor in at_risk)
    text = (
        f"{len(at_risk)} of {counted(len(tensors), 'tensor')} at risk: {hit:,} of {counted(elements, 'value')}, "
        f"{counted(sum(tensor.bits for tensor in at_risk), 'bit')} in {format}"
    )
    if scales := sum(tensor.scale_bits for tensor in at_risk):
        text += f", {scales:,} of them scales"
    if by_role := _bits_by_role(tensors):
        text += "; " + ", ".join(f"{role} {bits:,}" for role, bits in by_role.items())
    if fault is None:
        return text
    flips = "depends on what is stored" if expected_flips is None else f"{expected_flips:,.4g} expected flips per trial"
    return f"{text}; {fault}: {flips}"


def _bits_by_role(tensors: Sequence[TensorSurvey]) -> dict[str, int]:
    """Return the bits at risk of the parts of quantised weights, by role, and of the tensors that are no such part;
    empty if no weight is quantised."""
    if not any(tensor.role for tensor in tensors):
        return {}
    found = dict.fromkeys([*ROLES, _OTHER], 0)
    for tensor in tensors:
        found[tensor.role or _OTHER] += tensor.bits
    return {role: bits for role, bits in found.items() if bits}


def prediction_table(format: str, predictions: Sequence[Prediction]) -> Table:
    """Return one row per tensor at risk: its predicted error, the bits that carry it, and the best factor."""
    table = new_table(
        f"predicted squared error in {format}, relative to the weights' mean square",
        tensor="left",
        error="right",
        bits_that_carry_it="left",
        best_factor="right",
        error_with_it="right",
    )
    for p in predictions:
        carriers = ", ".join(f"{bit}: {100 * share:.0f} %" for bit, share in p.carriers if share >= 0.005)
        table.add_row(p.name, f"{p.error:.3g}", carriers, f"{p.best_factor:.4g}", f"{p.best_error:.3g}")
    return table
