"""faultcli diff as a user runs it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from faultcli.cli import run
from faultcli.workload.demo import demo_checkpoint_path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_checkpoint_path(), "model.safetensors")
    return tmp_path


def said(command: str, capfd: pytest.CaptureFixture[str], code: int = 0) -> str:
    capfd.readouterr()
    assert run(shlex.split(command)) == code, capfd.readouterr().err
    done = capfd.readouterr()
    return done.out if code == 0 else done.err


def result(command: str, capfd: pytest.CaptureFixture[str]) -> dict[str, object]:
    return dict(json.loads(said(f"{command} --json", capfd)))


@pytest.mark.usefixtures("here")
def test_what_was_injected_comes_back_and_goes_away(capfd: pytest.CaptureFixture[str]) -> None:
    said("inject model.safetensors --ber 3e-3 -o bad.safetensors", capfd)
    text = said("diff model.safetensors bad.safetensors --save-faults map --pitch 8", capfd)
    assert "most like: --fault bitflip:0.00" in text
    assert "map: the difference as a fault map, bound to both files by SHA-256" in text
    assert "one rate for all columns" in text
    said("inject model.safetensors --replay map -o there.safetensors", capfd)
    assert "every byte is restored" in said("inject bad.safetensors --replay map -o back.safetensors", capfd)
    assert Path("there.safetensors").read_bytes() == Path("bad.safetensors").read_bytes()
    assert Path("back.safetensors").read_bytes() == Path("model.safetensors").read_bytes()
    said("inject model.safetensors --fault measured:map -o again.safetensors", capfd)
    assert Path("again.safetensors").read_bytes() == Path("bad.safetensors").read_bytes()


@pytest.mark.usefixtures("here")
def test_the_law_that_is_named_can_be_copied(capfd: pytest.CaptureFixture[str]) -> None:
    said("inject model.safetensors --fault burst:1e-3,length=3 -o bad.safetensors", capfd)
    text = said("diff model.safetensors bad.safetensors", capfd)
    law = next(line for line in text.splitlines() if line.startswith("most like: ")).removeprefix("most like: ")
    assert "length=3" in law
    said(f"inject model.safetensors {law} -o alike.safetensors", capfd)


@pytest.mark.usefixtures("here")
def test_no_difference(capfd: pytest.CaptureFixture[str]) -> None:
    text = said("diff model.safetensors model.safetensors --save-faults map", capfd)
    assert text.startswith("no difference: ")
    assert "a rate up to" in text
    document = result("diff model.safetensors model.safetensors", capfd)
    assert (document["flips"], document["law"], document["rate"]["rate"]) == (0, None, 0)  # type: ignore[index]
    assert all(test["p"] is None for test in document["tests"])  # type: ignore[attr-defined]
    said("inject model.safetensors --replay map -o same.safetensors", capfd)
    assert Path("same.safetensors").read_bytes() == Path("model.safetensors").read_bytes()


@pytest.mark.usefixtures("here")
def test_one_flip(capfd: pytest.CaptureFixture[str]) -> None:
    said("inject model.safetensors --fault flips:1 --target any -o bad.safetensors", capfd)
    document = result("diff model.safetensors bad.safetensors", capfd)
    assert document["flips"] == document["words_changed"] == 1
    assert document["law"]["fault"] == "flips:1"  # type: ignore[index]
    assert sum(tensor["flips"] for tensor in document["tensors"]) == 1  # type: ignore[attr-defined]


@pytest.mark.usefixtures("here")
def test_memory_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    said("inject model.safetensors --fault flips:20 -o bad.safetensors", capfd)
    content = Path("bad.safetensors").read_bytes()
    Path("memory.bin").write_bytes(b"\xff" * 0x1000 + content + b"\0" * 99)
    place = f"--raw --base 0x1000 --length {len(content)}"
    document = result(f"diff model.safetensors memory.bin {place} --save-faults map", capfd)
    assert document["flips"] == 20
    assert document["sha256"] is None
    said("inject model.safetensors --replay map -o there.safetensors", capfd)
    said("inject there.safetensors --replay map -o back.safetensors", capfd)
    assert Path("there.safetensors").read_bytes() == content
    assert Path("back.safetensors").read_bytes() == Path("model.safetensors").read_bytes()


@pytest.mark.usefixtures("here")
def test_an_array(capfd: pytest.CaptureFixture[str]) -> None:
    name, array = max(load_file("model.safetensors").items(), key=lambda item: item[1].size)
    array = array.copy()
    array.view(np.uint32)[0, 0] ^= 0x80000001
    np.save("array.npy", array)
    document = result(f"diff model.safetensors array.npy --tensor {name}", capfd)
    assert document["flips"] == 2
    assert [tensor["name"] for tensor in document["tensors"]] == [name]  # type: ignore[attr-defined]
    assert document["positions"][0]["words"] == "fp32"  # type: ignore[index]


@pytest.mark.usefixtures("here")
def test_names_are_shown_and_not_obeyed(capfd: pytest.CaptureFixture[str]) -> None:
    save_file({"[red]a\x1b[2J,*": np.zeros((2, 2), np.float32)}, "a.safetensors")
    save_file({"[red]a\x1b[2J,*": np.ones((2, 2), np.float32)}, "b.safetensors")
    text = said("diff a.safetensors b.safetensors", capfd)
    assert "\x1b" not in text
    assert "[red]a" in text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        ("gone", "gone: no such file or directory", "check the path"),
        ("junk", "junk: is neither a safetensors nor a .npy file", "--raw"),
        ("junk --raw", "junk: 5 bytes from 0; of model.safetensors it would be", "--base OFFSET --length"),
        ("junk --base 4", "--base and --length say where plain bytes lie", "add --raw"),
        ("junk --raw --base x", "--base x: is no number of bytes", "0x8000"),
        ("junk --raw --length -1", "--length -1: is no number of bytes", "0x8000"),
        ("model.safetensors --pitch 1", "--pitch 1: a row has 2 words or more", "--pitch 256"),
        ("model.safetensors --tensor nothing", "no tensor is named 'nothing'", "it holds"),
        ("model.safetensors --tensor x --include y", "--tensor says which tensor", "leave"),
        ("model.safetensors --include nothing", "--include nothing: matches no tensor", "inspect"),
        ("model.safetensors --save-faults junk", "junk: exists already", "--force"),
        ("model.safetensors --save-faults model.safetensors --force", "is the input", "choose another"),
        ("short.safetensors", "short.safetensors: is truncated", "damaged"),
    ],
)
def test_what_cannot_be_compared(words: str, message: str, remedy: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("junk").write_bytes(b"12345")
    Path("short.safetensors").write_bytes(Path("model.safetensors").read_bytes()[:-7])
    error = said(f"diff model.safetensors {words}", capfd, code=2).splitlines()
    assert len(error) == 2, error
    assert message in error[0]
    assert remedy in error[1]


@pytest.mark.usefixtures("here")
def test_other_words_are_hardly_the_same_model(capfd: pytest.CaptureFixture[str]) -> None:
    content = Path("model.safetensors").read_bytes()
    Path("noise").write_bytes(np.random.default_rng(0).bytes(len(content)))
    assert "hardly one model: look at --base" in said("diff model.safetensors noise --raw", capfd)


@pytest.mark.usefixtures("here")
def test_quiet_says_the_result_alone(capfd: pytest.CaptureFixture[str]) -> None:
    said("inject model.safetensors --fault flips:20 -o bad.safetensors", capfd)
    run(shlex.split("diff model.safetensors bad.safetensors --save-faults map -q"))
    assert capfd.readouterr().err == ""
    run(shlex.split("diff model.safetensors bad.safetensors --save-faults map --force"))
    assert "replay: faultcli inject" in capfd.readouterr().err
