"""The tables of what is built in, each drawn from the one table in the code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from faultcli.faults.laws import LAWS
from faultcli.faults.memories import MEMORIES, parse_rate
from faultcli.formats import describe_formats
from faultcli.protect.chain import PROTECTIONS
from faultcli.report.layout import PlainTable, new_table

Rows = Sequence[dict[str, str]]


def _formats() -> Rows:
    return [{key: str(value) for key, value in row._asdict().items()} for row in describe_formats()]


def _faults() -> Rows:
    return [
        {"law": f"{law.name}:VALUE", "VALUE": law.unit, "what it does": " ".join((law.__doc__ or "").split())}
        for law in LAWS.values()
    ]


def _memories() -> Rows:
    rates = [parse_rate(memory.example) for memory in MEMORIES.values()]
    return [
        {
            "--ber": rate.asked,
            "BER": f"{rate.ber_per_bit:g}",
            "what it stands for": str(rate.meaning),
            "what it leaves out": str(rate.caveat),
            "source": str(rate.source),
        }
        for rate in rates
    ]


def _protections() -> Rows:
    return [
        {"protection": name, "examples": link.examples, "overhead": link.overhead, "what it does": link.summary}
        for name, link in PROTECTIONS.items()
    ]


def _architectures() -> Rows:
    from faultcli.workload.models.arch_spellings import SOURCES
    from faultcli.workload.models.architectures import ARCHITECTURES

    built_in = [
        {
            "name": name,
            "input": "×".join(map(str, architecture.input_shape or ())),
            "classes": str(architecture.num_classes or ""),
            "description": architecture.description,
            "data": architecture.data,
        }
        for name, architecture in ARCHITECTURES.items()
    ]
    others = [
        {"name": source.spelling, "input": "", "classes": "", "description": source.description, "data": source.data}
        for source in SOURCES
    ]
    return [*built_in, *others]


TABLES: dict[str, Callable[[], Rows]] = {
    "formats": _formats,
    "faults": _faults,
    "memories": _memories,
    "protections": _protections,
    "archs": _architectures,
}


def render(title: str, rows: Rows) -> PlainTable:
    """Return rows as a table, one column per key of the first."""
    table = new_table(title)
    for position, header in enumerate(rows[0]):
        table.add_column(header, no_wrap=position == 0)
    for row in rows:
        table.add_row(*row.values())
    return table


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table, one column per key of the first, the first column as code."""
    headers = list(rows[0])
    lines = [headers, ["---"] * len(headers)]
    lines += [[f"`{row[headers[0]]}`", *(row[header] for header in headers[1:])] for row in rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
