"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.campaign.statistics import Interval
from faultcli.protect.chain import UNPROTECTED
from faultcli.report.text import plain
from faultcli.workload.metrics import Outcome

UNDEFINED = "–"


class PlainTable(Table):
    """A table in which no text is markup: whatever a tensor is called is shown, and nothing of it is obeyed."""

    def add_column(self, header: RenderableType = "", *args: Any, **how: Any) -> None:
        super().add_column(_as_spelled(header), *args, **how)

    def add_row(self, *cells: RenderableType | None, **how: Any) -> None:
        super().add_row(*map(_as_spelled, cells), **how)


def _as_spelled(cell: RenderableType | None) -> RenderableType:
    return plain(cell) if isinstance(cell, str) else cell or ""


def _lines(text: str) -> Text:
    """Return a cell of several lines."""
    return Text("\n").join(map(plain, text.split("\n")))


def new_table(title: str, **columns: str) -> PlainTable:
    """Return an empty table with `columns`: header to justification (`left` or `right`); `_` in a header is a space."""
    table = PlainTable(
        title=plain(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for header, justify in columns.items():
        table.add_column(header.replace("_", " "), justify="right" if justify == "right" else "left", no_wrap=True)
    return table


def percent(fraction: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage without its sign."""
    return UNDEFINED if fraction is None else f"{100 * fraction:.{digits}f}"


def flips_text(flips: float | None) -> str:
    """Write a mean number of flipped bits; from a thousand on, tenths say nothing."""
    return UNDEFINED if flips is None else f"{flips:,.1f}" if flips < 1000 else f"{flips:,.0f}"


def percent_interval(interval: Interval | None, digits: int = 1) -> str:
    """Write a mean with its interval, in percent."""
    if interval is None:
        return UNDEFINED
    if interval.low is None or interval.high is None:
        return percent(interval.mean, digits)
    mean, low, high = (percent(end, digits) for end in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def perplexity(value: float | None) -> str:
    """Write a perplexity; `∞` where it has no finite value."""
    return "∞" if value is None else f"{value:.4g}"


def perplexity_interval(interval: Interval | None) -> str:
    """Write a language model's mean perplexity with its interval."""
    if interval is None:
        return perplexity(None)
    if interval.low is None:
        return perplexity(interval.mean)
    return f"{perplexity(interval.mean)} [{perplexity(interval.low)}, {perplexity(interval.high)}]"


@dataclass(frozen=True)
class FittedTable:
    """A table that breaks its long cells into lines where the terminal is too narrow for it, and only there."""

    tables: tuple[Table, ...]  # the same table, from wide to narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        endless = options.update(width=10_000)
        needed = (Measurement.get(console, endless, table).maximum for table in self.tables[:-1])
        fitting = (table for table, width in zip(self.tables, needed, strict=False) if width <= options.max_width)
        yield next(fitting, self.tables[-1])


def campaign_tables(result: CampaignResult, confidence: float) -> list[FittedTable]:
    """Return one table of all arms; or, with several protections, one per format and law.

    All rates are in percent of the inputs, averaged over trials; gains are in points over the unprotected arm on the
    same faults, overhead in bits per weight. For language models top-1 is that of the next token, masked, SDC and DUE
    count sequences, and perplexity is the harmonic mean over trials.
    """
    trials = len(result.arms[0].records)
    language = result.original.scored is not None
    what = f"top-1 accuracy in %, {trials} trials, {result.inputs:,} inputs, original {percent(result.original.top1)}"
    if language:
        what = f"next token: {what}, perplexity {perplexity(result.original.perplexity)}"
    interval = f"accuracy [{percent(confidence, 0)} %]"
    condition: Columns = {"format": lambda arm: arm.arm.format, "fault": lambda arm: arm.arm.fault.spec}
    flips: Columns = {"flips": lambda arm: flips_text(arm.flips_mean)}
    protection: Columns = {
        "protect": hardening,
        "overhead": lambda arm: f"{arm.overhead_bits_per_weight:.3g}",
    }
    accuracy: Columns = {
        "stored": lambda arm: percent(arm.stored.top1),
        interval: lambda arm: percent_interval(arm.accuracy(confidence)),
        "worst": lambda arm: percent(arm.worst),
    }
    if language:
        accuracy |= {
            f"perplexity [{percent(confidence, 0)} %]": lambda a: perplexity_interval(a.perplexity(confidence))
        }
    gain: Columns = {"gain": lambda arm: percent_interval(result.gain_over_none(arm, confidence))}
    masked: Columns = {"masked": lambda arm: percent(arm.mean_rates().get("masked"))}
    errors: Columns = {
        "SDC": lambda arm: percent(arm.mean_rates().get("sdc")),
        "DUE": lambda arm: percent(arm.mean_rates().get("due")),
    }
    if all(hardening(arm) == UNPROTECTED.text for arm in result.arms):
        return [_arms_table(what, condition | flips | accuracy | masked | errors, result.arms)]
    return [
        _arms_table(
            f"{arms[0].arm.format}, {arms[0].arm.fault.spec}: {what}", protection | accuracy | gain | errors, arms
        )
        for arms in by_condition(result)
    ]


Columns = dict[str, Callable[[ArmResult], str]]
_TEXTS = ("format", "fault", "protect")


def _arms_table(title: str, columns: Columns, arms: Sequence[ArmResult]) -> FittedTable:
    rows = [[cell(arm) for cell in columns.values()] for arm in arms]
    broken = [[_broken(text) for text in row] for row in rows]
    tables = []
    for header, cells, gap in ((str, rows, None), (_broken, broken, 1), (_broken, broken, 0)):
        table = new_table(title, **{header(name): "left" if name in _TEXTS else "right" for name in columns})
        for row in cells:
            table.add_row(*map(_lines, row))
        if gap is not None:
            table.padding = (0, gap, 0, 0)
            table.show_lines = any("\n" in text for row in cells for text in row)
        tables.append(table)
    return FittedTable(tuple(tables))


def _broken(text: str) -> str:
    """Put an interval under its mean, and a chain of protections or a fault law on lines of about 20 characters."""
    if " [" in text:
        return text.replace(" [", "\n[", 1).replace(", ", ",")
    lines = [""]
    for part in text.replace(",", ",\0").replace(" + ", " +\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > 20:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def hardening(arm: ArmResult) -> str:
    """What is done about faults in this arm."""
    return arm.arm.hardening


def by_condition(result: CampaignResult) -> list[list[ArmResult]]:
    """Return the arms that differ in their protection only, together."""
    conditions: dict[str, list[ArmResult]] = {}
    for arm in result.arms:
        conditions.setdefault(arm.condition, []).append(arm)
    return list(conditions.values())


def gate_lines(result: CampaignResult) -> list[str]:
    """Say what every gate of every arm decided, and all of them together; nothing without gates."""
    lines = [
        f"{gate.verdict:>12}  {gate.gate.name} {gate.gate.threshold:g}: {result.arms[gate.arm].arm.label}, "
        f"{gate.trials} trials"
        for arm in result.arms
        for gate in arm.gates
    ]
    return [*lines, f"verdict: {result.verdict}"] if result.verdict else []


def failure_lines(result: CampaignResult) -> list[str]:
    """Say which trials could not be run, and why; they are counted nowhere, and no gate passes without them."""
    return [
        f"not run: trial {failure.trial} of {arm.arm.label}: {failure.cause}"
        for arm in result.arms
        for failure in arm.failures
    ]


def winners(result: CampaignResult, confidence: float) -> list[str]:
    """Say, for every format and law with several protections, which arm is best at which overhead: every line costs
    more bits per weight than the one before it and is more accurate. A tie goes to the cheaper arm."""
    lines = []
    for arms in by_condition(result):
        best = -1.0
        front = []
        for arm in sorted(arms, key=lambda a: (a.overhead_bits_per_weight, -_mean(a))):
            if _mean(arm) > best:
                best = _mean(arm)
                front.append(arm)
        if len(arms) > 1:
            lines.append(f"best of {arms[0].condition}, by bits per weight:")
            lines += [
                f"  {arm.overhead_bits_per_weight:8.3g}  {percent_interval(arm.accuracy(confidence)):>20}  "
                f"{hardening(arm)}"
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
    language = any(outcome is not None and outcome.scored is not None for outcome in rows.values())
    if language:
        table.add_column("perplexity", justify="right")
    for name, outcome in rows.items():
        if outcome is not None:
            loss = UNDEFINED if outcome.loss is None else f"{outcome.loss:.4g}"
            rates = outcome.rates()
            table.add_row(
                name,
                percent(outcome.top1, 2),
                percent(outcome.top5, 2),
                loss,
                percent(rates["due"], 2),
                percent(rates["sdc"], 2),
                *([perplexity(outcome.perplexity)] if language else []),
            )
    return table
