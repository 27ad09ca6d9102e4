"""Text from outside (names of tensors, paths, metadata) on its way to a terminal."""

from __future__ import annotations

from rich.text import Text


def printable(text: str) -> str:
    """Escape what a terminal would obey and not show: a checkpoint may name its tensors as it likes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain(text: str) -> Text:
    """Return printable text for a table, in which square brackets are no markup."""
    return Text(printable(text))
