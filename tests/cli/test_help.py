"""Every command and every option is explained."""

import re
from collections.abc import Callable

import pytest
import typer

from faultcli.cli import app

TREE = typer.main.get_command(app)
COMMANDS = TREE.commands  # type: ignore[attr-defined]


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(COMMANDS) <= {
        "inject",
        "convert",
        "diff",
        "scale",
        "harden",
        "repair",
        "seal",
        "verify",
        "train-corrector",
        "evaluate",
        "campaign",
        "curve",
        "where",
        "merge",
        "plan",
        "report",
        "inspect",
        "demo",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained_with_an_example(name: str, faultcli: Callable[..., object]) -> None:
    done = faultcli(name, "--help")
    assert done.code == 0
    assert re.search(rf"Example: faultcli {name}", " ".join(done.out.split()))


def test_every_option_has_help() -> None:
    options = [(name, one) for name, command in COMMANDS.items() for one in command.params]
    assert len(options) > 300
    assert [(name, one.name) for name, one in options if not one.help] == []


def test_the_exit_codes_are_in_the_help(faultcli: Callable[..., object]) -> None:
    text = " ".join(faultcli("--help").out.split())
    for code in ("0 done", "1 a gate failed", "2 usage", "3 internal", "4 inconclusive", "130 interrupted"):
        assert code in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen(name: str, faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal as wide as it always was; and a printed page, 66 lines."""
    for columns, most in ((80, 89), (120, 66)):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = faultcli(name, "--help").out.splitlines()
        assert len(lines) <= most
        assert columns - 2 <= max(map(len, lines)) <= columns


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_left_out_is_said_and_shown(name: str, faultcli: Callable[..., object]) -> None:
    """Options that `--help` has not are counted there, and `--help-all` has all."""
    spelled = {max(one.opts, key=len) for one in COMMANDS[name].params if one.param_type_name == "option"}
    brief = faultcli(name, "--help").out
    left_out = {option for option in spelled if not re.search(rf"{option}\s", brief)}
    if not left_out:
        assert "--help-all" not in brief
        return
    assert f"Show {len(left_out)} more, rarely used options" in brief
    done = faultcli(name, "--help-all")
    assert done.code == 0
    assert all(re.search(rf"{option}\s", done.out) for option in spelled)
