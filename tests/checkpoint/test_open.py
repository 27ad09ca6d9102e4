"""Opening: what is accepted, and every bad input by its message."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crafted import F32_2, craft, digest, layout, odd_file, sharded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from faultcli.checkpoint import DTYPES, Checkpoint, rewrite, torch_dtype
from faultcli.errors import CheckpointError


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


BAD_HEADERS: dict[str, tuple[object, bytes, str]] = {
    "not JSON": ("hello, world", b"", "header is no valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "header is no valid JSON"),
    "array": ([], b"", "header is a JSON list, not an object"),
    "deep": ("[" * 200_000, b"", "header is no valid JSON"),
    "NUL padding": ('{"a":' + json.dumps(F32_2) + "}\0", bytes(8), "header is no valid JSON"),
    "NaN": ('{"a": NaN}', b"", "NaN is not allowed"),
    "half a surrogate pair": ('{"\\ud800":' + json.dumps(F32_2) + "}", bytes(8), "header is no valid JSON"),
    "half a surrogate pair in metadata": ('{"__metadata__":{"a":"\\ud800"}}', b"", "header is no valid JSON"),
    "huge number": ('{"a": ' + "1" * 5000 + "}", b"", "header is no valid JSON"),
    "name twice": ('{"a":' + json.dumps(F32_2) + ',"a":' + json.dumps(F32_2) + "}", bytes(8), "'a' occurs twice"),
    "key twice": ('{"a":{"dtype":"F32","dtype":"F32"}}', b"", "'dtype' occurs twice"),
    "entry": ({"a": 3}, b"", "tensor 'a': its header entry needs dtype, shape and data_offsets"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8), "needs dtype, shape and data_offsets"),
    "dtype": (entry("F33"), bytes(8), "tensor 'a': unknown dtype 'F33'"),
    "no dtype": (entry(None), bytes(8), "unknown dtype None"),
    "placeholder": (entry("", [], [0, 0]), b"", "tensor 'a': is a placeholder with neither dtype nor bytes"),
    "negative": (entry(shape=[-2]), bytes(8), r"\[-2\] is not a shape"),
    "float": (entry(shape=[2.0]), bytes(8), "is not a shape"),
    "bool": (entry(shape=[2, True]), bytes(8), "is not a shape"),
    "product": (entry(shape=[1 << 60, 1 << 60, 0], offsets=[0, 0]), b"", "is not a shape"),
    "offsets": (entry(offsets=[8]), bytes(8), "are not data_offsets"),
    "backwards": (entry(offsets=[8, 0]), bytes(8), "are not data_offsets"),
    "size": (entry(shape=[3]), bytes(8), r"F32 of shape \[3\] takes 12 bytes, its data_offsets hold 8"),
    "part of a byte": (entry("F4", [3], [0, 2]), bytes(2), "does not end on a whole byte"),
    "truncated data": (entry(), bytes(7), "is truncated: tensor 'a' ends at byte"),
    "trailing": (entry(), bytes(9), "1 bytes at the end belong to no tensor"),
    "hole": (entry(offsets=[4, 12]), bytes(12), "4 bytes before tensor 'a' belong to no tensor"),
    "overlap": (
        entry() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        bytes(12),
        "tensors 'a' and 'b' overlap",
    ),
    "same bytes": (entry() | {"b": F32_2}, bytes(8), "tensors 'a' and 'b' overlap"),
    "metadata": ({"__metadata__": {"epoch": 3}, **entry()}, bytes(8), "__metadata__ is not an object of strings"),
    "metadata list": ({"__metadata__": [], **entry()}, bytes(8), "__metadata__ is not an object of strings"),
}


@pytest.mark.parametrize(("header", "data", "words"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_bad_header(tmp_path: Path, header: object, data: bytes, words: str) -> None:
    path = craft(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(path)
    assert caught.value.message.startswith(str(path))
    assert caught.value.remedy
    assert "\n" not in caught.value.message


BAD_FILES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "it has 0 bytes", "download or export it again"),
    "short": (b"\x08\0\0", "it has 3 bytes", "download or export it again"),
    "garbage": (b"\xff\xd8 not safetensors at all", "its header would be", ".safetensors file"),
    "too long": (struct.pack("<Q", 100_000_001) + b"{}", "the format allows 100000000", ".safetensors file"),
    "truncated header": (struct.pack("<Q", 100) + b'{"a":', "is truncated, or not a safetensors file", "again"),
    "zip": (b"PK\x03\x04" + bytes(40), "pickle checkpoint", "faultcli convert"),
    "pickle": (b"\x80\x02}q\x00" + bytes(40), "pickle checkpoint", "faultcli convert"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer", "git lfs pull"),
    "GGUF": (b"GGUF" + bytes(40), "GGUF", "safetensors"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5", "safetensors"),
}


@pytest.mark.parametrize(("raw", "words", "remedy"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(tmp_path: Path, raw: bytes, words: str, remedy: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(path)
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    assert list(Checkpoint.open(craft(tmp_path / "model.bin", entry(), bytes(8))).tensors) == ["a"]


def test_paths_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    cases = {"missing": "no such file", "empty": "holds no safetensors checkpoint", "pipe": "is not a regular file"}
    for name, words in cases.items():
        with pytest.raises(CheckpointError, match=words):
            Checkpoint.open(tmp_path / name)
    with pytest.raises(CheckpointError):
        Checkpoint.open(tmp_path / "loop")


def test_ambiguous_directory(tmp_path: Path) -> None:
    for name in "gfedcba":
        craft(tmp_path / f"{name}.safetensors", {})
    words = r"It holds a\.safetensors, b\.safetensors, .* and 2 more"
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(tmp_path)
    assert caught.value.remedy == f"name one: {tmp_path / 'a.safetensors'}"


def test_directory_with_one_file_or_an_index(tmp_path: Path) -> None:
    craft(tmp_path / "weights.safetensors", entry(), bytes(8))
    (tmp_path / ".hidden.safetensors").touch()
    opened = Checkpoint.open(tmp_path)
    assert (opened.kind, opened.files) == ("directory", (tmp_path / "weights.safetensors",))
    shards = sharded(tmp_path / "shards")
    craft(shards / "consolidated.safetensors", entry(), bytes(8))
    assert list(Checkpoint.open(shards).tensors) == ["b", "a", "c"]
    craft(shards / "model.safetensors", entry(), bytes(8))
    with pytest.raises(CheckpointError, match="which checkpoint is meant"):
        Checkpoint.open(shards)
    assert Checkpoint.open(shards / "model.safetensors.index.json").kind == "index"
    (shards / "model.safetensors").unlink()
    (shards / "other.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="which checkpoint is meant"):
        Checkpoint.open(shards)


def test_shards(tmp_path: Path) -> None:
    opened = Checkpoint.open(sharded(tmp_path / "m"))
    assert [info.file.name[:11] for info in opened.tensors.values()] == ["model-00001", "model-00001", "model-00002"]
    assert opened.metadata == {"format": "pt", "part": "two"}
    assert opened.read("c").tolist() == [int.from_bytes(bytes(range(16, 24)), "little")]
    assert opened.nbytes == 24
    lines = "".join(f"{file.name} {digest(file)}\n" for file in opened.files)
    (tmp_path / "lines").write_text(lines)
    assert opened.sha256() == digest(tmp_path / "lines")


def test_shards_that_are_links_as_in_a_cache(tmp_path: Path) -> None:
    plain = sharded(tmp_path / "plain")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for number, file in enumerate(sorted(plain.iterdir())):
        file.rename(tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot" / file.name).symlink_to(f"../blobs/{number}")
    opened = Checkpoint.open(tmp_path / "snapshot")
    assert list(opened.tensors) == ["b", "a", "c"]
    rewrite(opened, tmp_path / "out", lambda _: None)
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert not any(file.is_symlink() for file in (tmp_path / "out").iterdir())


def edit_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(index: Path) -> None:
        loaded = json.loads(index.read_text())
        change(loaded)
        index.write_text(json.dumps(loaded))

    return apply


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
BAD_INDEXES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not JSON": (lambda index: index.write_text("{"), "is no valid JSON"),
    "not UTF-8": (lambda index: index.write_bytes(b"\xff"), "is no valid JSON"),
    "array": (lambda index: index.write_text("[]"), "has no weight_map"),
    "no weight_map": (edit_index(lambda index: index.pop("weight_map")), "has no weight_map"),
    "list": (edit_index(lambda index: index.update(weight_map=[])), "has no weight_map"),
    "empty": (edit_index(lambda index: index.update(weight_map={})), "weight_map is empty"),
    "twice": (lambda index: index.write_text('{"weight_map": {"a": "x", "a": "y"}}'), "'a' occurs twice"),
    "number": (edit_index(lambda index: index["weight_map"].update(a=3)), "'a' lies in 3, which is not"),
    "empty part": (edit_index(lambda index: index["weight_map"].update(a="x//y")), "not the name of a file"),
    "absolute": (edit_index(lambda index: index["weight_map"].update(a="/etc/passwd")), "not the name of a file"),
    "parent": (edit_index(lambda index: index["weight_map"].update(a="../m/" + ONE)), "not the name of a file"),
    "dots": (edit_index(lambda index: index["weight_map"].update(a="..")), "not the name of a file"),
    "nothing": (edit_index(lambda index: index["weight_map"].update(a="")), "not the name of a file"),
    "backslash": (edit_index(lambda index: index["weight_map"].update(a="..\\x")), "not the name of a file"),
    "NUL": (edit_index(lambda index: index["weight_map"].update(a="x\0")), "not the name of a file"),
    "long name": (edit_index(lambda index: index["weight_map"].update(a="x" * 300)), "missing shard xxx"),
    "deep": (lambda index: index.write_text("[" * 100_000), "is no valid JSON"),
    "missing shard": (lambda index: (index.parent / TWO).unlink(), f"missing shard {TWO}"),
    "dangling": (edit_index(lambda index: index["weight_map"].update(a="gone", b="lost")), "missing shards gone, lost"),
    "in two shards": (
        lambda index: craft(index.parent / TWO, layout(("a", "I8", [1], 1), ("c", "I8", [1], 1)), bytes(2)),
        f"tensor 'a' lies in two shards, {ONE} and {TWO}",
    ),
    "bad shard": (lambda index: (index.parent / ONE).write_bytes(b""), f"{ONE}: is not a safetensors file"),
}


@pytest.mark.parametrize(("damage", "words"), BAD_INDEXES.values(), ids=BAD_INDEXES)
@pytest.mark.parametrize("named", ["directory", "index"])
def test_bad_index(tmp_path: Path, damage: Callable[[Path], object], words: str, named: str) -> None:
    directory = sharded(tmp_path / "m")
    index = directory / "model.safetensors.index.json"
    damage(index)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(index if named == "index" else directory)
    assert caught.value.remedy


def test_an_index_that_its_shards_contradict(tmp_path: Path) -> None:
    """Loaders read whole shards: what they hold counts, and it is said."""
    directory = sharded(tmp_path / "m")
    edit_index(lambda index: index["weight_map"].update(d=ONE, c=ONE, b=TWO))(
        directory / "model.safetensors.index.json"
    )
    opened = Checkpoint.open(directory)
    assert list(opened.tensors) == ["b", "a", "c"]
    index = directory / "model.safetensors.index.json"
    assert opened.notes == (
        f"{index}: names 1 of 4 tensors that no shard holds: d",
        f"{index}: names 2 of 4 tensors that lie in other shards than it says: c, b",
    )


def test_other_json_is_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not the index of a checkpoint"):
        Checkpoint.open(sharded(tmp_path / "m") / "config.json")


def test_odd_file_in_file_order(tmp_path: Path) -> None:
    opened = Checkpoint.open(odd_file(tmp_path / "odd.safetensors"))
    assert list(opened.tensors) == ["é2", "é", "empty", "z", "six"]
    assert opened.metadata == {"b": 'A "x"', "a": ""}
    assert opened.read("é").shape == ()
    assert opened.read("empty").shape == (0, 4)
    assert opened.tensors["é"].elements == 1
    assert opened.tensors["empty"].elements == 0
    assert opened.read_bytes("six").tolist() == [9, 10, 11]
    assert opened.sha256() == digest(opened.path)
    with pytest.raises(CheckpointError, match=r"'six': torch .* cannot hold F6_E3M2") as caught:
        opened.read("six")
    assert caught.value.remedy == "leave it out: --exclude 'six'"
    with pytest.raises(CheckpointError, match="no tensor is named 'empt'") as caught:
        opened.read("empt")
    assert caught.value.remedy == "did you mean 'empty'?"


def test_nothing_stored(tmp_path: Path) -> None:
    opened = Checkpoint.open(craft(tmp_path / "m.safetensors", "{}"))
    assert (opened.tensors, opened.metadata, opened.nbytes, opened.state()) == ({}, {}, 0, {})


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_agrees_with_the_library(tmp_path: Path, dtype: str) -> None:
    shape = [2, 4]
    nbytes = 8 * DTYPES[dtype][0] // 8
    path = craft(tmp_path / "m.safetensors", layout(("a", dtype, shape, nbytes)), bytes(n % 2 for n in range(nbytes)))
    opened = Checkpoint.open(path)
    if torch_dtype(dtype) is None:
        return
    ours = opened.read("a")
    with safe_open(path, "pt") as library:
        theirs = library.get_tensor("a")
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.view(torch.uint8).equal(theirs.view(torch.uint8))
    ours.view(torch.uint8).fill_(7)  # the tensor owns its bytes
    assert opened.read("a").view(torch.uint8).equal(theirs.view(torch.uint8))


def test_read_into_a_buffer(tmp_path: Path) -> None:
    opened = Checkpoint.open(craft(tmp_path / "m.safetensors", entry(), bytes(range(8))))
    buffer = np.zeros(20, np.uint8)
    assert opened.read_bytes("a", buffer).base is buffer
    assert buffer[:9].tolist() == [*range(8), 0]


def test_file_that_changed_since(tmp_path: Path) -> None:
    path = craft(tmp_path / "m.safetensors", entry(), bytes(8))
    opened = Checkpoint.open(path)
    craft(path, entry("I32"), bytes(8))
    os.utime(path, ns=(0, 0))
    for use in (lambda: opened.read("a"), opened.sha256, lambda: rewrite(opened, tmp_path / "out", lambda _: None)):
        with pytest.raises(CheckpointError, match="changed while it was in use"):
            use()
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        opened.sha256()


def test_real_files(data_dir: Path) -> None:
    files = ["mnist/lenet", "cifar10/resnet20", "imagenet/squeezenet1_1", "stories260k/hf/model"]
    for file in files:
        path = data_dir / f"{file}.safetensors"
        ours, theirs = Checkpoint.open(path).state(), load_file(path)
        assert ours.keys() == theirs.keys()
        assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    assert Checkpoint.open(data_dir / "imagenet" / "mobilenet_v2-hf").kind == "directory"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=2)), max_size=3))
def test_what_we_accept_the_library_accepts(tmp_path: Path, damage: list[tuple[int, bytes]]) -> None:
    """Random bytes of a valid file are overwritten; opening succeeds or raises CheckpointError, nothing else."""
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.int8)}, path, {"key": "value"})
    raw = bytearray(path.read_bytes())
    for position, data in damage:
        raw[position : position + len(data)] = data
    path.write_bytes(raw)
    try:
        opened = Checkpoint.open(path)
    except CheckpointError:
        return
    try:
        with safe_open(path, "pt") as library:
            assert set(library.keys()) == set(opened.tensors)
            assert library.metadata() == (opened.metadata or None)
    except SafetensorError as error:
        raise AssertionError("accepted what the library refuses") from error


def test_a_header_whose_length_begins_like_a_pickle_is_a_header(tmp_path: Path) -> None:
    # 640 = 0x0280: the file begins with the bytes of a pickle of protocol 2.
    note = "x" * 500
    for extra in range(200):
        path = tmp_path / "model.safetensors"
        save_file({"w": torch.zeros(2)}, path, metadata={"note": note + "x" * extra})
        if path.read_bytes()[:2] == b"\x80\x02":
            assert list(Checkpoint.open(path).tensors) == ["w"]
            return
    pytest.fail("no header of 640 bytes was made")
