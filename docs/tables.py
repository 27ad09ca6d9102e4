"""Write the tables of what is built in into the pages that show them: python docs/tables.py"""

from __future__ import annotations

import re
from pathlib import Path

from faultcli.report.builtin import TABLES, markdown

PAGES = {"formats.md": "formats", "protections.md": "protections"}
HERE = Path(__file__).parent


def filled(page: str) -> str:
    """Return a page's text with its table, between the two comments that mark it, as the code has it now."""
    name = PAGES[page]
    text = (HERE / page).read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- table of {name} -->\n).*?(<!-- end of table -->)", re.DOTALL)
    table = markdown(TABLES[name]())
    new, count = pattern.subn(lambda match: f"{match[1]}{table}{match[2]}", text)
    if count != 1:
        raise ValueError(f"{page}: marks {count} tables of {name}, not one")
    return new


if __name__ == "__main__":
    for page in PAGES:
        (HERE / page).write_text(filled(page), encoding="utf-8")
