"""One named bit: the trials of `faultcli where`, each of which flips the bit that its number stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from faultcli.errors import FaultError
from faultcli.faults.law import FaultLaw, Region
from faultcli.faults.maps import NO_FAULTS, WordFaults
from faultcli.faults.sampling import Stream


@dataclass(frozen=True)
class AnyBit(FaultLaw):
    """One bit flips, another one in each trial. It stands for all trials of an arm; `OneBit` is the law of one."""

    name: ClassVar[str] = "bit"
    unit: ClassVar[str] = "any"
    spelling: ClassVar[str] = "bit:any"

    @property
    def level(self) -> float:
        return math.nan

    @property
    def key(self) -> str:
        return self.spelling

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        raise FaultError(f"{self.spec}: names no bit", "try: flips:1, or faultcli where for layers and bits")


@dataclass(frozen=True)
class OneBit(FaultLaw):
    """Bit `bit` (0 is the least significant) of word `word` of the region `region` flips."""

    name: ClassVar[str] = "bit"
    unit: ClassVar[str] = "one"

    region: str
    word: int
    bit: int

    @property
    def level(self) -> float:
        return 1.0

    @property
    def key(self) -> str:
        return f"{self.name}:{self.region}:{self.word}:{self.bit}"

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        if region.name != self.region:
            return NO_FAULTS
        return WordFaults(np.array([self.word], dtype=np.int64), np.array([1 << self.bit], dtype=np.uint64))
