"""What a directory holds besides the checkpoint: said once, on stderr, and nothing with --quiet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from faultcli.workload.demo import demo_checkpoint_path

READS = [
    "inspect m",
    "verify m",
    "diff m m",
    "seal m -o m.seal",
    "evaluate m --limit 4",
    "campaign m --ber 1e-4 --trials 1 --limit 4",
    "curve m 1e-5:1e-3 --trials 2 --limit 4",
]
WRITES = {
    "inject m --ber 1e-4 -o out": "inject out --ber 1e-4 -o again",
    "scale m --factor 4 -o out": "scale out --undo -o again",
    "harden m --format q2.5 --protect secded=64 -o out": "harden out --read -o again",
    "harden m --format fp16 --protect secded=64 -o out": "repair out -o again",
}
UNREAD = "warning: m: model.safetensors is read, and not lora.safetensors (an adapter)"
LEFT = "m: not copied: weights that stay as they were: lora.safetensors, onnx/"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo in a directory, with an adapter, a folder that a loader needs and one with other weights."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "m"
    for name in ("1_Pooling/config.json", "onnx/model.onnx"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
    shutil.copy(demo_checkpoint_path(), folder / "model.safetensors")
    save_file({f"fc1.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}, folder / "lora.safetensors")
    return folder


@pytest.mark.parametrize("command", READS)
def test_what_is_not_read(command: str, model: Path, faultcli: Callable[..., Any]) -> None:
    done = faultcli(*command.split())
    assert done.code == 0, done.err
    assert done.err.splitlines().count(UNREAD) == 1
    assert "adapter" not in done.out
    assert "not copied" not in done.err


@pytest.mark.parametrize("command", WRITES)
def test_what_is_not_copied(command: str, model: Path, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    done = faultcli(*command.split(), "--json", "-")
    assert done.code == 0, done.err
    assert json.loads(done.out)["output"] == "out"
    assert done.err.splitlines().count(UNREAD) == 1
    assert done.err.splitlines().count(LEFT) == 1
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert written == {"1_Pooling", "1_Pooling/config.json", "model.safetensors"}
    assert "m: " not in faultcli(*command.split(), "--force", "--quiet").err
    once_more = faultcli(*WRITES[command].split())
    assert once_more.code == 0, once_more.err
    assert "not copied" not in once_more.err
    assert (tmp_path / "again" / "1_Pooling" / "config.json").is_file()


def test_a_sealed_directory_is_repaired_with_its_folders(
    model: Path, tmp_path: Path, faultcli: Callable[..., Any]
) -> None:
    assert faultcli("seal", "m", "-q").code == 0
    raw = bytearray((model / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (model / "model.safetensors").write_bytes(raw)
    done = faultcli("repair", "m", "-o", "out")
    assert (done.code, done.err.splitlines().count(LEFT)) == (0, 1), done.err
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()


def test_an_adapter_is_looked_at_and_hit_but_not_run(model: Path, faultcli: Callable[..., Any]) -> None:
    shutil.copy(model / "lora.safetensors", "adapter.safetensors")
    before = load_file("adapter.safetensors")
    assert faultcli("inspect", "adapter.safetensors").code == 0
    assert faultcli("inject", "adapter.safetensors", "--fault", "flips:3", "-o", "hit.safetensors").code == 0
    assert any(not torch.equal(before[name], tensor) for name, tensor in load_file("hit.safetensors").items())
    done = faultcli("evaluate", "adapter.safetensors")
    assert done.code == 2
    assert done.err.splitlines() == [
        "faultcli: error: adapter.safetensors: is an adapter, which does not run without its model",
        "try: merge the two first (peft: model.merge_and_unload().save_pretrained('merged')), and name merged",
    ]


def test_a_converted_directory_has_its_folders(model: Path, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    done = faultcli("convert", "m", "-o", "out")
    assert (done.code, done.err.splitlines().count(LEFT)) == (0, 1), done.err
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    assert faultcli("convert", "m", "-o", "out", "--force").code == 0
    assert faultcli("evaluate", "out", "--arch", "digits-cnn", "--limit", 4).code == 0
