"""The tables in docs/ are those of the code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
TABLES = runpy.run_path(str(DOCS / "tables.py"))


@pytest.mark.parametrize("page", TABLES["PAGES"])
def test_a_table_is_current(page: str) -> None:
    written = (DOCS / page).read_text(encoding="utf-8")
    assert written == TABLES["filled"](page), "run: python docs/tables.py"


def test_every_page_is_linked_to_pages_that_exist() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([\w./-]+\.md)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
