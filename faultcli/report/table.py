"""Results as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.campaign.statistics import Interval
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
    """Return one row per arm. All rates are in percent of the inputs, averaged over trials."""
    table = new_table(
        f"top-1 accuracy in %, {result.inputs:,} inputs, original {percent(result.original.top1)}",
        format="left",
        fault="left",
        trials="right",
        flips="right",
        stored="right",
        **{f"accuracy_[{percent(confidence, 0)}_%]": "right"},
        worst="right",
        masked="right",
        SDC="right",
        DUE="right",
    )
    for arm in result.arms:
        table.add_row(*_cells(arm, confidence))
    return table


def _cells(arm: ArmResult, confidence: float) -> list[str]:
    rates = arm.mean_rates()
    return [
        arm.arm.format,
        arm.arm.fault.spec,
        str(len(arm.records)),
        UNDEFINED if arm.flips_mean is None else f"{arm.flips_mean:,.1f}",
        percent(arm.stored.top1),
        percent_interval(arm.accuracy(confidence)),
        percent(arm.worst),
        *(percent(rates.get(name)) for name in ("masked", "sdc", "due")),
    ]


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
