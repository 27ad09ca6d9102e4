"""A campaign as one HTML file that needs nothing else: no script, no network, every plot with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from faultcli.campaign.curves import CurveResult
from faultcli.campaign.gates import Verdict
from faultcli.campaign.records import CampaignResult
from faultcli.report.curve import curve_lines
from faultcli.report.curve_plots import curve_plots
from faultcli.report.numbers import answers_text, original_text, percent, unit, value_text, worst_text
from faultcli.report.page import html_text, model_name, page, table, tested
from faultcli.report.plot import Plot
from faultcli.report.sections import CURVES, SECTIONS, Section, words
from faultcli.report.summary import (
    GATE_COLUMNS,
    VERDICTS,
    arm_cells,
    arm_columns,
    curve_provenance_rows,
    findings,
    gate_cells,
    headline,
    provenance_rows,
)
from faultcli.report.table import (
    failure_lines,
    format_lines,
    interval_lines,
    labels_lines,
    language_lines,
    outstanding_lines,
)
from faultcli.report.text import counted
from faultcli.workload.measures import ACCURACY, Measure

_SIGNS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.INCOMPLETE: "…", Verdict.INCONCLUSIVE: "?", None: "–"}


def campaign_html(result: CampaignResult) -> str:
    """Return the page. The same result gives the same bytes."""
    sections = [(section, plots) for section in SECTIONS if (plots := section.draw(result))]
    return page(
        f"Bit-flip campaign: {model_name(result)}",
        _subtitle(result),
        [
            *_verdict(result),
            *_contents((section for section, _ in sections), result.measure),
            *_summary(result),
            *tested(provenance_rows(result), result.provenance),
            '<div class="sections">',
            *(line for section, plots in sections for line in _section(section, plots, result.measure)),
            "</div>",
            *_all_arms(result),
        ],
        _footer(
            result.plan.confidence,
            result.measure,
            part=result.plan.inputs_per_trial is not None,
            of="tokens and sequences" if result.original.scored else "the inputs",
        ),
    )


def curve_html(result: CurveResult) -> str:
    """Return the page of a campaign of curves. The same result gives the same bytes."""
    formats = ", ".join(dict.fromkeys(arm.arm.format for arm in result.arms))
    trials = sum(arm.curve.trials for arm in result.arms)
    return page(
        f"Accuracy against bit-error rate: {model_name(result)}",
        " · ".join([formats, *map(counted, (len(result.arms), trials, result.inputs), ("curve", "trial", "input"))]),
        [
            '<section id="summary">',
            "<h2>Findings</h2>",
            "<p>For every number format and protection, over all rates at once.</p>",
            '<ul class="findings card">',
            *(f"<li>{html_text(line)}</li>" for line in curve_lines(result)),
            "</ul></section>",
            *_section(CURVES, curve_plots(result)),
            *tested(curve_provenance_rows(result), result.provenance),
        ],
        _footer(result.plan.confidence),
    )


def _footer(confidence: float, measure: Measure = ACCURACY, *, part: bool = False, of: str = "the inputs") -> str:
    unit = "the fault map, with the inputs that it was run on" if part else "the fault map, not the input"
    gains = "percentage points" if measure.score is None else measure.score
    return (
        f"Rates are in percent of {of}, averaged over fault maps; gains in {gains}; "
        f"intervals are {percent(confidence, 0)} % over fault maps. The unit of every statement is {unit}."
    )


def _subtitle(result: CampaignResult) -> str:
    trials = sum(len(arm.records) for arm in result.arms)
    parts = [
        ", ".join(dict.fromkeys(arm.arm.format for arm in result.arms)),
        counted(len(result.arms), "arm"),
        counted(trials, "trial"),
        answers_text(result),
    ]
    return " · ".join([result.provenance.architecture, *parts] if result.provenance else parts)


def _verdict(result: CampaignResult) -> list[str]:
    kind = "none" if result.verdict is None else str(result.verdict)
    return [
        f'<section class="verdict {kind}" aria-label="Verdict">'
        f'<span class="sign" aria-hidden="true">{_SIGNS[result.verdict]}</span>'
        f"<strong>{VERDICTS[result.verdict]}</strong><p>{html_text(headline(result))}</p></section>"
    ]


def _contents(sections: Iterable[Section], measure: Measure) -> list[str]:
    links = [
        ("tested", "What was tested"),
        *((section.name, _worded(section.title, measure)) for section in sections),
        ("arms", "All arms"),
    ]
    return ['<nav aria-label="Contents">', *(f'<a href="#{name}">{title}</a>' for name, title in links), "</nav>"]


def _summary(result: CampaignResult) -> list[str]:
    known = [arm for arm in result.arms if arm.records]
    measure = result.measure
    first = "Original accuracy" if measure.score is None else f"Original {measure.score}"
    stored = [value for arm in result.arms if (value := measure.of(arm.stored)) is not None]
    means = [found.mean for arm in known if (found := arm.headline())]
    tiles = [
        (first, original_text(result) + unit(measure), "the checkpoint as it is"),
        ("As stored", _range(stored, measure), "in the memory, without faults"),
        ("Under faults", _range(means, measure), "mean of an arm"),
    ]
    ruined = [arm for arm in known if arm.worst is not None]
    if ruined:
        side = 1 if measure.good == "above" else -1
        worst = min(ruined, key=lambda arm: side * (arm.worst or 0.0))
        tiles.append(("Worst trial", worst_text(worst) + unit(measure), worst.arm.label))
    lines = ['<section id="summary">', '<dl class="tiles">']
    lines += [
        f"<div><dt>{html_text(name)}</dt><dd>{html_text(value)}<small>{html_text(remark)}</small></dd></div>"
        for name, value, remark in tiles
    ]
    lines.append("</dl>")
    gates = [gate for arm in result.arms for gate in arm.gates]
    if gates:
        lines += ["<h2>Gates</h2>", "<p>Decided trial by trial; looking early does not spoil the error rate.</p>"]
        lines += ['<div class="card">', table(GATE_COLUMNS, [gate_cells(gate, result) for gate in gates]), "</div>"]
    said = [*outstanding_lines(result), *format_lines(result)]
    if said:
        lines += ["<h2>Beside the verdict</h2>", "<p>What no gate looks at.</p>", '<ul class="findings card">']
        lines += [*(f"<li>{html_text(line)}</li>" for line in said), "</ul>"]
    failed = failure_lines(result)
    if failed:
        lines += ["<h2>Trials that could not be run</h2>", "<p>Counted nowhere; no gate passes without them.</p>"]
        lines += ['<ul class="findings card">', *(f"<li>{html_text(line)}</li>" for line in failed), "</ul>"]
    lines += ["<h2>Findings</h2>", "<p>The mean over fault maps with its interval, for every format and fault law.</p>"]
    lines += ['<ul class="findings card">']
    lines += [f"<li><b>{html_text(name)}</b>{html_text(text)}</li>" for name, text in findings(result)]
    return [*lines, "</ul>", "</section>"]


def _range(values: Sequence[float], measure: Measure) -> str:
    low, high = (value_text(end(values, default=None), measure) for end in (min, max))
    return (low if low == high else f"{low} to {high}") + unit(measure)


def _worded(text: str, measure: Measure) -> str:
    """Return a text of a section that names the measure; the name is the user's own."""
    return text.format(**{field: html_text(word) for field, word in words(measure).items()})


def _section(section: Section, plots: Sequence[Plot], measure: Measure = ACCURACY) -> list[str]:
    wide = ' class="wide"' if len(plots) > 1 else ""
    title, lead = (_worded(text, measure) for text in (section.title, section.lead))
    lines = [f'<section id="{section.name}"{wide}>', f"<h2>{title}</h2>", f"<p>{lead}</p>"]
    lines.append('<div class="plots">')
    for plot in plots:
        lines += [f'<figure class="card"><figcaption><h3>{html_text(plot.title)}</h3></figcaption>', plot.svg.rstrip()]
        lines += [table(plot.columns, plot.rows), "</figure>"]
    return [*lines, "</div></section>"]


def campaign_fragment(result: CampaignResult) -> str:
    """Return the verdict and a table of all arms as a piece of HTML, for a notebook."""
    found = f"<p><strong>{VERDICTS[result.verdict]}</strong> {html_text(headline(result))}</p>"
    return found + table(arm_columns(result), [arm_cells(arm, result) for arm in result.arms])


def _all_arms(result: CampaignResult) -> list[str]:
    said = [*language_lines(result.original), *interval_lines(result, result.plan.confidence)]
    said += (f"{line}." for line in labels_lines(result))
    about = " ".join(["Every arm with what it costs and what it did.", *said])
    lines = ['<section id="arms">', "<h2>All arms</h2>", f"<p>{html_text(about)}</p>"]
    lines.append('<div class="card">')
    return [*lines, table(arm_columns(result), [arm_cells(arm, result) for arm in result.arms]), "</div></section>"]
