"""What a fault law is, and what it is drawn over."""

from __future__ import annotations

import dataclasses
import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from faultcli.faults.maps import Layout, WordFaults
from faultcli.faults.sampling import Stream


class Site(Protocol):
    """Where faults can hit, without what is stored there."""

    @property
    def name(self) -> str:
        """The tensor's name; check words add `#` and the protection's name, scales `#scale`."""

    @property
    def tensor(self) -> str:
        """The name of the tensor that the words belong to."""

    @property
    def layout(self) -> Layout:
        """Number of words and bits per word."""

    @property
    def holds_values(self) -> bool:
        """Whether the words encode weights (and not check bits or scales)."""

    def positions(self, bits: str) -> tuple[int, ...]:
        """Bit positions that a bit specification such as `exponent` or `0-7` stands for, ascending."""


class Region(Site, Protocol):
    """Stored words that faults can hit: the words of one tensor, its scales, or the check words that protect them."""

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        """Named groups of bit positions, as `NumberFormat.fields`; none in check words."""

    def codes(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        """The fault-free words at these positions."""

    def decoded(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        """The same as they leave error correction: without parity in their low bits."""

    def encode_zero(self) -> int:
        """The word that stands for the number 0."""

    def encode_noisy(self, noise: NDArray[np.float64]) -> NDArray[np.uint64]:
        """All words, as they leave error correction, after `noise` (one number each) was added to their values."""


@dataclass(frozen=True)
class FaultLaw(ABC):
    """A law that faults follow, with what it is narrowed to.

    `include`: only regions whose tensor name matches one of these globs (none: all). `bits`: only these bit positions
    of every word, as in `faultcli.formats.bits` (None: all).
    """

    name: ClassVar[str]
    unit: ClassVar[str]  # what the number behind the colon means, for help and tables
    on_values: ClassVar[bool] = False  # whether it hits weights, as they leave error correction, and no stored bits

    include: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    bits: str | None = dataclasses.field(default=None, kw_only=True)

    @property
    @abstractmethod
    def level(self) -> float:
        """The number behind the colon."""

    @property
    def spec(self) -> str:
        """The law as it is written on the command line; equal laws have equal specs."""
        return ",".join([self.key, *(f"include={glob}" for glob in self.include)])

    @property
    def key(self) -> str:
        """The law without the regions it is narrowed to: what the faults within one region depend on."""
        bits = [f"bits={self.bits}"] if self.bits is not None else []
        return ",".join([f"{self.name}:{shortest(self.level)}", *self._options(), *bits])

    def _options(self) -> list[str]:
        return []

    @abstractmethod
    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        """Draw the faults of one region.

        Args:
            region: the words at risk.
            stream: random numbers that belong to this region, law and trial.
            quota: for laws with a fixed number of faults, how many fall here.
        """

    def quotas(self, sites: Mapping[str, int], stream_of: StreamOf) -> Mapping[str, int] | None:
        """Share a fixed number of faults out over regions with `sites` eligible bits each; None: every region draws
        for itself."""
        return None

    @property
    def ber(self) -> float | None:
        """The bit-error rate that a reader of the memory has to reckon with; None where the law is no such rate."""
        return None

    @property
    def repeats(self) -> bool:
        """Whether every trial has the same faults, so that one trial says everything."""
        return False

    def covers(self, region: Site) -> bool:
        """Whether the law can hit this region."""
        return not self.include or any(fnmatch.fnmatchcase(region.tensor, glob) for glob in self.include)

    def eligible(self, region: Site) -> tuple[int, ...]:
        """Bit positions of a word that the law can hit. Without `bits` all of every word; `bits` names positions in the
        words of weights, or of their scales, and none of check words."""
        return tuple(range(region.layout.bits)) if self.bits is None else region.positions(self.bits)

    def expected_flips(self, regions: Sequence[Site]) -> float | None:
        """Expected number of hit bits per trial over `regions`; None where it depends on what the words hold."""
        return None


def shortest(number: float) -> str:
    """Write a number in as few characters as give it back exactly: 1e-05, 0.0001, 3."""
    brief = f"{number:g}"
    return brief if float(brief) == number else repr(number)


class StreamOf(Protocol):
    """Gives the stream of one region, for one purpose."""

    def __call__(self, region_name: str, purpose: str, /) -> Stream: ...
