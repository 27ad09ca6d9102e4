"""What a terminal shows, captured from tmux: nothing is cut, nothing wraps badly; and terminals that can do little."""

import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TMUX = shutil.which("tmux")
CAMPAIGN = (
    "campaign --ber 1e-4,1e-2 --format q2.5 --protect none --protect scale=max:channel,inplace=2 --limit 20 --trials 3"
)


@pytest.fixture
def session(tmp_path: Path, warm: Path) -> Iterator[Callable[[str, int], list[str]]]:
    """Type a command into a terminal of so many columns and return the lines that it then shows, joined where the
    terminal itself had to wrap them."""
    if TMUX is None:
        pytest.skip("needs tmux, which is not on the path")
    socket = f"faultcli-{uuid.uuid4().hex[:8]}"

    def tmux(*arguments: str) -> str:
        command = [str(TMUX), "-L", socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def show(command: str, columns: int) -> list[str]:
        done = tmp_path / f"done-{columns}"
        line = f"unset COLUMNS LINES; {warm}/faultcli {command}; touch {shlex.quote(str(done))}; sleep 60"
        tmux("new-session", "-d", "-s", f"at{columns}", "-x", str(columns), "-y", "300", "bash", "-c", line)
        deadline = time.monotonic() + 120
        while not done.exists():
            assert time.monotonic() < deadline, tmux("capture-pane", "-p", "-t", f"at{columns}")
            time.sleep(0.1)
        time.sleep(0.2)
        return tmux("capture-pane", "-p", "-t", f"at{columns}").rstrip().splitlines()

    yield show
    subprocess.run([TMUX, "-L", socket, "kill-server"], check=False, capture_output=True)


@pytest.mark.parametrize("columns", [80, 120])
def test_campaign_tables(columns: int, session: Callable[[str, int], list[str]]) -> None:
    lines = session(CAMPAIGN, columns)
    text = "\n".join(lines)
    assert "…" not in text
    assert all(len(line) <= columns for line in lines)
    for word in ("overhead", "stored", "worst", "gain", "SDC", "DUE"):
        assert word in text
    in_two_lines = any(line.strip().startswith("inplace=2 ") for line in lines)
    assert in_two_lines == (columns < 100), text
    rules = [line for line in lines if line.strip().startswith("───")]
    assert rules
    assert len({len(rule.rstrip()) for rule in rules}) <= 2  # one per table


@pytest.mark.parametrize(
    ("command", "columns"),
    [
        ("evaluate --format q2.5 --limit 20", 80),
        ("inspect", 120),
        ("inspect --formats", 80),
        ("campaign --help", 80),
        ("campaign --ber 1e-4 --format q2.5 --protect scale=max:channel,guard,secded=64 --limit 20 --plan-only", 80),
    ],
)
def test_other_tables(command: str, columns: int, session: Callable[[str, int], list[str]]) -> None:
    lines = session(command, columns)
    assert len(lines) > 3
    assert all(len(line) <= columns for line in lines)


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_COLOR": "1", "COLUMNS": "40"},
        {"TERM": "dumb", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"GITHUB_ACTIONS": "true", "FORCE_COLOR": "1"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_modest_terminals_and_pipes(environment: dict[str, str], fresh_shell: Callable[..., Any]) -> None:
    """A pipe gets plain text of a fixed width whatever the environment says; no locale is too small for a table."""
    done = fresh_shell(f"faultcli {CAMPAIGN} | cat", **environment)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "Traceback" not in done.err
    assert "scale=max:channel,inplace=2" in done.out
    assert max(map(len, done.out.splitlines())) <= 120
