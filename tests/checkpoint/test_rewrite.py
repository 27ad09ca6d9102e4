"""Rewriting: byte for byte where nothing is replaced, whole or not at all, in little memory."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from crafted import content, craft, digest, layout, odd_file, sharded
from safetensors import safe_open
from safetensors.torch import save_file

from faultcli.checkpoint import Checkpoint, TensorInfo, TensorSource, edit, rewrite, write_safetensors
from faultcli.errors import CheckpointError, OutputError


def keep(_: TensorInfo) -> None:
    return None


def flip(_: TensorInfo, data: np.ndarray) -> None:
    data ^= 0xFF


def test_file_byte_for_byte(tmp_path: Path) -> None:
    opened = Checkpoint.open(odd_file(tmp_path / "odd.safetensors"))
    rewrite(opened, tmp_path / "kept", keep)
    rewrite(opened, tmp_path / "same", lambda info: opened.read_bytes(info.name))
    edit(opened, tmp_path / "flipped", flip)
    edit(Checkpoint.open(tmp_path / "flipped"), tmp_path / "back", flip)
    original = digest(opened.path)
    assert [digest(tmp_path / name) for name in ("kept", "same", "back")] == [original] * 3
    raw, flipped = opened.path.read_bytes(), (tmp_path / "flipped").read_bytes()
    assert flipped == raw[:-11] + bytes(byte ^ 0xFF for byte in raw[-11:])


def test_only_what_is_replaced_changes(tmp_path: Path) -> None:
    opened = Checkpoint.open(odd_file(tmp_path / "odd.safetensors"))
    raw = bytearray(opened.path.read_bytes())
    for name, info in opened.tensors.items():
        seen: list[str] = []

        def replace(at: TensorInfo, name: str = name, seen: list[str] = seen) -> bytes | None:
            seen.append(at.name)
            return bytes(at.nbytes) if at.name == name else None

        rewrite(opened, tmp_path / "out", replace, force=True)
        expected = raw[: info.offset] + bytes(info.nbytes) + raw[info.end :]
        assert (tmp_path / "out").read_bytes() == expected
        assert seen == list(opened.tensors)
        edit(opened, tmp_path / "out", lambda _, data: data.fill(0), names=[name], force=True)
        assert (tmp_path / "out").read_bytes() == expected


def test_real_files_byte_for_byte(data_dir: Path, tmp_path: Path) -> None:
    for file in ("cifar10/resnet20.safetensors", "mnist/lenet.safetensors"):
        opened = Checkpoint.open(data_dir / file)
        edit(opened, tmp_path / "flipped", flip, list(opened.tensors)[::2], force=True)
        assert digest(tmp_path / "flipped") != digest(opened.path)
        edit(Checkpoint.open(tmp_path / "flipped"), tmp_path / "back", flip, list(opened.tensors)[::2], force=True)
        assert digest(tmp_path / "back") == digest(opened.path)
    model = data_dir / "stories260k" / "hf"
    rewrite(Checkpoint.open(model), tmp_path / "hf", keep)
    assert content(tmp_path / "hf") == content(model)


@pytest.mark.parametrize("named", ["directory", "index"])
def test_directory_byte_for_byte(tmp_path: Path, named: str) -> None:
    directory = sharded(tmp_path / "m", **{"pytorch_model.bin": "unchanged weights", "consolidated.safetensors": "too"})
    (directory / "runs").mkdir()
    opened = Checkpoint.open(directory / "model.safetensors.index.json" if named == "index" else directory)
    rewrite(opened, tmp_path / "out", keep)
    expected = content(directory)
    del expected["pytorch_model.bin"], expected["consolidated.safetensors"]
    assert content(tmp_path / "out") == expected
    copy = Checkpoint.open(tmp_path / "out")
    assert copy.sha256() == opened.sha256()
    edit(copy, tmp_path / "flipped", flip, names=["c"])
    flipped = content(tmp_path / "flipped")
    assert [name for name in expected if flipped[name] != expected[name]] == ["model-00002-of-00002.safetensors"]
    with pytest.raises(OutputError, match="exists already"):
        rewrite(opened, tmp_path / "out", keep)
    edit(opened, tmp_path / "out", flip, names=["c"], force=True)
    assert content(tmp_path / "out") == flipped


def test_metadata_and_back(tmp_path: Path) -> None:
    opened = Checkpoint.open(odd_file(tmp_path / "odd.safetensors"))
    rewrite(opened, tmp_path / "a", keep, metadata={**opened.metadata, "ключ": "1"})
    first = Checkpoint.open(tmp_path / "a")
    assert first.metadata == {"b": 'A "x"', "a": "", "ключ": "1"}
    raw = (tmp_path / "a").read_bytes()
    start = first.tensors["é2"].offset
    assert start % 8 == 0
    assert raw[start:] == opened.path.read_bytes()[-11:]
    header = json.loads(raw[8:start])
    assert list(header) == ["__metadata__", "z", "é", "é2", "empty", "six"]
    assert header["z"] == {"shape": [3], "dtype": "U8", "data_offsets": [5, 8], "note": "kept"}
    with safe_open(tmp_path / "a", "pt") as library:
        assert set(library.keys()) == set(opened.tensors)

    edit(first, tmp_path / "b", flip, metadata={})
    second = Checkpoint.open(tmp_path / "b")
    assert second.metadata == {}
    edit(second, tmp_path / "c", flip, restore_header=True)
    assert digest(tmp_path / "c") == digest(tmp_path / "a")
    rewrite(Checkpoint.open(tmp_path / "c"), tmp_path / "d", keep, restore_header=True)
    assert digest(tmp_path / "d") == digest(opened.path)


def test_metadata_of_shards_and_back(tmp_path: Path) -> None:
    opened = Checkpoint.open(sharded(tmp_path / "m"))
    rewrite(opened, tmp_path / "a", keep, metadata={"format": "pt", "part": "two"})
    changed = Checkpoint.open(tmp_path / "a")
    assert changed.metadata == {"format": "pt", "part": "two"}
    # the second shard had this metadata already: its header is kept
    assert (changed.files[1]).read_bytes() == opened.files[1].read_bytes()
    rewrite(changed, tmp_path / "b", keep, restore_header=True)
    assert content(tmp_path / "b") == content(tmp_path / "m")


def test_metadata_that_is_the_same_keeps_the_header(tmp_path: Path) -> None:
    opened = Checkpoint.open(odd_file(tmp_path / "odd.safetensors"))
    rewrite(opened, tmp_path / "out", keep, metadata=opened.metadata)
    assert digest(tmp_path / "out") == digest(opened.path)


def test_metadata_must_be_strings_of_the_caller(tmp_path: Path) -> None:
    opened = Checkpoint.open(odd_file(tmp_path / "odd.safetensors"))
    with pytest.raises(ValueError, match="'factor': safetensors holds strings only, not float"):
        rewrite(opened, tmp_path / "out", keep, metadata={"factor": 2.0})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="is written by faultcli itself"):
        rewrite(opened, tmp_path / "out", keep, metadata={"faultcli.header": ""})
    with pytest.raises(ValueError, match="brings its own metadata"):
        rewrite(opened, tmp_path / "out", keep, metadata={}, restore_header=True)


def test_header_that_cannot_be_restored(tmp_path: Path) -> None:
    tensor = ("a", "F32", [2], 8)
    opened = Checkpoint.open(craft(tmp_path / "m", layout(tensor), bytes(8)))
    with pytest.raises(CheckpointError, match="does not say what its header was"):
        rewrite(opened, tmp_path / "out", keep, restore_header=True)

    def packed(raw: bytes) -> str:
        return base64.b64encode(zlib.compress(raw)).decode()

    other = craft(tmp_path / "other", layout(("b", "F32", [2], 8))).read_bytes()
    bomb = base64.b64encode(zlib.compress(bytes(200_000_000), 1)).decode()
    for record in ("", "no base64!", "AAAA", packed(b""), packed(b"123"), packed(other), packed(other)[:20], bomb):
        path = craft(tmp_path / "bad", layout(tensor, metadata={"faultcli.header": record}), bytes(8))
        with pytest.raises(CheckpointError, match="the record of its old header is damaged"):
            rewrite(Checkpoint.open(path), tmp_path / "out", keep, restore_header=True)
    assert not (tmp_path / "out").exists()


def test_progress_adds_up(tmp_path: Path) -> None:
    opened = Checkpoint.open(sharded(tmp_path / "m"))
    for names in ([], ["a"], ["a", "b", "c"]):
        steps: list[int] = []
        edit(opened, tmp_path / "out", flip, names=names, force=True, progress=steps.append)
        assert sum(steps) == opened.nbytes == 24


def test_wrong_length_is_refused(tmp_path: Path) -> None:
    opened = Checkpoint.open(odd_file(tmp_path / "odd.safetensors"))
    with pytest.raises(ValueError, match="tensor 'é2': 2 bytes are given, it has 1"):
        rewrite(opened, tmp_path / "out", lambda info: bytes(info.nbytes + 1))
    assert not (tmp_path / "out").exists()


def test_what_a_replacement_may_be(tmp_path: Path) -> None:
    opened = Checkpoint.open(craft(tmp_path / "m", layout(("a", "F32", [2, 2], 16)), bytes(16)))
    values = torch.arange(4.0).reshape(2, 2)
    raw = values.T.contiguous().numpy().tobytes()
    for data in (raw, bytearray(raw), memoryview(raw), values.T, values.T.numpy(), values.T.to(torch.float32)):
        rewrite(opened, tmp_path / "out", lambda _, data=data: data, force=True)
        assert Checkpoint.open(tmp_path / "out").read("a").equal(values.T)


def test_inputs_are_never_changed(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd.safetensors")
    (tmp_path / "link").symlink_to(path)
    directory = sharded(tmp_path / "m")
    (tmp_path / "alias").symlink_to(directory)
    (tmp_path / "mine").mkdir()
    single = odd_file(tmp_path / "mine" / "model.safetensors")
    before = digest(path), content(directory), digest(single)
    for source, target in [
        (path, path),
        (path, tmp_path / "link"),
        (directory, directory),
        (directory, tmp_path / "alias"),
        (directory / "model.safetensors.index.json", directory),
        (tmp_path / "mine", tmp_path / "mine"),
        (directory, tmp_path),
    ]:
        with pytest.raises(OutputError, match="inputs are never changed"):
            edit(Checkpoint.open(source), target, flip, force=True)
    assert (digest(path), content(directory), digest(single)) == before


def test_target_of_the_wrong_kind(tmp_path: Path) -> None:
    path, directory = odd_file(tmp_path / "odd.safetensors"), sharded(tmp_path / "m")
    with pytest.raises(OutputError, match="is a directory; the output is a file"):
        rewrite(Checkpoint.open(path), directory, keep, force=True)
    with pytest.raises(OutputError, match="is a file; the output is a directory"):
        rewrite(Checkpoint.open(directory), path, keep, force=True)
    with pytest.raises(OutputError, match="a part of its path is not a directory"):
        rewrite(Checkpoint.open(directory), path / "out", keep)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_failure_in_the_middle(tmp_path: Path, kind: str) -> None:
    source = odd_file(tmp_path / "odd.safetensors") if kind == "file" else sharded(tmp_path / "m")
    opened = Checkpoint.open(source)
    rewrite(opened, tmp_path / "out", keep)
    before = Checkpoint.open(tmp_path / "out").sha256()
    last = list(opened.tensors)[-1]

    def interrupt(info: TensorInfo, _: np.ndarray) -> None:
        if info.name == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(opened, tmp_path / "out", interrupt, force=True)
    with pytest.raises(KeyboardInterrupt):
        edit(opened, tmp_path / "new", interrupt)
    assert Checkpoint.open(tmp_path / "out").sha256() == before
    assert not (tmp_path / "new").exists()


LIMITED = """
import os, resource, sys
from faultcli.checkpoint import Checkpoint, edit, rewrite
from faultcli.errors import OutputError
opened = Checkpoint.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def attempts():
    for write in (lambda: edit(opened, sys.argv[2], lambda *_: None, force=True),
                  lambda: rewrite(opened, sys.argv[2], lambda _: None, force=True)):
        try:
            write()
        except OutputError as error:
            print(error)
attempts()
if hasattr(os, "posix_fallocate"):  # the same without the space being reserved first
    del os.posix_fallocate
attempts()
"""


def test_no_room_for_the_output(tmp_path: Path) -> None:
    source = craft(tmp_path / "m", layout(("a", "U8", [200_000], 200_000)), bytes(200_000))
    (tmp_path / "out").write_text("old")
    command = [sys.executable, "-c", LIMITED, source, tmp_path / "out"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert run.stdout.count(f"{tmp_path / 'out'}: cannot be written: the file is larger") == 4
    assert (tmp_path / "out").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


MEMORY = """
import re, sys
from faultcli.checkpoint import Checkpoint, edit, rewrite
opened = Checkpoint.open(sys.argv[1])
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
def change(_, data): data[::4096] ^= 1
edit(opened, sys.argv[2], change, names=["0"])
before = peak()
edit(opened, sys.argv[2], change, force=True)
rewrite(opened, sys.argv[2], lambda _: None, force=True)
opened.sha256()
print((peak() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """160 MB in tensors of 8 MB (the file is sparse): the peak grows by a tensor or two, not by twenty."""
    size, count = 8 << 20, 20
    path = craft(tmp_path / "m", layout(*((str(n), "F32", [size // 4], size) for n in range(count))))
    os.truncate(path, path.stat().st_size + size * count)
    command = [sys.executable, "-c", MEMORY, path, tmp_path / "out"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert int(run.stdout) < 3 * size  # the allocator keeps some of what was freed


def test_new_file_is_the_librarys_byte_for_byte(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6.0).reshape(2, 3),
        "a": torch.arange(3, dtype=torch.float32),
        "h": torch.ones(3, dtype=torch.bfloat16),
        "n": torch.tensor(7),
        "m": torch.tensor([True, False]),
        "e": torch.ones(2, dtype=torch.float8_e4m3fn),
        "none": torch.empty(0, 3),
        "c": torch.ones(1, dtype=torch.complex64),
    }
    save_file(tensors, tmp_path / "library", {"key": "välue"})
    write_safetensors(tmp_path / "ours", tensors, {"key": "välue"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()
    sources = [
        TensorSource(name, info.dtype, info.shape, lambda name=name: tensors[name])  # type: ignore[misc]
        for name, info in Checkpoint.open(tmp_path / "ours").tensors.items()
    ]
    write_safetensors(tmp_path / "ours", reversed(sources), {"key": "välue"}, force=True)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


def test_new_file_from_odd_tensors(tmp_path: Path) -> None:
    tensors = {
        "strided": torch.arange(6.0).reshape(2, 3).T,
        "array": np.arange(4, dtype=np.uint16).reshape(2, 2).T,
        "scalar": np.float64(2.5).reshape(()),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "grad": torch.ones(2, requires_grad=True),
        "F4": torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    }
    write_safetensors(tmp_path / "m", tensors)
    opened = Checkpoint.open(tmp_path / "m")
    assert opened.read("strided").equal(torch.arange(6.0).reshape(2, 3).T)
    assert opened.read("array").tolist() == [[0, 2], [1, 3]]
    assert opened.read("scalar").item() == 2.5
    assert opened.read("conjugate").item() == 1 - 2j
    assert (opened.tensors["F4"].shape, opened.read("F4").shape) == ((2, 4), (2, 2))


def test_new_file_that_cannot_be(tmp_path: Path) -> None:
    source = TensorSource("a", "U8", (2,), lambda: bytes(2))
    with pytest.raises(ValueError, match="'a' is taken"):
        write_safetensors(tmp_path / "m", [source, source])
    with pytest.raises(ValueError, match="ends inside a byte"):
        write_safetensors(tmp_path / "m", [TensorSource("a", "F4", (3,), lambda: bytes(2))])
    with pytest.raises(ValueError, match="3 bytes are given, it has 2"):
        write_safetensors(tmp_path / "m", [TensorSource("a", "U8", (2,), lambda: bytes(3))])
    with pytest.raises(ValueError, match="no dtype for complex128"):
        write_safetensors(tmp_path / "m", {"a": torch.ones(1, dtype=torch.complex128)})
    write_safetensors(tmp_path / "m", [source])
    with pytest.raises(OutputError, match="exists already"):
        write_safetensors(tmp_path / "m", [source])
    with pytest.raises(OutputError, match="inputs are never changed"):
        write_safetensors(tmp_path / "m", [source], force=True, inputs=[tmp_path / "m"])
