"""What a bar shows: the count and the time left are never cut, and what a store had already took no time."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from faultcli.campaign.gates import FaultFreeAccuracy
from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.records import Record
from faultcli.campaign.shard import WHOLE
from faultcli.campaign.watch import Watch
from faultcli.cli import console
from faultcli.cli.progress import watching
from faultcli.faults.laws import parse_law
from faultcli.protect.chain import parse_chain
from faultcli.workload.metrics import Outcome

CHAIN = parse_chain("scale=max:channel,guard,secded=64")
ARMS = tuple(Arm(form, parse_law("bitflip:0.0001"), CHAIN) for form in ("q2.5", "fp16"))
PLAN = Plan(ARMS, 1000)


@contextmanager
def screen(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[io.StringIO]:
    text = io.StringIO()
    terminal = Console(file=text, width=columns, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "stderr", lambda: terminal)
    yield text


def lines(text: io.StringIO) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]", plain) if line.strip()]


def record(arm: int, trial: int) -> Record:
    return Record(arm, trial, 30, 30, Outcome(n=10, correct1=9, correct5=10, loss=1.0, due=0), 0.1)


def watch(arm: int, *, known: int = 0) -> Watch:
    found = Watch(PLAN, arm, FaultFreeAccuracy(0.9, 0.9))
    found.known = known
    return found


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_count_and_the_time_left_are_never_cut(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with screen(monkeypatch, columns) as text, watching(PLAN, WHOLE, quiet=False) as look:
        arm = watch(0)
        for trial in range(3):
            arm.enough(record(0, trial))
            look(record(0, trial), arm)
            time.sleep(0.15)
    shown = lines(text)
    assert all(len(line) <= columns for line in shown)
    assert re.search(r" 3/2000 \d+:\d\d:\d\d$", shown[-1]), shown[-1]


def test_what_a_store_had_is_counted_at_once_and_took_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with screen(monkeypatch, 80) as text, watching(PLAN, WHOLE, quiet=False) as look:
        arm = watch(0, known=500)
        for trial in range(500):
            arm.kept += 1
            arm.enough(record(0, trial))
            look(record(0, trial), arm)
        time.sleep(0.3)  # the first trial of this session
        kept = lines(text)[-1]
        arm.enough(record(0, 500))
        look(record(0, 500), arm)
        time.sleep(0.15)
        fresh = lines(text)[-1]
    assert re.search(r" 500/2000 -:--:--$", kept), kept
    minutes = re.search(r" 501/2000 (\d+):(\d\d):\d\d$", fresh)
    assert minutes, fresh
    assert 6 <= 60 * int(minutes[1]) + int(minutes[2]) <= 60  # 1499 trials of 0.3 s; all 501 in 0.3 s would be a second


def test_an_arm_that_stopped_early_took_no_time_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    with screen(monkeypatch, 80) as text, watching(PLAN, WHOLE, quiet=False) as look:
        for arm in (0, 1):
            found = watch(arm)
            found.enough(record(arm, 0))
            look(record(arm, 0), found)
        time.sleep(0.15)
    assert " 1001/2000 " in lines(text)[-1]


@pytest.mark.parametrize(
    ("elapsed", "done", "free", "total", "said"),
    [
        (10, 20, 0, 40, "0:00:10"),
        (10, 30, 20, 40, "0:00:10"),
        (10, 20, 20, 40, "-:--:--"),
        (None, 0, 0, 40, "-:--:--"),
        (3600, 1, 0, 3, "2:00:00"),
        (10, 40, 0, 40, "0:00:00"),
    ],
)
def test_the_time_left(elapsed: float | None, done: int, free: int, total: int, said: str) -> None:
    assert console.time_left(elapsed, done, free, total) == said
