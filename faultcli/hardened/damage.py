"""The words of a hardened file under faults: the bits that a campaign of the same seed and trial would hit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import TensorInfo
from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw, Region
from faultcli.faults.maps import FaultMap, Layout, WordFaults
from faultcli.formats import NumberFormat, bit_positions, scale_positions
from faultcli.hardened.layout import flip, from_bytes
from faultcli.hardened.read import Hardened
from faultcli.hardened.slot import Slot
from faultcli.injection import FileMemory
from faultcli.protect.base import Words


@dataclass(frozen=True)
class _Place:
    """A region of a hardened file. `format`: of values or scales, which laws look at; None of check words."""

    name: str
    tensor: str
    layout: Layout
    format: NumberFormat | None
    holds_values: bool

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return self.format.fields if self.format else {}

    def positions(self, bits: str) -> tuple[int, ...]:
        if self.format is None:
            return ()
        return bit_positions(self.format, bits) if self.holds_values else scale_positions(self.format, bits)


@dataclass(frozen=True)
class _Filled(_Place):
    """A region with its words."""

    words: Words

    def codes(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        return self.words[words].astype(np.uint64)

    def decoded(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        raise TypeError(f"{self.name}: laws on values are refused before")

    def encode_zero(self) -> int:
        raise TypeError(f"{self.name}: laws on values are refused before")

    def encode_noisy(self, noise: NDArray[np.float64]) -> NDArray[np.uint64]:
        raise TypeError(f"{self.name}: laws on values are refused before")


class HardenedMemory(FileMemory):
    """The memory that a hardened file is.

    Args:
        hardened: the file.
        names: the tensors at risk.
    """

    def __init__(self, hardened: Hardened, names: Sequence[str]) -> None:
        self.hardened, self._names = hardened, names
        self.checkpoint, self.format = hardened.checkpoint, hardened.format

    @property
    def sites(self) -> Sequence[_Place]:
        return list(self._places.values())

    @cached_property
    def _places(self) -> dict[str, _Place]:
        slots = (self.hardened.slots[name] for name in self._names)
        return {place.name: place for slot in slots for place in _places(slot, slot.name)}

    @property
    def names(self) -> Sequence[str]:
        return list(self._places)

    @property
    def slots(self) -> Sequence[str]:
        """The tensors at risk, whose words and check words these are."""
        return self._names

    def tensor_of(self, region: str) -> str:
        """Return the tensor that a region belongs to."""
        return self._places[region].tensor

    @property
    def restorable(self) -> bool:
        return True

    def check_law(self, law: FaultLaw) -> None:
        if law.on_values:
            raise UsageError(
                f"{law.spec}: changes values as they are read; {self.checkpoint.path} is hardened and holds words",
                "flip bits: --ber P, --fault flips:K, stuck-at-0:P or burst:P; campaigns on the file take this law",
            )

    def corrupt(
        self, info: TensorInfo, data: NDArray[np.uint8], faults_of: Callable[[Region], WordFaults]
    ) -> dict[str, WordFaults]:
        place = self._places[info.name]
        faults = faults_of(_Filled(**vars(place), words=from_bytes(data, place.layout)))
        flip(data, faults, place.layout.bits)
        return {info.name: faults}

    def values_changed(self, faults: Mapping[str, WordFaults]) -> int:
        hit = dict.fromkeys(self._places[region].tensor for region in faults)
        return sum(len(self.hardened.stored(name).faulty(faults).index) for name in hit)


def memory_of_map(hardened: Hardened | None, faults: FaultMap) -> HardenedMemory | None:
    """Return the memory of a hardened file that a fault map was drawn over; None if it is one of the file's words as
    they lie there, packed ones as bytes."""
    if hardened is None or any(hardened.regions.get(name) != layout for name, layout in faults.layout.items()):
        return None
    covered = [name for name, slot in hardened.slots.items() if faults.layout.keys() & slot.regions.keys()]
    return HardenedMemory(hardened, covered)


def _places(slot: Slot, tensor: str) -> list[_Place]:
    own = slot.name == tensor
    scales = slot.scales
    inner = scales.regions if scales else {}
    found = [
        _Place(region, tensor, layout, slot.law_format if region == slot.name else None, own and region == slot.name)
        for region, layout in slot.regions.items()
        if region not in inner
    ]
    return found + (_places(scales, tensor) if scales else [])
