"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.table import Table

from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.campaign.statistics import Interval
from faultcli.protect.chain import UNPROTECTED
from faultcli.workload.metrics import Outcome

UNDEFINED = "–"


def new_table(title: str, **columns: str) -> Table:
    """Return an empty table with `columns`: header to justification (`left` or `right`); `_` in a header is a space."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for header, justify in columns.items():
        table.add_column(header.replace("_", " "), justify="right" if justify == "right" else "left", no_wrap=True)
    return table


def percent(fraction: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage without its sign."""
    return UNDEFINED if fraction is None else f"{100 * fraction:.{digits}f}"


def percent_interval(interval: Interval | None) -> str:
    """Write a mean with its interval, in percent."""
    if interval is None:
        return UNDEFINED
    if interval.low is None or interval.high is None:
        return percent(interval.mean)
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"


def campaign_table(result: CampaignResult, confidence: float) -> Table:
    """Return one row per arm. All rates are in percent of the inputs, averaged over trials; with protections, gains are
    in points over the unprotected arm on the same faults, and overhead in bits per weight."""
    protected = any(arm.arm.protect != UNPROTECTED for arm in result.arms)
    interval = f"[{percent(confidence, 0)} %]"
    columns: dict[str, Callable[[ArmResult], str]] = {
        "format": lambda arm: arm.arm.format,
        "fault": lambda arm: arm.arm.fault.spec,
        **({"protect": lambda arm: arm.arm.protect.text} if protected else {}),
        **({"overhead": lambda arm: f"{arm.overhead_bits_per_weight:.3g}"} if protected else {}),
        "flips": lambda arm: UNDEFINED if arm.flips_mean is None else f"{arm.flips_mean:,.1f}",
        "stored": lambda arm: percent(arm.stored.top1),
        f"accuracy {interval}": lambda arm: percent_interval(arm.accuracy(confidence)),
        "worst": lambda arm: percent(arm.worst),
        **({"gain": lambda arm: percent_interval(result.gain_over_none(arm, confidence))} if protected else {}),
        **({} if protected else {"masked": lambda arm: percent(arm.mean_rates().get("masked"))}),
        "SDC": lambda arm: percent(arm.mean_rates().get("sdc")),
        "DUE": lambda arm: percent(arm.mean_rates().get("due")),
    }
    trials = len(result.arms[0].records)
    title = f"top-1 accuracy in %, {trials} trials, {result.inputs:,} inputs, original {percent(result.original.top1)}"
    table = new_table(title, **{name: "left" if name in _TEXTS else "right" for name in columns})
    for arm in result.arms:
        table.add_row(*(cell(arm) for cell in columns.values()))
    return table


_TEXTS = ("format", "fault", "protect")


def winners(result: CampaignResult, confidence: float) -> list[str]:
    """Say, for every format and law with several protections, which arm is best at which overhead: every line costs
    more bits per weight than the one before it and is more accurate. A tie goes to the cheaper arm."""
    lines = []
    for condition in dict.fromkeys((arm.arm.format, arm.arm.fault.spec) for arm in result.arms):
        arms = [arm for arm in result.arms if (arm.arm.format, arm.arm.fault.spec) == condition]
        best = -1.0
        front = []
        for arm in sorted(arms, key=lambda a: (a.overhead_bits_per_weight, -_mean(a))):
            if _mean(arm) > best:
                best = _mean(arm)
                front.append(arm)
        if len(arms) > 1:
            lines.append(f"best of {' '.join(condition)}, by bits per weight:")
            lines += [
                f"  {arm.overhead_bits_per_weight:8.3g}  {percent_interval(arm.accuracy(confidence)):>20}  "
                f"{arm.arm.protect.text}"
                for arm in front
            ]
    return lines


def _mean(arm: ArmResult) -> float:
    accuracy = arm.accuracy()
    return -1.0 if accuracy is None else accuracy.mean


def evaluation_table(rows: dict[str, Outcome | None], inputs: int) -> Table:
    """Return one row per state of the checkpoint; rows without an outcome are left out."""
    table = new_table(f"accuracy in %, {inputs:,} inputs", state="left", top_1="right", top_5="right", loss="right")
    table.add_column("DUE", justify="right")
    table.add_column("changed answers", justify="right")
    for name, outcome in rows.items():
        if outcome is not None:
            loss = UNDEFINED if outcome.loss is None else f"{outcome.loss:.4f}"
            rates = outcome.rates()
            table.add_row(
                name,
                percent(outcome.top1, 2),
                percent(outcome.top5, 2),
                loss,
                percent(rates["due"], 2),
                percent(rates["sdc"], 2),
            )
    return table
