"""Which checkpoint of a directory is meant: what is read, what is said of the rest, and what to name if it is open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from crafted import craft, layout, sharded
from safetensors.torch import load_file, save_file

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.adapters import adapts
from faultcli.errors import CheckpointError, FaultcliError

WHOLE = layout(("w", "I8", [2], 2))
LORA = layout(("base_model.model.q.lora_A.weight", "I8", [1], 1), ("base_model.model.q.lora_B.weight", "I8", [1], 1))
SHARDS = ["b", "a", "c"]


def put(folder: Path, *names: str, header: object = WHOLE) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        craft(folder / name, header, bytes(2))
    return folder


def refused(path: Path) -> FaultcliError:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    assert "--help" not in str(caught.value.remedy)
    return caught.value


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "mine.safetensors"])
def test_an_adapter_beside_a_model_is_not_read(tmp_path: Path, name: str) -> None:
    put(tmp_path, "model.safetensors")
    put(tmp_path, name, header=LORA)
    opened = Checkpoint.open(tmp_path)
    assert list(opened.tensors) == ["w"]
    assert opened.notes == (f"{tmp_path}: model.safetensors is read, and not {name} (an adapter)",)
    shards = sharded(tmp_path / "shards")
    put(shards, name, header=LORA)
    assert list(Checkpoint.open(shards).tensors) == SHARDS
    (tmp_path / "model.safetensors").unlink()
    alone = Checkpoint.open(tmp_path)
    assert (len(alone.tensors), alone.notes) == (2, ())
    put(tmp_path, "adapter_model.safetensors", "other.safetensors", header=LORA)
    assert Checkpoint.open(tmp_path).files == (tmp_path / "adapter_model.safetensors",)
    put(tmp_path, "adapter_model.safetensors", header=layout(("odd", "I8", [2], 2)))
    assert Checkpoint.open(tmp_path).files == (tmp_path / "adapter_model.safetensors",)
    (tmp_path / "adapter_model.safetensors").unlink()
    if name != "adapter_model.safetensors":
        assert "which checkpoint is meant" in refused(tmp_path).message


def test_adapters_are_told_by_their_tensors() -> None:
    assert adapts(["a.lora_A.default.weight", "a.lora_B.default.weight", "base_model.model.score.weight"])
    assert adapts(["lora_unet_down_blocks_0.lora_down.weight", "lora_unet_down_blocks_0.alpha"])
    assert adapts(["prompt_embeddings"])
    assert not adapts(["layers.0.lora.weight", "embed.weight", "norm.weight"])
    assert not adapts(["a.base_layer.weight", "a.lora_A.default.weight", "a.lora_B.default.weight"])
    assert not adapts([])


def test_other_forms_of_the_model_are_not_read(tmp_path: Path) -> None:
    shards = sharded(tmp_path / "shards")
    put(shards, "consolidated.safetensors", "model-00001-of-00009.safetensors", "extra.safetensors")
    opened = Checkpoint.open(shards)
    assert list(opened.tensors) == SHARDS
    (note,) = opened.notes
    assert note.startswith(f"{shards}: model.safetensors.index.json is read, and not consolidated.safetensors, extra.")
    assert "model-00001-of-00009.safetensors … (1 shards" in note
    put(tmp_path / "mistral", "consolidated-00001-of-00002.safetensors", "model.safetensors")
    assert list(Checkpoint.open(tmp_path / "mistral").tensors) == ["w"]
    put(tmp_path / "only", "consolidated.safetensors")
    assert Checkpoint.open(tmp_path / "only").notes == ()


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("pattern", ["model-{:05}-of-00003.safetensors", "pytorch_model-{}-of-3.fp16.safetensors"])
def test_numbered_shards_without_an_index(tmp_path: Path, start: int, pattern: str) -> None:
    names = [pattern.format(number) for number in range(start, start + 3)]
    for number, name in enumerate(names):
        put(tmp_path, name, header=layout((f"t{number}", "I8", [2], 2)))
    opened = Checkpoint.open(tmp_path)
    assert list(opened.tensors) == ["t0", "t1", "t2"]
    assert opened.notes == (f"{tmp_path}: no index names its 3 numbered shards, which are all there and are read",)
    assert (opened.kind, opened.index) == ("directory", None)
    put(tmp_path, names[2], header=layout(("t0", "I8", [2], 2)))
    assert "'t0' lies in two shards" in refused(tmp_path).message
    (tmp_path / names[1]).unlink()
    error = refused(tmp_path)
    assert error.message == f"{tmp_path}: missing shard {names[1]}"
    assert error.remedy == "download the rest of the checkpoint into the same directory"


def test_one_shard_by_its_name_is_one_file(tmp_path: Path) -> None:
    shard = put(tmp_path, "model-00002-of-00007.safetensors") / "model-00002-of-00007.safetensors"
    assert Checkpoint.open(shard).notes == (f"{shard}: is one of 7 shards; the others are not read",)
    assert Checkpoint.open(put(tmp_path / "one", "model-00001-of-00001.safetensors")).notes == ()
    assert refused(tmp_path).message.endswith("model-00006-of-00007.safetensors and 1 more (6 of 7)")
    huge = put(tmp_path / "huge", "model-1-of-99999999999999999999.safetensors")
    assert Checkpoint.open(huge).notes == ()


def test_an_index_of_another_sharding(tmp_path: Path) -> None:
    shards = sharded(tmp_path / "m")
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00030.safetensors"}}))
    opened = Checkpoint.open(shards)
    assert (list(opened.tensors), opened.index) == (SHARDS, None)
    assert opened.notes[1].endswith("is read, and not model.safetensors.index.json (its shards are not there)")
    error = refused(index)
    assert error.message.startswith(f"{index}: missing shard model-00001-of-00030.safetensors; beside it lie model-")
    assert "move this one away" in str(error.remedy)
    opened.files[0].unlink()
    assert refused(shards).message == f"{index}: missing shard model-00001-of-00030.safetensors"
    put(shards, "adapter_model.safetensors", header=LORA)
    assert refused(shards).message == f"{index}: missing shard model-00001-of-00030.safetensors"
    put(shards, "model.safetensors")
    assert list(Checkpoint.open(shards).tensors) == ["w"]


@pytest.mark.parametrize(
    ("index", "variant", "others"),
    [
        ("model.safetensors.index.json", "model.fp16.safetensors.index.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors", "model.safetensors.index.fp32.json", "model.fp32-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.json", None, "model-0000{}-of-00002.fp16.safetensors"),
        ("net.safetensors", None, "net.fp16.safetensors"),
    ],
)
def test_a_variant_is_not_read_beside_the_model(tmp_path: Path, index: str, variant: str | None, others: str) -> None:
    names = sorted({others.format(number) for number in (1, 2)})
    for number, name in enumerate(names):
        put(tmp_path, name, header=layout((f"v{number}", "I8", [2], 2)))
    if variant is not None:
        weight_map = {f"v{number}": name for number, name in enumerate(names)}
        (tmp_path / variant).write_text(json.dumps({"weight_map": weight_map}))
    alone = Checkpoint.open(tmp_path)
    assert list(alone.tensors) == [f"v{number}" for number in range(len(names))]
    if index.endswith(".json"):
        shutil.copytree(sharded(tmp_path / "plain"), tmp_path, dirs_exist_ok=True)
    else:
        put(tmp_path, index)
    opened = Checkpoint.open(tmp_path)
    assert list(opened.tensors) == (SHARDS if index.endswith(".json") else ["w"])
    (note,) = opened.notes
    assert note.startswith(f"{tmp_path}: {index} is read, and not {variant or names[0]}")
    if variant is not None:
        assert Checkpoint.open(tmp_path / variant).files == alone.files


def test_what_to_name_where_it_is_open(tmp_path: Path) -> None:
    """Never one shard of several, and never nothing."""
    shards = sharded(tmp_path / "it's")
    put(shards, "model.safetensors")
    error = refused(shards)
    assert error.message == (
        f"{shards}: which checkpoint is meant? It holds model.safetensors.index.json, model.safetensors"
    )
    quoted = str(shards).replace("'", "'\"'\"'")
    assert error.remedy == f"name one: '{quoted}/model.safetensors.index.json'"
    (shards / "model.safetensors.index.json").unlink()
    assert "(2 shards without an index)" in refused(shards).message
    assert refused(shards).remedy == f"name one: '{quoted}/model.safetensors'; to run it, with --arch hf"
    (shards / "model.safetensors").unlink()
    put(shards, "model-1-of-2.safetensors", "model-2-of-2.safetensors")
    assert str(refused(shards).remedy).startswith("leave the files of one of them in the directory")

    indexes = sharded(tmp_path / "indexes")
    shutil.copy(indexes / "model.safetensors.index.json", indexes / "a.safetensors.index.json")
    assert refused(indexes).remedy == f"name one: {indexes / 'model.safetensors.index.json'}"
    files = put(tmp_path / "files", "a.fp16.safetensors", "b.safetensors")
    assert refused(files).remedy == f"name one: {files / 'a.fp16.safetensors'}"


def test_shards_in_folders(tmp_path: Path) -> None:
    shards = sharded(tmp_path / "m")
    flat = Checkpoint.open(shards)
    flat_hash = flat.sha256()
    index = shards / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    (shards / "weights" / "deep").mkdir(parents=True)
    for file in flat.files:
        file.rename(shards / "weights" / "deep" / file.name)
    content["weight_map"] = {name: f"weights/deep/{file}" for name, file in content["weight_map"].items()}
    index.write_text(json.dumps(content))
    for path in (shards, index):
        opened = Checkpoint.open(path)
        assert (list(opened.tensors), opened.notes, opened.directory) == (SHARDS, (), shards)
        assert opened.names[0] == "weights/deep/model-00001-of-00002.safetensors"
    assert opened.sha256() != flat_hash  # of names, too


def test_parts_of_a_pipeline_are_named(tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    put(pipeline, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
    put(pipeline, "unet/model.safetensors", header=layout(("u", "I8", [2], 2), metadata={"long": "x" * 500}))
    (pipeline / "scheduler").mkdir()
    parts = ("unet", "scheduler", "vae", "text_encoder", "../m")
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "P", **{part: ["a", "b"] for part in parts}}))
    error = refused(pipeline)
    assert error.message.endswith("holds no safetensors checkpoint itself, its folders do: unet, text_encoder, vae")
    assert error.remedy == f"name one: {pipeline / 'unet'}"
    put(pipeline, "v1.safetensors")
    assert refused(pipeline).message.endswith("It holds v1.safetensors, unet/, text_encoder/, vae/")

    cache = put(tmp_path / "models--a--b", "snapshots/abc/model.safetensors")
    assert refused(cache).remedy == f"name one: {cache / 'snapshots' / 'abc'}"

    sentences = put(tmp_path / "st", "model.safetensors", "2_Dense/model.safetensors")
    (sentences / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]))
    (sentences / "1_Pooling").mkdir()
    (note,) = Checkpoint.open(sentences).notes
    assert note == f"{sentences}: parts of the model with weights of their own, which stay as they are: 2_Dense"
    (sentences / "modules.json").write_text("[")
    assert Checkpoint.open(sentences).notes == ()


@pytest.mark.parametrize(
    ("name", "content", "words", "remedy"),
    [
        ("model.gguf", b"GGUF" + bytes(40), "holds no safetensors checkpoint, but model.gguf", "name one: "),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer", "git lfs pull"),
        ("rust_model.ot", b"?" * 600, "checkpoint, but rust_model.ot", "as safetensors"),
        ("__0_0.distcp", b"?" * 40, "but one of torch.distributed", "dcp_to_torch"),
        ("optimizer.pt", b"PK\x03\x04", "holds no safetensors checkpoint", ""),
    ],
)
def test_a_directory_of_something_else(tmp_path: Path, name: str, content: bytes, words: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path)
    assert words in error.message
    assert remedy in str(error.remedy)


def test_an_adapter_does_not_run_by_itself(tmp_path: Path) -> None:
    from faultcli.campaign.subject import Subject

    save_file({f"base_model.model.q.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}, tmp_path / "a.safetensors")
    for path in (tmp_path, tmp_path / "a.safetensors"):
        with pytest.raises(FaultcliError, match="is an adapter, which does not run without its model") as caught:
            Subject.open(path, "digits")
        assert "merge_and_unload" in str(caught.value.remedy)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    with pytest.raises(FaultcliError, match="is an adapter of gpt2, which"):
        Subject.open(tmp_path, "digits")
    assert len(load_file(tmp_path / "a.safetensors")) == 2
