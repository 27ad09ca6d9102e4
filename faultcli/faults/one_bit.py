"""What the trials of `faultcli where` follow: one named bit each, or the flips of one layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from faultcli.errors import FaultError
from faultcli.faults.law import FaultLaw, Region, shortest
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


@dataclass(frozen=True)
class EachLayer(FaultLaw):
    """Every bit of one tensor, its check words included, flips with probability `rate`, of another tensor in each
    trial. It stands for all trials of an arm; `BitFlip` with the name of a tensor is the law of one."""

    name: ClassVar[str] = "bitflip"
    unit: ClassVar[str] = "probability that a bit of the layer flips"
    ending: ClassVar[str] = ",each=layer"

    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise FaultError(f"--fault bitflip:{self.rate:g}: a rate is above 0 and at most 1", "try: bitflip:1e-4")

    @property
    def level(self) -> float:
        return self.rate

    @property
    def key(self) -> str:
        return f"{self.name}:{shortest(self.rate)}{self.ending}"

    @property
    def ber(self) -> float | None:
        return self.rate

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        raise FaultError(f"{self.spec}: names no layer", "try: --fault bitflip:P,include=GLOB")


BY_STRATA = (AnyBit, EachLayer)  # whose trials are not drawn evenly from all faults
