"""Standard streams as daemons, cron and full disks leave them: closed, or refusing what is written.

A stream that is closed is as good as /dev/null: who closed it wants nothing of it. What is opened on its number would
else be written into by the first `print`. Notes and progress that cannot be written change no result and no exit code.
A *result* that cannot be written is an error of its own (exit code 2), never that of a failed gate.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


def prepare() -> None:
    """Make standard streams usable, whatever they were opened on."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without × and – still gets its table
    sys.stderr = Notes(sys.stderr)


class Notes(io.TextIOBase):
    """Standard error as far as it takes what is written; what it does not take is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
