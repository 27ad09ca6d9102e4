"""Figures of functional safety as one HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_CEILING

from faultcli.campaign.safety import FaultClass, SafetyFigures, SafetyResult, Share
from faultcli.report.numbers import percent
from faultcli.report.page import html_text, model_name, page, table, tested
from faultcli.report.safety import (
    ARM_COLUMNS,
    CLASS_COLUMNS,
    NAMES,
    Place,
    arm_cells,
    class_rows,
    digits,
    fit_cell,
    places_of,
    share_text,
    together,
)
from faultcli.report.safety_terms import DEFINITIONS, MEANINGS, arm_line, assumptions
from faultcli.report.summary import provenance_rows
from faultcli.report.text import counted

_MOST_REGIONS = 200  # of a map; a network has more tensors than a page has patience


def safety_html(result: SafetyResult) -> str:
    """Return the page. The same records and rates give the same bytes."""
    faults = sum(figures.trials for figures in result.arms)
    campaign = result.campaign
    about = [counted(len(result.arms), "arm"), counted(faults, "fault"), counted(campaign.inputs, "input")]
    links = (("arms", "Arms"), ("definitions", "Definitions"), ("assumptions", "Assumptions"), ("tested", "Tested"))
    return page(
        f"Safety figures: {model_name(campaign)}",
        " · ".join([campaign.provenance.architecture, *about] if campaign.provenance else about),
        [
            '<nav aria-label="Contents">',
            *(f'<a href="#{name}">{title}</a>' for name, title in links),
            "</nav>",
            *_summary(result),
            '<section id="arms">',
            *(line for figures in result.arms for line in _arm(figures)),
            "</section>",
            *_definitions(),
            *_assumptions(result),
            *tested(provenance_rows(campaign), campaign.provenance),
        ],
        f"FIT: failures in 10⁹ hours. Bounds are one-sided at {percent(result.rates.confidence, 0)} %, rounded to the "
        "safe side. No compliance with a standard is claimed.",
    )


def _summary(result: SafetyResult) -> list[str]:
    worst = max(result.arms, key=lambda one: one.share(FaultClass.SDC).high * one.total_fit)
    best = min(result.arms, key=lambda one: one.share(FaultClass.SDC).high * one.total_fit)
    tiles = [
        ("Failure rate of the memory", f"{result.rates.fit_per_mbit:g} FIT/Mbit", "as given, per 2²⁰ bits"),
        ("SDC, largest of the arms", *_tile(worst)),
    ]
    if len(result.arms) > 1:
        tiles.append(("SDC, smallest of the arms", *_tile(best)))
    tiles.append(("Confidence", f"{percent(result.rates.confidence, 0)} %", "one-sided, of every bound"))
    lines = ['<section id="summary">', '<dl class="tiles">']
    lines += [
        f"<div><dt>{html_text(name)}</dt><dd>{html_text(value)}<small>{html_text(remark)}</small></dd></div>"
        for name, value, remark in tiles
    ]
    lines += ["</dl>", "<h2>Rates by arm</h2>"]
    lines.append(
        "<p>What was seen, and in brackets how large it can still be, or how small what should be large. What was not "
        "seen has the bound alone.</p>"
    )
    lines += ['<div class="card">', table(ARM_COLUMNS, [arm_cells(one, result) for one in result.arms]), "</div>"]
    return [*lines, "</section>"]


def _tile(figures: SafetyFigures) -> tuple[str, str]:
    share = figures.share(FaultClass.SDC)
    arm = figures.result.arm
    return f"≤ {digits(share.high * figures.total_fit, ROUND_CEILING)} FIT", f"{arm.format} {arm.hardening}"


def _arm(figures: SafetyFigures) -> list[str]:
    arm = figures.result.arm
    lines = [f"<h2>{html_text(f'{arm.format}, {arm.hardening}')}</h2>", f"<p>{html_text(arm_line(figures))}</p>"]
    lines += ['<div class="card">', *_bar(figures), table(CLASS_COLUMNS, class_rows(figures, MEANINGS)), "</div>"]
    places = places_of(figures)
    if any(together(row).dangerous for row in places.values()):
        lines += ['<div class="card map">', "<h3>Dangerous faults by tensor and bit</h3>"]
        lines.append(
            "<p>Of the faults in a cell, how many are SDC or DUE; · none of them. Bit 0 is the lowest. The rate of a "
            "tensor is what it adds to the sum.</p>"
        )
        lines += [_map(figures, places), "</div>"]
    return lines


def _bar(figures: SafetyFigures) -> list[str]:
    """Draw the shares of the classes as one bar."""
    said = ", ".join(f"{NAMES[one]} {share_text(figures.share(one))}" for one in FaultClass)
    parts = [
        f'<span class="{one}" style="flex-grow:{figures.counts[one]}"></span>'
        for one in FaultClass
        if figures.counts[one]
    ]
    legend = (f'<li><i class="{one}"></i>{NAMES[one]}</li>' for one in FaultClass)
    return [
        f'<div class="bar" role="img" aria-label="{html_text(said)}">',
        *parts,
        "</div>",
        '<ul class="legend">',
        *legend,
        "</ul>",
    ]


def _map(figures: SafetyFigures, places: dict[str, dict[int, Place]]) -> str:
    bits = range(max(bit for row in places.values() for bit in row), -1, -1)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("tensor", "faults", "FIT", *bits))
    shown = list(places.items())[:_MOST_REGIONS]
    rows = [f"<tr>{_map_row(name, row, bits, figures)}</tr>" for name, row in shown]
    rest = len(places) - len(shown)
    caption = f"<caption>and {counted(rest, 'tensor')} with fewer dangerous faults</caption>" if rest else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>{caption}<thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _map_row(name: str, row: dict[int, Place], bits: Iterable[int], figures: SafetyFigures) -> str:
    whole = together(row)
    rate = fit_cell(Share(whole.dangerous, figures.trials, figures.rates.confidence), figures.total_fit)
    cells = [f'<th scope="row">{html_text(name)}</th>', f"<td>{whole.faults:,}</td>", f"<td>{html_text(rate)}</td>"]
    for bit in bits:
        place = row.get(bit)
        if place is None:
            cells.append("<td></td>")
        elif not place.dangerous:
            cells.append(f'<td title="0 of {place.faults}">·</td>')
        else:
            part = round(100 * place.dangerous / place.faults)
            cells.append(
                f'<td class="hot" style="--part:{max(part, 12)}%" title="{place.dangerous} of {place.faults}">'
                f"{place.dangerous}/{place.faults}</td>"
            )
    return "".join(cells)


def _definitions() -> list[str]:
    lines = ['<section id="definitions">', "<h2>Definitions</h2>", "<p>What is computed, and whose term it is.</p>"]
    lines.append('<div class="card"><dl class="facts">')
    lines += [
        f"<dt>{html_text(name)}</dt><dd>{html_text(how)}.<br><small>{html_text(where)}.</small></dd>"
        for name, how, where in DEFINITIONS
    ]
    return [*lines, "</dl></div></section>"]


def _assumptions(result: SafetyResult) -> list[str]:
    lines = ['<section id="assumptions">', "<h2>Assumptions</h2>", "<p>What the figures take for granted.</p>"]
    lines.append('<div class="card"><dl class="facts">')
    lines += [f"<dt>{html_text(name)}</dt><dd>{html_text(text)}</dd>" for name, text in assumptions(result)]
    return [*lines, "</dl></div></section>"]
