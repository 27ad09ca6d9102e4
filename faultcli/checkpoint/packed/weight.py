"""One weight that lies in a file as codes, scales, zero points and indices: decoded whole, or where faults touch it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint.packed.arrays import HitWords, WordReader, differing
from faultcli.checkpoint.packed.spread import Index, Spread

Formula = Callable[[Mapping[str, Tensor], torch.dtype], Tensor]


class Array(Protocol):
    """Numbers that come out of the file's words."""

    @property
    def tensors(self) -> dict[str, str]:
        """The tensors of the file that they come from, with their roles."""

    def all(self, memory: WordReader) -> Tensor:
        """Return all numbers."""

    def at(self, memory: WordReader, index: NDArray[np.int64]) -> Tensor:
        """Return the numbers at flat positions [n]."""

    def touched(self, hit: HitWords) -> NDArray[np.int64]:
        """Return the flat positions of the numbers that read otherwise, ascending."""


class Operand(NamedTuple):
    """What a formula is given: an array, and which of its numbers meets which element."""

    array: Array
    spread: Spread


@dataclass(frozen=True)
class Computed:
    """A grid [rows, cols] of numbers, each by a formula of one number of every operand.

    `formula`: takes the operands by name, as they meet the elements, and the dtype that the model computes in; it works
    element by element, whatever the shape. `dtype`: what is computed in where nobody says otherwise.
    """

    rows: int
    cols: int
    operands: Mapping[str, Operand]
    formula: Formula
    dtype: torch.dtype = torch.float32

    @property
    def tensors(self) -> dict[str, str]:
        """The tensors of the file that it comes from, with their roles."""
        found: dict[str, str] = {}
        for array, spread in self.operands.values():
            found |= array.tensors | spread.tensors
        return found

    def all(self, memory: WordReader, dtype: torch.dtype | None = None) -> Tensor:
        """Return all numbers, [rows, cols]."""
        met, nowhere = {}, []
        for name, (array, spread) in self.operands.items():
            met[name], none = spread.expand(memory, array.all(memory))
            nowhere += [] if none is None else [none]
        values = self.formula(met, dtype or self.dtype).expand(self.rows, self.cols)
        for none in nowhere:
            values = values.masked_fill(none, math.nan)
        return values

    def at(self, memory: WordReader, index: NDArray[np.int64], dtype: torch.dtype | None = None) -> Tensor:
        """Return the numbers at flat positions [n]."""
        met, nowhere = {}, []
        for name, (array, spread) in self.operands.items():
            numbers = spread.numbers(memory, index)
            if len(numbers) and numbers.min() < 0:
                nowhere.append(torch.from_numpy(numbers < 0))
                numbers = numbers.clip(min=0)
            met[name] = array.at(memory, numbers)
        values = self.formula(met, dtype or self.dtype)
        for none in nowhere:
            values = values.masked_fill(none, math.nan)
        return values

    def touched(self, hit: HitWords, dtype: torch.dtype | None = None) -> NDArray[np.int64]:
        """Return the flat positions of the numbers that read otherwise, ascending."""
        near = self.near(hit)
        return near[differing(self.at(hit.held, near, dtype), self.at(hit, near, dtype))]

    def near(self, hit: HitWords) -> Index:
        """Return the elements of which an operand reads otherwise, ascending."""
        found: list[Index] = []
        for array, spread in self.operands.values():
            numbers = array.touched(hit)
            if len(numbers):
                found.append(spread.elements(hit.held, numbers))
            found.append(spread.touched(hit))
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class PackedWeight:
    """A weight of a model.

    `name`, `shape`: as the model has it. `grid`: what it comes from. `turned`: the shape is [matrices, across, down],
    each the transpose of what the grid has.
    """

    name: str
    shape: tuple[int, ...]
    grid: Computed
    turned: bool = False
    roles: Mapping[str, str] = field(init=False)  # of the tensors of the file that it is made of

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", self.grid.tensors)

    def decode(self, memory: WordReader, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight as a model reads it that computes in `dtype`; None: in the dtype that its library has."""
        values = self.grid.all(memory, dtype)
        if self.turned:
            matrices, across, down = self.shape
            values = values.reshape(matrices, down, across).transpose(1, 2)
        return _read_as(values, dtype).reshape(self.shape).contiguous()

    def touched(self, hit: HitWords, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return where the weight reads otherwise once words are hit, as ascending flat positions, and what it reads
        there: where `decode` of all the hit words differs, in O(what the words touch)."""
        near = self.grid.near(hit)
        before, after = self.grid.at(hit.held, near, dtype), self.grid.at(hit, near, dtype)
        before, after = _read_as(before, dtype), _read_as(after, dtype)
        kept = differing(before, after)
        index, values = self._place(near[kept]), after[torch.from_numpy(kept)]
        if self.turned:
            order = np.argsort(index)
            index, values = index[order], values[torch.from_numpy(order)]
        return torch.from_numpy(index), values

    def _place(self, element: Index) -> Index:
        if not self.turned:
            return element
        _, across, down = self.shape
        matrix, rest = np.divmod(element, across * down)
        row, col = np.divmod(rest, across)
        place: Index = matrix * across * down + col * down + row
        return place


def _read_as(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return values in the model's dtype. All NaN are one: their bits depend on how many are computed at once."""
    found = values.to(dtype or values.dtype)
    return found.masked_fill(found.isnan(), math.nan)
