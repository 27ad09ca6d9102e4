"""`faultcli repair` with a seal: what comes back, what it is taken from, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faultcli.workload.demo import demo_checkpoint_path

Faultcli = Callable[..., Any]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path, faultcli: Faultcli) -> Path:
    """A copy of the demo with its seal beside it."""
    path = tmp_path / "m.safetensors"
    shutil.copy(demo_checkpoint_path(), path)
    assert faultcli("seal", path, "--parity", "2").code == 0
    return path


def damage(path: Path, *places: int) -> None:
    content = bytearray(path.read_bytes())
    for place in places:
        content[place] ^= 0x40
    path.write_bytes(content)


def test_the_seal_beside_it_brings_a_checkpoint_back(model: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    before = sha256(model)
    damage(model, 3, 70_000)  # the header, which does not even say its length any more, and a weight
    assert faultcli("verify", model).code == 1
    done = faultcli("repair", model)
    assert done.code == 0, done.err
    assert "lies beside it" in done.err
    assert "proven to be what was sealed" in done.out
    assert sha256(tmp_path / "m.repaired.safetensors") == before


def test_what_parity_does_not_cover_is_lost_or_comes_from_a_copy(
    model: Path, tmp_path: Path, faultcli: Faultcli
) -> None:
    copy, out = tmp_path / "copy.safetensors", tmp_path / "out.safetensors"
    shutil.copy(model, copy)
    before = sha256(model)
    damage(model, *range(2000, model.stat().st_size, 1500))
    done = faultcli("repair", model, "-o", out, "--json", "-")
    found = json.loads(done.out)
    assert (done.code, found["whole"]) == (1, False)
    assert found["lost_blocks"] > 0
    done = faultcli("repair", model, "--reference", copy, "-o", out, "--force", "--json", "-")
    assert (done.code, json.loads(done.out)["whole"]) == (0, True)
    assert sha256(out) == before


def test_a_file_with_damage_in_every_block_is_still_the_one_that_was_sealed(
    model: Path, tmp_path: Path, faultcli: Faultcli
) -> None:
    copy, out = tmp_path / "copy.safetensors", tmp_path / "out.safetensors"
    shutil.copy(model, copy)
    before = sha256(model)
    damage(model, *range(2000, model.stat().st_size, 700))
    assert faultcli("verify", model).code == 1
    assert faultcli("repair", model, "--reference", copy, "-o", out).code == 0
    assert sha256(out) == before


def test_a_hardened_file_goes_by_its_own_check_words_or_by_the_seal_that_is_named(
    tmp_path: Path, faultcli: Faultcli
) -> None:
    made, bad, out = (tmp_path / f"{name}.safetensors" for name in ("made", "bad", "out"))
    faultcli("harden", demo_checkpoint_path(), "--format", "q2.5", "--protect", "inplace=1", "-o", made)
    assert faultcli("seal", made, "-o", tmp_path / "bad.safetensors.seal").code == 0
    faultcli("inject", made, "--fault", "flips:40", "-o", bad)
    assert "implies a bit-error rate" in faultcli("repair", bad, "-o", out).out
    assert sha256(out) == sha256(made)
    damage(bad, 5)  # now it is no safetensors file any more, and only the seal helps
    done = faultcli("repair", bad, "-o", out, "--force")
    assert done.code in (0, 1)
    assert "lies beside it" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seal", "{model}"], "is not a seal"),
        (["--seal", "nowhere"], "no such file"),
        (["--seal", "{other}"], "another file"),
        (["-o", "{model}", "--force"], "inputs are never changed"),
    ],
)
def test_bad_input(words: list[str], said: str, model: Path, tmp_path: Path, faultcli: Faultcli) -> None:
    (tmp_path / "x.safetensors").write_bytes(bytes(range(256)) * 300)
    other = tmp_path / "other.safetensors"
    faultcli("harden", model, "--format", "fp16", "-o", other)
    faultcli("seal", other, "-o", tmp_path / "other.seal")
    place = {"model": model, "other": tmp_path / "other.seal"}
    damaged = tmp_path / "x.safetensors" if "another" in said else model
    done = faultcli("repair", damaged, *(word.format(**place) for word in words), "--quiet")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 2


def test_a_copy_without_a_seal_proves_nothing(tmp_path: Path, faultcli: Faultcli) -> None:
    shutil.copy(demo_checkpoint_path(), tmp_path / "m.safetensors")
    done = faultcli("repair", tmp_path / "m.safetensors", "--reference", demo_checkpoint_path())
    assert done.code == 2
    assert "without a seal nothing proves it" in done.err
