"""Tables for a terminal: no text in them is markup, and one that is too wide breaks its cells into lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from faultcli.report.text import plain


class PlainTable(Table):
    """A table in which no text is markup: whatever a tensor is called is shown, and nothing of it is obeyed."""

    def add_column(self, header: RenderableType = "", *args: Any, **how: Any) -> None:
        super().add_column(_as_spelled(header), *args, **how)

    def add_row(self, *cells: RenderableType | None, **how: Any) -> None:
        super().add_row(*map(_as_spelled, cells), **how)


def _as_spelled(cell: RenderableType | None) -> RenderableType:
    return plain(cell) if isinstance(cell, str) else cell or ""


def in_lines(text: str) -> Text:
    """Return a cell of several lines."""
    return Text("\n").join(map(plain, text.split("\n")))


def new_table(title: str, **columns: str) -> PlainTable:
    """Return an empty table with `columns`: header to justification (`left` or `right`); `_` in a header is a space."""
    table = PlainTable(
        title=plain(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for header, justify in columns.items():
        table.add_column(
            in_lines(header.replace("_", " ")), justify="right" if justify == "right" else "left", no_wrap=True
        )
    return table


@dataclass(frozen=True)
class FittedTable:
    """A table that breaks its long cells into lines where the terminal is too narrow for it, and only there."""

    tables: tuple[Table, ...]  # the same table, from wide to narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        endless = options.update(width=10_000)
        needed = (Measurement.get(console, endless, table).maximum for table in self.tables[:-1])
        fitting = (table for table, width in zip(self.tables, needed, strict=False) if width <= options.max_width)
        yield next(fitting, self.tables[-1])


def wrapped(text: str) -> str:
    """Put an interval under its mean, and a chain of protections or a fault law on lines of about 20 characters."""
    if " [" in text:
        return text.replace(" [", "\n[", 1).replace(", ", ",")
    lines = [""]
    for part in text.replace(",", ",\0").replace(" + ", " +\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > 20:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
