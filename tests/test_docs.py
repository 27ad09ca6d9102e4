"""The pages in docs/ are true: their Python runs, their links lead somewhere, the files they speak of exist."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from faultcli.faults.laws import LAWS
from faultcli.formats import NAMED
from faultcli.report.formats import REPORTS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])


@pytest.fixture
def _tables_as_they_were() -> Iterator[None]:
    kept = [(table, dict(table)) for table in (NAMED, LAWS, REPORTS)]
    yield
    for table, content in kept:
        table.clear()
        table.update(content)


@pytest.mark.usefixtures("_tables_as_they_were")
def test_extending_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    module = ModuleType("extending")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks:
        exec(compile(block, "docs/extending.md", "exec", dont_inherit=True), module.__dict__)


def test_the_tables_are_those_of_the_code() -> None:
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    for page in tables["PAGES"]:
        assert tables["filled"](page) == (ROOT / "docs" / page).read_text(encoding="utf-8"), (
            "run: python docs/tables.py"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:faultcli|tests|examples|docs|benchmarks)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path


def test_documents_and_examples_import_what_is_public() -> None:
    """Everything else may move without breaking a user."""
    examples = [path for path in (ROOT / "examples").rglob("*") if path.suffix in (".py", ".sh", ".yml")]
    for path in [*PAGES, *examples]:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"^\s*(?:from|import) faultcli\.(?!extend\b)", line), f"{path.name}: {line}"
            found = re.match(r"\s*from faultcli import (.*)", line)
            assert found is None or found[1] == "extend", f"{path.name}: {line}"


def test_every_kind_of_report_is_explained() -> None:
    text = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    for suffix in REPORTS:
        assert f"`{suffix}`" in text


def test_the_picture_of_the_limit_is_that_of_its_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "limit.py"))
    monkeypatch.setitem(drawn["main"].__globals__, "OUTPUT", tmp_path / "limit.svg")
    drawn["main"]([])
    assert (tmp_path / "limit.svg").read_bytes() == (ROOT / "docs" / "limit.svg").read_bytes()
