"""Where commands print: tables to stdout, progress and notes to stderr, JSON where it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from faultcli.errors import OutputError
from faultcli.report.text import printable

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


def say(*lines: str) -> None:
    """Print lines of a result, names in them as they are spelled."""
    for line in lines:
        stdout().print(printable(line), markup=False, soft_wrap=True)


def note(text: str, *, quiet: bool) -> None:
    """Say something that is no result, on stderr."""
    if not quiet:
        stderr().print(printable(text), style="dim", markup=False, soft_wrap=True)


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Give a progress display on stderr: a bar on a terminal, nothing in a pipe or when quiet.

    On a narrow terminal the description is cut, and never what is counted. A task's field `free` says how much of what
    is done took no time, such as trials that a store had already.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(time_left(task.elapsed, task.completed, task.fields.get("free", 0), task.total))

    console = stderr()
    cut = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=cut),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        Left(),
    )
    off = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off, expand=True) as display:
        yield display


def time_left(elapsed: float | None, done: float, free: float, total: float | None) -> str:
    """Write how long what is left will take, at the pace of what took its time so far."""
    paid = done - free
    if elapsed is None or total is None or paid <= 0:
        return "-:--:--"
    minutes, seconds = divmod(round(elapsed / paid * (total - done)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


@contextmanager
def byte_progress(quiet: bool, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the bytes done; shows them as a bar on a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as display:
        task = display.add_task(what, total=total)
        yield lambda done: display.advance(task, done)


def check_json_target(target: str | None) -> str | None:
    """Refuse, before any work is done, a --json FILE that cannot be written or that is no earlier result: in
    `--json model.safetensors` the file is meant to be the model.

    Raises:
        OutputError: says why.
    """
    if target is None or target == "-":
        return target
    from faultcli.files import check_output

    path = Path(target)
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(1000)
        if start and not (start.lstrip().startswith(b"{") and b'"schema": "faultcli.' in start):
            remedy = f"put the model first: {target} --json -; or name another FILE"
            raise OutputError(f"--json {target}: exists, and is no earlier result of faultcli; it is kept", remedy)
    check_output(path, force=True)
    return target


def write_json(result: Mapping[str, object], target: str | None) -> None:
    """Write a result as one JSON object: `-` is stdout, None is nowhere, else a file that is replaced whole."""
    if target is None:
        return
    from faultcli.report.document import json_text

    text = json_text(result)
    if target == "-":
        sys.stdout.write(text)
        return
    from faultcli.files import atomic_output

    with atomic_output(Path(target), force=True) as partial:
        partial.write_text(text, encoding="utf-8")
