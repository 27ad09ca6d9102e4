"""Typed errors: each says what is wrong with what, what to do about it, and with which exit code a command ends."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

_SOURCE = Path(__file__).resolve().parents[1]  # of a checkout, the folder that pip installs from


class FaultcliError(Exception):
    """A mistake in the input that the user can mend.

    Args:
        message: one line that says what is wrong with what (file, tensor, option, value).
        remedy: one line that says what to do, or None where the message says it all.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(FaultcliError):
    """An option's value, or a combination of options, makes no sense."""


class FormatError(FaultcliError):
    """A value cannot be stored in the number format asked for."""


class NonFiniteError(FormatError):
    """A tensor holds NaN or infinities, which are not stored like this."""


class CheckpointError(FaultcliError):
    """A checkpoint is missing, damaged or does not fit what it is used for."""


class OutputError(FaultcliError):
    """An output cannot be written: it exists, the place is not writable, the disk is full."""


class FaultError(FaultcliError):
    """A fault law or a fault map is malformed or does not fit the memory it is meant for."""


class WorkloadError(FaultcliError):
    """The architecture or the data set is unknown, damaged or does not fit the checkpoint."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that no table holds, with the nearest match as the remedy."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}", f"{remedy}known: {', '.join(names)}")


def install(extra: str) -> str:
    """Return the command that adds an optional part of faultcli, for a remedy.

    A checkout is named, with its pins, which keep pip from changing PyTorch on the way. Elsewhere the package's name is
    enough: pip has it installed already and adds what is missing.
    """
    if not (_SOURCE / "pyproject.toml").is_file():
        return f"pip install {shlex.quote(f'faultcli[{extra}]')}"
    pins = shlex.quote(str(_SOURCE / "constraints.txt"))
    return f"pip install -c {pins} {shlex.quote(f'{_SOURCE}[{extra}]')}"
