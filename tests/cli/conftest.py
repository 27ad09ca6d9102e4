"""Commands are run as a user runs them: a process of their own, or in this one where that is all the same."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from faultcli.cli import run


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def faultcli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process."""

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def shell(tmp_path: Path, warm: Path) -> Callable[..., Done]:
    """Run a line of shell in a folder of its own, with `faultcli` on the path."""
    return in_a_shell(tmp_path, warm)


@pytest.fixture
def fresh_shell(tmp_path: Path) -> Callable[..., Done]:
    """The same with the program as it is installed, for what its interpreter does when it starts."""
    return in_a_shell(tmp_path, Path(sys.executable).parent)


def in_a_shell(folder: Path, programs: Path) -> Callable[..., Done]:
    def call(line: str, **environment: str) -> Done:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return call
