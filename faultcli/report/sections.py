"""The sections of a report with plots, in their order: each one line of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faultcli.campaign.records import CampaignResult
from faultcli.report.level_plots import accuracy_curves, corrector_plots, overhead_plots
from faultcli.report.numbers import gain_unit, headline_name
from faultcli.report.plot import Plot
from faultcli.report.row_plots import answer_plots, gain_plots, trial_plots
from faultcli.workload.measures import Measure


@dataclass(frozen=True)
class Section:
    """Plots of one kind; left out of a report whose campaign has nothing to draw.

    Title and lead name what the campaign is about with the fields of `words`.
    """

    name: str  # for links
    title: str
    lead: str  # how to read it
    draw: Callable[[CampaignResult], list[Plot]]


def words(measure: Measure) -> dict[str, str]:
    """What the texts of sections call a campaign's measure."""
    value = "an accuracy" if measure.score is None else f"a value of {measure.score}"
    return {"measured": headline_name(measure), "unit": gain_unit(measure), "value": value}


CURVES = Section(
    "curves",
    "Accuracy against bit-error rate",
    "From trials at chosen numbers of flips. The band holds at all rates at once, the table's intervals at one each.",
    lambda result: [],
)
SECTIONS = (
    Section(
        "accuracy",
        "{measured} against fault level",
        "Mean over fault maps; the band is its interval. The dashed line is the checkpoint without a faulty memory.",
        accuracy_curves,
    ),
    Section(
        "gain",
        "What hardening gains",
        "Gain in {unit} over the unprotected memory on the same faults, paired map by map, with its interval.",
        gain_plots,
    ),
    Section(
        "overhead",
        "Accuracy against overhead",
        "What protections cost in stored bits per weight, check bits and constants included. A step line per fault "
        "level joins the arms that no cheaper one beats.",
        overhead_plots,
    ),
    Section(
        "answers",
        "What became of the answers",
        "Masked: the answer of the fault-free run. SDC: silently another one. DUE: a logit is NaN or infinite, so the "
        "error can be seen.",
        answer_plots,
    ),
    Section(
        "trials",
        "Every trial",
        "A dot is {value} that trials had, its area how many of them; the bar is the mean with its interval. One "
        "bad map hides in a mean, not here.",
        trial_plots,
    ),
    Section(
        "corrector",
        "Corrector's gain against severity",
        "A point per fault map: what the faults took from the model, and how much of it the corrector gave back.",
        corrector_plots,
    ),
)
