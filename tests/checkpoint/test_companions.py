"""What lies beside a checkpoint: taken along, folders too, or named in one note."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from crafted import craft, layout, sharded

from faultcli.checkpoint import Checkpoint, TensorInfo, companions, rewrite
from faultcli.checkpoint.companions import Companions, companions_of
from faultcli.errors import OutputError

HEADER = layout(("w", "I8", [2], 2))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all files and folders, by path."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}")


def beside(folder: Path, output: Path | None = None) -> Companions:
    checkpoint = Checkpoint.open(folder)
    return companions_of(checkpoint.directory, checkpoint.names, checkpoint.nbytes, output)


def copied(folder: Path, output: Path, **how: bool) -> dict[str, bytes | None]:
    def keep(_: TensorInfo) -> None:
        return None

    rewrite(Checkpoint.open(folder), output, keep, **how)  # type: ignore[arg-type]
    return tree(output)


TAKEN = [
    *("1_Pooling/config.json", "additional_chat_templates/tool.jinja", "tokenizer/vocab/merges.txt", "modeling_own.py"),
    *("voices/a.npz", ".gitattributes", "training_args.bin", "tokenizer.model", "empty/"),
]
LEFT = [
    *(
        "model.gguf",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack",
    ),
    *(
        "adapter_model.safetensors",
        "adapter_config.json",
        "consolidated.00.pth",
        "Model.ONNX",
        "model.onnx_data",
        "rust_model.ot",
    ),
    *("onnx/", "original/", "checkpoint-500/", "model.safetensors.seal"),
]
CACHES = [".git/", ".cache/", "__pycache__/"]


def test_all_that_a_loader_may_need(tmp_path: Path) -> None:
    model = sharded(tmp_path / "m")
    fill(model, *(name for name in [*TAKEN, *LEFT] if not name.endswith("/")))
    fill(model, "onnx/model.onnx", "onnx/config.json", "original/params.json", "original/deep/consolidated.00.pth")
    fill(model, "checkpoint-500/model.safetensors", "checkpoint-500/config.json", ".git/HEAD", ".cache/x")
    fill(model, "__pycache__/a.pyc", "tokenizer/__pycache__/a.pyc")
    (model / "empty").mkdir()
    (model / "gone").symlink_to("nowhere")
    os.mkfifo(model / "pipe")
    (model / "round").symlink_to(model)
    (model / "tokenizer" / "up").symlink_to(model / "tokenizer")
    (model / "linked.txt").symlink_to(model / "config.json")
    before = tree(model)

    found = copied(model, tmp_path / "out")
    own = [name for name in before if name.startswith("model") and name.endswith((".safetensors", "index.json"))]
    taken = [name.rstrip("/") for name in TAKEN]
    assert {name: before[name] for name in [*own, *taken, "linked.txt", "config.json"]}.items() <= found.items()
    folders = {"1_Pooling", "additional_chat_templates", "tokenizer", "tokenizer/vocab", "voices"}
    assert set(found) == {*own, *taken, *folders, "linked.txt", "config.json"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert tree(model) == before

    left = beside(model)
    assert sorted(left.weights) == sorted(LEFT)
    odd = ["gone (a link to nothing)", "pipe (no file)", "round/ (a link in a circle)", "tokenizer/__pycache__/"]
    assert sorted(left.others) == sorted([*CACHES, *odd, "tokenizer/up/ (a link in a circle)"])
    assert left.left_out is not None
    assert left.left_out.startswith(f"{model}: not copied: weights that stay as they were: Model.ONNX, ")
    assert beside(tmp_path / "out").left_out is None


def test_an_adapter_keeps_its_configuration(tmp_path: Path) -> None:
    fill(tmp_path / "m", "adapter_config.json", "README.md")
    craft(tmp_path / "m" / "adapter_model.safetensors", layout(("a.lora_A.weight", "I8", [2], 2)), bytes(2))
    assert set(copied(tmp_path / "m", tmp_path / "out")) == {*tree(tmp_path / "m")}


def test_other_parts_of_the_model_have_weights_of_their_own(tmp_path: Path) -> None:
    model = tmp_path / "m"
    fill(model, "2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin")
    (model / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}, {"path": "../x"}]))
    craft(model / "model.safetensors", HEADER, bytes(2))
    assert "2_Dense/model.safetensors" in copied(model, tmp_path / "out")
    assert beside(model).weights == ["3_Dense/"]


def test_a_folder_larger_than_the_checkpoint_is_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharded(tmp_path / "m")
    fill(model, "data/a", "logs/a", "logs/b", "logs/c")
    monkeypatch.setattr(companions, "_LEAST_LIMIT", 0)
    assert beside(model).others == ["logs/ (more than 24 bytes)"]
    monkeypatch.setattr(companions, "_LEAST_LIMIT", 1000)
    monkeypatch.setattr(companions, "_MOST_FILES", 2)
    assert beside(model).others == ["logs/ (more than 2 files)"]
    assert "logs" not in copied(model, tmp_path / "out")


def test_shards_in_folders_and_an_output_in_the_model(tmp_path: Path) -> None:
    model = sharded(tmp_path / "m")
    index = json.loads((model / "model.safetensors.index.json").read_text())
    (model / "weights").mkdir()
    for file in model.glob("model-*.safetensors"):
        file.rename(model / "weights" / file.name)
    index["weight_map"] = {name: f"weights/{file}" for name, file in index["weight_map"].items()}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    fill(model, "weights/README", "weights/stray.safetensors", "tokenizer/a")
    expected = {name: content for name, content in tree(model).items() if name != "weights/stray.safetensors"}
    assert beside(model).weights == ["weights/stray.safetensors"]
    assert copied(model, model / "out") == expected
    assert beside(model, model / "out").weights == ["weights/stray.safetensors"]
    assert beside(model).weights == ["out/", "weights/stray.safetensors"]
    assert copied(model, model / "out", force=True) == expected
    assert Checkpoint.open(model / "out").sha256() == Checkpoint.open(model).sha256()


def test_what_is_replaced_by_force_holds_nothing_else(tmp_path: Path) -> None:
    model = sharded(tmp_path / "m")
    fill(model, "tokenizer/a/b")
    first = copied(model, tmp_path / "out")
    assert copied(model, tmp_path / "out", force=True) == first
    for name in ("documents/thesis.txt", "tokenizer/a/thesis.txt"):
        fill(tmp_path / "out", name)
        kept = tree(tmp_path / "out")
        with pytest.raises(OutputError, match=r"holds more than a checkpoint \((documents|tokenizer/a/thesis.txt)\)"):
            copied(model, tmp_path / "out", force=True)
        assert tree(tmp_path / "out") == kept
        shutil.rmtree(tmp_path / "out" / "documents", ignore_errors=True)
