"""Commands that take options in groups: a dataclass of options is one parameter of the function, and its fields are
options on the command line. Rarely used ones are left out of `--help` and shown by `--help-all`."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer


@dataclass(frozen=True)
class _Field:
    """One parameter on the command line: of which group it is, None for one that stands alone."""

    group: str | None
    hint: Any
    default: object


def grouped(*, rare: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes a function with groups of options a command.

    Args:
        rare: names of options that `--help` leaves out.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        taken = _fields_of(command)
        groups: dict[str, Any] = {name: hint for name, hint in get_type_hints(command).items() if is_dataclass(hint)}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            values.pop("help_all", None)
            parts: dict[str, dict[str, Any]] = {name: {} for name in groups}
            alone: dict[str, Any] = {}
            for name, value in values.items():
                group = taken[name].group
                (alone if group is None else parts[group])[name] = value
            command(**alone, **{name: groups[name](**part) for name, part in parts.items()})

        hints = {name: _hidden(field.hint) if name in rare else field.hint for name, field in taken.items()}
        defaults = {name: field.default for name, field in taken.items()}
        if rare:
            hints["help_all"], defaults["help_all"] = _HELP_ALL, False
        keyword = inspect.Parameter.KEYWORD_ONLY
        listed = [inspect.Parameter(n, keyword, default=defaults[n], annotation=hint) for n, hint in hints.items()]
        run.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
        run.__annotations__ = {**hints, "return": None}
        del run.__wrapped__  # whose annotations are groups
        return run

    return decorate


def _fields_of(command: Callable[..., None]) -> dict[str, _Field]:
    hints = get_type_hints(command, include_extras=True)
    found: dict[str, _Field] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            inner = get_type_hints(hints[name], include_extras=True)
            found |= {field.name: _Field(name, inner[field.name], field.default) for field in fields(hints[name])}
        else:
            found[name] = _Field(None, hints[name], parameter.default)
    return found


def _hidden(hint: Any) -> Any:
    of, *about = get_args(hint)
    return Annotated[(of, *map(_hide, about))]


def _hide(item: Any) -> Any:
    if not hasattr(item, "hidden"):
        return item
    copied = copy.copy(item)
    copied.hidden = True
    return copied


def _show_all(context: typer.Context, asked: bool) -> None:
    if asked:
        for parameter in context.command.params:
            if hasattr(parameter, "hidden"):
                parameter.hidden = False
        typer.echo(context.get_help())
        raise typer.Exit


_HELP_ALL = Annotated[
    bool,
    typer.Option(
        "--help-all",
        metavar="",
        help="Show all options, and exit.",
        is_eager=True,
        callback=_show_all,
        show_default=False,
    ),
]
