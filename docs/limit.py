"""The picture of docs/hardening.md: 8-bit weights against the bit-error rate, by protection, with the Shannon limit.

    python docs/limit.py                          # draws docs/limit.csv, as it was measured
    python docs/limit.py A.json B.json            # from `campaign --json` documents, and writes docs/limit.csv anew

Writes docs/limit.svg, with light and dark colours; the same table gives the same bytes. Rows of the table that are
called `limit` hold the accuracy of weights that keep as many bits as a binary symmetric channel passes, 8·(1 − H),
stored without a fault; they stay as they are.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from faultcli.report.drawing import FAINT, LINES, MARKERS, SERIES, drawing, new_figure, short_number, to_svg
from faultcli.report.html_style import DARK, LIGHT

TABLE, OUTPUT = Path(__file__).parent / "limit.csv", Path(__file__).parent / "limit.svg"
LIMIT = "limit"
COLUMNS = ("protection", "ber", "accuracy", "low", "high", "worst", "maps")
Row = dict[str, str]


def rows_of(documents: Sequence[Path]) -> list[Row]:
    """Return what campaigns measured, a row per arm, and the rows of the limit from the table that there is."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["protection"] == LIMIT]
    for document in documents:
        for arm in json.loads(document.read_text(encoding="utf-8"))["arms"]:
            accuracy, rate = arm["accuracy"], float(arm["fault"].removeprefix("bitflip:"))
            numbers = (rate, *(round(accuracy[part], 4) for part in ("mean", "low", "high", "worst")), arm["trials"])
            found.append(dict(zip(COLUMNS, (arm["protect"], *map(str, numbers)), strict=True)))
    return found


def picture(rows: Sequence[Row]) -> str:
    """Return accuracy against bit-error rate as an SVG file that stands alone."""
    series: dict[str, list[tuple[float, ...]]] = {}
    for row in rows:
        numbers = tuple(float(row[part]) for part in ("ber", "accuracy", "low", "high"))
        series.setdefault(row["protection"], []).append(numbers)
    with drawing():
        figure, axes = new_figure(4.0)
        axes.set_xscale("log")
        for number, (name, points) in enumerate((n, sorted(p)) for n, p in series.items() if n != LIMIT):
            rates, means, low, high = (list(column) for column in zip(*points, strict=True))
            axes.fill_between(rates, [100 * x for x in low], [100 * x for x in high], color=SERIES[number], alpha=0.16)
            look = {"color": SERIES[number], "marker": MARKERS[number], "linestyle": LINES[number]}
            axes.plot(rates, [100 * x for x in means], label=name, clip_on=False, **look)
        limit = sorted(series[LIMIT])
        axes.plot([p[0] for p in limit], [100 * p[1] for p in limit], color=FAINT, linewidth=1, label="Shannon limit")
        axes.set(xlabel="bit-error rate", ylabel="top-1 accuracy in %", ylim=(0, 100))
        ticks = [1e-4, 1e-3, 1e-2, 3e-2, 1e-1]
        axes.set_xticks(ticks, list(map(short_number, ticks)))
        axes.minorticks_off()
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=2)
        title = "Accuracy of ResNet-20 in q2.5 against the bit-error rate"
        svg = to_svg(figure, "limit", title, f"Lines with intervals: {', '.join(series)}")
    style = (
        f"<style>svg {{ {LIGHT} font-family: system-ui, sans-serif; }}\n"
        f"@media (prefers-color-scheme: dark) {{ svg {{ {DARK} }} }}</style>"
    )
    head = svg.index(">") + 1
    return svg[:head] + style + svg[head:]


def main(documents: Sequence[Path]) -> None:
    """Draw the table, made anew if there are documents."""
    if documents:
        rows = rows_of(documents)
        with TABLE.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    with TABLE.open(encoding="utf-8", newline="") as file:
        OUTPUT.write_text(picture(list(csv.DictReader(file))), encoding="utf-8")


if __name__ == "__main__":
    main(list(map(Path, sys.argv[1:])))
