"""Tensors that a memory cannot hold, by their dtype or because of NaN or infinities: all of them are named at once."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping

from torch import Tensor

from faultcli.errors import FormatError, NonFiniteError
from faultcli.faults.selection import escaped
from faultcli.formats import NumberFormat, format_for
from faultcli.formats.values import count_non_finite

_NAMED = 3


def formats_of(dtypes: Mapping[str, str], format_name: str) -> dict[str, NumberFormat]:
    """Return what a word of each tensor is in a memory of this format.

    Args:
        dtypes: of safetensors, by tensor.
        format_name: as on the command line.

    Raises:
        UsageError: there is no such format.
        FormatError: dtypes are none that the format reads; the tensors are named.
    """
    formats, refused = dict[str, NumberFormat](), dict[str, FormatError]()
    for name, dtype in dtypes.items():
        try:
            formats[name] = format_for(format_name, dtype)
        except FormatError as error:
            refused[name] = error
    if not refused:
        return formats
    (name, first), more = next(iter(refused.items())), len(refused) - 1
    if not more:
        raise FormatError(f"tensor {name!r} {first.message}", first.remedy)
    also = ", ".join(repr(other) for other in list(refused)[1:_NAMED]) + (f" and {more - 2} more" if more > 2 else "")
    remedy = (first.remedy or "").replace(
        "leave it out with --exclude", f"leave them out: {_excluding(refused, formats)}"
    )
    raise FormatError(f"tensor {name!r} {first.message}; nor can {also} be stored", remedy)


def naming_all(error: NonFiniteError, tensors: Mapping[str, Tensor]) -> NonFiniteError:
    """Return the error of one tensor as that of all among these that hold NaN or infinities, with what leaves them out.

    Args:
        error: `tensor NAME holds …; why this is not stored`.
        tensors: those at risk; each is looked at once.
    """
    found: dict[str, str] = {}
    finite: list[str] = []
    for name, tensor in tensors.items():
        nan, infinite = count_non_finite(tensor.double()) if tensor.is_floating_point() else (0, 0)
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
    stores = "; native, fp16 and bf16 store such values" if "cannot store" in message else ""
    them = "it" if len(found) == 1 else "them"
    return NonFiniteError(message, f"leave {them} out: {_excluding(found, finite)}{stores}")


def _excluding(names: Iterable[str], others: Iterable[str]) -> str:
    """Return the options that leave out these tensors and none of the others: one glob for names that differ by their
    numbers alone."""
    kept, globs = list(others), dict[str, None]()
    for name in names:
        wide = re.sub(r"\d+", "*", escaped(name))
        globs[wide if not any(fnmatch.fnmatchcase(other, wide) for other in kept) else escaped(name)] = None
    return " ".join(f"--exclude {shlex.quote(glob)}" for glob in globs)
