"""Curves over bit-error rates as plots: mean, and the band that holds at all rates at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from faultcli.campaign.curves import ArmCurve, CurveResult
from faultcli.report.drawing import FAINT, drawing, new_figure, short_number, to_svg
from faultcli.report.level_plots import legend, legend_height, level_axis
from faultcli.report.numbers import percent_interval
from faultcli.report.plot import MOST_SERIES, Plot, looks_of

_PER_DECADE = 12  # points of a line


def curve_plots(result: CurveResult) -> list[Plot]:
    """Accuracy against the bit-error rate: one figure per number format, up to `MOST_SERIES` curves on each."""
    plots: list[Plot] = []
    for form in dict.fromkeys(arm.arm.format for arm in result.arms):
        arms = [arm for arm in result.arms if arm.arm.format == form]
        for start in range(0, len(arms), MOST_SERIES):
            plots.append(_plot(result, form, arms[start : start + MOST_SERIES], f"curve-{len(plots)}"))
    return plots


def _plot(result: CurveResult, form: str, arms: Sequence[ArmCurve], name: str) -> Plot:
    axis = result.question.axis
    decades = [float(f"1e{power}") for power in range(-12, 1)]
    shown = sorted({axis.low, *(rate for rate in decades if axis.low < rate < axis.high), axis.high})
    count = max(2, round(np.log10(axis.high / axis.low) * _PER_DECADE) + 1)
    rates = [float(rate) for rate in np.geomspace(axis.low, axis.high, count)]
    look_of = looks_of(arm.arm.hardening for arm in result.arms)
    drawn = {arm.arm.hardening: arm for arm in arms}
    with drawing():
        figure, axes = new_figure(2.9 + legend_height(drawn))
        axes.axhline(100 * result.original.top1, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        level_axis(axes, shown)
        for label, arm in drawn.items():
            look = look_of[label]
            ends = [(at.interval.low, at.interval.high) for at in arm.curve.band(rates)]  # empty: too few trials
            closed = [(100 * low, 100 * high) for low, high in ends if low is not None and high is not None]
            if len(closed) == len(rates):
                low, high = [end[0] for end in closed], [end[1] for end in closed]
                axes.fill_between(rates, low, high, color=look.colour, alpha=0.16, linewidth=0)
            found = [(rate, at) for rate in rates if (at := arm.curve.estimate(rate)) is not None]
            axes.plot(
                [rate for rate, _ in found],
                [100 * at.mean for _, at in found],
                color=look.colour,
                marker=look.marker,
                markevery=_PER_DECADE,
                linestyle=look.line,
                label=label,
            )
        axes.set(xlabel="bit-error rate", ylabel="top-1 accuracy, %", ylim=(0, 100))
        axes.grid(axis="y")
        legend(figure, drawn)
        rows = tuple(
            (label, *(percent_interval(arm.curve.estimate(rate)) for rate in shown)) for label, arm in drawn.items()
        )
        said = "; ".join(f"{row[0]} from {row[1]} to {row[-1]}" for row in rows)
        text = f"Line plot of top-1 accuracy in percent with bands, by bit-error rate. {said}"
        svg = to_svg(figure, name, f"Accuracy against bit-error rate, {form}", text)
    return Plot(form, svg, ("protection", *map(short_number, shown)), rows)
