"""Curves, memories, measured maps and plans from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--format", "q2.5", "--limit", "50")


def test_a_curve_continues_from_its_store_with_more_trials(faultcli: Callable[..., Any], tmp_path: Path) -> None:
    curve = ("curve", "1e-5:1e-2", *SMALL, "--threads", "1")
    store = tmp_path / "run.sqlite"
    assert faultcli(*curve, "--trials", "48", "--store", store).code == 0
    continued = json.loads(faultcli(*curve, "--trials", "64", "--store", store, "--json", "-").out)
    at_once = json.loads(faultcli(*curve, "--trials", "64", "--json", "-").out)
    assert {**continued, "timing": None} == {**at_once, "timing": None}
    assert at_once["schema"] == "faultcli.curve/1"
    assert at_once["arms"][0]["trials"] == 64


def test_the_highest_rate_is_told(faultcli: Callable[..., Any]) -> None:
    done = faultcli("curve", "--find-max-ber", "--min-accuracy", "0.8", "1e-5:1e-2", *SMALL)
    assert done.code == 0
    assert "q2.5, none: holds an accuracy of 80.0 % up to a BER of " in done.out


def test_years_as_the_axis(faultcli: Callable[..., Any]) -> None:
    done = faultcli("curve", "sram:years=1:1000", *SMALL, "--trials", "40")
    assert done.code == 0
    assert "years" in done.out
    assert "1200 FIT/Mbit" in done.err
    assert "IEC 61508" in done.err


def test_a_memory_is_explained_and_its_arm_is_a_plain_law(faultcli: Callable[..., Any], tmp_path: Path) -> None:
    kept = ("--store", tmp_path / "kept")
    done = faultcli("campaign", "--ber", "bram-undervolt,1e-5", *SMALL, "--trials", "2", "--json", "-", *kept)
    content = json.loads(done.out)
    assert [arm["fault"] for arm in content["arms"]] == ["bitflip:0.000624", "bitflip:1e-05"]
    (memory,) = content["memories"]
    assert memory["fault"] == "bitflip:0.000624"
    assert "Salami" in memory["source"]
    faultcli("report", tmp_path / "kept", "-o", tmp_path / "r.json", "-o", tmp_path / "r.md")
    assert json.loads((tmp_path / "r.json").read_text())["memories"] == [memory]
    assert "Salami" in (tmp_path / "r.md").read_text()
    assert "bram-undervolt is a BER of 0.000624" in done.err
    assert "bram" not in faultcli("inspect", "--ber", "bram-undervolt", "--quiet").err
    assert faultcli("evaluate", "--format", "q2.5", "--protect", "posterior", "--ber", "rram-mlc:bits=3").code == 0


def test_a_measured_map_needs_one_trial_and_decides_its_gate(faultcli: Callable[..., Any], tmp_path: Path) -> None:
    from faultcli.workload.demo import demo_checkpoint_path

    faults = tmp_path / "map.safetensors"
    faultcli("inject", demo_checkpoint_path(), "--ber", "1e-6", "-o", tmp_path / "f", "--save-faults", faults)
    gated = ("campaign", "--fault", f"measured:{faults}", "--limit", "50", "--json", "-", "--trials", "9")
    done = faultcli(*gated, "--min-accuracy", "0.5")
    (arm,) = json.loads(done.out)["arms"]
    assert done.code == 0
    assert arm["trials"] == 1
    assert "same faults in every trial" in done.err
    assert faultcli(*gated, "--max-drop", "0.5", "--min-accuracy", "1").code == (arm["accuracy"]["mean"] < 1)


def test_a_plan_runs_no_trial(faultcli: Callable[..., Any], tmp_path: Path) -> None:
    plan = ("campaign", "--ber", "1e-4", "--fault", "flips:1", *SMALL, "--plan-only")
    content = json.loads(faultcli(*plan, "--json", "-").out)
    assert content["schema"] == "faultcli.plan/1"
    likely, single = content["arms"]
    assert likely["bits"] == 38_160 * 8
    assert likely["flips_expected"] == [pytest.approx(30.528)]
    assert likely["trials"] == 30
    assert likely["trials_needed"]["worst_case"] == 9607
    assert single["trials_needed"]["worst_case"] == 9311  # 305,280 / (1 + 1e-4 · 305,279 / (1.96² · 0.25))
    assert 0 < likely["seconds"] <= 30 * content["seconds_per_trial"]
    store = tmp_path / "run.sqlite"
    assert not store.exists()
    faultcli("campaign", "--ber", "1e-4", *SMALL, "--store", store)
    known = json.loads(faultcli(*plan, "--store", store, "--json", "-").out)["arms"][0]
    assert known["trials_known"] == 30
    assert known["trials_needed"]["likely_deviation"] != likely["trials_needed"]["likely_deviation"]
    text = faultcli("curve", "1e-6:1e-3", *SMALL, "--plan-only").out
    assert "0.305 to 305" in text
    assert "no trial was run" in text


def test_one_word_is_the_model_or_the_rates(
    faultcli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faultcli.workload.demo import demo_checkpoint_path

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model:v2").write_bytes(demo_checkpoint_path().read_bytes())
    small = ("--limit", "2", "--plan-only", "--data", "digits")
    both = faultcli("curve", "model:v2", "1e-6:1e-3", *small)
    assert both.code == 0
    assert "no MODEL named" not in both.err
    rates = faultcli("curve", "1e-6:1e-3", *small)
    assert rates.code == 0
    assert "no MODEL named" in rates.err
    model = faultcli("curve", "model:v2", *small, "--find-max-ber", "--min-accuracy", "0.5")
    assert model.code == 0
    assert "no MODEL named" not in model.err
    (tmp_path / "c.toml").write_text('model = "model:v2"\nrates = "1e-6:1e-3"\nlimit = 2\n')
    assert "no MODEL named" not in faultcli("curve", "--config", "c.toml", *small).err
    alone = faultcli("curve", "model:v2", *small)
    assert alone.code == 2
    assert "there is no range of rates" in alone.err


@pytest.mark.parametrize(
    ("line", "problem", "remedy"),
    [
        ("curve 1e-2:1e-4", "the ends of a range rise", "faultcli curve 1e-7:1e-2"),
        ("curve 1e-4", "is no range LOW:HIGH", "faultcli curve 1e-7:1e-2"),
        ("curve", "there is no range of rates", "faultcli curve 1e-6:1e-2"),
        ("curve sram:years=5", "needs years=LOW:HIGH", "sram:years=1:20"),
        ("curve rram-mlc:bits=3", "does not grow with time", "sram:years=1:20"),
        ("curve 1e-6:1e-3 --ber 1e-4", "No such option: --ber", "leave --ber out, or ask `faultcli campaign`"),
        ("curve 1e-6:1e-3 --shard 1/2", "No such option: --shard", "leave --shard out"),
        ("curve 1e-6:1e-3 --score m:f", "No such option: --score", "leave --score out"),
        ("curve 1e-6:1e-3 --trials 0", "a campaign has at least 1 trial", "--trials 30"),
        ("curve --find-max-ber", "of which accuracy?", "--min-accuracy 0.9"),
        ("curve --find-max-ber --min-accuracy 0", "--min-accuracy 0: is not above 0", "try: --min-accuracy 0.9"),
        ("curve missing --find-max-ber --min-accuracy 0.9", "missing: no such file", "check the path"),
        ("curve 1e-6:1e-3 --min-accuracy 0.9", "is no gate of a curve", "--find-max-ber"),
        ("curve 1e-6:1e-3 --format q2.5 --protect posterior", "depends on the bit-error rate", "posterior=P"),
        ("campaign --fault flips:any", "names no number of flips", "faultcli curve LOW:HIGH"),
        ("campaign --curve 1e-6:1e-3", "No such option: --curve", "try: faultcli curve LOW:HIGH"),
        ("campaign --find-max-ber --min-accuracy 0.9", "No such option: --find-max-ber", "try: faultcli curve --find"),
    ],
)
def test_mistakes(faultcli: Callable[..., Any], line: str, problem: str, remedy: str) -> None:
    done = faultcli(*line.split(), "--limit", "2")
    assert done.code == 2
    assert problem in done.err
    assert remedy in done.err
    assert done.out == ""
