"""A hardened file is these bytes, and docs/hardened-files.md shows what its commands print."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from c_compiler import compiler
from safetensors import safe_open
from safetensors.torch import save_file

from faultcli.cli import run
from faultcli.version import __version__

PAGE = Path(__file__).parents[2] / "docs" / "hardened-files.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
SHA = re.compile(r"\b[0-9a-f]{64}\b")
WEIGHTS = [[0.5, -0.25, 1.0, -4.0, 0.03125]]

# Format, chain; bytes of every tensor; the record but for its version.
GOLDEN = [
    (
        ("q2.5", "secded=64"),
        {"w": "10 f8 20 80 01", "w#secded": "4c"},
        '{"ber":null,"format":"q2.5","order":["w"],"protect":"secded=64","schema":"faultcli.hardened/1",'
        '"tensors":{"w":{"dtype":"F32","links":[{}],"shape":[1,5]}},"version":"VERSION"}',
    ),
    (
        ("int4-g4", "parity"),
        {"w": "01 92 07", "w#parity": "15", "w#scale": "92 38 92 1c", "w#scale#parity": "00"},
        '{"ber":null,"format":"int4-g4","order":["w"],"protect":"parity","schema":"faultcli.hardened/1",'
        '"tensors":{"w":{"dtype":"F32","links":[{}],"shape":[1,5]}},"version":"VERSION"}',
    ),
    (("q2.1", "none"), {"w": "01 82 00"}, None),
]


def hardened(folder: Path, format: str, chain: str) -> Path:
    save_file({"w": torch.tensor(WEIGHTS)}, folder / "five.safetensors")
    written = folder / "hardened.safetensors"
    command = ["harden", str(folder / "five.safetensors"), "--format", format, "--protect", chain, "-q"]
    assert run([*command, "-o", str(written)]) == 0
    return written


@pytest.mark.parametrize(("memory", "tensors", "record"), GOLDEN)
def test_the_bytes_of_a_file(
    memory: tuple[str, str], tensors: dict[str, str], record: str | None, tmp_path: Path
) -> None:
    with safe_open(hardened(tmp_path, *memory), framework="numpy") as file:
        assert {name: file.get_tensor(name).tobytes().hex(" ") for name in file.keys()} == tensors  # noqa: SIM118
        copies = [file.metadata()[key] for key in file.metadata() if key.startswith("faultcli.hardened")]
    assert len(copies) == 3
    for copy in copies:
        sha, _, text = copy.partition(" ")
        assert sha == hashlib.sha256(text.encode()).hexdigest()
        assert record is None or text == record.replace("VERSION", __version__)


def test_the_bytes_of_a_block_of_inplace(tmp_path: Path) -> None:
    """Words, padding up to 32 of them, and constants; parity in every lowest bit, and one more in the first word."""
    with safe_open(hardened(tmp_path, "q2.5", "scale=max,inplace=1"), framework="numpy") as file:
        words = {name: file.get_tensor(name).tobytes().hex(" ") for name in file.keys()}  # noqa: SIM118
        record = json.loads(file.metadata()["faultcli.hardened.3"].partition(" ")[2])
    assert words == {
        "w": "12 f8 21 83 00",
        "w#padding": "00 00 01 00 00 00 01 01 01 01 01 00 01 01 00 01 01 01 01 00 00 00 01 00 01 00 00",
    }
    assert record["tensors"]["w"]["links"] == [
        {"bits": 16, "factors": [0.984375]},
        {"outliers": 0.1, "peak": 3.9375, "shape": 0.7, "steps": [-4]},
    ]


def test_the_page_shows_the_bytes() -> None:
    pages = [text for language, text in BLOCKS if language in ("text", "json")]
    for _, tensors, _ in GOLDEN[:2]:
        order = sorted(tensors, key=lambda name: (name != "w#scale", name))  # wide words come first
        assert f" {' '.join(tensors[name] for name in order)}\n" in pages
    shown = next(text for language, text in BLOCKS if language == "json").strip()
    assert shown.replace(f'"version":"{json.loads(shown)["version"]}"', '"version":"VERSION"') == GOLDEN[0][2]


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A block of text is all that the commands above it print; of `make` only its last line, and that only where there
    is a C compiler. Checksums, which depend on the version, are equal where the page says so."""
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    for (language, text), (kind, shown) in pairwise([*BLOCKS, ("end", "")]):
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), {"__name__": "page"})
        if language != "sh":
            continue
        printed = ""
        if text.startswith("make") and (shutil.which("make") is None or compiler() != ("cc",)):
            continue
        for line in text.splitlines():
            command, _, comment = line.partition("    # exits ")
            if command.startswith("faultcli "):
                assert run(shlex.split(command)[1:]) == int(comment or 0), line
                printed += capfd.readouterr().out
            else:
                done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
                printed += done.stdout
        if kind != "text":
            continue
        lines = [line.rstrip() for line in printed.splitlines()]
        if text.startswith("make"):
            lines = [line for line in lines if line.startswith("ok")]
        assert [unsigned(line) for line in lines] == [unsigned(line) for line in shown.splitlines()], text
        for output in (printed, shown):
            assert len(set(SHA.findall(output))) <= 1, text


def unsigned(line: str) -> str:
    return SHA.sub("SHA", line)
