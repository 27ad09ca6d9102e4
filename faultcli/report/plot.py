"""What a plot of a campaign is, and how arms are told apart on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.report.drawing import LINES, MARKERS, SERIES, short_number

MOST_SERIES = len(SERIES)
MOST_ROWS = 40  # of one figure; more go on to another one


@dataclass(frozen=True)
class Plot:
    """One figure with its numbers."""

    title: str
    svg: str
    columns: tuple[str, ...]  # the first one names the rows
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Look:
    """How one way of hardening is drawn, on every plot of a report."""

    colour: str
    marker: str
    line: object


def looks(result: CampaignResult) -> dict[str, Look]:
    """Return the look of every hardening, in the order of the plan."""
    return looks_of(arm.arm.hardening for arm in result.arms)


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for every name, told apart up to `MOST_SERIES`."""
    names = dict.fromkeys(names)
    return {
        name: Look(SERIES[number % MOST_SERIES], MARKERS[number % MOST_SERIES], LINES[number % MOST_SERIES])
        for number, name in enumerate(names)
    }


def kind_of_law(arm: ArmResult) -> str:
    """Return the arm's fault law without its level: arms that share it lie on one axis."""
    law = arm.arm.fault
    _, comma, options = law.spec.partition(",")
    return law.name + comma + options


def level_of(arm: ArmResult) -> str:
    """Return the arm's fault law as a report says it."""
    return kind_of_law(arm).replace(arm.arm.fault.name, f"{arm.arm.fault.name} {short_number(arm.arm.fault.level)}", 1)


def by_format(arms: Iterable[ArmResult]) -> dict[str, list[ArmResult]]:
    """Return the arms by number format, those under one fault law together, else in the order of the plan."""
    found: dict[str, dict[str, list[ArmResult]]] = {}
    for arm in arms:
        found.setdefault(arm.arm.format, {}).setdefault(arm.arm.condition, []).append(arm)
    return {form: [arm for group in groups.values() for arm in group] for form, groups in found.items()}


def paged(title: str, arms: Sequence[ArmResult]) -> list[tuple[str, Sequence[ArmResult]]]:
    """Share many arms out over figures, each with its title."""
    pages = [arms[start : start + MOST_ROWS] for start in range(0, len(arms), MOST_ROWS)]
    if len(pages) == 1:
        return [(title, arms)]
    return [(f"{title}, part {number} of {len(pages)}", page) for number, page in enumerate(pages, start=1)]
