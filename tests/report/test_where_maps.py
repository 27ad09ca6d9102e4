"""What `where` found as a map: as data, as a picture, as a page."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as Tree
from collections import Counter
from itertools import pairwise

import pytest
from made_up_maps import document, report

from faultcli.report.formats import WHERE_REPORTS, render
from faultcli.report.heat_map import MOST_STRIPS, Cell, HeatMap
from faultcli.report.heat_map_svg import heat_map_svg
from faultcli.report.html_style import HEAT_DARK, HEAT_LIGHT
from faultcli.report.where_rows import where_rows

SVG = "{http://www.w3.org/2000/svg}"
TWO = {"conv.weight": 8, "fc.weight": 8}


def cells(picture: str) -> dict[str, tuple[str, float]]:
    """Return colour and width of everything that has a tip, by what is before the tip's colon."""
    found = {}
    for element in Tree.fromstring(picture).iter(f"{SVG}rect"):
        tip = element.find(f"{SVG}title")
        if tip is not None and tip.text is not None:
            found[tip.text.partition(":")[0]] = element.attrib["class"], float(element.attrib["width"])
    return found


@pytest.mark.parametrize(
    ("mean", "step"), [(None, None), (0, 0), (1e-6, 1), (0.001, 2), (0.0999, 3), (0.1, 4), (0.5, 5), (1, 5)]
)
def test_colours_begin_where_the_legend_says(mean: float | None, step: int | None) -> None:
    assert Cell(mean, 0.0, 1.0, 1, 1).step == step


def test_a_cell_is_the_smaller_the_less_is_known() -> None:
    sizes = [Cell(0.5, 0.5 - half, 0.5 + half, 1, 1).unsure for half in (0.05, 0.06, 0.2, 0.21)]
    assert sizes == [0, 1, 1, 2]
    assert Cell(None, None, None, 0, 1).unsure == 2


def test_every_stratum_is_a_cell_of_its_colour_with_its_numbers() -> None:
    found = document(TWO)
    drawn = cells(heat_map_svg(report(TWO).map, "t", ()))
    by_size: dict[int, set[float]] = {}
    for stratum in found["strata"]:
        kind, width = drawn[f"{stratum['region']}, bit {stratum['bit']} ({stratum['group']})"]
        mean = stratum["mean"]
        assert kind == f"r{0 if not mean else 1 + sum(mean >= least for least in (0.001, 0.01, 0.1, 0.5))}"
        if mean:
            by_size.setdefault(stratum["bit"] % 3, set()).add(width)
    widths = [one for bit in (0, 1, 2) for one in by_size[bit]]
    assert len(widths) == 3  # one width for each half-width, and the widest interval is the smallest cell
    assert widths == sorted(widths, reverse=True)
    assert "fc.weight, all bits" in drawn
    assert "all layers, bit 7 (sign)" in drawn
    assert "5.00 [3.00, 7.00] % critical, from 7 flips of 10 bits" in heat_map_svg(report(TWO).map, "t", ())


def test_the_highest_bit_is_on_the_left_and_layers_are_in_order() -> None:
    drawn = Tree.fromstring(heat_map_svg(report(TWO).map, "t", ())).iter(f"{SVG}rect")
    places = {}
    for element in drawn:
        tip = element.find(f"{SVG}title")
        if tip is not None:
            centre = (
                float(element.attrib[x]) + float(element.attrib[w]) / 2 for x, w in (("x", "width"), ("y", "height"))
            )
            places[str(tip.text).partition(":")[0]] = tuple(centre)
    row = [
        places[f"conv.weight, bit {bit} ({group})"] for bit, group in ((7, "sign"), (6, "exponent"), (0, "mantissa"))
    ]
    assert [x for x, _ in row] == sorted(x for x, _ in row)
    assert len({y for _, y in row}) == 1
    assert places["conv.weight, bit 7 (sign)"][1] < places["fc.weight, bit 7 (sign)"][1]


def test_words_of_several_lengths_are_maps_of_their_own() -> None:
    found = report({"a": 8, "a#scale": 32, "b": 8, "a#secded": 8}).map
    assert [(panel.word_bits, [layer.name for layer in panel.layers]) for panel in found.panels] == [
        (8, ["a", "b", "a#secded"]),
        (32, ["a#scale"]),
    ]
    picture = heat_map_svg(found, "t", ())
    assert "32-bit words (scale)" in picture
    assert "8-bit words<" in picture


def test_of_many_channels_the_riskiest_are_drawn_and_that_is_said() -> None:
    many = MOST_STRIPS + 8
    layer = report({"fc.weight": 8}, channels=many).map.panels[0].layers[0]
    assert [strip.channel for strip in layer.strips] == list(range(MOST_STRIPS))  # the risk falls with the number
    picture = heat_map_svg(report({"fc.weight": 8}, channels=many).map, "t", ())
    assert f"riskiest {MOST_STRIPS} of {many} channels" in picture
    assert "fc.weight[0], bit 7 (sign)" in cells(picture)
    assert f"fc.weight[{MOST_STRIPS}]" not in picture
    few = heat_map_svg(report({"fc.weight": 8}, channels=5).map, "t", ())
    assert ">5 channels<" in few
    assert "riskiest" not in few


def test_rows_read_back_from_csv_are_the_same_map() -> None:
    for channels in (0, 3):
        found = report({"a": 8, "b": 16}, channels)
        text = render("m.csv", found).decode()
        assert HeatMap.of(csv.DictReader(text.splitlines())) == found.map
        parts = Counter(row["part"] for row in where_rows(found.document))
        per_channel = {"channel": 6, "channel-bit": 3 * 24} if channels else {}
        assert parts == {"network": 1, "layer": 2, "bit": 24, "layer-bit": 24} | per_channel


@pytest.mark.parametrize("suffix", WHERE_REPORTS)
def test_the_same_document_gives_the_same_bytes(suffix: str) -> None:
    assert render(f"m{suffix}", report(TWO)) == render(f"m{suffix}", report(TWO))


def test_text_from_outside_is_escaped() -> None:
    name = '<script>"&\x1b[31m'
    for suffix in (".html", ".svg"):
        text = render(f"m{suffix}", report({name: 8})).decode()
        assert "<script" not in text
        assert "\x1b" not in text
        assert "&lt;script&gt;" in text
    Tree.fromstring(render("m.svg", report({name: 8})))


def test_the_picture_stands_alone_and_the_page_needs_nothing_else() -> None:
    picture, page = (render(f"m{suffix}", report(TWO)).decode() for suffix in (".svg", ".html"))
    used = set(re.findall(r"var\((--[\w-]+)\)", picture))
    assert used <= set(re.findall(r"(--[\w-]+):", picture))
    assert "prefers-color-scheme: dark" in picture
    assert "1.33 [1.13, 1.53] % are critical" in picture
    assert "seed 0, plan 0123456789ab" in picture
    assert not re.search(r"(?:src|href)=\"(?!#|data:)|@import|<script", page)
    assert "1.33" in page


@pytest.mark.parametrize(("variables", "darker"), [(HEAT_LIGHT, True), (HEAT_DARK, False)])
def test_classes_are_told_apart_in_grey(variables: str, darker: bool) -> None:
    """By lightness alone, as on paper and for every kind of colour vision: CIE L*, 10 of 100 from class to class."""

    def lightness(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 116 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3) - 16

    colours = re.findall(r"--risk-[1-5]: #(\w{6})", variables)
    found = [lightness(colour) for colour in colours]
    assert len(found) == 5
    assert all(a - b >= 10 if darker else b - a >= 10 for a, b in pairwise(found)), found
