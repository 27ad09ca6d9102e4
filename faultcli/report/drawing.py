"""Figures as inline SVG that follows the page: its fonts, its light and dark colours, its width.

matplotlib draws with stand-in colours, which become CSS variables of the page; so one SVG serves both schemes and
print. Text stays text. The same figure gives the same bytes: no date, fixed salt, identifiers from the plot's name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from faultcli.report.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins: no colour that matplotlib would use by itself. The page says what they look like (`html_style.py`).
INK, FAINT, GRID = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0404{number:02x}" for number in range(8))
PAGE = "#060606"
MASKED, SDC, DUE = "#050501", "#050502", "#050503"
_VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--grid",
    PAGE: "--card",
    MASKED: "--masked",
    SDC: "--sdc",
    DUE: "--due",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES)},
}
# A series is told by its marker and its line as well: colour is never the only sign.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 2, 2)))

WIDTH = 5.0  # inches of 72 units: as wide as a card of the page; on a phone text stays about 9 pixels high
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "faultcli",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save figures in the style of the report inside the block; matplotlib is as before after it."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]  # its stubs list every key
        yield


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the page's width and the height asked for (inches), with one pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Return the figure as an SVG element for an HTML page.

    Args:
        figure: drawn inside `drawing()`.
        name: prefix of its identifiers, unique on the page.
        title: what it is, in a few words.
        description: what it shows, for those who cannot see it.
    """
    _escape_names(figure)
    title, description = printable(title), printable(description)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ((?:bold )?)([\d.]+)px [^;\"]*", _font, svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" '
        f"aria-label={quoteattr(f'{title}. {description}')}>\n"
        f"<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n"
    )
    return head + svg[svg.index(">") + 1 :].strip() + "\n"


def _escape_names(figure: Figure) -> None:
    """Let no text of a figure hold what a terminal or a page would obey. Labels of ticks are drawn anew from what was
    set: whoever sets names there passes them through `spelled`."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(spelled(text.get_text()))


def spelled(text: str) -> str:
    """Return lines of text in which nothing is obeyed."""
    return "\n".join(map(printable, text.split("\n")))


def _font(match: re.Match[str]) -> str:
    return f"{'font-weight: bold; ' if match[1] else ''}font-size: {match[2]}px"


def short_number(value: float) -> str:
    """Write a rate or a count as short as people say it: 1e-5, 0.003, 12."""
    if value != 0 and abs(value) < 0.001:
        digits, exponent = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else f"{value:.2e}".split("e")
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return f"{digits}e{int(exponent)}"
    return f"{value:.3g}"
