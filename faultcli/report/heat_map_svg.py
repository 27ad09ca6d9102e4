"""A map of layers by bits as SVG, for a page or as a file of its own.

It follows light and dark by the variables of `html_style`, tells classes by lightness, so that they hold in grey and
for every kind of colour vision, and how sure a cell is by its size. The same map gives the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from faultcli.report.heat_map import STEPS, SURE, Cell, Cells, HeatMap, Layer, Panel
from faultcli.report.html_style import DARK, HEAT, HEAT_DARK, HEAT_LIGHT, LIGHT
from faultcli.report.page import html_text
from faultcli.report.text import counted

_ROW, _STRIP = 16, 4  # pixels of a layer, and of a channel
_GAP, _APART = 10, 3  # before the margins, and between groups of bits
_TEXT, _SMALL = 11.5, 9.5  # pixels of letters
_EM = 0.57  # of a letter's height: how wide one is, rather too much
_LONGEST = 46  # letters of a layer's name
_SIZES = (1.0, 0.66, 0.36)  # of a cell, by how unsure it is
_LEAST = 640  # pixels that the legend takes
_WIDTHS = ((4, 48), (8, 36), (16, 24), (32, 16), (64, 11))  # pixels of a column, by how many there are


def heat_map_svg(found: HeatMap, title: str, caption: Sequence[str], *, alone: bool = False) -> str:
    """Return the map as an SVG element.

    Args:
        found: what to draw.
        title: what it is, in a few words.
        caption: lines of text; in the picture if it stands alone, else for those who cannot see it.
        alone: with its own colours, title and caption, as a file.
    """
    drawing = _Drawing(found)
    if alone:
        drawing.heading(title)
    drawing.legend()
    for panel in found.panels:
        drawing.panel(panel)
    if alone:
        drawing.caption(caption)
    width, height = round(drawing.width), round(drawing.y + 8)
    style = (
        f"<style>svg {{ {LIGHT}{HEAT_LIGHT} font-family: system-ui, sans-serif; }}{HEAT}"
        f"@media screen and (prefers-color-scheme: dark) {{ svg {{ {DARK}{HEAT_DARK} }} }}</style>\n"
        f'<rect width="{width}" height="{height}" fill="var(--card)"/>\n'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="heat" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{html_text(" ".join((title + ".", *caption)))}">\n'
        f"<title>{html_text(title)}</title>\n{style if alone else ''}" + "\n".join(drawing.lines) + "\n</svg>\n"
    )


class _Drawing:
    """Lines of SVG from the top down; `y` is where the next thing goes."""

    def __init__(self, found: HeatMap) -> None:
        names = [layer.name for layer in _layers(found)]
        self.several = len(found.panels) > 1
        names += [
            "all layers",
            *({"riskiest 64 of 1,000 channels"} if any(one.strips for one in _layers(found)) else ()),
        ]
        self.left = 14 + round(max(_wide(_short(name)) for name in names))
        whole = max(_wide(cell.text) for cell in [found.whole, *(one.whole for one in _layers(found))])
        self.beside = 34 + round(whole)
        self.width = max(_LEAST, *(self.left + _columns(panel)[-1] + _GAP + self.beside for panel in found.panels))
        self.y = 8.0
        self.lines: list[str] = []

    def text(self, x: float, y: float, text: str, *, size: float = _TEXT, more: str = "") -> None:
        self.lines.append(f'<text x="{x:g}" y="{y:g}" font-size="{size:g}"{more}>{html_text(text)}</text>')

    def heading(self, title: str) -> None:
        self.text(8, self.y + 14, title, size=14, more=' font-weight="600"')
        self.y += 26

    def caption(self, lines: Sequence[str]) -> None:
        self.y += 8
        for line in lines:
            for part in textwrap.wrap(line, int((self.width - 16) / (_EM * _TEXT))):
                self.y += 15
                self.text(8, self.y, part)

    def legend(self) -> None:
        """Say what colours and sizes mean."""
        x, y = 8.0, self.y + 2
        ends = [f"{100 * step:g}" for step in STEPS[1:]]
        names = ["none seen", f"< {ends[0]} %", *(f"{a} to {b} %" for a, b in pairwise(ends))]
        for step, name in enumerate([*names, f"≥ {ends[-1]} %"]):
            self._square(f"r{step}", x, y, 14, 14)
            self.text(x + 19, y + 11, name)
            x += 34 + _wide(name)
        x, y = 8.0, y + 20
        sure = [f"{100 * width:g} points" for width in SURE]
        for size, name in enumerate((f"known to ± {sure[0]}", f"to ± {sure[1]}", "less well")):
            self._square("r3", x, y, 14, 14, _SIZES[size])
            self.text(x + 19, y + 11, name)
            x += 34 + _wide(name)
        self.y = y + 26

    def panel(self, panel: Panel) -> None:
        """Draw layers below one another, with their totals on the right and those of the bits below."""
        columns, right = _columns(panel), self.left + _columns(panel)[-1] + _GAP
        if self.several:
            kinds = {layer.name.partition("#")[2] for layer in panel.layers} - {""}
            only = kinds if all("#" in layer.name for layer in panel.layers) else set()
            name = f"{panel.word_bits}-bit words" + (f" ({', '.join(sorted(only))})" if only else "")
            self.text(8, self.y + 10, name, more=' font-weight="600"')
        self._head(panel, columns)
        self.text(right, self.y - 6, "all bits, %", size=_SMALL, more=' class="faint"')
        for layer in panel.layers:
            self._layer(panel, layer, columns, right)
        self.y += 6
        self.text(self.left - 6, self.y + 12, "all layers", more=' text-anchor="end"')
        self._cells(panel, "all layers", panel.bits, columns, _ROW)
        self.y += _ROW + 4
        for start, cell in zip(columns, panel.bits, strict=False):
            if cell is not None and cell.mean:
                x = self.left + start + _column(panel) / 2 + 3.5
                where = f'transform="rotate(-90 {x:g} {self.y:g})" text-anchor="end"'
                self.text(x, self.y, _brief(cell.mean), size=_SMALL, more=f' class="faint" {where}')
        self.text(self.left - 6, self.y + 12, "in %", size=_SMALL, more=' class="faint" text-anchor="end"')
        self.y += 34

    def _head(self, panel: Panel, columns: Sequence[float]) -> None:
        """Name the groups of bits, and number them."""
        wide, at = _column(panel), 0
        for name, members in groupby(panel.groups):
            count = len(list(members))
            first, last = self.left + columns[at], self.left + columns[at + count - 1] + wide - 1
            if name:
                end = at == 0 and count * wide < _wide(name)  # to the left there is room
                x, anchor = (last, "end") if end else ((first + last) / 2, "middle")
                self.text(x, self.y + 10, name, size=_SMALL, more=f' text-anchor="{anchor}"')
                self.lines.append(f'<path class="line" d="M{first:g} {self.y + 14:g}H{last:g}"/>')
            at += count
        for start, bit in zip(columns, range(panel.word_bits - 1, -1, -1), strict=False):
            if wide >= _ROW or not bit % 4:
                x = self.left + start + wide / 2 - 0.5
                self.text(x, self.y + 25, str(bit), size=_SMALL, more=' class="faint" text-anchor="middle"')
        self.y += 31

    def _layer(self, panel: Panel, layer: Layer, columns: Sequence[float], right: float) -> None:
        shown = html_text(_short(layer.name))
        tip = _tip(f"{layer.name}: {_said(layer.whole)}")
        place = f'x="{self.left - 6}" y="{self.y + 12:g}" font-size="{_TEXT:g}" text-anchor="end"'
        self.lines.append(f"<text {place}>{tip}{shown}</text>")
        self._cells(panel, layer.name, layer.cells, columns, _ROW)
        self._cell(f"{layer.name}, all bits", layer.whole, right, self.y, 20, _ROW)
        self.text(right + 26, self.y + 12, layer.whole.text, size=_SMALL + 1, more=' class="number"')
        self.y += _ROW
        if not layer.strips:
            return
        some = "" if len(layer.strips) == layer.channels else f"riskiest {len(layer.strips)} of "
        if len(layer.strips) * _STRIP >= _SMALL:
            text = some + counted(layer.channels, "channel")
            self.text(self.left - 6, self.y + 10, text, size=_SMALL, more=' class="faint" text-anchor="end"')
        for strip in layer.strips:
            name = f"{layer.name}[{strip.channel}]"
            tip = _tip(f"{name}: {_said(strip.whole)}")
            full = f'x="{self.left}" y="{self.y:g}" width="{columns[-1] - 1:g}" height="{_STRIP - 1}"'
            self.lines.append(f'<rect class="strip" {full}>{tip}</rect>')
            seen = tuple(cell if cell is not None and cell.step else None for cell in strip.cells)
            self._cells(panel, name, seen, columns, _STRIP)
            if strip.whole is not None:
                self._cell(f"{name}, all bits", strip.whole, right, self.y, 20, _STRIP)
            self.y += _STRIP
        self.y += 5

    def _cells(self, panel: Panel, name: str, cells: Cells, columns: Sequence[float], height: float) -> None:
        for start, group, bit, cell in zip(
            columns, panel.groups, range(panel.word_bits - 1, -1, -1), cells, strict=False
        ):
            if cell is not None:
                place = f"{name}, bit {bit}" + (f" ({group})" if group else "")
                self._cell(place, cell, self.left + start, self.y, _column(panel), height)

    def _cell(self, name: str, cell: Cell, x: float, y: float, width: float, height: float) -> None:
        if cell.step is None:
            self.text(x + width / 2, y + 11, "?", size=_SMALL, more=' class="faint" text-anchor="middle"')
            return
        size = _SIZES[cell.unsure]
        self._square(f"r{cell.step}", x, y, width - 1, height - 1, size, _tip(f"{name}: {_said(cell)}"))

    def _square(
        self, kind: str, x: float, y: float, width: float, height: float, size: float = 1.0, tip: str = ""
    ) -> None:
        """Draw a cell in the middle of its place; one of a channel is too low to be made lower."""
        wide, high = width * size, height * (size if height > _STRIP else 1.0)
        if kind == "r0":  # an outline lies half within, half without
            wide, high = wide - 1, high - 1
        place = f'x="{x + (width - wide) / 2:g}" y="{y + (height - high) / 2:g}" width="{wide:g}" height="{high:g}"'
        self.lines.append(f'<rect class="{kind}" {place}>{tip}</rect>' if tip else f'<rect class="{kind}" {place}/>')


def _tip(text: str) -> str:
    """Return what a pointer shows."""
    return f"<title>{html_text(text)}</title>"


def _layers(found: HeatMap) -> Iterator[Layer]:
    return (layer for panel in found.panels for layer in panel.layers)


def _said(cell: Cell | None) -> str:
    if cell is None or cell.mean is None:
        return "no flip was tried"
    return f"{cell.text} % critical, from {counted(cell.trials, 'flip')} of {counted(cell.sites, 'bit')}"


def _column(panel: Panel) -> float:
    return next(width for most, width in _WIDTHS if panel.word_bits <= most)


def _columns(panel: Panel) -> list[float]:
    """Return where columns begin, from the left edge of the map, and where the last one ends."""
    return list(_starts(panel))


def _starts(panel: Panel) -> Iterator[float]:
    x = 0.0
    for number, group in enumerate(panel.groups):
        if number and group != panel.groups[number - 1]:
            x += _APART
        yield x
        x += _column(panel)
    yield x


def _short(name: str) -> str:
    """Return a name with its middle left out where it is long."""
    half = (_LONGEST - 1) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"


def _wide(text: str) -> float:
    """Return how many pixels a text takes, rather too many."""
    return _EM * _TEXT * len(text)


def _brief(mean: float) -> str:
    """Write a share in percent where there is little room."""
    part = 100 * mean
    return "<.01" if part < 0.01 else f"{part:.2f}" if part < 1 else f"{part:.3g}"
