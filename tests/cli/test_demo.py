"""The demo as files says what the demo says."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ["data.npz", "model.safetensors"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("folder", ["new", "there", "."])
def test_the_files_appear(folder: str, faultcli: Callable[..., Any]) -> None:
    Path("there").mkdir()
    done = faultcli("demo", "-o", folder)
    assert done.code == 0, done.err
    assert names(folder) == (NAMES if folder != "." else [*NAMES, "there"])
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o400 for path in Path(folder).glob("*.*"))
    assert len(done.out.splitlines()) == 2


def test_what_it_advises_runs(faultcli: Callable[..., Any]) -> None:
    done = faultcli("demo", "-o", "with a space")
    said = [line.removeprefix("try: ").strip() for line in done.err.splitlines()]
    assert len(said) == 3
    for line in said:
        assert "'with a space/model.safetensors'" in line
    Path("with a space").rename("demo")
    for line in said:
        words = line.replace("with a space", "demo").replace("'", "").split()[1:]
        few = ["--trials", "2", "--limit", "10"] if words[0] == "campaign" else []
        assert faultcli(*words, *few).code == 0, line
    assert faultcli("demo", "-o", "quiet", "--quiet").err == ""


@pytest.mark.parametrize("command", [("evaluate",), ("campaign", "--ber", "1e-3", "--trials", "3")])
def test_they_are_the_demo(command: tuple[str, ...], faultcli: Callable[..., Any]) -> None:
    """To the last bit: accuracy, loss, and in a campaign the hash of everything that its trials depend on."""
    assert faultcli("demo", "-o", ".").code == 0
    mine = ("model.safetensors", "--data", "data.npz")
    results = [
        json.loads(faultcli(*command, *files, "--format", "q2.5", "--quiet", "--json", "-").out) for files in ((), mine)
    ]
    for result in results:
        for field in ("timing", "provenance", "plan_hash"):
            result.pop(field, None)
    assert results[0] == results[1]


def test_the_arrays_are_as_the_readme_says(faultcli: Callable[..., Any]) -> None:
    assert faultcli("demo", "-o", ".").code == 0
    with np.load("data.npz") as arrays:
        assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
            "images": ("uint8", (500, 8, 8)),
            "labels": ("uint8", (500,)),
        }


def test_what_is_there_is_kept(faultcli: Callable[..., Any]) -> None:
    Path("data.npz").write_text("mine")
    done = faultcli("demo", "-o", ".")
    assert (done.code, done.err.splitlines()[0]) == (2, "faultcli: error: data.npz: exists already")
    assert names(".") == ["data.npz"]
    assert Path("data.npz").read_text() == "mine"
    Path("other").write_text("kept")
    assert faultcli("demo", "-o", ".", "--force").code == 0
    assert names(".") == [*NAMES, "other"]
    assert Path("data.npz").read_bytes()[:2] == b"PK"


@pytest.mark.parametrize(
    ("target", "said"),
    [("file", "is not a directory"), ("none/demo", "its directory none does not exist"), ("closed/demo", "permission")],
)
def test_places_that_cannot_be(target: str, said: str, faultcli: Callable[..., Any]) -> None:
    Path("file").write_text("kept")
    Path("closed").mkdir(mode=0o500)
    if target.startswith("closed") and os.access("closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    done = faultcli("demo", "-o", target)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert Path("file").read_text() == "kept"
