"""The record of a hardened file: three copies, what is outvoted, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hardened_models import hardened
from small_checkpoints import single

from faultcli.checkpoint import Checkpoint, write_safetensors
from faultcli.errors import CheckpointError
from faultcli.hardened.read import Hardened
from faultcli.hardened.record import COPIES
from faultcli.hardened.repair import repair_checkpoint


def with_metadata(path: Path, change: Callable[[dict[str, str]], object], target: Path) -> Path:
    checkpoint = Checkpoint.open(path)
    metadata = dict(checkpoint.metadata)
    change(metadata)
    write_safetensors(target, {name: checkpoint.read(name) for name in checkpoint.tensors}, metadata)
    return target


def test_damaged_copies_of_the_record_are_outvoted(tmp_path: Path) -> None:
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", "inplace=2", tmp_path / "h.safetensors")
    one, two, three = COPIES

    def spoil(metadata: dict[str, str], *keys: str) -> None:
        for place, key in enumerate(keys, start=5):
            text = metadata[key]
            metadata[key] = text[: 20 * place] + ("x" if text[20 * place] != "x" else "y") + text[20 * place + 1 :]

    for keys in ((one,), (one, two), (two, three), (one, two, three)):  # of all three, a character each
        spoiled = with_metadata(
            file.checkpoint.path, lambda m, k=keys: spoil(m, *k), tmp_path / f"{len(keys)}{keys[0]}"
        )  # type: ignore[misc]
        found = Hardened.of(Checkpoint.open(spoiled))
        assert found is not None
        assert found.record == file.record or found.regions == file.regions
        assert all(torch.equal(found.read(name), file.read(name)) for name in file.slots)
    gone = with_metadata(file.checkpoint.path, lambda m: [m.pop(two), m.pop(three), spoil(m, one)], tmp_path / "gone")
    with pytest.raises(CheckpointError, match="damaged"):
        Hardened.of(Checkpoint.open(gone))


def test_a_damaged_record_is_mended_by_repair(tmp_path: Path) -> None:
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", "inplace=2", tmp_path / "h.safetensors")
    content = bytearray(file.checkpoint.path.read_bytes())
    place = content.index(b"inplace=2", content.index(COPIES[1].encode()))
    content[place] ^= 1
    (tmp_path / "d.safetensors").write_bytes(content)
    damaged = Hardened.of(Checkpoint.open(tmp_path / "d.safetensors"))
    assert damaged is not None
    assert repair_checkpoint(damaged, tmp_path / "r.safetensors").record == 1
    assert (tmp_path / "r.safetensors").read_bytes() == file.checkpoint.path.read_bytes()


def record_with(**changes: object) -> Callable[[dict[str, str]], None]:
    def change(metadata: dict[str, str]) -> None:
        document = json.loads(metadata[COPIES[0]].partition(" ")[2]) | changes
        text = json.dumps(document)
        for key in COPIES:
            metadata[key] = f"{hashlib.sha256(text.encode()).hexdigest()} {text}"

    return change


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "faultcli.hardened/6"}, "another version"),
        ({"schema": "faultcli.hardened/5"}, "contradicts itself"),  # of a quantised checkpoint
        ({"schema": 7}, "another version"),
        ({"format": "q9.99"}, "contradicts itself"),
        ({"format": "fp16"}, "the record says U16"),
        ({"protect": "inplace=2,secded=64"}, "contradicts itself"),
        ({"protect": "rot13"}, "contradicts itself"),
        ({"protect": "plan.toml"}, "contradicts itself"),  # a file names no other file
        ({"order": ["fc.weight", "nobody"]}, "contradicts itself"),
        ({"order": ["fc.weight", "fc.weight", "conv.weight"]}, "contradicts itself"),
        ({"order": []}, "contradicts itself"),
        ({"tensors": []}, "contradicts itself"),
        ({"ber": "much"}, "contradicts itself"),
    ],
)
def test_records_that_make_no_sense_are_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", "inplace=2", tmp_path / "h.safetensors")
    other = with_metadata(file.checkpoint.path, record_with(**changes), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=said):
        Hardened.of(Checkpoint.open(other))


@pytest.mark.parametrize(
    ("constants", "said"),
    [
        ({"peak": -1.0}, "contradicts"),
        ({"steps": [0, 0]}, "contradicts"),
        ({"steps": "i1:????"}, "contradicts"),
        ({"shape": 3.0}, "contradicts"),
        ({"outliers": None}, "contradicts"),
    ],
)
def test_constants_that_are_none_are_refused(constants: dict[str, object], said: str, tmp_path: Path) -> None:
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", "inplace=2", tmp_path / "h.safetensors")
    text = file.checkpoint.metadata[COPIES[0]].partition(" ")[2]
    tensors = json.loads(text)["tensors"]
    tensors["fc.weight"]["links"][0] |= constants
    other = with_metadata(file.checkpoint.path, record_with(tensors=tensors), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=said):
        Hardened.of(Checkpoint.open(other))


def test_a_missing_or_resized_check_tensor_is_named(tmp_path: Path) -> None:
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", "secded=64", tmp_path / "h.safetensors")
    state = file.checkpoint.state()
    for change, said in ((None, "without its tensor"), (state["fc.weight#secded"][:-1], "the record says")):
        kept = {name: tensor for name, tensor in state.items() if name != "fc.weight#secded"}
        kept |= {} if change is None else {"fc.weight#secded": change}
        write_safetensors(tmp_path / "other.safetensors", kept, file.checkpoint.metadata, force=True)
        with pytest.raises(CheckpointError, match=rf"{said}.*") as caught:
            Hardened.of(Checkpoint.open(tmp_path / "other.safetensors"))
        assert "fc.weight#secded" in caught.value.message
        assert caught.value.remedy
