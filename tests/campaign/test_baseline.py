"""The regression gate: two checkpoints on the same fault maps, paired trial by trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from faultcli.campaign.gates import FaultFreeAccuracy, Gate, GateCheck, Verdict
from faultcli.checkpoint import Checkpoint
from faultcli.cli import run
from faultcli.workload.demo import demo_checkpoint_path

PLAN = ["--ber", "1e-4", "--format", "q2.5", "--limit", "40", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo as `old`, measured; a copy that lost its first layer's meaning as `worse`; one of another shape."""
    place = tmp_path_factory.mktemp("baseline")
    metadata = Checkpoint.open(demo_checkpoint_path()).metadata
    tensors = load_file(demo_checkpoint_path())
    save_file(tensors, place / "old.safetensors", metadata)
    save_file(tensors | {"conv1.weight": tensors["conv1.weight"] * 0.01}, place / "worse.safetensors", metadata)
    arguments = [str(place / "old.safetensors"), *PLAN, "--trials", "60", "--json", str(place / "old.json")]
    assert run(["campaign", *arguments]) == 0
    return place


@pytest.fixture
def compare(place: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    def call(model: str, *more: str) -> tuple[int, dict[str, Any], str]:
        arguments = [str(place / model), *PLAN, "--baseline", str(place / "old.json"), *more, "--json", "-"]
        code = run(["campaign", *arguments])
        captured = capfd.readouterr()
        return code, json.loads(captured.out) if captured.out else {}, captured.err

    return call


def test_the_same_checkpoint_is_no_worse(compare: Callable[..., Any]) -> None:
    code, document, _ = compare("old.safetensors", "--max-drop", "0.1")
    assert code == 0
    assert document["gates"][0] == {
        "name": "max-drop-from-baseline",
        "threshold": 0.1,
        "arm": 0,
        "verdict": "pass",
        "trials_needed": None,
        "trials": document["arms"][0]["trials"],
    }
    assert document["arms"][0]["drop_from_baseline"]["mean"] == 0
    assert document["arms"][0]["trials"] < 60  # decided before the baseline ran out


def test_a_worse_one_fails(compare: Callable[..., Any]) -> None:
    code, document, _ = compare("worse.safetensors", "--max-drop", "0.05")
    assert code == 1
    assert document["verdict"] == "fail"
    assert document["arms"][0]["drop_from_baseline"]["mean"] > 0.3


def test_too_few_trials_decide_nothing(compare: Callable[..., Any]) -> None:
    code, document, _ = compare("old.safetensors", "--max-drop", "0.001")
    assert code == 4
    assert document["arms"][0]["trials"] == 60  # as many as the baseline has


def test_what_differs_is_said(compare: Callable[..., Any], place: Path) -> None:
    for more, said in (
        (["--seed", "1"], "seed is 0 there and 1 here"),
        (["--limit", "30"], "inputs is 40 there and 30 here"),
        (["--exclude", "fc*"], 'exclude is [] there and ["fc*"] here'),
        (["--format", "fp16"], "has no trials of the arm fp16 bitflip:0.0001"),
        (["--trials", "61"], "has 60 trials, --trials 61 asks for more"),
    ):
        code, _, err = compare("old.safetensors", "--max-drop", "0.1", *more)
        assert code == 2
        assert said in err
    document = json.loads((place / "old.json").read_text())
    document["provenance"]["tensors"]["fc1.weight"] = [64, 999]
    (place / "other.json").write_text(json.dumps(document))
    code, _, err = compare("old.safetensors", "--max-drop", "0.1", "--baseline", str(place / "other.json"))
    assert code == 2
    assert "shape of fc1.weight is [64, 999] there" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "is no result of a campaign"),
        ("[1]", "is no result of a campaign"),
        ('{"schema": "faultcli.inject/1"}', "is faultcli.inject/1, a baseline is faultcli.campaign/1"),
        ('{"schema": "faultcli.campaign/1", "arms": [{}]}', "does not hold the accuracy of every trial"),
    ],
)
def test_what_is_no_baseline(content: str | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    assert run(["campaign", *PLAN, "--baseline", str(path), "--max-drop", "0.1"]) == 2
    assert said in capfd.readouterr().err


def test_a_threshold_is_needed(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["campaign", *PLAN, "--baseline", str(place / "old.json")]) == 2
    assert "--baseline needs to know how much worse is too much" in capfd.readouterr().err


def test_a_store_remembers_the_baseline(place: Path, tmp_path: Path) -> None:
    """A report made later holds the same verdict."""
    store, page = tmp_path / "c.sqlite", tmp_path / "c.md"
    arguments = [*PLAN, "--baseline", str(place / "old.json"), "--max-drop", "0.05", "--store", str(store)]
    assert run(["campaign", str(place / "worse.safetensors"), *arguments]) == 1
    assert run(["report", str(store), "-o", str(page), "--quiet"]) == 0
    assert page.read_text().startswith("# ❌ Fail")
    assert "at most 5.00 points below the baseline" in page.read_text()


def test_pairing_decides_where_means_do_not() -> None:
    """Accuracies swing by 60 points from map to map, the difference is always 1: unpaired, nothing is known."""
    gate = Gate("max-drop-from-baseline", 0.1)
    check = GateCheck(gate, clean=FaultFreeAccuracy(1.0, 1.0), alpha=0.05)
    plain = GateCheck(Gate("min-accuracy", 0.55), clean=FaultFreeAccuracy(1.0, 1.0), alpha=0.05)
    for trial in range(200):
        old = 0.3 if trial % 2 else 0.9
        check.add(old - (old - 0.01))
        plain.add(old - 0.01)
    assert check.verdict is Verdict.PASS
    assert plain.verdict is Verdict.INCONCLUSIVE


def test_a_drop_at_the_bound_is_met_by_every_mean() -> None:
    assert (
        GateCheck(Gate("max-drop-from-baseline", 1.0), clean=FaultFreeAccuracy(1.0, 1.0), alpha=0.05).verdict
        is Verdict.PASS
    )
