"""A campaign before its first trial, as a table and a JSON document."""

from __future__ import annotations

from typing import Any

from faultcli.campaign.preview import USUAL, WORST, ArmPreview, Preview
from faultcli.report.layout import FittedTable, in_lines, new_table, wrapped
from faultcli.report.numbers import UNDEFINED, percent
from faultcli.report.text import counted

PREVIEW_SCHEMA = "faultcli.plan/1"


def preview_document(preview: Preview) -> dict[str, Any]:
    """Return what is known of a campaign before its first trial."""
    return {
        "schema": PREVIEW_SCHEMA,
        "plan_hash": preview.plan_hash,
        "inputs": preview.inputs,
        "half_width": preview.half_width,
        "confidence": preview.plan.confidence,
        "seconds_per_trial": preview.seconds_per_trial,
        "seconds": sum(arm.seconds for arm in preview.arms),
        "arms": [
            {
                **arm.arm.texts,
                "bits": arm.bits,
                "overhead_bits_per_weight": arm.overhead_bits_per_weight,
                "flips_expected": None if arm.flips is None else list(arm.flips),
                "trials": arm.trials,
                "trials_known": arm.known,
                "trials_needed": {
                    "worst_case": arm.needed_worst,
                    "likely": arm.needed_likely,
                    "likely_deviation": arm.deviation,
                },
                "seconds": arm.seconds,
            }
            for arm in preview.arms
        ],
    }


def preview_table(preview: Preview) -> FittedTable:
    """Return one row per arm; on a narrow terminal an arm is one column, in several lines."""
    title = f"{counted(len(preview.arms), 'arm')}, {counted(preview.inputs, 'input')}; no trial was run"
    names = ("bits", "flips", "trials", f"for ± {percent(preview.half_width)}", "at worst", "time")
    numbers = dict.fromkeys(names, "right")
    wide = new_table(title, format="left", fault="left", protect="left", **numbers)
    narrow = new_table(title, arm="left", **numbers)
    tight = new_table(title, arm="left", **{name.replace(" ", "\n", 1): "right" for name in names})
    for arm in preview.arms:
        told = (arm.arm.format, arm.arm.fault.spec, arm.arm.hardening)
        cells = (f"{arm.bits:,}", _flips(arm), f"{arm.trials:,}", _trials(arm.needed_likely), _trials(arm.needed_worst))
        wide.add_row(*told, *cells, duration(arm.seconds))
        narrow.add_row(in_lines("\n".join((" ".join(told[:2]), wrapped(told[2])))), *cells, duration(arm.seconds))
        above = ("\n".join(map(wrapped, told)), *(cell.replace(" to ", " to\n") for cell in cells))
        tight.add_row(*map(in_lines, above), duration(arm.seconds))
    narrow.show_lines = tight.show_lines = True
    tight.padding = (0, 1, 0, 0)
    return FittedTable((wide, narrow, tight))


def preview_lines(preview: Preview) -> list[str]:
    """Say what the numbers assume."""
    sequential = preview.plan.stop_rule.sequential
    known = [arm for arm in preview.arms if arm.deviation != USUAL]
    guess = f"accuracies that spread by {USUAL:g} (standard deviation over fault maps; no trials are known yet)"
    if known:
        guess = "the spread of the trials in the store where there are enough, else 0.1"
    total = sum(arm.seconds for arm in preview.arms)
    lines = []
    if preview.plan.question is None:
        interval = "a confidence sequence (--until-ci)" if sequential else "an interval after a fixed number of trials"
        lines.append(f"trials for ± {percent(preview.half_width)} points: {interval}, {guess};")
        lines.append(f"at worst: half of the fault maps are harmless, half ruin everything (deviation {WORST:g})")
    else:
        lines.append(
            "a curve shares its trials out over all rates as it goes; how many it takes is known when it stops"
        )
    lines.append(
        f"time: {duration(preview.seconds_per_trial)} per trial that changes a value (measured), {duration(total)} in "
        "one process if every arm has all of its trials; recalibration and correction come on top"
    )
    return lines


def duration(seconds: float) -> str:
    """Write a time in the unit that fits."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < size * 2:
            return f"{seconds:.1f} {unit}"
        seconds /= size
    return f"{seconds:.1f} d"


def _flips(arm: ArmPreview) -> str:
    if arm.flips is None:
        return UNDEFINED
    return " to ".join(f"{flips:,.0f}" if flips >= 100 else f"{flips:.3g}" for flips in arm.flips)


def _trials(number: int | None) -> str:
    return UNDEFINED if number is None else f"{number:,}"
