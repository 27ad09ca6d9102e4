"""Where commands print: tables to stdout, progress and notes to stderr, JSON where it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

WIDE = 120  # columns of a table that goes into a pipe or a file


def stdout() -> Console:
    """Return the console for results. A pipe gets plain text of a fixed width, whatever CI sets in the environment."""
    return _console(sys.stdout.isatty(), stderr=False)


def stderr() -> Console:
    """Return the console for progress, notes and errors."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(terminal: bool, *, stderr: bool) -> Console:
    return Console(
        stderr=stderr, force_terminal=terminal, width=None if terminal else WIDE, highlight=False, emoji=False
    )


def note(text: str, *, quiet: bool) -> None:
    """Say something that is no result, on stderr."""
    if not quiet:
        stderr().print(text, style="dim", markup=False, soft_wrap=True)


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Give a progress display on stderr: a bar on a terminal, nothing in a pipe or when quiet."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as display:
        yield display


@contextmanager
def byte_progress(quiet: bool, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the bytes done; shows them as a bar on a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as display:
        task = display.add_task(what, total=total)
        yield lambda done: display.advance(task, done)


def write_json(result: Mapping[str, object], target: str | None, *, force: bool = True) -> None:
    """Write a result as one JSON object: `-` is stdout, None is nowhere, else a file that is replaced whole."""
    if target is None:
        return
    text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    from faultcli.files import atomic_output

    with atomic_output(Path(target), force=force) as partial:
        partial.write_text(text, encoding="utf-8")
