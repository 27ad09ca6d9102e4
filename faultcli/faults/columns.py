"""Weak columns: what low voltage does to a real memory array, where failing cells are not spread evenly.

In undervolted SRAM the cells that fail lie along columns, and of some chips they flip in one direction far more often
than in the other. Measured: Chandramoorthy et al., "Resilient low voltage accelerators for high energy efficiency",
HPCA 2019; used as test chips by Stutz et al., "Bit error robustness for energy-efficient DNN accelerators", MLSys 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from faultcli.errors import FaultError
from faultcli.faults.law import Region, shortest
from faultcli.faults.maps import NO_FAULTS, WordFaults, combine
from faultcli.faults.rate import RateLaw
from faultcli.faults.sampling import Stream, bernoulli_positions, distinct_positions


@dataclass(frozen=True)
class Columns(RateLaw):
    """Cells of a few weak columns flip, in one direction more often than in the other; `rate` of all bits on average.

    The bits of a region lie one after the other, the lowest of a word first, in rows of `pitch` cells. A share `weak`
    of the columns (rounded, one at the least) is drawn per trial and region, and every cell of theirs fails
    independently: a stored 0 reads 1 with probability 2·rate·up/w, a stored 1 reads 0 with 2·rate·(1 − up)/w, w being
    the share of columns that are weak. So of bits of which half are ones a share `rate` flips, and of the flips a share
    `up` goes from 0 to 1. Rates of which the weak columns cannot hold as many flips are refused.
    """

    name: ClassVar[str] = "columns"
    unit: ClassVar[str] = "share of bits that flip, 0 to 1, all of them in weak columns"

    pitch: int = 512
    weak: float = 0.25
    up: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pitch < 1:
            raise FaultError(f"{self.spec}: a row is 1 cell long or longer", "columns:1e-3,pitch=512")
        if not 0 < self.weak <= 1:
            raise FaultError(f"{self.spec}: weak columns are a share above 0, up to 1", "columns:1e-3,weak=0.25")
        if not 0 <= self.up <= 1:
            raise FaultError(f"{self.spec}: the share of flips from 0 to 1 lies between 0 and 1", "columns:1e-3,up=0.5")
        if self._highest > 1:
            most = self.rate / self._highest
            raise FaultError(f"{self.spec}: its weak columns hold {most:.2g} of such flips at the most", self._remedy)

    def _options(self) -> list[str]:
        return [f"pitch={self.pitch}", f"weak={shortest(self.weak)}", f"up={shortest(self.up)}"]

    @property
    def _remedy(self) -> str:
        """What to ask for instead of more flips than the weak columns hold."""
        needed, up = 2 * self.rate * max(self.up, 1 - self.up), f",up={shortest(self.up)}" if self.up != 0.5 else ""
        if needed > 1:
            return f"a lower rate: columns:{math.floor(5 / max(self.up, 1 - self.up)) / 10:g},weak=1{up}"
        weak = 2 * self.weak if needed <= self.weak * 1.9 else 1
        return f"a lower rate or more weak columns: columns:{shortest(self.rate)},weak={weak:g}{up}"

    @property
    def _columns(self) -> int:
        """How many of a row's columns are weak."""
        return max(1, round(self.weak * self.pitch))

    @property
    def _highest(self) -> float:
        """The probability that a weak cell flips which holds what flips more often."""
        return 2 * self.rate * max(self.up, 1 - self.up) * self.pitch / self._columns

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        eligible = np.zeros(region.layout.bits, dtype=bool)
        eligible[list(self.eligible(region))] = True
        cells = region.layout.words * region.layout.bits
        if not cells or not eligible.any():
            return NO_FAULTS
        weak = np.sort(distinct_positions(stream, self.pitch, self._columns))
        rows = -(-cells // self.pitch)
        row, which = np.divmod(bernoulli_positions(stream, rows * len(weak), self._highest), len(weak))
        chance = stream.uniform(len(row)) * max(self.up, 1 - self.up)
        cell = row * self.pitch + weak[which]
        inside = cell < cells
        words, bits = np.divmod(cell[inside], region.layout.bits)
        masks = np.left_shift(np.uint64(1), bits.astype(np.uint64))
        holds_one = (region.codes(words) & masks) != 0
        kept = eligible[bits] & (chance[inside] < np.where(holds_one, 1 - self.up, self.up))
        return combine(words[kept], masks[kept])
