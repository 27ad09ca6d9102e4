"""Regions of the memory: the words of a tensor, of its scales, and of what protects them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from faultcli.faults.maps import Layout
from faultcli.formats import NumberFormat, bit_positions, scale_positions
from faultcli.protect.base import Words


@dataclass(frozen=True)
class TensorSlot:
    """The place of one tensor in the memory, whatever it holds: enough to say which bits are at risk.

    `scales_of`: the tensor whose scales these words are; None for a tensor's own words.
    """

    name: str
    shape: tuple[int, ...]
    format: NumberFormat
    scales_of: str | None = field(default=None, kw_only=True)

    @property
    def tensor(self) -> str:
        """The tensor that the region belongs to."""
        return self.scales_of or self.name

    @property
    def places(self) -> tuple[TensorSlot, ...]:
        """The tensor's words, and those of its scales that lie in the memory."""
        store, count = self.format.scale_format, self.format.scale_words(self.shape)
        return (self, TensorSlot(scales_name(self.name), (count,), store, scales_of=self.name)) if store else (self,)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def layout(self) -> Layout:
        return Layout(self.elements, self.format.bits)

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return self.format.fields

    @property
    def holds_values(self) -> bool:
        return self.scales_of is None

    def positions(self, bits: str) -> tuple[int, ...]:
        return bit_positions(self.format, bits) if self.scales_of is None else scale_positions(self.format, bits)


def scales_name(tensor: str) -> str:
    return f"{tensor}#scale"


@dataclass(frozen=True)
class CheckRegion:
    """Words of redundancy that lie in the memory beside a tensor's, and can be hit like them."""

    name: str
    tensor: str
    words: Words
    bits: int

    @property
    def layout(self) -> Layout:
        return Layout(len(self.words), self.bits)

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    @property
    def holds_values(self) -> bool:
        return False

    def positions(self, bits: str) -> tuple[int, ...]:
        return ()

    def codes(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        return self.words[words].astype(np.uint64)

    decoded = codes  # nothing protects what protects

    def encode_zero(self) -> int:
        raise TypeError(f"{self.name} holds no values")

    def encode_noisy(self, noise: NDArray[np.float64]) -> NDArray[np.uint64]:
        raise TypeError(f"{self.name} holds no values")
