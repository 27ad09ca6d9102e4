"""Layers that are hit one at a time, as a table with bars and lines."""

from __future__ import annotations

from rich.text import Text

from faultcli.campaign.statistics import Interval
from faultcli.report.layout import PlainTable, new_table
from faultcli.report.numbers import inputs_text, percent, percent_interval
from faultcli.report.text import counted
from faultcli.report.where import shortfalls
from faultcli.where.layers import LayerStratum
from faultcli.where.running import WhereResult

_BAR = 20  # characters of the longest


def layers_table(result: WhereResult, rows: int) -> PlainTable:
    """Return the layers that cost most, at most `rows`: with what each does to the answers, and a bar as long as the
    part of them that changes or is not finite."""
    effects, confidence = result.effects, result.plan.confidence
    assert effects is not None
    order = list(effects.order())
    interval = f"[{percent(confidence, 0)} %]"
    more = "" if len(order) <= rows else f", the worst {rows} of {len(order)}"
    table = new_table(
        f"Each layer alone at {result.plan.arms[0].fault.level:g}{more}, in percent of the inputs; accuracy in points",
        **{
            "layer": "left",
            "bits": "right",
            "maps": "right",
            f"accuracy {interval}": "right",
            "SDC": "right",
            "DUE": "right",
            _critical(result): "left",
        },
    )
    means = result.allocation.seen.means()
    largest = max(float(means.max()), 1e-12)
    for layer in order[:rows]:
        stratum, found = result.allocation.strata[layer], effects.of(layer, confidence)
        bar = "█" * round(_BAR * float(means[layer]) / largest)
        table.add_row(
            stratum.region,
            f"{_bits(result, layer):,}",
            f"{int(result.allocation.counts[layer]):,}",
            percent_interval(found["accuracy_change"]),
            percent_interval(found["sdc"]),
            percent_interval(found["due"]),
            Text(bar or "·"),
        )
    return table


def _critical(result: WhereResult) -> str:
    kind = result.aim.critical.kind
    return "SDC + DUE" if kind == "share" else f"critical ({kind})"


def _bits(result: WhereResult, layer: int) -> int:
    stratum = result.allocation.strata[layer]
    return stratum.bits if isinstance(stratum, LayerStratum) else stratum.size


def layers_lines(result: WhereResult) -> list[str]:
    """Say what the layers are like on average, each hit alone."""
    arm, trials = result.plan.arms[0], int(result.allocation.counts.sum())
    whole: Interval | None = result.allocation.estimate()
    said = "the pilot is not through, so nothing is said of the mean"
    if whole is not None:
        of = {"share": "of the answers change or are not finite", "any": "of maps change an answer"}
        lost = f"of maps cost more than {100 * result.aim.critical.drop:g} points"
        said = f"{percent_interval(whole, 2)} % {of.get(result.aim.critical.kind, lost)}, mean over layers"
    lines = [
        f"{arm.format}, {arm.hardening}: {said}; {counted(trials, 'fault map')}, {inputs_text(result)},"
        f" stored {percent(result.memory.stored.top1)} %"
    ]
    return [*lines, *shortfalls(result)]
