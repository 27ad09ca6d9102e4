"""`faultcli convert`: every common form of a pickle checkpoint, as every command advises; nothing in it is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickled import STATE, advice, network, same
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from faultcli.cli import run
from faultcli.conversion.writing import TIES, convert
from faultcli.errors import CheckpointError, FaultcliError, UsageError


def training() -> dict[str, Any]:
    """What a training script saves, one step on: with momentum, options, numbers of numpy, a random generator."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "best": np.float64(0.93),
        "curve": np.ones(4),
        "losses": torch.ones(7),
        "step": torch.tensor(5),
        "args": argparse.Namespace(lr=0.1),
        "rng": torch.get_rng_state(),
        "optimizer": optimizer.state_dict(),
        "lr_schedulers": [{"last_epoch": 3}],
    }


HALF = {name: tensor * 0.5 for name, tensor in STATE.items() if tensor.is_floating_point()}
# What is saved, --key, and what comes out.
FORMS: dict[str, tuple[Any, str | None, Mapping[str, Tensor]]] = {
    "plain": (STATE, None, STATE),
    "parameters": (
        {"w": nn.Parameter(torch.ones(2, 3)), "b": nn.Parameter(torch.ones(2))},
        None,
        {"w": torch.ones(2, 3), "b": torch.ones(2)},
    ),
    "nested": ({**training(), "state_dict": STATE}, None, STATE),
    "Lightning": (
        {
            "pytorch-lightning_version": "2.4",
            "state_dict": STATE,
            "hyper_parameters": {"lr": 0.1},
            "optimizer_states": [training()["optimizer"]],
            "loops": {"fit": {}},
        },
        None,
        STATE,
    ),
    "mixed": ({**STATE, "meta": {"classes": 2}, "epoch": 4}, None, STATE),
    "with the average": ({"model": STATE, "ema": HALF, "step": 5}, "ema", HALF),
    "deep": ({"ema": {"module": HALF, "decay": 0.99}, "net": STATE}, "ema.module", HALF),
    "in a list": ([{"epoch": 1}, STATE], None, STATE),
    "only vectors": ({"bias": torch.ones(3)}, None, {"bias": torch.ones(3)}),
    "views": (
        {
            "t": torch.arange(6.0).view(2, 3).T,
            "row": torch.arange(6.0).view(2, 3)[1],
            "wide": torch.ones(1).expand(4),
            "every other": torch.arange(8.0)[::2],
        },
        None,
        {
            "t": torch.arange(6.0).view(2, 3).T.contiguous(),
            "row": torch.tensor([3.0, 4, 5]),
            "wide": torch.ones(4),
            "every other": torch.tensor([0.0, 2, 4, 6]),
        },
    ),
    "odd kinds": (
        {
            "c": torch.ones(2, 2, dtype=torch.complex64),
            "b": torch.tensor([True]),
            "h": torch.ones(2, 2).half(),
            "8": torch.ones(2, 2).to(torch.float8_e4m3fn),
            "empty": torch.ones(0, 3),
            "scalar": torch.tensor(2),
        },
        None,
        {
            "c": torch.ones(2, 2, dtype=torch.complex64),
            "b": torch.tensor([True]),
            "h": torch.ones(2, 2).half(),
            "8": torch.ones(2, 2).to(torch.float8_e4m3fn),
            "empty": torch.ones(0, 3),
            "scalar": torch.tensor(2),
        },
    ),
    "numbers for names": ({0: torch.ones(2, 2), 1: torch.zeros(2)}, None, {"0": torch.ones(2, 2), "1": torch.zeros(2)}),
}


@pytest.mark.parametrize("name", ["net.pt", "net.v2.pth", "it's a name.ckpt", "pytorch_model.bin", "-net.pkl"])
def test_the_advice_is_right_for_every_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(STATE, name)
    words = shlex.split(advice(f"./{name}", capfd))
    assert run(words[1:]) == 0
    assert same(load_file(Path(name).with_suffix(".safetensors")), STATE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_form(form: str, legacy: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved, key, wanted = FORMS[form]
    if legacy and form == "odd kinds":  # which torch itself writes, and cannot read
        saved, wanted = ({name: one for name, one in part.items() if name != "8"} for part in (saved, wanted))
    path = tmp_path / "net.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    before = path.read_bytes()
    words = [*shlex.split(advice(path, capfd))[1:], *(["--key", key] if key else [])]
    assert run(words) == 0
    assert same(load_file(tmp_path / "net.safetensors"), wanted)
    assert path.read_bytes() == before
    assert run(["inspect", str(tmp_path / "net.safetensors")]) == 0


def test_what_is_left_out_and_what_is_tied_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    embed = torch.randn(10, 4)
    state = {"embed.weight": embed, "head.weight": embed, "head.bias": torch.zeros(10)}
    torch.save({**training(), "model": state}, tmp_path / "net.pt")
    assert run(["convert", str(tmp_path / "net.pt"), "--json"]) == 0
    said = capfd.readouterr()
    document = json.loads(said.out)
    assert (document["key"], document["tensors"], document["bytes"]) == ("model", 2, 200)
    assert document["tied"] == {"head.weight": "embed.weight"}
    assert document["left_out"] == {
        "epoch": "int",
        "best": "float64",
        "curve": "ndarray",
        "losses": "a tensor [7]",
        "step": "a tensor []",
        "args": "Namespace",
        "rng": "a tensor [5056]",
        "optimizer": "a dict of 2",
        "lr_schedulers": "a list of 1",
    }
    assert "written once: head.weight (same memory as embed.weight)" in said.err
    assert "left out: epoch (int), best (float64), curve (ndarray)" in said.err
    assert set(load_file(tmp_path / "net.safetensors")) == {"embed.weight", "head.bias"}
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert json.loads(file.metadata()[TIES]) == {"head.weight": "embed.weight"}
    schemas = pytest.importorskip("jsonschema")
    folder = Path(__file__).parents[2] / "docs" / "schemas"
    schemas.validate(document, json.loads((folder / "convert.schema.json").read_text()))


def test_several_models_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": STATE, "ema": HALF, "step": 5}, path)
    with pytest.raises(UsageError, match=r"holds 2 models: model \(9 tensors, 0\.0 MB\), ema \(8 tensors") as caught:
        convert(path, tmp_path / "out.safetensors")
    assert str(caught.value.remedy).endswith("--key model")
    with pytest.raises(UsageError, match="--key emma: leads to no dict of tensors") as caught:
        convert(path, tmp_path / "out.safetensors", key="emma")
    assert "there are: model (9" in str(caught.value.remedy)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {shlex.quote(str(self.mark))}",)


def whole_model(path: Path) -> None:
    torch.save(network(), path)


def program(path: Path) -> None:
    torch.jit.script(network()).save(str(path))  # type: ignore[no-untyped-call]


def exported(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # as torch.export.save lays it out
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/models/model.json", "{}")


def truncated(path: Path) -> None:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:-300])


def changed(path: Path) -> None:
    torch.save({"w": torch.ones(4, 4)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"))


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "whole model": (whole_model, "an object of torch.nn.modules.container.Sequential", "if you trust the file"),
    "malicious": (
        lambda p: torch.save({"w": torch.ones(2, 2), "x": Evil(p.with_name("mark"))}, p),
        "posix.system",
        "do not load it",
    ),
    "TorchScript": (program, "is a TorchScript program", r"torch\.jit\.load.*; then: faultcli convert weights\.pt$"),
    "exported": (exported, "is an exported program", "torch.export.load"),
    "truncated": (truncated, "cannot be read", "again"),
    "changed": (changed, "not only tensors|cannot be read", "."),
    "no torch": (lambda p: p.write_bytes(pickle.dumps({"w": [1.0]})), "was not written by torch", "again"),
    "garbage": (lambda p: p.write_bytes(b"\x80\x02" + bytes(100)), "is damaged", "again"),
    "empty": (lambda p: p.write_bytes(b""), "is no pickle checkpoint and no file of numpy arrays", "again"),
    "page": (lambda p: p.write_bytes(b"\n<!DOCTYPE html><html>"), "is a web page", "download it again"),
    "LFS": (
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer",
        "git lfs pull",
    ),
    "GGUF": (lambda p: p.write_bytes(b"GGUF" + bytes(40)), "is a GGUF file", "made from"),
    "HDF5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600)), "is an HDF5 file", "save them"),
    "ONNX": (lambda p: p.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.6.0"), "is an ONNX file", "save them"),
    "TFLite": (lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(40)), "is a TensorFlow Lite file", "save them"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(40)), "is an archive", "unpack it"),
    "safetensors": (lambda p: p.write_bytes((2).to_bytes(8, "little") + b"{}"), "is safetensors already", "inspect"),
    "sparse": (lambda p: torch.save({"w": torch.eye(3).to_sparse()}, p), "tensor 'w' is sparse_coo", "plain tensor"),
    "meta": (
        lambda p: torch.save({"w": torch.ones(3, 3, device="meta")}, p),
        "tensor 'w' has no values",
        "plain tensor",
    ),
    "no dtype": (
        lambda p: torch.save({"w": torch.ones(2, 2, dtype=torch.complex128)}, p),
        "'w' is complex128",
        "usual dtype",
    ),
    "reserved": (lambda p: torch.save({"__metadata__": torch.ones(2, 2)}, p), "keeps for itself", "."),
    "one tensor": (lambda p: torch.save(torch.ones(2, 2), p), "holds a single tensor", r"model\.state_dict\(\)"),
    "no tensors": (
        lambda p: torch.save({"epoch": 1, "rng": torch.get_rng_state()}, p),
        "holds no weights",
        "state_dict",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_named(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, words, remedy = REFUSED[kind]
    path = tmp_path / "net.pt"
    make(path)
    assert run(["convert", str(path)]) == 2
    said = capfd.readouterr().err
    assert re.search(words, said.splitlines()[0])
    assert re.search(remedy, said.splitlines()[1])
    assert len(said.splitlines()) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.pt"]  # no output, and nothing was run


def test_a_dict_that_holds_itself(tmp_path: Path) -> None:
    state: dict[str, Any] = {"a": {"w": torch.ones(2, 2)}}
    state["a"]["back"] = state
    torch.save(state, tmp_path / "net.pt")
    assert convert(tmp_path / "net.pt", tmp_path / "out.safetensors").key == "a"


def test_the_ways_out_that_trust_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for make in (whole_model, program):
        make(tmp_path / "it's.pt")
        assert run(["convert", str(tmp_path / "it's.pt")]) == 2
        found = re.search(r"python (-c .*); then: faultcli (convert weights\.pt)$", capfd.readouterr().err, re.M)
        assert found is not None
        subprocess.run(f"{shlex.quote(sys.executable)} {found[1]}", shell=True, check=True, cwd=tmp_path)
        assert run(["convert", str(tmp_path / "weights.pt"), "--force"]) == 0
        assert same(load_file(tmp_path / "weights.safetensors"), STATE)


def test_arrays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "big": np.arange(3, dtype=">i4"),
        "f": np.ones((2, 2), order="F"),
    }
    for name in ("net.npz", "net.npz.pth"):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **arrays)
        assert run(["inspect", str(tmp_path / name)]) == 2
        assert "is a file of numpy arrays" in capfd.readouterr().err
        convert(tmp_path / name, tmp_path / "out.safetensors", force=True)
        found = load_file(tmp_path / "out.safetensors")
        assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in arrays.items()}
        assert found["big"].dtype == torch.int32
    np.savez(tmp_path / "objects.npz", w=np.array([object()]))
    np.savez(tmp_path / "texts.npz", w=np.array(["a"]))
    for name in ("objects.npz", "texts.npz"):
        with pytest.raises(CheckpointError):
            convert(tmp_path / name, tmp_path / "x.safetensors")


def test_outputs(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "net.pt")
    (tmp_path / "net.safetensors").write_bytes(b"kept")
    for output in ("net.safetensors", "net.pt"):
        with pytest.raises(FaultcliError):
            convert(tmp_path / "net.pt", tmp_path / output, force=output == "net.pt")
    assert (tmp_path / "net.safetensors").read_bytes() == b"kept"
    convert(tmp_path / "net.pt", tmp_path / "net.safetensors", force=True)
    assert same(load_file(tmp_path / "net.safetensors"), STATE)
