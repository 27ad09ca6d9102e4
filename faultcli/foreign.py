"""What others wrote, taken in with a bound: small files that are read whole, JSON and TOML in them, whole numbers.

A file may be anything: a device that never ends, a pipe that nobody writes, lists nested a hundred thousand deep. A
number may have five thousand digits, which Python refuses to read, with an error of its own.
"""

from __future__ import annotations

import json
import os
import select
import tomllib
from io import FileIO
from pathlib import Path
from stat import S_ISFIFO
from typing import Any

SMALL = 64 << 20  # bytes of a file that is read whole: configurations, results of campaigns, tables
_CHUNK = 1 << 20
_PATIENCE_MS = 3000  # for somebody to open the other end of a pipe
_MOST_DIGITS = 40  # of a number that may fit 64 bits, signs and underscores included


class ForeignError(Exception):
    """A file cannot be read, or is not what it should be. Says why; the caller says of what, and what to do."""


def read_small(path: Path, limit: int = SMALL) -> bytes:
    """Read a whole file of at most `limit` bytes.

    A pipe (process substitution, /dev/stdin) is waited for as long as somebody holds its other end; one that nobody
    writes is refused after a few seconds. Devices are read like files: /dev/null is empty, /dev/zero too large.

    Raises:
        ForeignError: it is missing, cannot be read, is larger than `limit`, or is a pipe that nobody writes.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        with FileIO(os.open(path, flags)) as file:
            status = os.fstat(file.fileno())
            content = bytearray(_first_of_pipe(file) if S_ISFIFO(status.st_mode) else b"")
            os.set_blocking(file.fileno(), True)
            while status.st_size <= limit and (chunk := file.read(min(_CHUNK, limit + 1 - len(content)))):
                content += chunk
            if max(status.st_size, len(content)) > limit:
                raise ForeignError(f"is more than {limit} bytes long, which such a file never is")
            return bytes(content)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ForeignError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _first_of_pipe(file: FileIO) -> bytes:
    """Return the first byte of a pipe that was opened without waiting; none of one whose writer has gone."""
    poll = select.poll()
    poll.register(file, select.POLLIN | select.POLLHUP)
    while True:
        ready = poll.poll(_PATIENCE_MS)
        first = file.read(1)  # None: nothing yet, but somebody holds the other end; empty: nobody does
        if first:
            return first
        if first is not None:
            if not ready:
                raise ForeignError("is a pipe that nobody writes")
            return first


def read_text(path: Path, limit: int = SMALL) -> str:
    """Read a small file as UTF-8. Raises ForeignError, as `read_small`, or where it is no UTF-8."""
    try:
        return read_small(path, limit).decode()
    except UnicodeDecodeError as error:
        raise ForeignError(f"is no UTF-8 text: {error}") from None


def parse_json(text: str) -> Any:
    """Parse JSON. Raises ForeignError where it is none, nests too deeply, or holds a number of thousands of digits."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ForeignError(f"is no valid JSON: {_reason(error)}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ForeignError as `parse_json`."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ForeignError(f"is no TOML: {_reason(error)}") from None


def whole_number(text: str) -> int | None:
    """Read a whole number that fits 64 bits, signed; None where the text is none."""
    try:
        number = int(text) if len(text) <= _MOST_DIGITS else 1 << 64
    except ValueError:
        return None
    return number if -(1 << 63) <= number < 1 << 63 else None


def is_number(value: object, low: float, high: float) -> bool:
    """Whether a value out of JSON is a number (true and false are none) from `low` to `high`; NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _reason(error: Exception) -> str:
    return "it nests too deeply" if isinstance(error, RecursionError) else str(error)
