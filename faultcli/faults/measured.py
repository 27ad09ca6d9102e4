"""A measured fault map as a law: the faults of one real device, not of a probability."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from faultcli.errors import FaultError, unknown_name
from faultcli.faults.law import FaultLaw, Region, Site
from faultcli.faults.maps import NO_FAULTS, FaultMap, Layout, WordFaults
from faultcli.faults.sampling import Stream

PLACES = ("fixed", "shift")
_DIGITS = 16


def is_digest(text: str) -> bool:
    """Whether this names a map by its content, and not a file."""
    return re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", text) is not None


@dataclass(frozen=True)
class Measured(FaultLaw):
    """The faults of a saved fault map. `place=fixed`: exactly those, in every trial. `place=shift`: every trial moves
    the map of each region by a random number of words, around its end, as if the model lay elsewhere in the same
    memory; what faults have to do with their neighbours is kept.

    The map has to cover all regions that the law covers, word by word. Its content, not the name of its file, is what
    makes it the same law: `spec` names it by the first digits of its SHA-256. A law that is read back from there knows
    what it is, but draws nothing.
    """

    name: ClassVar[str] = "measured"
    unit: ClassVar[str] = "file of a fault map, as `inject --save-faults` writes it"

    map: FaultMap | str = dataclasses.field(compare=False, repr=False)  # or its digest
    place: str = "fixed"
    digest: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        digest = self.map if isinstance(self.map, str) else self.map.sha256()[:_DIGITS]
        object.__setattr__(self, "digest", digest)
        if self.place not in PLACES:
            raise unknown_name("place of a measured map", self.place, PLACES)
        if self.bits is not None:
            raise FaultError(f"{self.spec}: the map says which bits flip, so it takes no bits=", "leave bits= out")

    @property
    def level(self) -> float:
        """Faulty bits per bit of the map; NaN where only its digest is known."""
        return self.map.flips / self.map.bits if isinstance(self.map, FaultMap) and self.map.bits else math.nan

    @property
    def ber(self) -> float | None:
        return self.level if 0 < self.level < 1 else None

    @property
    def repeats(self) -> bool:
        return self.place == "fixed"

    @property
    def key(self) -> str:
        return ",".join([f"{self.name}:{self.digest}", *self._options()])

    def _options(self) -> list[str]:
        return [f"place={self.place}"] if self.place != "fixed" else []

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        words, masks = self._covering(region.name, region.layout).faults.get(region.name, NO_FAULTS)
        if self.repeats or not len(words):
            return WordFaults(words, masks)
        moved = (words + stream.below(region.layout.words, 1)[0]) % region.layout.words
        order = np.argsort(moved)
        return WordFaults(moved[order], masks[order])

    def expected_flips(self, regions: Sequence[Site]) -> float | None:
        if isinstance(self.map, str):
            return None
        here = [self.map.faults[region.name].masks for region in regions if region.name in self.map.faults]
        return float(sum(int(np.bitwise_count(masks).sum()) for masks in here))

    def _covering(self, region: str, layout: Layout) -> FaultMap:
        """Return the map, if it is one and fits the region."""
        if isinstance(self.map, str):
            raise FaultError(f"{self.spec}: the fault map is known by its content only", "name its file: measured:FILE")
        drawn = self.map.layout.get(region)
        if drawn is None:
            raise FaultError(
                f"{self.spec}: the fault map says nothing of {region!r}, which is at risk",
                "narrow the law with ,include=GLOB, or the memory with --include, to what the map covers: "
                + ", ".join(self.map.layout),
            )
        if drawn != layout:
            raise FaultError(
                f"{self.spec}: {region!r} is {layout.words} words of {layout.bits} bits; the fault map has "
                f"{drawn.words} words of {drawn.bits}",
                f"the map was saved for --format {self.map.format}",
            )
        return self.map
