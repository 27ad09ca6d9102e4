"""Where the risk lies as one HTML page, and as one picture."""

from __future__ import annotations

from collections.abc import Iterator

from faultcli.report.heat_map import Cell
from faultcli.report.heat_map_svg import heat_map_svg
from faultcli.report.numbers import inputs_text, percent
from faultcli.report.page import html_text, model_name, page, table, tested
from faultcli.report.summary import tested_rows
from faultcli.report.text import counted
from faultcli.report.where_report import WhereReport

_COLUMNS = ("share of bits, %", "flips", "critical, %", "share of risk, %")
_LEAD = (
    "A row per layer, in the order of the file, a column per bit, the highest on the left. A cell's colour is how"
    " critical flips of these bits are, its size how well that is known: a small one may well be of another colour."
    " Point at a cell for its numbers."
)


def where_svg(found: WhereReport) -> str:
    """Return the map as a picture that stands alone. The same document gives the same bytes."""
    return heat_map_svg(found.map, _title(found), found.caption, alone=True)


def where_html(found: WhereReport) -> str:
    """Return the page. The same document gives the same bytes."""
    whole = found.map.whole
    about = [str(found.document["format"]), str(found.document["protect"])]
    about += [counted(whole.trials, "flip"), inputs_text(found)]
    links = (("map", "Map"), ("layers", "Layers"), ("bits", "Bits"), ("tested", "What was tested"))
    return page(
        _title(found),
        " · ".join([found.provenance.architecture, *about] if found.provenance else about),
        [
            '<nav aria-label="Contents">',
            *(f'<a href="#{name}">{title}</a>' for name, title in links),
            "</nav>",
            *_summary(found),
            '<section id="map">',
            "<h2>Layers by bits</h2>",
            f"<p>{_LEAD}</p>",
            '<figure class="card"><div class="heat-map" tabindex="0" role="region" aria-label="Map">',
            heat_map_svg(found.map, _title(found), found.caption).rstrip(),
            "</div><figcaption>",
            *(f"<p>{html_text(line)}</p>" for line in found.caption),
            "</figcaption></figure></section>",
            *_table(
                "layers", "Per layer", "The riskiest first, each with its share of all risk.", "layer", _layers(found)
            ),
            *_table("bits", "Per bit", "From the highest; bit 0 is the lowest.", "bit", _bits(found)),
            *tested(_tested(found), found.provenance),
        ],
        f"Single flips, drawn by strata and weighted by sites. Intervals are {percent(found.plan.confidence, 0)} % over"
        " flips: that of one stratum is Wilson's, those of layers, bits and the whole are normal.",
    )


def _title(found: WhereReport) -> str:
    return f"Where the risk lies: {model_name(found)}"


def _summary(found: WhereReport) -> list[str]:
    means, whole = found.document["means"] or {}, found.map.whole
    mean, _, ends = whole.text.partition(" ")
    tiles = [("Critical", f"{mean} %", f"of single flips {ends}")]
    for name, title, remark in (
        ("sdc", "SDC", "another top-1 answer, mean over flips"),
        ("due", "DUE", "an answer that is not finite"),
        ("drop", "Accuracy", "change, mean over flips"),
    ):
        if name in means:
            value = float(means[name])
            text = f"{percent(-value, 2)} points" if name == "drop" else f"{percent(value, 2)} %"
            tiles.append((title, text, remark))
    tiles.append(("Flips", f"{whole.trials:,}", f"of {counted(whole.sites, 'bit')}"))
    lines = ['<section id="summary">', '<dl class="tiles">']
    lines += [
        f"<div><dt>{html_text(name)}</dt><dd>{html_text(value)}<small>{html_text(remark)}</small></dd></div>"
        for name, value, remark in tiles
    ]
    return [*lines, "</dl>", "</section>"]


def _table(name: str, title: str, lead: str, first: str, rows: Iterator[tuple[str, ...]]) -> list[str]:
    card = ['<div class="card">', table((first, *_COLUMNS), rows), "</div></section>"]
    return [f'<section id="{name}">', f"<h2>{title}</h2>", f"<p>{lead}</p>", *card]


def _layers(found: WhereReport) -> Iterator[tuple[str, ...]]:
    layers = [layer for panel in found.map.panels for layer in panel.layers]
    for layer in sorted(layers, key=lambda one: -((one.whole.mean or 0.0) * one.whole.sites)):
        yield layer.name, *_cells(layer.whole, found.map.whole)


def _bits(found: WhereReport) -> Iterator[tuple[str, ...]]:
    several = len(found.map.panels) > 1
    for panel in sorted(found.map.panels, key=lambda one: -one.word_bits):
        for bit, group, cell in zip(range(panel.word_bits - 1, -1, -1), panel.groups, panel.bits, strict=True):
            if cell is not None:
                name = f"{bit} of {panel.word_bits}" if several else str(bit)
                yield f"{name}, {group}" if group else name, *_cells(cell, found.map.whole)


def _cells(cell: Cell, whole: Cell) -> tuple[str, ...]:
    share = cell.sites / whole.sites
    risk = None if not whole.mean or cell.mean is None else cell.mean * share / whole.mean
    return percent(share), f"{cell.trials:,}", cell.text, percent(risk)


def _tested(found: WhereReport) -> list[tuple[str, str]]:
    said = found.document
    rows = [("Number format", "format"), ("Protection", "protect"), ("Critical", "critical")]
    flips = f"{found.map.whole.trials:,} of {counted(int(said['bits']), 'bit')}"
    return tested_rows(found, [*((name, str(said[key])) for name, key in rows), ("Flips", flips)])
