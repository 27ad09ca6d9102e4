"""What every HTML page is made of: it needs nothing else, no script and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from faultcli.campaign.curves import CurveResult
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import CampaignResult
from faultcli.report.html_style import STYLE_SHEET
from faultcli.report.text import printable
from faultcli.report.where_report import WhereReport

# Columns that are no numbers.
_TEXTS = ("format", "fault", "protection", "arm", "gate", "verdict", "unbeaten", "class", "what it is")


def page(title: str, subtitle: str, body: Iterable[str], footer: str) -> str:
    """Return a page.

    Args:
        title, subtitle, footer: texts.
        body: lines of HTML; an element has the name `summary`.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',  # a browser would ask the server for one
            f"<title>{html_text(title)}</title>",
            f"<style>{STYLE_SHEET}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#summary">To the summary</a>',
            f"<header><h1>{html_text(title)}</h1>",
            f'<p class="sub">{html_text(subtitle)}</p></header>',
            "<main>",
            *body,
            "</main>",
            f"<footer>{html_text(footer)}</footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def model_name(result: CampaignResult | CurveResult | WhereReport) -> str:
    """Return what a page calls the model."""
    return result.provenance.model if result.provenance else "a checkpoint"


def html_text(text: str) -> str:
    """Return text in which nothing is markup."""
    return escape(printable(text))


def tested(rows: Iterable[tuple[str, str]], about: Provenance | None) -> list[str]:
    """Return the section of what was tested: pairs of name and value, and the command."""
    lines = [
        '<section id="tested">',
        "<h2>What was tested</h2>",
        "<p>All that changes a result, and the command that gives it again.</p>",
        '<div class="card"><dl class="facts">',
    ]
    lines += [f"<dt>{name}</dt><dd>{html_text(value)}</dd>" for name, value in rows]
    lines.append("</dl>")
    if about is not None:
        lines.append(f'<pre aria-label="Command to reproduce">{html_text(about.command)}</pre>')
    return [*lines, "</div></section>"]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first cell of a row is its head, `verdict` a chip, and an interval stands small."""
    head = "".join(f'<th scope="col"{_class(name)}>{html_text(name)}</th>' for name in columns)
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
    return (
        f"{html_text(mean)} <small>[{html_text(ends)}</small>" if bracket and ends.endswith("]") else _breakable(cell)
    )


def _breakable(text: str) -> str:
    """Let a chain of protections end a line after a comma."""
    return html_text(text).replace(",", ",<wbr>")
