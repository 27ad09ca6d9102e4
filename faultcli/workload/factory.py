"""Objects that the user names on the command line as `package.module:factory`.

Importing runs code. Nothing here may ever be called with a name that came from a checkpoint or a data file.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from faultcli.errors import WorkloadError, unknown_name

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FILE = re.compile(r"(.*?)([^/\\]+)\.py:([A-Za-z_]\w*)")


def is_factory(spec: str) -> bool:
    """Return whether `spec` reads as `package.module:factory`."""
    return _SPEC.fullmatch(spec) is not None


def call_factory(kind: str, spec: str) -> object:
    """Import what `spec` names, call it without arguments and return what it returns.

    Args:
        kind: what is being made, for the messages: "architecture" or "data".
        spec: `package.module:factory`, from the command line only.

    Raises:
        WorkloadError: as `import_named`, or the call fails.
    """
    factory = import_named(kind, spec)
    if isinstance(factory, nn.Module):
        raise WorkloadError(
            f"{kind} {spec!r}: {spec.partition(':')[2]!r} is a {type(factory).__name__} and not a factory",
            "name a function or a class that can be called without arguments",
        )
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise WorkloadError(
            f"{kind} {spec!r}: calling it failed: {type(error).__name__}: {error}",
            "it is called without arguments: mend it, or name a function that needs none",
        ) from error


def import_named(kind: str, spec: str) -> Callable[..., Any]:
    """Import the function or class that `spec` names.

    The current directory is importable, as it is for `python -m`; it stays so for imports that come later.

    Args:
        kind: what it is for, for the messages: "architecture", "data", "score".
        spec: `package.module:name`, from the command line only.

    Raises:
        WorkloadError: the spec is malformed, the import fails, the name is missing or cannot be called.
    """
    file = _FILE.fullmatch(spec)
    if file is not None:
        folder = f"in the folder {file[1]}: " if file[1] else ""
        raise WorkloadError(f"{kind} {spec!r}: names a file; a module has no .py", f"try: {folder}{file[2]}:{file[3]}")
    if not is_factory(spec):
        wanted = f"package.module:{_wanted(kind)}"
        raise WorkloadError(f"{kind} {spec!r} does not read as {wanted}", "e.g. mymodels.nets:make_net")
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise WorkloadError(
            f"{kind} {spec!r}: importing {module_name!r} failed: {type(error).__name__}: {error}",
            "the current directory and installed packages are searched",
        ) from error
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        remedy = unknown_name("name", name, own).remedy if own else f"define it there: def {name}():"
        raise WorkloadError(f"{kind} {spec!r}: module {module_name!r} has no {name!r}", remedy)
    found = getattr(module, name)
    if not callable(found):
        raise WorkloadError(
            f"{kind} {spec!r}: {name!r} is a {type(found).__name__} and not a {_wanted(kind)}",
            "name a function, or a class that can be called",
        )
    return found  # type: ignore[no-any-return]


def _wanted(kind: str) -> str:
    return "factory" if kind in ("architecture", "data") else "function"
