"""Numbers as reports write them: fractions in percent, scores as they are, each with its interval."""

from __future__ import annotations

from typing import Protocol

from faultcli.campaign.plan import Plan
from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.campaign.statistics import Interval
from faultcli.report.text import counted
from faultcli.workload.measures import Measure

UNDEFINED = "–"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage without its sign."""
    return UNDEFINED if fraction is None else f"{100 * fraction:z.{digits}f}"


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


def score(value: float | None, digits: int = 4) -> str:
    """Write a score of the user's own."""
    return UNDEFINED if value is None else f"{value:.{digits}g}"


def score_interval(interval: Interval | None) -> str:
    """Write a mean score with its interval."""
    if interval is None or interval.low is None or interval.high is None:
        return score(interval.mean if interval else None)
    return f"{score(interval.mean)} [{score(interval.low)}, {score(interval.high)}]"


def unit(measure: Measure) -> str:
    """What follows a number of `value_text` in a sentence."""
    return " %" if measure.score is None else ""


def value_text(value: float | None, measure: Measure) -> str:
    """Write one value of what a campaign is about."""
    return percent(value) if measure.score is None else score(value)


def mean_text(interval: Interval | None, measure: Measure) -> str:
    """Write a mean of it, or of its differences, with its interval."""
    return percent_interval(interval) if measure.score is None else score_interval(interval)


def headline_text(arm: ArmResult, confidence: float = 0.95) -> str:
    """Write what the campaign is about in an arm: the mean over fault maps with its interval."""
    return mean_text(arm.headline(confidence), arm.measure)


def stored_text(arm: ArmResult) -> str:
    """Write it of the fault-free run in the arm's memory."""
    return value_text(arm.measure.of(arm.stored), arm.measure)


def worst_text(arm: ArmResult) -> str:
    """Write it of the worst trial."""
    return value_text(arm.worst, arm.measure)


def gain_text(arm: ArmResult, result: CampaignResult, confidence: float = 0.95) -> str:
    """Write what an arm gains over the unprotected one."""
    return mean_text(result.gain_over_none(arm, confidence), arm.measure)


def original_text(result: CampaignResult) -> str:
    """Write it of the checkpoint as it is."""
    return value_text(result.measure.of(result.original), result.measure)


class OfInputs(Protocol):
    """What came of trials on inputs."""

    @property
    def plan(self) -> Plan: ...

    @property
    def inputs(self) -> int: ...


def inputs_text(result: OfInputs) -> str:
    """Write how many inputs trials ran: `500 inputs`, or `16 of 500 inputs per trial`."""
    size, every = result.plan.inputs_per_trial, counted(result.inputs, "input")
    return every if size is None else f"{size:,} of {every} per trial"


def answers_counted(inputs: int, scored: int | None) -> str:
    """Write what was answered: `500 inputs`, or of a language model `1,804 tokens in 5 sequences`."""
    return counted(inputs, "input") if scored is None else f"{scored:,} tokens in {counted(inputs, 'sequence')}"


def answers_text(result: CampaignResult) -> str:
    """Write what trials answered; as `inputs_text`, of a language model as `answers_counted`."""
    scored = result.original.scored
    return inputs_text(result) if scored is None else answers_counted(result.inputs, scored)


NO_USE = "cross-validation shows no sure gain, or fewer than 10 have finite logits"


def labels_text(used: int, trials: int) -> str:
    """Say in how many trials labelled inputs bettered the correction."""
    rest = "" if used == trials else f"; left out where {NO_USE}"
    return f"labelled inputs were used in {used:,} of {counted(trials, 'trial')}{rest}"


def scale(measure: Measure) -> float:
    """What values are multiplied by in a plot: fractions are drawn in percent."""
    return 100.0 if measure.score is None else 1.0


def label(measure: Measure) -> str:
    """What it is called beside an axis."""
    return "top-1 accuracy, %" if measure.score is None else measure.score


def headline_name(measure: Measure) -> str:
    """What it is called at the start of a title."""
    return "Accuracy" if measure.score is None else measure.score


def gain_unit(measure: Measure) -> str:
    """What its differences are in."""
    return "points" if measure.score is None else measure.score


def limits(measure: Measure) -> tuple[float, float] | None:
    """The ends of an axis; None where they follow from what is drawn."""
    return (scale(measure) * measure.bounds[0], scale(measure) * measure.bounds[1]) if measure.bounded else None
