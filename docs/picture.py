"""The picture of the README: accuracy of the demo against the bit-error rate, unprotected and hardened.

    python docs/picture.py picture.sqlite    # the store of the campaign in docs/picture.md

Writes docs/picture.svg, with light and dark colours; the same store gives the same bytes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from faultcli.campaign.result import result_of
from faultcli.campaign.store import Store
from faultcli.report.html_style import DARK, LIGHT
from faultcli.report.level_plots import accuracy_curves

OUTPUT = Path(__file__).parent / "picture.svg"


def picture(store: Path) -> str:
    """Return the first plot of accuracy against fault level as an SVG file that stands alone."""
    svg = accuracy_curves(result_of(Store.read(store)))[0].svg
    style = (
        f"<style>svg {{ {LIGHT} font-family: system-ui, sans-serif; }}\n"
        f"@media (prefers-color-scheme: dark) {{ svg {{ {DARK} }} }}</style>"
    )
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + style, svg, count=1)


if __name__ == "__main__":
    OUTPUT.write_text(picture(Path(sys.argv[1])), encoding="utf-8")
