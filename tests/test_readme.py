"""README is true: its commands run, the outputs that can be alike are, its Python runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from faultcli.cli import app, run
from faultcli.faults.laws import LAWS
from faultcli.formats import NAMED
from faultcli.workload.demo import demo_checkpoint_path

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
EXIT_CODE = re.compile(r"#.*\bexits (\d+)")


def commands(block: str) -> list[tuple[str, int]]:
    """Return the faultcli commands of a block, each with the exit code that its comment promises."""
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("faultcli ")]
    codes = [EXIT_CODE.search(line) for line in lines]
    return [
        (line.partition(" #")[0].strip(), int(code[1]) if code else 0) for line, code in zip(lines, codes, strict=True)
    ]


# In the order of the page, each shell block with the ```text block right below it: the outputs promised word by word.
SHELL = [
    (commands(text), following if kind == "text" else "")
    for (language, text), (kind, following) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if language == "sh"
]
ALL = [line for block, _ in SHELL for line, _ in block]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(demo_checkpoint_path(), tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("block", "promised"), [pair for pair in SHELL if pair[0]], ids=lambda value: value[0][0] if value else ""
)
def test_commands(
    block: list[tuple[str, int]],
    promised: str,
    place: Path,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    said = ""
    for line, code in block:
        if "mnist/" in line and not (place / "mnist").exists():
            os.symlink(request.getfixturevalue("data_dir") / "mnist", place / "mnist")
        arguments = shlex.split(line)[1:]
        if arguments[0] == "campaign":
            arguments += ["--limit", "20"]  # the last of an option counts
            if not any(argument.startswith(("--max-", "--min-")) for argument in arguments):
                arguments += ["--trials", "2"]  # a gate needs as many as it needs
        assert run(arguments) == code, line
        captured = capfd.readouterr()
        said += captured.out + captured.err
    for expected in promised.splitlines():
        assert expected in said


def test_python(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert blocks
    page: dict[str, object] = {"__name__": "readme"}  # one program, from top to bottom
    for block in blocks:
        exec(compile(block, "README.md", "exec"), page)
    assert "119 bits, 119 values" in capsys.readouterr().out
    assert (place / "faulty.safetensors").exists()


def test_the_two_commands_come_first() -> None:
    assert BLOCKS[0][0] == "sh"
    assert [line.split("#")[0].strip() for line in BLOCKS[0][1].splitlines()] == ["make demo", "make test"]
    demo = re.search(r"^demo:.*\n\t\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert demo is not None
    assert demo[1] in ALL


def test_the_tables_are_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {info.callback.__name__.replace("_", "-") for info in app.registered_commands if info.callback}
    assert set(re.findall(r"^\| `faultcli ([\w-]+) ", text, re.MULTILINE)) <= known
    for law in LAWS:
        assert f"`{law}:" in text
    for name in NAMED:
        assert f"`{name}`" in text


def test_no_registry_is_named() -> None:
    for file in ("README.md", "Makefile", "constraints.txt", "pyproject.toml"):
        assert not re.search(r"pypi|--index-url|download\.pytorch", (ROOT / file).read_text(encoding="utf-8")), file
