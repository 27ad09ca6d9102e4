"""A campaign as scripts run it: stored, continued, interrupted, shared out, configured by a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CAMPAIGN = ("campaign", "--ber", "1e-3", "--format", "q2.5", "--limit", "20", "--threads", "1")


def arms_of(text: str) -> list[dict[str, object]]:
    return json.loads(text)["arms"]  # type: ignore[no-any-return]


def test_the_same_command_continues(faultcli: Callable[..., object], tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    alone = faultcli(*CAMPAIGN, "--trials", 6, "--json", "-q")
    first = faultcli(*CAMPAIGN, "--trials", 2, "--store", store, "--json", "-q")
    assert arms_of(first.out)[0]["trials"] == 2
    again = faultcli(*CAMPAIGN, "--trials", 6, "--store", store, "--json", "-q")
    assert arms_of(again.out) == arms_of(alone.out)
    other = faultcli(*CAMPAIGN, "--seed", 1, "--store", store)
    assert other.code == 2
    assert "holds another campaign: seed is 0 there and 1 here" in other.err


def test_shards_and_merge(faultcli: Callable[..., object], tmp_path: Path) -> None:
    whole = faultcli(*CAMPAIGN, "--trials", 5, "--min-accuracy", "0.01", "--json", "-q")
    for part in (1, 2):
        done = faultcli(
            *(*CAMPAIGN, "--trials", 5, "--min-accuracy", "0.01", "--shard", f"{part}/2"),
            *("--store", tmp_path / f"{part}.sqlite", "-q"),
        )
        assert done.code == 0  # decides nothing
    merged = tmp_path / "all.sqlite"
    done = faultcli("merge", tmp_path / "1.sqlite", tmp_path / "2.sqlite", "-o", merged)
    assert done.code == 0
    assert "5 trials in 1 arm" in done.err
    again = faultcli("merge", tmp_path / "1.sqlite", "-o", merged)
    assert (again.code, "exists already" in again.err) == (2, True)
    assert faultcli("merge", tmp_path / "1.sqlite", "-o", tmp_path / "1.sqlite", "--force").code == 2
    joined = faultcli(*CAMPAIGN, "--trials", 5, "--min-accuracy", "0.01", "--store", merged, "--json", "-q")
    assert (joined.code, arms_of(joined.out)) == (whole.code, arms_of(whole.out))


@pytest.mark.parametrize(
    ("number", "executor", "to"),
    [
        ("SIGTERM", "--workers 1", "one"),
        ("SIGINT", "--workers 2", "all"),
        ("SIGTERM", "--ray local", "one"),
    ],
)
def test_an_interrupt_keeps_what_is_finished(number: str, executor: str, to: str, warm: Path, tmp_path: Path) -> None:
    code, word = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "terminated")}[number]
    if "ray" in executor:
        pytest.importorskip("ray", reason="needs the extra faultcli[ray]")
    store = tmp_path / "run.sqlite"
    fresh = to == "all" or "ray" in executor  # a fork of the warm one is in no group with its client
    program = [sys.executable, "-m", "faultcli"] if fresh else [str(warm / "faultcli")]
    command = [*program, *CAMPAIGN, "--trials", "100000", "--store", str(store)]
    process = subprocess.Popen(
        [*command, *executor.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and trials_in(store) < 3:
        time.sleep(0.1)
    end = os.killpg if to == "all" else os.kill  # as a terminal does, and as `kill`
    end(process.pid, getattr(signal, number))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    kept = trials_in(store)
    assert f"{kept:,} trials are kept in {store}; the same command continues from there" in " ".join(err.split())
    assert err.splitlines()[-1] == f"faultcli: {word}"
    assert "Traceback" not in err
    assert "***" not in err  # how a trace of Ray's begins


def trials_in(store: Path) -> int:
    from contextlib import closing

    from faultcli.campaign.store import Store, StoreError

    try:
        with closing(Store.read(store)) as reader:
            return reader.trials
    except StoreError:
        return 0


def test_a_budget_of_time_ends_a_campaign(faultcli: Callable[..., object]) -> None:
    done = faultcli(*CAMPAIGN, "--trials", 100_000, "--budget", "0.01", "--json", "-q")
    assert done.code == 0
    assert 1 <= arms_of(done.out)[0]["trials"] < 10_000  # type: ignore[operator]


def test_a_config_file_says_what_options_say(faultcli: Callable[..., object], tmp_path: Path) -> None:
    config = tmp_path / "plan.toml"
    config.write_text(
        'ber = [1e-4, 1e-3]\nformat = "q2.5"\nprotect = ["none", "scale=max"]\ntrials = 2\nlimit = 20\nquiet = true\n'
        "min_accuracy = 0.0\nthreads = 1\n"
    )
    by_file = faultcli("campaign", "--config", config, "--json")
    by_hand = faultcli(
        *("campaign", "--ber", "0.0001,0.001", "--format", "q2.5", "--protect", "none", "--protect", "scale=max"),
        *("--trials", "2", "--limit", "20", "-q", "--min-accuracy", "0", "--threads", "1", "--json"),
    )
    assert arms_of(by_file.out) == arms_of(by_hand.out)
    assert json.loads(by_file.out)["gates"] == json.loads(by_hand.out)["gates"]
    assert by_file.err == ""
    assert json.loads(faultcli("campaign", "--config", config, "--seed", "3", "--json").out)["seed"] == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("formt = 'q2.5'", "unknown option 'formt'"),
        ("formt = 'q2.5'", "did you mean 'format'?"),
        ("trials = {a = 1}", "trials is a dict"),
        ("trials = ", "is no TOML"),
        ("trials = 'many'", "--trials: its value in --config is no whole number"),
    ],
)
def test_config_files_that_are_wrong(content: str, words: str, faultcli: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(content)
    done = faultcli("campaign", "--config", tmp_path / "plan.toml")
    assert done.code == 2
    assert words in done.err


def test_a_gate_that_nothing_can_fail_is_said_so(faultcli: Callable[..., object]) -> None:
    one = ("campaign", "--fault", "flips:1", "--trials", "1", "--limit", "2")
    assert "--max-drop 1: holds whatever happens" in faultcli(*one, "--max-drop", "1").err
    assert "holds whatever" not in faultcli(*one, "--max-drop", "0.5").err


def test_a_config_file_that_is_missing(faultcli: Callable[..., object], tmp_path: Path) -> None:
    done = faultcli("campaign", "--config", tmp_path / "plan.toml")
    assert (done.code, "cannot be read" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "--workers 0"),
        (["--threads", "0"], "--threads 0"),
        (["--shard", "3/2"], "--shard 3/2"),
        (["--budget", "0"], "--budget 0"),
        (["--store", "no/where.sqlite"], "its directory no does not exist"),
    ],
)
def test_bad_input(arguments: list[str], words: str, faultcli: Callable[..., object]) -> None:
    done = faultcli(*CAMPAIGN, *arguments)
    assert done.code == 2
    assert words in done.err


def test_the_last_of_several_formats_counts_and_the_others_are_not_lost_in_silence(
    faultcli: Callable[..., object],
) -> None:
    again = ("--ber", "1e-4", "--format", "fp16", "--format=q2.5", "--trials", 1, "--limit", 20, "--json", "-")
    done = faultcli("campaign", *again)
    assert (done.code, [arm["format"] for arm in arms_of(done.out)]) == (0, ["q2.5"])
    assert "--format is there 2 times, and the last counts; for all of them: --format fp16,q2.5" in done.err
    assert faultcli("campaign", *again, "--quiet").err == ""
