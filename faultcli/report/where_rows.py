"""What `where` found as rows of one table: the memory, its layers, bits and channels, and every bit of every one."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from faultcli.report.text import shown

COLUMNS = ("part", "region", "channel", "bit", "word_bits", "group", "sites", "trials", "mean", "low", "high")
# What a row is of. A layer is a region of the memory: a tensor, or its check words or scales.
NETWORK, LAYER, BIT, LAYER_BIT, CHANNEL, CHANNEL_BIT = "network", "layer", "bit", "layer-bit", "channel", "channel-bit"
Row = Mapping[str, Any]  # by `COLUMNS`; None: not of such, or unknown


def where_rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a document of schema `faultcli.where/1`, rates as fractions; strata come in its order.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    strata, whole = document["strata"], document["whole_layers"]
    counts = {"sites": document["bits"], "trials": document["trials"]}
    yield _row(NETWORK, {**counts, **(document["network"] or {})})
    for one in whole or document["layers"]:
        yield _row(LAYER, one, region=one["name"])
    kinds = sorted({(int(s["word_bits"]), int(s["bit"])) for s in strata}, reverse=True)
    for (word_bits, bit), one in zip(kinds, document["bit_positions"], strict=True):
        yield _row(BIT, one, bit=bit, word_bits=word_bits)
    about = {(s["region"], s["bit"]): {"word_bits": s["word_bits"], "group": s["group"]} for s in strata}
    for layer in whole:
        for one in layer["bits"]:
            yield _row(LAYER_BIT, one, region=layer["name"], **about[layer["name"], one["bit"]])
    if whole:
        names = dict.fromkeys((s["region"], s["channel"]) for s in strata)
        for (region, channel), one in zip(names, document["layers"], strict=True):
            if channel is not None:
                yield _row(CHANNEL, one, region=region, channel=channel)
    for one in strata:
        if not whole or one["channel"] is not None:
            yield _row(CHANNEL_BIT if whole else LAYER_BIT, one)


def where_csv(document: Mapping[str, Any]) -> bytes:
    """Return the rows as CSV; what is unknown is empty."""
    return csv_of(where_rows(document))


def csv_of(rows: Iterable[Row]) -> bytes:
    """Return rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(shown, rows))
    return text.getvalue().encode()


def _row(part: str, found: Row, **place: Any) -> dict[str, Any]:
    merged = {**found, **place, "part": part}
    return {name: merged.get(name) for name in COLUMNS}
