"""Plots with a number on the horizontal axis: fault level, memory overhead, damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.campaign.statistics import mean_interval
from faultcli.report.drawing import FAINT, INK, WIDTH, drawing, new_figure, short_number, spelled, to_svg
from faultcli.report.numbers import (
    UNDEFINED,
    headline_name,
    headline_text,
    limits,
    original_text,
    percent,
    percent_interval,
    scale,
)
from faultcli.report.numbers import label as label_of
from faultcli.report.plot import MOST_SERIES, Plot, by_format, kind_of_law, level_of, looks
from faultcli.report.table import by_condition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_curves(result: CampaignResult) -> list[Plot]:
    """Mean accuracy against the level of the faults, with the interval as a band: one figure per format and law, where
    there are two levels at least."""
    groups: dict[tuple[str, str], dict[str, list[ArmResult]]] = {}
    for arm in result.arms:
        series = groups.setdefault((arm.arm.format, kind_of_law(arm)), {})
        series.setdefault(arm.arm.hardening, []).append(arm)
    plots: list[Plot] = []
    for (form, kind), series in groups.items():
        names = [name for name, arms in series.items() if len(arms) > 1]
        for start in range(0, len(names), MOST_SERIES):
            drawn = {n: sorted(series[n], key=_level) for n in names[start : start + MOST_SERIES]}
            plots.append(_accuracy_curve(result, f"{form}, {kind}", drawn, f"accuracy-{len(plots)}"))
    return plots


def _level(arm: ArmResult) -> float:
    return arm.arm.fault.level


def _accuracy_curve(result: CampaignResult, title: str, series: dict[str, list[ArmResult]], name: str) -> Plot:
    confidence = result.plan.confidence
    look_of = looks(result)
    with drawing():
        figure, axes = new_figure(2.9 + legend_height(series))
        by = scale(result.measure)
        original = by * (result.measure.of(result.original) or 0.0)
        axes.axhline(original, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        for label, arms in series.items():
            look = look_of[label]
            known = [(_level(arm), found) for arm in arms if (found := arm.headline(confidence)) is not None]
            levels = [level for level, _ in known]
            means = [by * found.mean for _, found in known]
            low = [by * (found.mean if found.low is None else found.low) for _, found in known]
            high = [by * (found.mean if found.high is None else found.high) for _, found in known]
            axes.fill_between(levels, low, high, color=look.colour, alpha=0.16, linewidth=0)
            axes.plot(
                levels, means, color=look.colour, marker=look.marker, linestyle=look.line, label=label, clip_on=False
            )
        first = next(iter(series.values()))[0]
        level_axis(axes, sorted({_level(arm) for arms in series.values() for arm in arms}))
        axes.set(xlabel=first.arm.fault.unit.removesuffix(", 0 to 1"), ylabel=spelled(label_of(result.measure)))
        axes.set_ylim(limits(result.measure))
        axes.annotate(
            f"original {original_text(result)}",
            (1, original),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8.5,
        )
        axes.grid(axis="y")
        legend(figure, series)
        ends = "; ".join(
            f"{label} from {headline_text(arms[0], confidence)} at {short_number(_level(arms[0]))} to "
            f"{headline_text(arms[-1], confidence)} at {short_number(_level(arms[-1]))}"
            for label, arms in series.items()
        )
        text = f"Line plot of mean {label_of(result.measure)} with intervals, by fault level. {ends}"
        svg = to_svg(figure, name, f"{headline_name(result.measure)} against fault level, {title}", text)
    levels = sorted({_level(arm) for arms in series.values() for arm in arms})
    rows = []
    for label, arms in series.items():
        cells = {_level(arm): headline_text(arm, confidence) for arm in arms}
        rows.append((label, *(cells.get(level, UNDEFINED) for level in levels)))
    return Plot(title, svg, ("protection", *map(short_number, levels)), tuple(rows))


def overhead_plots(result: CampaignResult) -> list[Plot]:
    """Mean accuracy against what the protections add to the memory, one figure per format: a line per fault level goes
    through the arms that no cheaper arm beats. Only where arms differ in overhead."""
    plots: list[Plot] = []
    if result.measure.score is not None:  # nobody may have said which side is better
        return plots
    for form, arms in by_format(result.arms).items():
        if len({arm.overhead_bits_per_weight for arm in arms}) > 1:
            plots.append(_overhead_plot(result, form, arms, f"overhead-{len(plots)}"))
    return plots


def _overhead_plot(result: CampaignResult, form: str, arms: Sequence[ArmResult], name: str) -> Plot:
    confidence, look_of = result.plan.confidence, looks(result)
    drawn = {label: look_of[label] for label in dict.fromkeys(arm.arm.hardening for arm in arms)}
    overheads = sorted({arm.overhead_bits_per_weight for arm in arms})
    fronts: list[tuple[ArmResult, ...]] = [tuple(_front(group)) for group in _conditions(result, arms)]
    with drawing():
        figure, axes = new_figure(3.2 + legend_height(drawn))
        level_axis(axes, overheads)
        ends: list[tuple[float, str]] = []
        for front in fronts:
            steps = [(arm.overhead_bits_per_weight, 100 * _mean(arm)) for arm in front]
            x, y = [step[0] for step in steps], [step[1] for step in steps]
            axes.plot([*x, overheads[-1]], [*y, y[-1]], color=FAINT, linewidth=1, drawstyle="steps-post", zorder=1)
            ends.append((y[-1], level_of(front[0])))
        for label, look in drawn.items():
            here = [arm for arm in arms if arm.arm.hardening == label and arm.records]
            axes.scatter(
                [arm.overhead_bits_per_weight for arm in here],
                [100 * _mean(arm) for arm in here],
                color=look.colour,
                marker=look.marker,
                s=30,
                label=label,
                zorder=3,
                clip_on=False,
            )
        for height, text in _spread(ends, apart=5.5):
            axes.annotate(
                text,
                (1, height),
                xycoords=("axes fraction", "data"),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                annotation_clip=False,
            )
        axes.set(xlabel="overhead, bits per weight", ylabel="top-1 accuracy, %", ylim=(0, 100))
        axes.grid(axis="y")
        legend(figure, drawn)
        best = "; ".join(
            f"{level_of(front[-1])}: best is {front[-1].arm.hardening} with "
            f"{headline_text(front[-1], confidence)} at {front[-1].overhead_bits_per_weight:.3g}"
            for front in fronts
        )
        text = f"Scatter plot of mean top-1 accuracy in percent by overhead in bits per weight. {best}"
        svg = to_svg(figure, name, f"Accuracy against overhead, {form}", text)
    on_front = {id(arm) for front in fronts for arm in front}
    rows = tuple(
        (
            arm.arm.hardening,
            level_of(arm),
            f"{arm.overhead_bits_per_weight:.3g}",
            headline_text(arm, confidence),
            "yes" if id(arm) in on_front else "",
        )
        for arm in sorted(arms, key=lambda arm: (_level(arm), arm.overhead_bits_per_weight))
    )
    return Plot(form, svg, ("protection", "fault", "bits per weight", "accuracy", "unbeaten"), rows)


def _conditions(result: CampaignResult, arms: Sequence[ArmResult]) -> list[list[ArmResult]]:
    here = {id(arm) for arm in arms}
    return [group for group in by_condition(result) if id(group[0]) in here]


def _front(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """Return the arms that no cheaper one matches, from cheap to dear."""
    front: list[ArmResult] = []
    for arm in sorted(arms, key=lambda arm: (arm.overhead_bits_per_weight, -_mean(arm))):
        if not front or _mean(arm) > _mean(front[-1]):
            front.append(arm)
    return front


def _mean(arm: ArmResult) -> float:
    found = arm.headline()
    return 0.0 if found is None else found.mean


def corrector_plots(result: CampaignResult) -> list[Plot]:
    """What the corrector gives back against what the damage took, a point per fault map, paired with the same arm
    without it: one figure per format."""
    plots: list[Plot] = []
    for form, arms in by_format(result.arms).items():
        pairs = [(arm, bare) for arm in arms if arm.arm.correct and (bare := _without_corrector(result, arm))]
        if pairs:
            plots.append(_corrector_plot(result, form, pairs, f"corrector-{len(plots)}"))
    return plots


def _without_corrector(result: CampaignResult, arm: ArmResult) -> ArmResult | None:
    wanted = replace(arm.arm, correct=None)
    return next((other for other in result.arms if other.arm == wanted), None)


def _corrector_plot(result: CampaignResult, form: str, pairs: Sequence[tuple[ArmResult, ArmResult]], name: str) -> Plot:
    confidence, look_of = result.plan.confidence, looks(result)
    names = dict.fromkeys((arm.arm.hardening for arm, _ in pairs), None)
    rows = []
    with drawing():
        figure, axes = new_figure(3.1 + legend_height(names))
        axes.axhline(0, color=FAINT, linewidth=1)
        for label in names:
            look, lost, gained = look_of[label], [], []
            for arm, bare in pairs:
                if arm.arm.hardening != label:
                    continue
                without = {record.trial: record.outcome.top1 for record in bare.records}
                both = [record for record in arm.records if record.trial in without]
                losses = [bare.stored.top1 - without[record.trial] for record in both]
                gains = [record.outcome.top1 - without[record.trial] for record in both]
                lost += [100 * loss for loss in losses]
                gained += [100 * gain for gain in gains]
                rows.append(
                    (
                        label,
                        level_of(arm),
                        percent_interval(mean_interval(losses, confidence=confidence, bounds=(-1, 1))),
                        percent_interval(mean_interval(gains, confidence=confidence, bounds=(-1, 1))),
                        percent(sum(gain > 0 for gain in gains) / len(gains) if gains else None, 0),
                    )
                )
            axes.scatter(
                lost, gained, color=look.colour, marker=look.marker, s=16, alpha=0.75, linewidths=0, label=label
            )
        axes.set(xlabel="accuracy lost to the faults, points", ylabel="gain, points")
        axes.grid()
        legend(figure, names)
        means = "; ".join(f"{row[0]} at {row[1]}: {row[3]} points of {row[2]} lost" for row in rows)
        text = f"Scatter plot of the accuracy that the corrector gives back by the accuracy lost, in points. {means}"
        svg = to_svg(figure, name, f"Corrector's gain against severity, {form}", text)
    return Plot(form, svg, ("arm", "fault", "lost, points", "gain, points", "maps with a gain, %"), tuple(rows))


def level_axis(axes: Axes, levels: Sequence[float]) -> None:
    """A logarithmic axis with a tick at every level, and a place for 0 where there is one."""
    positive = [level for level in levels if level > 0]
    if positive and positive[-1] / positive[0] > 5:
        if levels[0] == 0:
            axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
        else:
            axes.set_xscale("log")
    axes.set_xticks(_apart(levels, axes), minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))


def _apart(levels: Sequence[float], axes: Axes, least: float = 0.14) -> list[float]:
    """Return levels whose ticks do not run into each other: at least `least` of the axis apart."""
    places = axes.xaxis.get_transform().transform(list(levels))
    span = float(places[-1] - places[0]) or 1.0
    kept, last = [], float("-inf")
    for level, place in zip(levels, places, strict=True):
        if (place - last) / span >= least:
            kept.append(level)
            last = place
    return kept


def _spread(labels: Sequence[tuple[float, str]], apart: float) -> list[tuple[float, str]]:
    """Move labels on one side of a plot so far apart that all can be read; their order stays."""
    ordered = sorted(labels)
    placed: list[float] = []
    for height, _ in ordered:
        placed.append(max(height, placed[-1] + apart) if placed else height)
    top = 100.0
    for number in range(len(placed) - 1, -1, -1):
        placed[number] = min(placed[number], top)
        top = placed[number] - apart
    return [(height, text) for height, (_, text) in zip(placed, ordered, strict=True)]


def _columns(names: Mapping[str, object]) -> int:
    widest = max((len(name) for name in names), default=1)
    return max(1, min(len(names), int(WIDTH * 72 / (5.2 * widest + 48))))


def legend_height(names: Mapping[str, object]) -> float:
    """Return the inches that the legend of these names takes."""
    return 0.2 * -(-len(names) // _columns(names))


def legend(figure: Figure, names: Mapping[str, object]) -> None:
    """Put the legend above the axes, in as many columns as there is room for."""
    figure.legend(loc="outside upper left", ncols=_columns(names), labelcolor=INK, borderaxespad=0.2)
