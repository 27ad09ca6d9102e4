"""Gates decide the exit code, from a shell, as scripts use it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

HARMLESS = "faultcli campaign --ber 1e-7 --format q2.5 --quiet --limit 50"
RUINOUS = "faultcli campaign --ber 1e-2 --format q2.5 --quiet --limit 50"


@pytest.mark.parametrize(
    ("line", "code", "verdict"),
    [
        (f"{HARMLESS} --min-accuracy 0.9", 0, "pass"),
        (f"{HARMLESS} --max-drop 0.2 --max-sdc 0.2", 0, "pass"),
        (f"{RUINOUS} --min-accuracy 0.9", 1, "fail"),
        (f"{RUINOUS} --max-drop 0.1", 1, "fail"),
        (f"{RUINOUS} --max-sdc 0.1", 1, "fail"),
        (f"{HARMLESS} --min-accuracy 0.9 --trials 3", 4, "inconclusive"),
        (f"{RUINOUS} --min-accuracy 0.05 --max-sdc 0.1", 1, "fail"),
        (f"{HARMLESS} --trials 20", 0, None),
    ],
)
def test_exit_codes(line: str, code: int, verdict: str | None, shell: Callable[..., Any]) -> None:
    done = shell(f"{line} --json result.json; code=$?; cat result.json >&2; exit $code")
    assert done.code == code, done.err
    result = json.loads(done.err[done.err.index("{") :])
    assert result["verdict"] == verdict
    assert ("verdict:" in done.out) == (verdict is not None)
    assert all(gate["verdict"] in ("pass", "fail", "inconclusive") for gate in result["gates"])


def test_a_decided_gate_stops_early_and_an_open_one_goes_on(faultcli: Callable[..., Any]) -> None:
    def trials(*gate: str) -> int:
        done = faultcli(
            "campaign", "--ber", "1e-2", "--format", "q2.5", "--trials", "40", "--limit", "50", "--json", "-", *gate
        )
        return int(json.loads(done.out)["arms"][0]["trials"])

    assert trials("--min-accuracy", "0.9") < 40
    assert trials("--min-accuracy", "0.11") == 40
    assert trials() == 40


def test_until_ci_stops_when_the_interval_is_narrow(faultcli: Callable[..., Any]) -> None:
    done = faultcli(
        "campaign", "--ber", "1e-4", "--format", "q2.5", "--until-ci", "0.15", "--limit", "50", "--json", "-"
    )
    arm = json.loads(done.out)["arms"][0]
    assert (arm["accuracy"]["high"] - arm["accuracy"]["low"]) / 2 <= 0.15
    assert 2 <= arm["trials"] < 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["--min-accuracy", "90"],
        ["--max-sdc", "-0.1"],
        ["--until-ci", "0"],
        ["--until-ci", "2"],
        ["--confidence", "95"],
        ["--trials", "0"],
    ],
)
def test_senseless_thresholds_are_refused(arguments: list[str], faultcli: Callable[..., Any]) -> None:
    done = faultcli("campaign", "--ber", "1e-4", *arguments)
    assert done.code == 2
    assert done.err.startswith("faultcli: error: ")


def test_the_plan_hash_is_that_of_the_trials_not_of_how_many(faultcli: Callable[..., Any]) -> None:
    def plan(*more: str) -> str:
        done = faultcli("campaign", "--ber", "1e-4", "--limit", "50", "--json", "-", *more)
        return str(json.loads(done.out)["plan_hash"])

    assert plan("--trials", "2") == plan("--trials", "3") == plan("--trials", "2", "--max-sdc", "0.5")
    assert (
        len({plan("--trials", "2"), plan("--trials", "2", "--seed", "1"), plan("--trials", "2", "--batch-size", "7")})
        == 3
    )
