"""Plots with a row per arm: paired gains, what became of the answers, every single trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.report.drawing import DUE, FAINT, INK, MASKED, PAGE, SDC, drawing, new_figure, spelled, to_svg
from faultcli.report.numbers import (
    gain_unit,
    headline_text,
    limits,
    mean_text,
    percent,
    scale,
    stored_text,
    value_text,
)
from faultcli.report.numbers import label as label_of
from faultcli.report.plot import Plot, by_format, level_of, looks, paged
from faultcli.report.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _MARGIN = 0.23, 0.75  # inches
_BINS = 200  # accuracies of trials are told apart to half a point: a campaign of any length stays small


def gain_plots(result: CampaignResult) -> list[Plot]:
    """Gain in accuracy over the unprotected arm on the same faults, with its interval."""
    plots: list[Plot] = []
    confidence, look_of = result.plan.confidence, looks(result)
    measure = result.measure
    column = "gain, points" if measure.score is None else f"gain in {measure.score}"
    compared = [arm for arm in result.arms if result.gain_over_none(arm) is not None]
    for form, of_format in by_format(compared).items():
        for title, arms in paged(form, of_format):
            gains = [result.gain_over_none(arm, confidence) for arm in arms]
            with drawing():
                rows = _ArmPlaces(arms)
                figure, axes = new_figure(rows.height)
                axes.axvline(0, color=FAINT, linewidth=1)
                for arm, place, gain in zip(arms, rows.places, gains, strict=True):
                    assert gain is not None
                    look = look_of[arm.arm.hardening]
                    by = scale(arm.measure)
                    if gain.low is not None and gain.high is not None:
                        axes.plot([by * gain.low, by * gain.high], [place] * 2, color=look.colour, linewidth=2.2)
                    axes.plot([by * gain.mean], [place], color=look.colour, marker=look.marker, markersize=6)
                rows.label(axes)
                axes.set_xlabel(spelled("gain in top-1 accuracy, points" if measure.score is None else column))
                axes.grid(axis="x")
                said = "; ".join(
                    f"{arm.arm.hardening} at {level_of(arm)}: {mean_text(gain, arm.measure)}"
                    for arm, gain in zip(arms, gains, strict=True)
                )
                over = f"gain over the unprotected arm in {gain_unit(measure)}, paired by fault map"
                text = f"Dots with intervals: {over}. {said}"
                svg = to_svg(figure, f"gain-{len(plots)}", f"Paired gains, {title}", text)
            table = tuple(
                (
                    arm.arm.hardening,
                    level_of(arm),
                    mean_text(gain, arm.measure),
                    f"{arm.overhead_bits_per_weight:.3g}",
                    f"{len(arm.records):,}",
                )
                for arm, gain in zip(arms, gains, strict=True)
            )
            plots.append(Plot(title, svg, ("protection", "fault", column, "bits per weight", "trials"), table))
    return plots


def answer_plots(result: CampaignResult) -> list[Plot]:
    """Which part of the answers is masked, silently corrupted, or detectably broken: stacked bars."""
    plots: list[Plot] = []
    for form, of_format in by_format(arm for arm in result.arms if arm.records).items():
        for title, arms in paged(form, of_format):
            rates = [arm.mean_rates() for arm in arms]
            with drawing():
                rows = _ArmPlaces(arms)
                figure, axes = new_figure(rows.height + 0.25)
                left = [0.0] * len(arms)
                for key, label, colour, hatch in _ANSWERS:
                    widths = [100 * (rate[key] or 0.0) for rate in rates]
                    axes.barh(
                        rows.places,
                        widths,
                        left=left,
                        height=0.68,
                        color=colour,
                        hatch=hatch,
                        edgecolor=PAGE,
                        linewidth=0,
                        label=label,
                    )
                    left = [start + width for start, width in zip(left, widths, strict=True)]
                rows.label(axes)
                axes.set(xlabel="part of the answers, %", xlim=(0, 100))
                figure.legend(loc="outside upper left", ncols=3, labelcolor=INK, borderaxespad=0.2)
                said = "; ".join(
                    f"{arm.arm.hardening} at {level_of(arm)}: "
                    + ", ".join(f"{k} {percent(rate[k])}" for k, *_ in _ANSWERS)
                    for arm, rate in zip(arms, rates, strict=True)
                )
                text = f"Stacked bars: masked, SDC and DUE in percent of the answers. {said}"
                svg = to_svg(figure, f"answers-{len(plots)}", f"What became of the answers, {title}", text)
            table = tuple(
                (arm.arm.hardening, level_of(arm), *(percent(rate[key], 2) for key, *_ in _ANSWERS))
                for arm, rate in zip(arms, rates, strict=True)
            )
            plots.append(Plot(title, svg, ("protection", "fault", "masked %", "SDC %", "DUE %"), table))
    return plots


_ANSWERS = (
    ("masked", "masked", MASKED, None),
    ("sdc", "SDC (silent)", SDC, None),
    ("due", "DUE (NaN, infinite)", DUE, "////"),
)


def trial_plots(result: CampaignResult) -> list[Plot]:
    """Accuracy of every trial: a dot per value, its area the number of trials there; mean and interval as a bar. None
    where trials ran a part of the inputs: an estimate from a few is no accuracy that a map leaves."""
    plots: list[Plot] = []
    if result.plan.inputs_per_trial is not None:
        return plots
    confidence, look_of = result.plan.confidence, looks(result)
    for form, of_format in by_format(arm for arm in result.arms if arm.records).items():
        for title, arms in paged(form, of_format):
            with drawing():
                rows = _ArmPlaces(arms)
                figure, axes = new_figure(rows.height)
                for arm, place in zip(arms, rows.places, strict=True):
                    look = look_of[arm.arm.hardening]
                    by, step = scale(arm.measure), _step(arms)
                    counts = sorted(Counter(round(value / step) for value in arm.values).items())
                    axes.scatter(
                        [by * bin_ * step for bin_, _ in counts],
                        [place] * len(counts),
                        s=[12 + 78 * count / len(arm.records) for _, count in counts],
                        color=look.colour,
                        alpha=0.45,
                        linewidths=0,
                        clip_on=False,
                    )
                    found = arm.headline(confidence)
                    if found is None:
                        continue
                    if found.low is not None and found.high is not None:
                        axes.plot([by * found.low, by * found.high], [place] * 2, color=INK, linewidth=1.1)
                    axes.plot([by * found.mean], [place], color=INK, marker="|", markersize=9, markeredgewidth=1.6)
                rows.label(axes)
                measure = result.measure
                axes.set_xlabel(spelled("top-1 accuracy of a trial, %" if measure.score is None else measure.score))
                axes.set_xlim(limits(measure))
                axes.grid(axis="x")
                said = "; ".join(f"{arm.arm.hardening} at {level_of(arm)}: {_spread(arm)}" for arm in arms)
                text = f"Dots: {label_of(measure)} of every trial; bars: mean and interval. {said}"
                svg = to_svg(figure, f"trials-{len(plots)}", f"Every trial, {title}", text)
            columns = ("protection", "fault", "stored", "mean [interval]", *_ENDS[result.measure.score is None])
            table = tuple(
                (
                    arm.arm.hardening,
                    level_of(arm),
                    stored_text(arm),
                    headline_text(arm, confidence),
                    *(value_text(value, arm.measure) for value in _quantiles(arm)),
                )
                for arm in arms
            )
            plots.append(Plot(title, svg, columns, table))
    return plots


_ENDS = {
    True: ("worst", "quarter below", "median", "best"),
    False: ("least", "quarter below", "median", "largest"),
}


def _spread(arm: ArmResult) -> str:
    least, _, median, largest = (value_text(value, arm.measure) for value in _quantiles(arm))
    return f"{counted(len(arm.records), 'trial')} from {least} to {largest}, median {median}"


def _step(arms: Sequence[ArmResult]) -> float:
    """Return how far apart dots are told apart."""
    if arms[0].measure.score is None:
        return 1 / _BINS
    values = [value for arm in arms for value in arm.values]
    return (max(values, default=1.0) - min(values, default=0.0)) / _BINS or 1.0


def _quantiles(arm: ArmResult) -> tuple[float | None, float | None, float | None, float | None]:
    """Least, lower quartile, median and largest value of a trial: always that of a trial, never between two."""
    values = sorted(arm.values)
    if not values:
        return None, None, None, None
    last = len(values) - 1
    return values[0], values[last // 4], values[last // 2], values[last]


def _wrapped(text: str, most: int = 28) -> list[str]:
    """Return the text in lines that end after a comma or before a plus, of about `most` characters."""
    lines = [""]
    for part in text.replace(",", ",\0").replace(" + ", "\0 + ").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    return lines


class _ArmPlaces:
    """Places of arms from the top, under a heading wherever the fault changes; without one where arms differ in the
    fault only, which then is their label."""

    def __init__(self, arms: Sequence[ArmResult]) -> None:
        alone = len({arm.arm.hardening for arm in arms}) == 1
        self._ticks: list[tuple[float, str, bool]] = []
        self.places: list[float] = []
        place, heading = 0.0, None
        for arm in arms:
            if not alone and level_of(arm) != heading:
                heading = level_of(arm)
                place += 0.35 if self._ticks else 0
                self._ticks.append((place, heading, True))
                place += 1
            label = "\n".join(_wrapped(level_of(arm) if alone else arm.arm.hardening))
            place += 0.4 * label.count("\n")
            self._ticks.append((place, label, False))
            self.places.append(place)
            place += 1 + 0.4 * label.count("\n")
        self._end = place
        self.height = _MARGIN + _ROW * place

    def label(self, axes: Axes) -> None:
        """Write the labels beside the axis."""
        axes.set_ylim(self._end - 0.4, -0.6)
        axes.set_yticks([place for place, *_ in self._ticks], [spelled(text) for _, text, _ in self._ticks])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        for tick, (_, _, is_heading) in zip(axes.get_yticklabels(), self._ticks, strict=True):
            if is_heading:
                tick.set_fontweight("bold")
