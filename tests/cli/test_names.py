"""Names that a checkpoint, a glob or a store brings along are shown as they are spelled, and obeyed by nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from faultcli.report.formats import REPORTS

NAMES = [
    "[/]",
    "[red]x[/red]",
    "[link=http://example.org]y[/link]",
    "\x1b[31mz",
    "a\nb",
    "a\tb",
    "\u202eabc",
    "$\\foo$",
    "a|b`c",
    ":smile:",
]
SHOWN = [*NAMES[:3], "\\x1b[31mz", "a\\nb", "a\\tb", "\\u202eabc", "$\\foo$", "a|b`c", ":smile:"]
COMMANDS = [
    ["inspect", "n.safetensors", "--ber", "1e-3"],
    ["scale", "n.safetensors", "--factor", "2", "-o", "s"],
]


@pytest.fixture(autouse=True)
def _a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(4, 4, generator=generator) for name in NAMES}
    save_file(tensors, "n.safetensors", metadata={"[/]": "\x1b[2J"})


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_tables_and_notes(command: list[str], faultcli: Callable[..., object]) -> None:
    done = faultcli(*command)
    assert done.code == 0, done.err
    for name in SHOWN:
        assert name in done.out
    assert "\x1b" not in done.out + done.err
    assert "\u202e" not in done.out + done.err


@pytest.mark.parametrize("name", NAMES)
def test_errors(name: str, faultcli: Callable[..., object]) -> None:
    save_file({name: torch.full((2, 2), torch.nan)}, "nan.safetensors")
    done = faultcli("scale", "nan.safetensors", "--factor", "max", "-o", "out")
    assert done.code == 2
    assert len(done.err.splitlines()) == 2
    assert "\x1b" not in done.err
    assert not Path("out").exists()


def test_paths(faultcli: Callable[..., object]) -> None:
    Path("[red]").mkdir()
    done = faultcli("inject", "n.safetensors", "--ber", "1e-3", "-o", "[red]/[bold]out.safetensors")
    assert done.code == 0
    assert done.out.startswith("[red]/[bold]out.safetensors: ")


def test_globs_in_a_store(faultcli: Callable[..., object]) -> None:
    law = "bitflip:1e-3,include=conv*,include=*\x1b[31m[/]$\\foo$\u202e*"
    done = faultcli("campaign", "--fault", law, "--trials", "2", "--limit", "10", "--store", "s.sqlite")
    assert done.code == 0, done.err
    assert "\\x1b[31m[/]$\\foo$" in done.out
    assert "\x1b" not in done.out + done.err
    files = [f"r{ending}" for ending in REPORTS]
    done = faultcli("report", "s.sqlite", *(word for file in files for word in ("-o", file)))
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    for file in set(files) - {"r.parquet"}:  # which is for programs, and holds texts as they are
        assert b"\x1b" not in Path(file).read_bytes(), file


def test_what_is_asked_for_without_a_store(faultcli: Callable[..., object]) -> None:
    """Plans, corrections and their plots: nothing in a law is obeyed, by terminals, Markdown, XML or a plot's maths."""
    law = "bitflip:1e-3,include=conv*,include=*\x1b[31m[/]|$\\foo$\u202e*"
    done = faultcli("campaign", "--fault", law, "--plan-only", "--limit", "10")
    assert done.code == 0, done.err
    shown = done.out + done.err
    few = ("--method", "align", "--maps", 1, "--report-maps", 1, "--window", 50, "--train-limit", 150, "--limit", 50)
    for report in ("r.md", "r.svg"):
        done = faultcli("train-corrector", "--fault", law, *few, "--report", report)
        assert done.code == 0, done.err
        shown += done.out + done.err + Path(report).read_text()
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[/]|$\\foo$" in shown
    ElementTree.parse("r.svg")
    row = next(line for line in Path("r.md").read_text().splitlines() if "conv" in line)
    assert row.replace("\\|", "").count("|") == 10


def test_an_internal_error(faultcli: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("\x1b[31m")

    monkeypatch.setattr("faultcli.cli.inspect._inspect_checkpoint", fail)
    done = faultcli("inspect", "n.safetensors")
    assert done.code == 3
    assert "ZeroDivisionError: \\x1b[31m" in done.err
    assert "\x1b" not in done.err
