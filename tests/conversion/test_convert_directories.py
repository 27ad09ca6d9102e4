"""`faultcli convert` on directories: shards with their index, and one file among others."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from pickled import STATE, advice, same
from safetensors.torch import load_file

from faultcli.checkpoint import Checkpoint
from faultcli.cli import run
from faultcli.conversion.writing import convert
from faultcli.errors import CheckpointError


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    names = list(STATE)
    parts = {"pytorch_model-00001-of-00002.bin": names[:3], "pytorch_model-00002-of-00002.bin": names[3:]}
    for shard, part in parts.items():
        torch.save({name: STATE[name] for name in part}, folder / shard)
    weight_map = {name: shard for shard, part in parts.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("named", ["", "pytorch_model.bin.index.json"])
def test_shards(named: str, sharded: Path, tmp_path: Path) -> None:
    assert run(["convert", str(sharded / named)]) == 0
    made = tmp_path / "model.converted"
    assert sorted(file.name for file in made.iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    checkpoint = Checkpoint.open(made)
    assert same({name: checkpoint.read(name) for name in checkpoint.tensors}, STATE)


def test_a_directory_with_one_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    torch.save(STATE, folder / "pytorch_model.bin")
    assert run(shlex.split(advice(folder, capfd))[1:]) == 0
    assert same(load_file(tmp_path / "a model.converted" / "model.safetensors"), STATE)


def test_shards_that_do_not_fit_their_index(sharded: Path, tmp_path: Path) -> None:
    index = sharded / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["more"] = "pytorch_model-00001-of-00002.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="tensor 'more' is in none of the files"):
        convert(sharded, tmp_path / "out")
    (sharded / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="missing pytorch_model-00002"):
        convert(sharded, tmp_path / "out")
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"index\.json"):
        convert(sharded, tmp_path / "out")
    assert not (tmp_path / "out").exists()
