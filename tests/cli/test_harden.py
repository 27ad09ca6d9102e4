"""Hardened files on the command line: made, measured, damaged, repaired, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faultcli.cli.exit_codes import DAMAGED
from faultcli.workload.demo import demo_checkpoint_path

Faultcli = Callable[..., Any]
CHAIN = "scale=max:channel,inplace=2"


@pytest.fixture
def made(tmp_path: Path, faultcli: Faultcli) -> Path:
    target = tmp_path / "h.safetensors"
    done = faultcli("harden", demo_checkpoint_path(), "--format", "q2.5", "--protect", CHAIN, "-o", target)
    assert done.code == 0, done.err
    assert "stored bits at risk" in done.out
    assert "three times" in done.out
    return target


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_damaged_file_scores_as_the_trial_of_the_campaign(made: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    how = ("--ber", "0.03", "--seed", "4")
    few = ("--limit", "300", "--json", "-")
    done = faultcli("campaign", "--format", "q2.5", "--protect", CHAIN, *how, "--trials", "3", *few)
    (plain,) = json.loads(done.out)["arms"]
    done = faultcli("campaign", made, *how, "--trials", "3", *few)
    assert "is hardened" in done.err
    (own,) = json.loads(done.out)["arms"]
    same = ("format", "protect", "trial_accuracies", "sdc", "due", "flips_mean", "overhead_bits_per_weight", "accuracy")
    assert [own[key] for key in same] == [plain[key] for key in same]
    damaged = tmp_path / "d.safetensors"
    assert faultcli("inject", made, *how, "--trial", "2", "-o", damaged).code == 0
    scored = json.loads(faultcli("evaluate", damaged, *few).out)
    assert scored["stored"]["top1"] == plain["trial_accuracies"][2]
    assert (scored["format"], scored["protect"]) == ("q2.5", CHAIN)


def test_a_damaged_file_is_repaired_to_the_last_byte(made: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    damaged, whole, faults = (tmp_path / name for name in ("d.safetensors", "r.safetensors", "m.safetensors"))
    done = faultcli("inject", made, "--ber", "1e-3", "-o", damaged, "--save-faults", faults, "--json", "-")
    flips = json.loads(done.out)["flips"]
    assert flips > 5
    done = faultcli("repair", damaged, "-o", whole, "--json", "-")
    found = json.loads(done.out)
    assert (done.code, found["corrected"], found["lost_weights"]) == (0, flips, 0)
    assert found["ber"]["low"] < 1e-3 < found["ber"]["high"]
    assert sha256(whole) == sha256(made)
    assert faultcli("inject", damaged, "--replay", faults, "-o", tmp_path / "b.safetensors").code == 0
    assert sha256(tmp_path / "b.safetensors") == sha256(made)
    measured = faultcli("campaign", made, "--fault", f"measured:{faults}", "--limit", "100", "--json", "-")
    assert json.loads(measured.out)["arms"][0]["flips_mean"] == flips


def test_what_is_lost_ends_with_1(made: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    damaged = tmp_path / "d.safetensors"
    faultcli("inject", made, "--ber", "0.1", "-o", damaged)
    done = faultcli("repair", damaged)
    assert done.code == DAMAGED == 1
    assert "in blocks beyond correction" in done.out
    assert "left as they are" in done.err
    assert (tmp_path / "d.repaired.safetensors").exists()


def test_the_plain_checkpoint_comes_back_as_it_reads(made: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    plain = tmp_path / "plain.safetensors"
    assert faultcli("harden", made, "--read", "-o", plain).code == 0
    few = ("--limit", "300", "--json", "-")
    own, read = (json.loads(faultcli("evaluate", model, *few).out) for model in (made, plain))
    assert own["stored"] == own["original"] == read["original"]
    for command in (("inspect", plain), ("scale", plain, "--factor", "2", "-o", tmp_path / "s.safetensors")):
        assert faultcli(*command).code == 0


def test_inspect_says_what_it_is(made: Path, faultcli: Faultcli) -> None:
    done = faultcli("inspect", made, "--ber", "1e-3")
    assert done.code == 0
    assert "a hardened file" in done.out
    assert f"q2.5 behind {CHAIN}" in done.out
    assert "expected flips per trial" in done.out
    found = json.loads(faultcli("inspect", made, "--json", "-").out)
    assert (found["schema"], found["format"], found["protect"]) == ("faultcli.inspect/1", "q2.5", CHAIN)
    assert faultcli("curve", "1e-3:1e-1", made, "--trials", "4", "--limit", "50").code in (0, 2)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("campaign {h} --ber 1e-3 --format fp16", "is hardened: its memory is q2.5"),
        ("campaign {h} --ber 1e-3 --protect tmr", "is hardened: its memory is q2.5"),
        ("evaluate {h} --format fp16", "is hardened: its memory is q2.5"),
        ("inject {h} --ber 1e-3 --format fp16 -o {o}", "is hardened: its memory is q2.5"),
        ("inject {h} --fault gaussian:0.1 -o {o}", "holds words"),
        ("harden {h} --format q2.5 -o {o}", "is hardened already"),
        ("harden {h} -o {o}", "is hardened already"),
        ("inspect {h} --format fp16", "is hardened: its memory is q2.5"),
        ("scale {h} --factor 2 -o {o}", "is hardened"),
        ("harden {m} -o {o}", "no --format and no --protect"),
        ("harden {m} --read -o {o}", "is not hardened"),
        ("harden {h} --read --format q2.5 -o {o}", "--read takes no"),
        ("harden {m} --format q2.5 --protect inplace=9 -o {o}", "bits to spare"),
        ("harden {m} --format q2.5 --protect posterior -o {o}", "needs to know the bit-error rate"),
        ("harden {m} --format q2.5 --protect inplace=2 -o {h}", "exists"),
        ("harden {m} --format q2.5 --protect inplace=2 -o {o} --device {full}", "is not empty"),
        ("harden {m} --format q2.5 --protect ldpc=1 -o {o} --device {o}-dev", "the reader in C does not know it"),
        ("harden {d} --device {o}", "is damaged"),
        ("repair {m} -o {o}", "is not hardened"),
        ("repair {h} -o {h} --force", "inputs are never changed"),
    ],
)
def test_bad_input_is_two_lines_and_exit_code_2(
    command: str, said: str, made: Path, tmp_path: Path, faultcli: Faultcli
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    before = sha256(made)
    faultcli("inject", made, "--fault", "flips:1", "-o", tmp_path / "d.safetensors", "--quiet")
    places = {
        "h": made,
        "d": tmp_path / "d.safetensors",
        "o": tmp_path / "o.safetensors",
        "m": demo_checkpoint_path(),
        "full": tmp_path / "full",
    }
    done = faultcli(*command.format(**places).split(), "--quiet")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 2
    assert not places["o"].exists()
    assert sha256(made) == before
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note.txt"]


def test_a_code_that_mistakes_floats_is_warned_of(tmp_path: Path, faultcli: Faultcli) -> None:
    how = ("harden", demo_checkpoint_path(), "--format", "fp16", "--force", "-o", tmp_path / "h.safetensors")
    assert "put a guard in front" in faultcli(*how, "--protect", "inplace=1").err
    assert "warning" not in faultcli(*how, "--protect", "guard,inplace=1").err
    assert "warning" not in faultcli(*how, "--protect", "inplace=4").err
    done = faultcli("campaign", "--ber", "1e-4", "--format", "fp16", "--protect", "inplace=1", "--trials", "2")
    assert "put a guard in front" in done.err


def test_a_folder_for_a_device_is_made_with_the_file_or_of_one(made: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    done = faultcli("harden", made, "--device", one)
    assert done.code == 0, done.err
    assert f"make -C {one} test" in done.out
    how = ("--format", "q2.5", "--protect", CHAIN, "-o", tmp_path / "again.safetensors", "--device", two)
    assert faultcli("harden", demo_checkpoint_path(), *how).code == 0
    assert (one / "weights.bin").read_bytes() == (two / "weights.bin").read_bytes()
    assert (one / "faultcli_reader.c").exists()
