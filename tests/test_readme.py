"""README is true: in an empty folder its commands and its Python run from top to bottom and print what it shows."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
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
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def commands(block: str) -> list[tuple[str, int]]:
    """Return the faultcli commands of a block, each with the exit code that its comment promises."""
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("faultcli ")]
    codes = [EXIT_CODE.search(line) for line in lines]
    return [
        (line.partition(" #")[0].strip(), int(code[1]) if code else 0) for line, code in zip(lines, codes, strict=True)
    ]


def words(text: str) -> list[str]:
    """Return the lines of a table or a text without its numbers, and without the widths that follow from them."""
    lines = [re.sub(r"─+", "─", " ".join(NUMBER.sub("0", line).split())) for line in text.splitlines()]
    return [line for line in lines if line]


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one empty folder; all Python is one program. A block without a language is all that the block above it prints,
    with numbers that are close: the last bits of floating point differ between machines. ```text is lines of it."""
    monkeypatch.chdir(tmp_path)
    program: dict[str, object] = {"__name__": "readme"}
    for (language, text), (kind, shown) in pairwise([*BLOCKS, ("end", "")]):
        said = printed = ""
        if language == "python":
            exec(compile(text, "README.md", "exec"), program)
        for line, code in commands(text) if language == "sh" else []:
            assert run(shlex.split(line)[1:]) == code, line
            captured = capfd.readouterr()
            printed, said = printed + captured.out, said + captured.err
        printed += capfd.readouterr().out
        if kind == "":
            assert words(printed) == words(shown), text
            assert numbers(printed) == pytest.approx(numbers(shown), abs=1.0, rel=0.02), text
        if kind == "text":
            assert set(shown.splitlines()) <= {*printed.splitlines(), *said.splitlines()}, text


def test_every_output_is_below_what_prints_it() -> None:
    for (above, _), (kind, _) in pairwise(BLOCKS):
        assert kind not in ("", "text") or above in ("sh", "python")


def test_the_two_commands_come_first() -> None:
    assert BLOCKS[0][0] == "sh"
    assert [line.split("#")[0].strip() for line in BLOCKS[0][1].splitlines()] == ["make demo", "make test"]
    demo = re.search(r"^demo:.*\n\t\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert demo is not None
    assert demo[1] in [line for language, text in BLOCKS if language == "sh" for line, _ in commands(text)]


def test_the_tables_are_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {info.callback.__name__.replace("_", "-") for info in app.registered_commands if info.callback}
    assert set(re.findall(r"^\| `faultcli ([\w-]+) ", text, re.MULTILINE)) <= known
    for law in LAWS:
        assert f"`{law}:" in text
    for name in NAMED:
        assert f"`{name}`" in text


MADE = re.findall(r"^\|.*?\| `(--format .*?)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("options", MADE)
def test_the_table_makes_files(options: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "hardened.safetensors")
    assert run(["harden", str(demo_checkpoint_path()), *shlex.split(options), "-o", output, "--quiet"]) == 0
    overhead = re.search(r"at risk, ([\d.]+) bits per weight", capfd.readouterr().out)
    assert overhead is not None
    row = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if f"`{options}`" in line)
    assert float(overhead[1]) == pytest.approx(float(row.split("|")[3]), abs=0.15)  # of a larger network


def test_there_is_a_table_of_files_to_make() -> None:
    assert len(MADE) >= 8


def test_no_registry_is_named() -> None:
    for file in ("README.md", "Makefile", "constraints.txt", "pyproject.toml"):
        assert not re.search(r"pypi|--index-url|download\.pytorch", (ROOT / file).read_text(encoding="utf-8")), file
