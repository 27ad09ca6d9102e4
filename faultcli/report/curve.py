"""Curves over bit-error rates as tables, lines and JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faultcli.campaign.curves import CURVE_SCHEMA, QUANTITIES, ArmCurve, CurveResult
from faultcli.campaign.flip_curve import MaxBer
from faultcli.campaign.statistics import Interval
from faultcli.faults.memories import Rate, RateRange
from faultcli.report.document import rates_document
from faultcli.report.layout import PlainTable, new_table
from faultcli.report.numbers import UNDEFINED, answers_counted, labels_text, percent, percent_interval
from faultcli.report.text import counted

ROWS = 11  # of a table
PER_DECADE = 10  # points of a document


def curve_document(result: CurveResult) -> dict[str, Any]:
    """Return a curve campaign's result. Everything outside of `timing` is the same for the same plan.

    `low` and `high` are the interval at one rate, `band_low` and `band_high` hold for all rates at once.
    """
    axis = result.question.axis
    decades = np.log10(axis.high / axis.low)
    bers = _rates(axis, max(2, round(decades * PER_DECADE) + 1))
    return {
        "schema": CURVE_SCHEMA,
        "plan_hash": result.plan_hash,
        "seed": result.plan.seed,
        "confidence": result.plan.confidence,
        "inputs": result.inputs,
        "curve": axis.asked,
        "original_accuracy": result.original.top1,
        "arms": [_arm(arm, result, axis, bers) for arm in result.arms],
        "memories": rates_document(memories(axis)),
        "timing": {"seconds": round(result.seconds, 3)},
    }


def memories(axis: RateRange) -> list[Rate]:
    """Return the memory whose time is the axis, if there is one."""
    return [axis.memory] if axis.memory else []


def _arm(arm: ArmCurve, result: CurveResult, axis: RateRange, bers: Sequence[float]) -> dict[str, Any]:
    curve = arm.curve
    bands = {name: curve.band(bers, name) for name in QUANTITIES}
    points = []
    for i, ber in enumerate(bers):
        point: dict[str, Any] = {"ber": ber, "years": axis.years(ber), "flips_expected": ber * arm.memory.bits}
        for name in QUANTITIES:
            at = curve.estimate(ber, name)
            band = bands[name][i].interval if bands[name] else None
            point[name] = None if at is None or band is None else _interval(at, band)
        points.append(point)
    return {
        **{name: text for name, text in arm.arm.texts.items() if name != "fault"},
        "trials": curve.trials,
        "failed_trials": len(arm.failures),
        "trials_using_labels": arm.using_labels,
        "bits": arm.memory.bits,
        "overhead_bits_per_weight": arm.memory.overhead_bits_per_weight,
        "stored_accuracy": arm.memory.stored.top1,
        "fault_free": curve.fault_free,
        "half_width": curve.half_width(),
        "points": points,
        "max_ber": None if arm.max_ber is None else _max_ber(arm.max_ber, result, axis),
    }


def _interval(at: Interval, band: Interval) -> dict[str, float | None]:
    return {"mean": at.mean, "low": at.low, "high": at.high, "band_low": band.low, "band_high": band.high}


def _max_ber(found: MaxBer, result: CurveResult, axis: RateRange) -> dict[str, float | None]:
    rates = {"ber": found.ber_per_bit, "low": found.low, "high": found.high}
    return {
        "accuracy": result.question.hold,
        **rates,
        **{
            name: None if rate is None else axis.years(rate)
            for name, rate in zip(("years", "years_low", "years_high"), rates.values(), strict=True)
        },
    }


def curve_tables(result: CurveResult) -> list[PlainTable]:
    """Return one table per arm: the curve at eleven rates, in percent of the inputs."""
    tables, axis = [], result.question.axis
    for arm in result.arms:
        confidence = percent(result.plan.confidence, 0)
        title = (
            f"{arm.arm.format}, {arm.arm.hardening}: {counted(arm.curve.trials, 'trial')}, "
            f"{answers_counted(result.inputs, result.original.scored)}, original {percent(result.original.top1)}, "
            f"stored {percent(arm.memory.stored.top1)}"
        )
        columns = {"BER": "right"} | ({"years": "right"} if axis.fit_per_mbit is not None else {})
        names = ("flips", f"accuracy [{confidence} %]", "band", "SDC", "DUE")
        columns |= dict.fromkeys(names, "right")
        table = new_table(title, **columns)
        bers = _rates(axis, ROWS)
        bands = arm.curve.band(bers)
        for i, ber in enumerate(bers):
            years = axis.years(ber)
            accuracy, sdc, due = (arm.curve.estimate(ber, name) for name in QUANTITIES)
            cells = [f"{ber:.3g}", *([] if years is None else [f"{years:.3g}"]), f"{_count(ber * arm.memory.bits)}"]
            cells += [percent_interval(accuracy), _ends(bands[i].interval) if bands else UNDEFINED]
            cells += [percent(None if one is None else one.mean) for one in (sdc, due)]
            table.add_row(*cells)
        tables.append(table)
    return tables


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ends(interval: Interval) -> str:
    return f"[{percent(interval.low)}, {percent(interval.high)}]"


def curve_lines(result: CurveResult) -> list[str]:
    """Say how sure the curves are, up to which rate the accuracy holds, and which trials failed."""
    lines, axis = [], result.question.axis
    for arm in result.arms:
        name = f"{arm.arm.format}, {arm.arm.hardening}"
        if arm.max_ber is not None:
            lines.append(f"{name}: {_holds(arm.max_ber, result, axis)}")
        else:
            lines.append(f"{name}: known to ± {percent(arm.curve.half_width())} points or better at every rate")
        if arm.using_labels is not None:
            lines.append(f"{name}: {labels_text(arm.using_labels, arm.curve.trials)}")
        if arm.failures:
            lines.append(f"{name}: {counted(len(arm.failures), 'trial')} failed: {arm.failures[0].cause}")
    return lines


def _holds(found: MaxBer, result: CurveResult, axis: RateRange) -> str:
    accuracy = f"{percent(result.question.hold)} %"
    if found.ber_per_bit is None:
        return f"misses an accuracy of {accuracy} from the lowest rate on"
    low = UNDEFINED if found.low is None else f"{found.low:.3g}"
    high = UNDEFINED if found.high is None else f"{found.high:.3g}"
    text = f"holds an accuracy of {accuracy} up to a BER of {found.ber_per_bit:.3g} [{low}, {high}]"
    years = axis.years(found.ber_per_bit)
    return text if years is None else f"{text}, {years:.3g} years"


def _rates(axis: RateRange, count: int) -> list[float]:
    return [float(ber) for ber in np.geomspace(axis.low, axis.high, count)]
