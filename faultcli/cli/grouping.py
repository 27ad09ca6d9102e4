"""Commands that take options in groups: a dataclass of options is one parameter of the function, and its fields are
options on the command line. Options that carry `RARE` are left out of `--help`; `--help-all` shows them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import typer
from typer.core import TyperCommand

RARE = object()  # marks, in an annotation, an option that few people need


class _Field(NamedTuple):
    """One parameter on the command line: of which group it is, None for one that stands alone."""

    group: str | None
    hint: Any
    default: object


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make a function that takes groups of options one that takes the options themselves, by name."""
    taken = _fields_of(command)
    groups: dict[str, Any] = {name: hint for name, hint in get_type_hints(command).items() if is_dataclass(hint)}
    hints = {name: field.hint for name, field in taken.items()}
    rare = [name for name, hint in hints.items() if RARE in get_args(hint)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        values.pop("help_all", None)
        parts: dict[str, dict[str, Any]] = {name: {} for name in groups}
        alone: dict[str, Any] = {}
        for name, value in values.items():
            group = taken[name].group
            (alone if group is None else parts[group])[name] = value
        command(**alone, **{name: groups[name](**part) for name, part in parts.items()})

    defaults = {name: field.default for name, field in taken.items()}
    if rare:
        hints["help_all"], defaults["help_all"] = _help_all(len(rare)), False
    run.__dict__.update(
        __signature__=inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint)
                for name, hint in hints.items()
            ]
        ),
        rare=rare,
    )
    run.__annotations__ = {**hints, "return": None}
    del run.__dict__["__wrapped__"]  # whose annotations are groups
    return run


class BriefHelp(TyperCommand):
    """A command whose `--help` leaves out what few people need. Completion knows all of it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        rare = () if ctx.meta.get("help_all") else getattr(self.callback, "rare", ())
        left_out: list[Any] = [one for one in self.params if one.name in rare and not getattr(one, "hidden", False)]
        for one in left_out:
            one.hidden = True
        try:
            super().format_help(ctx, formatter)
        finally:
            for one in left_out:
                one.hidden = False


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


def _help_all(more: int) -> Any:
    def show(context: typer.Context, asked: bool) -> None:
        if asked:
            context.meta["help_all"] = True
            typer.echo(context.get_help())
            raise typer.Exit

    text = f"Show {more} more, rarely used options, and exit."
    return Annotated[bool, typer.Option("--help-all", metavar="", help=text, is_eager=True, callback=show)]
