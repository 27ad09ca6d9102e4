"""What more flips make a stored tensor read: of all its bits at once, where no two of them meet in a block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.faults.maps import NO_FAULTS, WordFaults, combine
from faultcli.formats import Channels, ScaledFormat, from_words
from faultcli.memory import TensorInMemory
from faultcli.protect.arranged import ArrangedTensor
from faultcli.protect.base import Fitted
from faultcli.protect.protected_tensor import StoredTensor

Faults = Mapping[str, WordFaults]  # by region


class StoredBit(NamedTuple):
    """A stored bit: of a word of a region; bit 0 is the least significant."""

    region: str
    word: int
    bit: int


def with_sites(faults: Faults, sites: tuple[StoredBit, ...]) -> dict[str, WordFaults]:
    """Return faults with more flips; a bit that flips twice is as it was."""
    for site in sites:
        faults = with_flips(faults, site.region, np.array([site.word]), np.array([1 << site.bit], dtype=np.uint64))
    return dict(faults)


def with_flips(
    faults: Faults, region: str, words: NDArray[np.int64], masks: NDArray[np.uint64]
) -> dict[str, WordFaults]:
    """Return faults with more flips in a region: words [n], in any order, repeats allowed, and their masks [n]."""
    known = faults.get(region, NO_FAULTS)
    words, masks = np.concatenate([known.words, words]), np.concatenate([known.masks, masks])
    order = np.argsort(words, kind="stable")
    joined = combine(words[order], masks[order])
    others = {name: own for name, own in faults.items() if name != region}
    return {**others, region: joined} if len(joined.words) else others


@dataclass(frozen=True)
class BlockRegion:
    """A region of the memory of a tensor, as blocks of words that are read together.

    `step`: words of it in a block. `corrected`: one flip in a block is corrected. `block_of`: int64 [elements], the
    block that an element is read from; None: each is read from the word of its own number.
    """

    name: str
    words: int
    bits: int
    step: int
    corrected: bool
    block_of: Tensor | None


class Reading:
    """A stored tensor, and what it reads as with faults. Elements are counted as they lie in the memory.

    Args:
        name: for messages.
        tensor: in a number format.
        dtype: of the weights.

    Attributes:
        clean: what it reads without faults, float32 or wider, flat.
        largest: of its magnitudes, those that are finite.
        group: elements that are read together.
        corrected: one flip of a group is corrected.
        checked: its words are not read just as they are.

    Raises:
        UsageError: it is a quantised weight, whose words are codes of a layout of its own.
    """

    def __init__(self, name: str, tensor: TensorInMemory, dtype: torch.dtype) -> None:
        self.channels: Channels | None = tensor.channels if isinstance(tensor, ArrangedTensor) else None
        own = tensor.rows if isinstance(tensor, ArrangedTensor) else tensor
        if not isinstance(own, StoredTensor):
            raise UsageError(
                f"tensor {name!r} is quantised in the file; the worst flips are looked for in number formats",
                "name the checkpoint that it was made of, with --format int4-g128 or the like",
            )
        self.stored, self.dtype = own, dtype
        self.shape = tuple(tensor.shape) if isinstance(tensor, ArrangedTensor) else own.shape
        self.clean = self._numbers(self.stored.read()).reshape(-1)
        self.largest = float(self.clean.abs().nan_to_num(0.0, 0.0, 0.0).max()) if len(self.clean) else 0.0
        self.group = math.lcm(*(1, *(link.block for link in self.stored.links)))
        self.corrected = _corrects(own)
        self.checked = any(type(link).read_words is not Fitted.read_words for link in own.links)

    def _numbers(self, values: Tensor) -> Tensor:
        numbers = from_words(values, self.dtype)
        return numbers if numbers.dtype == torch.float64 else numbers.float()

    def in_order(self, values: Tensor) -> Tensor:
        """Return numbers of the tensor's elements, in its shape, flat and as they lie in the memory."""
        return (values if self.channels is None else self.channels.rows(values)).reshape(-1)

    def place(self, element: int) -> tuple[int, ...]:
        """Return the index in the checkpoint's tensor of an element."""
        flat = element if self.channels is None else int(self.channels.element(torch.tensor([element])))
        return tuple(int(i) for i in np.unravel_index(flat, self.shape)) if self.shape else ()

    def sparse(self, faults: Faults, *, on_values: bool = False) -> tuple[Tensor, Tensor]:
        """Return the elements that faults change, int64 [n], and what they read."""
        read = self.stored.faulty(faults, on_values=on_values)
        return read.index, self._numbers(read.values)

    def read(self, faults: Faults, *, on_values: bool = False) -> Tensor:
        """Return what all elements read, flat; costs O(elements)."""
        index, values = self.sparse(faults, on_values=on_values)
        return self.clean.index_copy(0, index, values) if len(index) else self.clean

    def own(self, faults: Faults) -> Faults:
        """Return those faults that are in this tensor's regions."""
        return {region.name: faults[region.name] for region in self.stored.regions if region.name in faults}

    def regions(self) -> Iterator[BlockRegion]:
        """Yield everything of the tensor that can be hit, but words that only complete the last block."""
        elements = torch.arange(self.stored.elements)
        block_of = None if self.group == 1 else elements // self.group
        yield from _regions_of(self.stored, self.group, block_of)
        if (scales := self.stored.scales) is not None:
            assert isinstance(self.stored.format, ScaledFormat)
            group = math.lcm(*(1, *(link.block for link in scales.links)))
            yield from _regions_of(scales, group, self.stored.format.group_of(elements) // group)


def _regions_of(stored: StoredTensor, group: int, block_of: Tensor | None) -> Iterator[BlockRegion]:
    corrected = _corrects(stored)
    for region in stored.regions:
        words, bits = region.layout
        if region is stored:
            yield BlockRegion(region.name, words, bits, group, corrected, block_of)
        for link, name in zip(stored.links, stored.names, strict=True):
            if link.per_block and region.name == f"{stored.name}#{name}":
                step = group // link.block * link.per_block
                own = torch.arange(stored.elements) if block_of is None else block_of
                yield BlockRegion(region.name, words, bits, step, corrected, own)


def _corrects(stored: StoredTensor) -> bool:
    return any(link.block_failure(0.0) is not None for link in stored.links)
