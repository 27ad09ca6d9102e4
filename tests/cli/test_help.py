"""Every command and every option is explained."""

import re
from collections.abc import Callable, Iterator

import pytest
import typer

from faultcli.cli import app

TREE = typer.main.get_command(app)
COMMANDS = TREE.commands  # type: ignore[attr-defined]
LONG = ("campaign", "train-corrector")


def parameters() -> Iterator[tuple[str, object]]:
    for name, command in COMMANDS.items():
        for parameter in command.params:
            yield f"{name} {parameter.name}", parameter


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(COMMANDS) <= {
        "inject",
        "scale",
        "train-corrector",
        "evaluate",
        "campaign",
        "curve",
        "merge",
        "report",
        "inspect",
        "demo",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained_with_an_example(name: str, faultcli: Callable[..., object]) -> None:
    done = faultcli(name, "--help")
    assert done.code == 0
    assert re.search(rf"Example: faultcli {name}", " ".join(done.out.split()))


@pytest.mark.parametrize(
    ("name", "parameter"), list(parameters()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_option_has_help(name: str, parameter: object) -> None:
    assert getattr(parameter, "help", None), name


def test_the_exit_codes_are_in_the_help(faultcli: Callable[..., object]) -> None:
    text = " ".join(faultcli("--help").out.split())
    for code in ("0 done", "1 a gate failed", "2 usage", "3 internal", "4 inconclusive", "130 interrupted"):
        assert code in text


@pytest.mark.parametrize(("name", "lines"), [(name, 110 if name in LONG else 66) for name in COMMANDS])
def test_help_fits_a_screen(name: str, lines: int, shell: Callable[..., object]) -> None:
    """66 lines of 120 columns, a printed page; the two commands with over forty options need more."""
    done = shell(f"COLUMNS=120 faultcli {name} --help")
    assert len(done.out.splitlines()) <= lines
    assert max(map(len, done.out.splitlines())) <= 120
