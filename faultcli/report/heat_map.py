"""A map of layers by bits as data: what a picture of it shows, from the rows of `where_rows`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from faultcli.campaign.statistics import Interval
from faultcli.report.numbers import UNDEFINED, percent_interval
from faultcli.report.where import SHADES
from faultcli.report.where_rows import BIT, CHANNEL, CHANNEL_BIT, LAYER, LAYER_BIT, NETWORK

STEPS = tuple(sorted(least for least, _ in SHADES))  # a class of colours begins at each, the first one above it
SURE = (0.05, 0.2)  # half-widths up to which a cell is drawn whole, and of middle size
MOST_STRIPS = 64  # channels of one layer


@dataclass(frozen=True)
class Cell:
    """How critical flips of some bits are, with what that rests on. `mean` is None without a trial."""

    mean: float | None
    low: float | None
    high: float | None
    trials: int
    sites: int

    @property
    def step(self) -> int | None:
        """Its class of colours, by `STEPS`, from 1; 0: no critical flip was seen; None: nothing is known."""
        return None if self.mean is None else 0 if self.mean <= 0 else sum(self.mean >= least for least in STEPS)

    @property
    def unsure(self) -> int:
        """How wide its interval is: 0 to 2, by `SURE`."""
        if self.low is None or self.high is None:
            return len(SURE)
        return sum((self.high - self.low) / 2 > width + 1e-9 for width in SURE)

    @property
    def text(self) -> str:
        """The mean with its interval, in percent."""
        return UNDEFINED if self.mean is None else percent_interval(Interval(self.mean, self.low, self.high), 2)


Cells = tuple[Cell | None, ...]  # from the highest bit; None: no such bit


@dataclass(frozen=True)
class Strip:
    """An output channel of a layer."""

    channel: int
    whole: Cell | None
    cells: Cells


@dataclass(frozen=True)
class Layer:
    """A region of the memory. `channels`: how many it has; `strips`: the riskiest of them, in order."""

    name: str
    whole: Cell
    cells: Cells
    strips: tuple[Strip, ...] = ()
    channels: int = 0


@dataclass(frozen=True)
class Panel:
    """Layers whose words have one length. `groups`: of every column, what the format calls it; empty: nothing."""

    word_bits: int
    groups: tuple[str, ...]
    bits: Cells
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class HeatMap:
    """The map. `whole`: of all bits of the memory."""

    whole: Cell
    panels: tuple[Panel, ...]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> HeatMap:
        """Return the map of rows as `where_rows` has them, or as they read from CSV; layers in their order.

        Raises:
            KeyError, TypeError, ValueError: they are no such rows.
        """
        parts: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            found = {name: None if value == "" else value for name, value in row.items()}
            parts.setdefault(str(found["part"]), []).append(found)
        wholes = {str(row["region"]): _cell(row) for row in parts[LAYER]}
        bits = {(int(row["word_bits"]), int(row["bit"])): _cell(row) for row in parts[BIT]}
        length: dict[str, int] = {}
        cells: dict[str, dict[int, Cell]] = {}
        groups: dict[tuple[int, int], set[str]] = {}
        for row in parts[LAYER_BIT]:
            name, bit = str(row["region"]), int(row["bit"])
            length[name] = int(row["word_bits"])
            cells.setdefault(name, {})[bit] = _cell(row)
            if row["group"]:  # what check words have none of
                groups.setdefault((length[name], bit), set()).add(str(row["group"]))
        strips = _strips(parts.get(CHANNEL, []), parts.get(CHANNEL_BIT, []), length)
        panels = []
        for word_bits in dict.fromkeys(length.values()):
            order = range(word_bits - 1, -1, -1)
            layers = [
                Layer(name, wholes[name], _row(cells[name], word_bits), *strips.get(name, ((), 0)))
                for name in length
                if length[name] == word_bits
            ]
            named = [groups.get((word_bits, bit), set()) for bit in order]
            one = tuple(names.copy().pop() if len(names) == 1 else "" for names in named)
            panels.append(Panel(word_bits, one, tuple(bits.get((word_bits, bit)) for bit in order), tuple(layers)))
        return cls(_cell(parts[NETWORK][0]), tuple(panels))


def _strips(
    channels: Iterable[Mapping[str, Any]], cells: Iterable[Mapping[str, Any]], length: Mapping[str, int]
) -> dict[str, tuple[tuple[Strip, ...], int]]:
    wholes = {(str(row["region"]), int(row["channel"])): _cell(row) for row in channels}
    bits: dict[str, dict[int, dict[int, Cell]]] = {}
    for row in cells:
        found = bits.setdefault(str(row["region"]), {}).setdefault(int(row["channel"]), {})
        found[int(row["bit"])] = _cell(row)
    strips = {}
    for name, parts in bits.items():
        all_ = [Strip(c, wholes.get((name, c)), _row(own, length[name])) for c, own in sorted(parts.items())]
        riskiest = sorted(all_, key=lambda strip: -((strip.whole.mean or 0.0) if strip.whole else 0.0))[:MOST_STRIPS]
        strips[name] = tuple(sorted(riskiest, key=lambda strip: strip.channel)), len(all_)
    return strips


def _row(cells: Mapping[int, Cell], word_bits: int) -> Cells:
    return tuple(cells.get(bit) for bit in range(word_bits - 1, -1, -1))


def _cell(row: Mapping[str, Any]) -> Cell:
    mean, low, high = (None if row[name] is None else float(row[name]) for name in ("mean", "low", "high"))
    return Cell(mean, low, high, int(row["trials"]), int(row["sites"]))
