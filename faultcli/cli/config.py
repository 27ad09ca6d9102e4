"""--config: a TOML file that says what options say; the command line counts more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from faultcli.errors import UsageError, unknown_name
from faultcli.foreign import ForeignError, parse_toml, read_text

_ITSELF = ("config", "help", "help_all")


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a file's entries the defaults of the command's options. Dashes and underscores are alike; `model` is the
    checkpoint. A list stands for a repeated option, or for one with commas.

    Raises:
        UsageError: the file cannot be read or is no TOML, an entry is no option of the command, or has a value that
            no option takes.
    """
    if path is None:
        return None
    try:
        entries = parse_toml(read_text(path))
    except ForeignError as error:
        raise UsageError(f"--config {path}: {error}", 'a TOML file, an option a line: ber = "1e-4"') from None
    options = {_spelling(one): one for one in context.command.params if one.name not in _ITSELF}
    defaults: dict[str, Any] = {}
    for key, value in entries.items():
        option = options.get(key.replace("_", "-"))
        if option is None or option.name is None:
            unknown = unknown_name("option", key, options)
            raise UsageError(f"--config {path}: {unknown.message}", unknown.remedy)
        defaults[option.name] = _checked(path, key, value, repeatable=getattr(option, "multiple", False))
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _spelling(option: Any) -> str:
    """The option's name as people write it, without dashes in front."""
    return max(option.opts, key=len).lstrip("-") if option.param_type_name == "option" else str(option.name)


def _checked(path: Path, key: str, value: object, *, repeatable: bool) -> object:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(one, str) and (not one or "\0" in one) for one in items):
        raise UsageError(f"--config {path}: {key} is empty or no text", "write its value, or leave the line out")
    if isinstance(value, list) and all(map(_is_scalar, value)):
        return [str(one) for one in value] if repeatable else ",".join(map(str, value))
    if isinstance(value, int) and not _is_scalar(value):
        raise UsageError(f"--config {path}: {key} is a number beyond 64 bits", "no option takes one")
    if not _is_scalar(value):
        problem = f"--config {path}: {key} is a {type(value).__name__}"
        raise UsageError(problem, "an option is a string, a number, true or false, or a list of these")
    if repeatable:
        return [str(value)]
    return value if isinstance(value, bool) else str(value)


def _is_scalar(value: object) -> bool:
    """Whether an option can take it; hexadecimal numbers have no end, and Python writes out only short ones."""
    return isinstance(value, bool | float | str) or (isinstance(value, int) and value.bit_length() < 64)
