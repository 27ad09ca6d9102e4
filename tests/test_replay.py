"""Fault maps played again on a checkpoint, and taken back byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import (
    KINDS,
    LAWS,
    corrupt,
    digests,
    single,
    tensors,
)

from faultcli.checkpoint import Checkpoint
from faultcli.errors import CheckpointError, FaultError
from faultcli.faults.maps import FaultMap, Layout
from faultcli.injection import replay


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("law", LAWS)
def test_native_replay_restores_every_byte(kind: str, law: str, tmp_path: Path) -> None:
    model, out = KINDS[kind](tmp_path)
    whole = model if kind in ("file", "directory", "shards") else model.parent
    before = digests(whole)
    done = corrupt(model, law, tmp_path / out, save_faults=tmp_path / "map", seed=3)
    assert digests(whole) == before
    assert digests(tmp_path / out).keys() == before.keys()
    assert digests(tmp_path / out) != before
    assert done.faults.flips > 0

    faults = FaultMap.load(tmp_path / "map")
    back = replay(Checkpoint.open(tmp_path / out), faults, tmp_path / f"back-{out}")
    assert back.restored
    assert digests(tmp_path / f"back-{out}") == before
    again = replay(Checkpoint.open(model), faults, tmp_path / f"again-{out}")
    assert not again.restored
    assert digests(tmp_path / f"again-{out}") == digests(tmp_path / out)


def test_replay_where_it_does_not_belong(tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({**tensors(), "steps": torch.tensor(12346)}, other, {"format": "pt"})  # one unselected byte differs
    for format in ("native", "q2.5"):
        corrupt(model, "bitflip:1e-3", tmp_path / format, format, save_faults=tmp_path / "map", force=True)
        faults = FaultMap.load(tmp_path / "map")
        with pytest.raises(FaultError, match="is not the checkpoint that the fault map belongs to"):
            replay(Checkpoint.open(other), faults, tmp_path / "no")
    with pytest.raises(FaultError, match=r"faults drawn in q2\.5 cannot be taken back"):
        replay(Checkpoint.open(tmp_path / "q2.5"), faults, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("format", ["mxfp4", "fp8-e4m3-tensor", "int4-g64"])
def test_flips_of_scales_are_saved_and_replayed(format: str, tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    corrupt(model, "bitflip:0", tmp_path / "stored", format)
    done = corrupt(model, "flips:3,bits=scale", tmp_path / "out", format, save_faults=tmp_path / "map")
    assert done.values_changed > 3
    assert {name.partition("#")[2] for name in done.faults.faults} == {"scale"}
    faults = FaultMap.load(tmp_path / "map")
    assert faults.layout == done.faults.layout
    assert replay(Checkpoint.open(model), faults, tmp_path / "again").values_changed == done.values_changed
    assert digests(tmp_path / "again") == digests(tmp_path / "out") != digests(tmp_path / "stored")
    with pytest.raises(FaultError, match=f"faults drawn in {format} cannot be taken back"):
        replay(Checkpoint.open(tmp_path / "out"), faults, tmp_path / "no")
    unbound = FaultMap(faults.faults, {**faults.layout, "gone#scale": Layout(1, 8)}, format=format)
    with pytest.raises(FaultError, match="has no tensor 'gone#scale', which the fault map covers"):
        replay(Checkpoint.open(model), unbound, tmp_path / "no")


def test_format_that_is_the_files_own_can_be_taken_back(tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    corrupt(model, "bitflip:1e-3", tmp_path / "out", "fp32", save_faults=tmp_path / "map")
    assert replay(Checkpoint.open(tmp_path / "out"), FaultMap.load(tmp_path / "map"), tmp_path / "back").restored
    assert digests(tmp_path / "back") == digests(model)


def test_map_without_checksums_is_checked_by_layout(tmp_path: Path) -> None:
    """A map measured on a device belongs to no checkpoint; it has to fit all the same."""
    model = single(tmp_path / "model.safetensors")
    faults = corrupt(model, "bitflip:1e-3", tmp_path / "out").faults
    assert faults.before is None
    replay(Checkpoint.open(model), faults, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "out")
    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "small")
    save_file({**tensors(), "fc.weight": torch.zeros(3, 3)}, tmp_path / "reshaped")
    with pytest.raises(FaultError, match=r"has no tensor 'fc\.weight', which the fault map covers"):
        replay(Checkpoint.open(tmp_path / "small"), faults, tmp_path / "no")
    with pytest.raises(FaultError, match=r"'fc\.weight' is 9 words of 32 bits; the fault map was drawn over 720"):
        replay(Checkpoint.open(tmp_path / "reshaped"), faults, tmp_path / "no")


def test_result_that_breaks_the_promise_of_its_map_never_appears(tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    faults = corrupt(model, "bitflip:1e-3", tmp_path / "out").faults
    forged = faults.bound(before=Checkpoint.open(model).sha256(), after="0" * 64)
    with pytest.raises(CheckpointError, match="the fault map promises 0000"):
        replay(Checkpoint.open(model), forged, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_failed_replay_keeps_what_was_there(tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    faults = corrupt(model, "bitflip:1e-3", tmp_path / "out").faults
    forged = faults.bound(before=Checkpoint.open(model).sha256(), after="0" * 64)
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(CheckpointError, match="the fault map promises 0000"):
        replay(Checkpoint.open(model), forged, tmp_path / "precious", force=True)
    assert (tmp_path / "precious").read_text() == "mine"
