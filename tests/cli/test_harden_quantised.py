"""Hardened files of quantised checkpoints on the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quantised_models import small_model

Faultcli = Callable[..., Any]
CHAIN = "codes:secded=64,scales:tmr"
GOLDEN = Path(__file__).parents[1] / "golden" / "packed"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("quantised"))


@pytest.fixture
def made(model: Path, tmp_path: Path, faultcli: Faultcli) -> Path:
    done = faultcli("harden", model, "--protect", CHAIN, "-o", tmp_path / "h")
    assert done.code == 0, done.err
    assert "weights in GPTQ behind codes:secded=64,scales:tmr" in done.out
    assert "byte for byte; check words are tensors beside them" in done.out
    return tmp_path / "h"


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_trial_is_the_damaged_file_that_is_run(model: Path, made: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    how = ("--ber", "2e-3", "--seed", "4", "--target", "all-parts")
    run = ("--data", model.parent / "tokens.safetensors", "--arch", "hf", "--device", "cpu", "--json", "-")
    done = faultcli("campaign", model, "--protect", CHAIN, *how, *run, "--trials", "2")
    assert done.code == 0, done.err
    (simulated,) = json.loads(done.out)["arms"]
    done = faultcli("campaign", made, *how, *run, "--trials", "2")
    assert "is hardened; faults hit its own words, native behind codes:secded=64,scales:tmr" in done.err
    (own,) = json.loads(done.out)["arms"]
    same = [key for key in simulated if key not in ("seconds", "elapsed")]
    assert [own[key] for key in same] == [simulated[key] for key in same]
    damaged = tmp_path / "d"
    assert faultcli("inject", made, *how, "--trial", "1", "-o", damaged).code == 0
    scored = json.loads(faultcli("evaluate", damaged, *run).out)
    assert scored["stored"]["top1"] == simulated["trial_accuracies"][1]


def test_damage_is_repaired_and_read_back_to_the_last_byte(
    model: Path, made: Path, tmp_path: Path, faultcli: Faultcli
) -> None:
    damaged, faults = tmp_path / "d", tmp_path / "m.safetensors"
    done = faultcli("inject", made, "--ber", "3e-4", "--target", "scales", "-o", damaged, "--save-faults", faults)
    assert done.code == 0, done.err
    assert "behind its protections, 0 values read differently" in done.err
    assert sha256(damaged) != sha256(made)
    done = faultcli("repair", damaged, "-o", tmp_path / "r", "--json", "-")
    found = json.loads(done.out)
    assert (done.code, found["lost_weights"], found["unit"]) == (0, 0, "words")
    assert found["corrected"] > 0
    assert "model.embed_tokens.weight" in found["unchecked"]
    assert sha256(tmp_path / "r") == sha256(made)
    assert "nothing with check words is lost" in faultcli("repair", damaged, "-o", tmp_path / "s").out
    assert faultcli("harden", damaged, "--read", "-o", tmp_path / "p").code == 0
    assert sha256(tmp_path / "p") == sha256(model)
    assert faultcli("inject", damaged, "--replay", faults, "-o", tmp_path / "b").code == 0
    assert sha256(tmp_path / "b") == sha256(made)


def test_check_bits_in_place_are_simulated_and_written(model: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    chain, made = "scales:inplace=1,indices:tmr", tmp_path / "h"
    done = faultcli("harden", model, "--protect", chain, "-o", made)
    assert done.code == 0, done.err
    assert "Every tensor keeps its name, dtype and shape; behind inplace the lowest bits are check bits." in done.out
    assert "constant bits" in done.out
    assert "warning: inplace=1 corrects 2 flips a block in fp16" in done.err
    how = ("--ber", "5e-3", "--trials", "2", "--data", model.parent / "tokens.safetensors", "--arch", "hf")
    arms = []
    for given in ((model, "--protect", chain), (made,)):
        done = faultcli("campaign", *given, *how, "--device", "cpu", "--target", "all-parts", "--json", "-")
        assert done.code == 0, done.err
        assert "warning: inplace=1 corrects 2 flips a block in fp16" in done.err
        arms += json.loads(done.out)["arms"]
    same = [key for key in arms[0] if key not in ("seconds", "elapsed")]
    assert [arms[1][key] for key in same] == [arms[0][key] for key in same]
    assert arms[0]["overhead_bits_per_weight"] > 0


def test_inspect_counts_the_check_words(made: Path, faultcli: Faultcli) -> None:
    done = faultcli("inspect", made, "--target", "scales", "--ber", "1e-3")
    assert done.code == 0, done.err
    assert ".scales" in done.out
    assert ".qweight" not in done.out
    found = json.loads(faultcli("inspect", made, "--json", "-").out)
    assert (found["quantised"], found["protect"]) == ("GPTQ", CHAIN)
    by_role = {row["role"]: row for row in found["tensors"] if row["name"].startswith("model.layers.0.mlp.up_proj")}
    assert by_role["scales"]["check_bits"] == 2 * by_role["scales"]["bits"]
    assert by_role["codes"]["check_bits"] == by_role["codes"]["bits"] / 8
    assert by_role["zeros"]["check_bits"] == by_role["indices"]["check_bits"] == 0
    assert by_role["codes"]["weights"] == 48 * 32
    assert by_role["scales"]["weights"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["harden", "{nf4}", "--protect", "zeros:tmr"], "name parts that it has: codes, scales"),
        (["harden", "{nf4}"], "no --format and no --protect"),
        (["harden", "{nf4}", "--format", "q2.5", "--protect", "tmr"], "leave --format out"),
        (["harden", "{nf4}", "--protect", "inplace=2"], "codes of 4 bits have none to spare"),
        (["harden", "{nf4}", "--protect", "scales:guard"], "works on numbers"),
        (["harden", "{nf4}", "--protect", "tmr", "--device", "{out}"], "leave --device out"),
        (["harden", "{made}", "--protect", "tmr"], "is hardened already"),
        (["harden", "{made}", "--device", "{out}"], "leave --device out"),
        (["inject", "{made}", "--fault", "gaussian:0.1"], "flip bits"),
        (["inject", "{made}", "--ber", "1e-3", "--format", "int8"], "is hardened: its memory is native behind"),
        (["campaign", "{made}", "--ber", "1e-3", "--protect", "codes:tmr"], "is hardened: its memory is native behind"),
        (["inspect", "{made}", "--target", "zeros"], "--target zeros: no tensor is left"),
    ],
)
def test_bad_input_is_two_lines_and_exit_code_2(
    words: list[str], said: str, tmp_path: Path, faultcli: Faultcli
) -> None:
    made = tmp_path / "made"
    assert faultcli("harden", GOLDEN / "nf4", "--protect", "scales:tmr", "-o", made).code == 0
    places = {"nf4": GOLDEN / "nf4", "made": made, "out": tmp_path / "out"}
    done = faultcli(*(word.format(**places) for word in words))
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_a_file_that_leaves_its_configuration_behind_says_so(tmp_path: Path, faultcli: Faultcli) -> None:
    file = GOLDEN / "nf4" / "model.safetensors"
    done = faultcli("harden", file, "--protect", "tmr", "-o", tmp_path / "h.safetensors")
    assert done.code == 0, done.err
    assert "has no config.json beside it" in done.err
