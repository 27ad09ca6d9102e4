"""A campaign as Markdown, for a pull request or the summary of a CI step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from faultcli.campaign.gates import Verdict
from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.report.summary import (
    GATE_COLUMNS,
    VERDICTS,
    arm_cells,
    arm_columns,
    findings,
    gate_cells,
    headline,
    provenance_rows,
)
from faultcli.report.table import (
    failure_lines,
    format_lines,
    interval_lines,
    interval_name,
    labels_lines,
    language_lines,
    outstanding_lines,
)
from faultcli.report.text import counted, markdown, printable

MOST_BYTES = 1_000_000  # GitHub takes 1 MiB per step (docs.github.com, "Adding a job summary") and drops more whole
_SIGNS = {Verdict.PASS: "✅", Verdict.FAIL: "❌", Verdict.INCOMPLETE: "⏳", Verdict.INCONCLUSIVE: "❔", None: "📊"}


def campaign_markdown(result: CampaignResult, most_bytes: int = MOST_BYTES) -> str:
    """Return the report.

    Args:
        result: the campaign.
        most_bytes: its size in UTF-8, at the most. Where not all fit, gates that did not pass and arms with the worst
            trials come first, and the text says how many are left out.
    """
    model = result.provenance.model if result.provenance else "a checkpoint"
    gates = [gate for arm in result.arms for gate in arm.gates]
    room = most_bytes * 9 // 10
    lines = [
        f"# {_SIGNS[result.verdict]} {VERDICTS[result.verdict]}: bit flips in {markdown(model)}",
        "",
        markdown(headline(result)),
        "",
    ]
    if gates:
        ordered = gates
        if not _fits(rows := [gate_cells(gate, result) for gate in gates], room // 3):
            ordered = sorted(gates, key=lambda gate: list(Verdict).index(gate.verdict) == 0)
            rows = [gate_cells(gate, result) for gate in ordered]
        lines += ["## Gates", "", *_table(GATE_COLUMNS, rows, room // 3, "gates", texts=2), ""]
    lines += [
        line for text in [*outstanding_lines(result), *format_lines(result)] for line in (f"**{markdown(text)}**", "")
    ]
    failed = failure_lines(result)
    if failed:
        lines += [f"**{counted(len(failed), 'trial')} could not be run**; the first: {markdown(failed[0])}", ""]
    said = [(name, text) for name, text in findings(result)]
    if len(said) <= 50:
        lines += ["## Findings", ""]
        lines += [f"- **{markdown(name)}**: {markdown(text)}" for name, text in said]
        lines.append("")
    arms: Sequence[ArmResult] = result.arms
    rows = [arm_cells(arm, result) for arm in arms]
    if not _fits(rows, room // 2):
        arms = sorted(arms, key=lambda arm: 1.0 if arm.worst is None else arm.worst)
        rows = [arm_cells(arm, result) for arm in arms]
    lines += ["## Arms", "", *_table(arm_columns(result), rows, room // 2, "arms", texts=3), ""]
    lines += [
        f"{'In' if result.measure.score is None else 'Scores as they are, the rest in'} percent of "
        f"{'tokens and sequences' if result.original.scored else 'the inputs'}, "
        f"averaged over fault maps, with {interval_name(result, result.plan.confidence)} intervals; gains over the "
        "unprotected memory on the same faults.",
        *language_lines(result.original),
        *interval_lines(result, result.plan.confidence),
        *map(markdown, labels_lines(result)),
        "",
        "<details><summary>What was tested</summary>",
        "",
        *_table(("", ""), provenance_rows(result), room // 10, "lines", texts=2),
        "",
    ]
    if result.provenance is not None:
        fence = "`" * max(3, _longest_run(result.provenance.command, "`") + 1)
        lines += [f"{fence}sh", printable(result.provenance.command), fence, ""]
    return "\n".join([*lines, "</details>", ""])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + " |"


def _fits(rows: Sequence[Sequence[str]], room: int) -> bool:
    return sum(len(_row(row).encode()) + 1 for row in rows) <= room


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int, what: str, *, texts: int) -> list[str]:
    """Return a table of `room` bytes at the most; its first `texts` columns are no numbers."""
    lines = [_row(columns), "|" + "".join("---|" if number < texts else "--:|" for number in range(len(columns)))]
    for number, row in enumerate(rows):
        line = _row(row)
        room -= len(line.encode()) + 1
        if room < 0:
            return [*lines, "", f"… and {len(rows) - number:,} more {what}: the HTML and CSV reports hold them all."]
        lines.append(line)
    return lines


def _longest_run(text: str, sign: str) -> int:
    longest = current = 0
    for each in text:
        current = current + 1 if each == sign else 0
        longest = max(longest, current)
    return longest
