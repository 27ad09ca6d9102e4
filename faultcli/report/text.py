"""Text from outside (names of tensors, paths, metadata) on its way to a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text


def printable(text: str) -> str:
    """Escape what a terminal would obey and not show: a checkpoint may name its tensors as it likes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, noun: str) -> str:
    """Return `1 trial`, `30 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plain(text: str) -> Text:
    """Return printable text for a table, in which square brackets are no markup."""
    return Text(printable(text))


def shown(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row of a table with what a terminal or a spreadsheet would obey in its texts escaped."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}


def markdown(text: str) -> str:
    """Escape what Markdown would obey, too."""
    safe = printable(text)
    for sign in "\\`*_[]<>|":
        safe = safe.replace(sign, f"\\{sign}")
    return safe
