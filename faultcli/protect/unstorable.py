"""Tensors that a memory cannot hold because of NaN or infinities: all of them are named at once."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping

from torch import Tensor

from faultcli.errors import NonFiniteError
from faultcli.faults.selection import escaped
from faultcli.formats import as_words
from faultcli.formats.values import count_non_finite

_NAMED = 3


def naming_all(error: NonFiniteError, tensors: Mapping[str, Tensor]) -> NonFiniteError:
    """Return the error of one tensor as that of all among these that hold NaN or infinities, with what leaves them out.

    Args:
        error: `tensor NAME holds …; why this is not stored`.
        tensors: those at risk; each is looked at once.
    """
    found: dict[str, str] = {}
    finite: list[str] = []
    for name, tensor in tensors.items():
        values = as_words(tensor)
        nan, infinite = count_non_finite(values.double()) if values.is_floating_point() else (0, 0)
        if nan or infinite:
            found[name] = " and ".join(f"{n:,} {what}" for n, what in ((nan, "NaN"), (infinite, "infinite")) if n)
        else:
            finite.append(name)
    if not found:
        return error
    message = error.message
    if len(found) > 1:
        why = message.rpartition("; ")[2]
        named = ", ".join(f"{name!r} ({counts})" for name, counts in list(found.items())[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        message = f"{len(found)} tensors hold values that are not finite: {named}{more}; {why}"
    options = " ".join(f"--exclude {shlex.quote(glob)}" for glob in _globs(found, finite))
    them = "it" if len(found) == 1 else "them"
    return NonFiniteError(message, f"leave {them} out: {options}; native, fp16 and bf16 store such values")


def _globs(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return globs that match these names and none of the others: one for names that differ by their numbers alone."""
    kept, globs = list(others), dict[str, None]()
    for name in names:
        wide = re.sub(r"\d+", "*", escaped(name))
        hits = fnmatch.filter(kept, wide)  # case counts on any system where names do
        globs[escaped(name) if hits else wide] = None
    return list(globs)
