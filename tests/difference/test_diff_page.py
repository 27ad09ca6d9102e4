"""docs/diff.md shows what its commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from faultcli.cli import run

PAGE = Path(__file__).parents[2] / "docs" / "diff.md"


def test_the_example_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands, shown = re.findall(r"^```(?:sh|text)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    for line in commands.splitlines():
        capfd.readouterr()
        assert run(shlex.split(line, comments=True)[1:]) == 0
    printed = capfd.readouterr().out
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()
