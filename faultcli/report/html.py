"""A campaign as one HTML file that needs nothing else: no script, no network, every plot with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from faultcli.campaign.curves import CurveResult
from faultcli.campaign.gates import Verdict
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import CampaignResult
from faultcli.report.curve import curve_lines
from faultcli.report.curve_plots import curve_plots
from faultcli.report.html_style import STYLE_SHEET
from faultcli.report.numbers import UNDEFINED, original_text, percent, unit, value_text, worst_text
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
from faultcli.report.table import failure_lines, format_lines, interval_lines, outstanding_lines
from faultcli.report.text import counted, printable
from faultcli.workload.measures import ACCURACY, Measure

_SIGNS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.INCOMPLETE: "…", Verdict.INCONCLUSIVE: "?", None: "–"}
_TEXTS = ("format", "fault", "protection", "arm", "gate", "verdict", "unbeaten")  # columns that are no numbers


def campaign_html(result: CampaignResult) -> str:
    """Return the page. The same result gives the same bytes."""
    sections = [(section, plots) for section in SECTIONS if (plots := section.draw(result))]
    return _page(
        f"Bit-flip campaign: {_model(result)}",
        _subtitle(result),
        [
            *_verdict(result),
            *_contents((section for section, _ in sections), result.measure),
            *_summary(result),
            *_tested(provenance_rows(result), result.provenance),
            '<div class="sections">',
            *(line for section, plots in sections for line in _section(section, plots, result.measure)),
            "</div>",
            *_all_arms(result),
        ],
        result.plan.confidence,
        result.measure,
    )


def curve_html(result: CurveResult) -> str:
    """Return the page of a campaign of curves. The same result gives the same bytes."""
    formats = ", ".join(dict.fromkeys(arm.arm.format for arm in result.arms))
    trials = sum(arm.curve.trials for arm in result.arms)
    return _page(
        f"Accuracy against bit-error rate: {_model(result)}",
        " · ".join([formats, *map(counted, (len(result.arms), trials, result.inputs), ("curve", "trial", "input"))]),
        [
            '<section id="summary">',
            "<h2>Findings</h2>",
            "<p>For every number format and protection, over all rates at once.</p>",
            '<ul class="findings card">',
            *(f"<li>{_text(line)}</li>" for line in curve_lines(result)),
            "</ul></section>",
            *_section(CURVES, curve_plots(result)),
            *_tested(curve_provenance_rows(result), result.provenance),
        ],
        result.plan.confidence,
    )


def _page(title: str, subtitle: str, body: Iterable[str], confidence: float, measure: Measure = ACCURACY) -> str:
    gains = "percentage points" if measure.score is None else _text(measure.score)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',  # a browser would ask the server for one
            f"<title>{_text(title)}</title>",
            f"<style>{STYLE_SHEET}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#summary">To the summary</a>',
            f"<header><h1>{_text(title)}</h1>",
            f'<p class="sub">{_text(subtitle)}</p></header>',
            "<main>",
            *body,
            "</main>",
            f"<footer>Rates are in percent of the inputs, averaged over fault maps; gains in {gains}; "
            f"intervals are {percent(confidence, 0)} % over fault maps. The unit of every statement is the fault map, "
            "not the input.</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _model(result: CampaignResult | CurveResult) -> str:
    return result.provenance.model if result.provenance else "a checkpoint"


def _text(text: str) -> str:
    return escape(printable(text))


def _subtitle(result: CampaignResult) -> str:
    trials = sum(len(arm.records) for arm in result.arms)
    parts = [
        ", ".join(dict.fromkeys(arm.arm.format for arm in result.arms)),
        counted(len(result.arms), "arm"),
        counted(trials, "trial"),
        counted(result.inputs, "input"),
    ]
    return " · ".join([result.provenance.architecture, *parts] if result.provenance else parts)


def _verdict(result: CampaignResult) -> list[str]:
    kind = "none" if result.verdict is None else str(result.verdict)
    return [
        f'<section class="verdict {kind}" aria-label="Verdict">'
        f'<span class="sign" aria-hidden="true">{_SIGNS[result.verdict]}</span>'
        f"<strong>{VERDICTS[result.verdict]}</strong><p>{_text(headline(result))}</p></section>"
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
    if measure.good:
        side = 1 if measure.good == "above" else -1
        ruined = [arm for arm in known if arm.worst is not None]
        worst = min(ruined, key=lambda arm: side * (arm.worst or 0.0), default=None)
        text = (worst_text(worst) if worst else UNDEFINED) + unit(measure)
        tiles.append(("Worst trial", text, worst.arm.label if worst else ""))
    lines = ['<section id="summary">', '<dl class="tiles">']
    lines += [
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(remark)}</small></dd></div>"
        for name, value, remark in tiles
    ]
    lines.append("</dl>")
    gates = [gate for arm in result.arms for gate in arm.gates]
    if gates:
        lines += ["<h2>Gates</h2>", "<p>Decided trial by trial; looking early does not spoil the error rate.</p>"]
        lines += ['<div class="card">', _table(GATE_COLUMNS, [gate_cells(gate, result) for gate in gates]), "</div>"]
    said = [*outstanding_lines(result), *format_lines(result)]
    if said:
        lines += ["<h2>Beside the verdict</h2>", "<p>What no gate looks at.</p>", '<ul class="findings card">']
        lines += [*(f"<li>{_text(line)}</li>" for line in said), "</ul>"]
    failed = failure_lines(result)
    if failed:
        lines += ["<h2>Trials that could not be run</h2>", "<p>Counted nowhere; no gate passes without them.</p>"]
        lines += ['<ul class="findings card">', *(f"<li>{_text(line)}</li>" for line in failed), "</ul>"]
    lines += ["<h2>Findings</h2>", "<p>The mean over fault maps with its interval, for every format and fault law.</p>"]
    lines += ['<ul class="findings card">']
    lines += [f"<li><b>{_text(name)}</b>{_text(text)}</li>" for name, text in findings(result)]
    return [*lines, "</ul>", "</section>"]


def _range(values: Sequence[float], measure: Measure) -> str:
    low, high = (value_text(end(values, default=None), measure) for end in (min, max))
    return (low if low == high else f"{low} to {high}") + unit(measure)


def _tested(rows: Iterable[tuple[str, str]], about: Provenance | None) -> list[str]:
    lines = [
        '<section id="tested">',
        "<h2>What was tested</h2>",
        "<p>All that changes a result, and the command that gives it again.</p>",
        '<div class="card"><dl class="facts">',
    ]
    lines += [f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in rows]
    lines.append("</dl>")
    if about is not None:
        lines.append(f'<pre aria-label="Command to reproduce">{_text(about.command)}</pre>')
    return [*lines, "</div></section>"]


def _worded(text: str, measure: Measure) -> str:
    """Return a text of a section that names the measure; the name is the user's own."""
    return text.format(**{field: _text(word) for field, word in words(measure).items()})


def _section(section: Section, plots: Sequence[Plot], measure: Measure = ACCURACY) -> list[str]:
    wide = ' class="wide"' if len(plots) > 1 else ""
    title, lead = (_worded(text, measure) for text in (section.title, section.lead))
    lines = [f'<section id="{section.name}"{wide}>', f"<h2>{title}</h2>", f"<p>{lead}</p>"]
    lines.append('<div class="plots">')
    for plot in plots:
        lines += [f'<figure class="card"><figcaption><h3>{_text(plot.title)}</h3></figcaption>', plot.svg.rstrip()]
        lines += [_table(plot.columns, plot.rows), "</figure>"]
    return [*lines, "</div></section>"]


def campaign_fragment(result: CampaignResult) -> str:
    """Return the verdict and a table of all arms as a piece of HTML, for a notebook."""
    found = f"<p><strong>{VERDICTS[result.verdict]}</strong> {_text(headline(result))}</p>"
    return found + _table(arm_columns(result), [arm_cells(arm, result) for arm in result.arms])


def _all_arms(result: CampaignResult) -> list[str]:
    about = " ".join(["Every arm with what it costs and what it did.", *interval_lines(result, result.plan.confidence)])
    lines = ['<section id="arms">', "<h2>All arms</h2>", f"<p>{_text(about)}</p>"]
    lines.append('<div class="card">')
    return [*lines, _table(arm_columns(result), [arm_cells(arm, result) for arm in result.arms]), "</div></section>"]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col"{_class(name)}>{_text(name)}</th>' for name in columns)
    lines = [
        '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>',
        f"<thead><tr>{head}</tr></thead><tbody>",
    ]
    for first, *cells in rows:
        body = "".join(
            f"<td{_class(name)}>{_cell(name, cell)}</td>" for name, cell in zip(columns[1:], cells, strict=True)
        )
        lines.append(f'<tr><th scope="row">{_breakable(first)}</th>{body}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def _class(column: str) -> str:
    return ' class="text"' if column in _TEXTS else ""


def _cell(column: str, cell: str) -> str:
    if column == "verdict":
        return f'<span class="chip {cell}">{cell}</span>'
    mean, bracket, ends = cell.partition(" [")
    return f"{_text(mean)} <small>[{_text(ends)}</small>" if bracket and ends.endswith("]") else _breakable(cell)


def _breakable(text: str) -> str:
    """Let a chain of protections end a line after a comma."""
    return _text(text).replace(",", ",<wbr>")
