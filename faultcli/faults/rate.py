"""Laws whose number is the probability of each of their faults, and how bits are hit with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.errors import FaultError
from faultcli.faults.law import FaultLaw, Region
from faultcli.faults.maps import NO_FAULTS, WordFaults, combine
from faultcli.faults.sampling import Stream, bernoulli_pieces


def hits(positions: NDArray[np.int64], eligible: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Turn positions in the sequence of eligible bits (ascending) into words and one-bit masks."""
    words, which = np.divmod(positions, len(eligible))
    masks = np.left_shift(np.uint64(1), np.array(eligible, dtype=np.uint64))[which]
    return words, masks


@dataclass(frozen=True)
class RateLaw(FaultLaw):
    """A law whose number is the probability `rate` of each of its faults."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            problem = f"{self.name}:{self.rate:g}: {self.unit.partition(',')[0]} must lie between 0 and 1"
            percent = f"; if you mean {self.rate:g} %: {self.name}:{self.rate / 100:g}" if 1 < self.rate <= 100 else ""
            raise FaultError(problem, f"{self.name}:1e-4{percent}")

    @property
    def level(self) -> float:
        return self.rate

    def hit_bits(self, region: Region, stream: Stream) -> WordFaults:
        """Draw bits, each of the eligible ones with the law's probability."""
        eligible = self.eligible(region)
        if not eligible:
            return NO_FAULTS
        pieces = bernoulli_pieces(stream, region.layout.words * len(eligible), self.rate)
        # A word's bits may come in two pieces; its last bits wait for the next one.
        found, waiting = list[WordFaults](), np.empty(0, dtype=np.int64)
        for piece in pieces:
            positions = np.concatenate([waiting, piece])
            whole = int(np.searchsorted(positions, positions[-1] // len(eligible) * len(eligible))) if len(piece) else 0
            found.append(combine(*hits(positions[:whole], eligible)))
            waiting = positions[whole:]
        found.append(combine(*hits(waiting, eligible)))
        words, masks = (np.concatenate([one[part] for one in found]) for part in (0, 1))
        return WordFaults(words, masks)
