"""Which number of an array meets which element of a weight, and back: a scale and its group, a code and its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint.packed.arrays import HeldWords, HitWords, StoredNumbers, WordReader

Index = NDArray[np.int64]


class Spread(Protocol):
    """Elements are flat positions in a grid [rows, cols], numbers flat positions in an array."""

    @property
    def tensors(self) -> dict[str, str]:
        """Tensors of the file that say what belongs where, with their roles."""

    def numbers(self, memory: WordReader, elements: Index) -> Index:
        """Return the number of every element; −1: there is none."""

    def expand(self, memory: WordReader, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return an array's numbers as they meet the whole grid, and where there are none; None: nowhere."""

    def elements(self, held: HeldWords, numbers: Index) -> Index:
        """Return the elements of numbers, in any order."""

    def touched(self, hit: HitWords) -> Index:
        """Return the elements that belong to another number."""


@dataclass(frozen=True)
class Blocks:
    """One number for every block of `height` times `width` elements of a grid [rows, cols]; the last ones may be
    smaller. `across`: the array is [blocks across, blocks down], in place of [down, across]."""

    rows: int
    cols: int
    height: int = 1
    width: int = 1
    across: bool = False

    @property
    def tensors(self) -> dict[str, str]:
        return {}

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array."""
        down, across = -(-self.rows // self.height), -(-self.cols // self.width)
        return (across, down) if self.across else (down, across)

    def numbers(self, memory: WordReader, elements: Index) -> Index:
        row, col = np.divmod(elements, self.cols)
        down, across = row // self.height, col // self.width
        first, second = (across, down) if self.across else (down, across)
        found: Index = first * self.shape[1] + second
        return found

    def expand(self, memory: WordReader, numbers: Tensor) -> tuple[Tensor, None]:
        whole = numbers.view(self.shape)
        whole = whole.T if self.across else whole
        for axis, block, count in ((0, self.height, self.rows), (1, self.width, self.cols)):
            if whole.shape[axis] > 1 and block > 1:
                whole = whole.repeat_interleave(block, dim=axis).narrow(axis, 0, count)
        return whole, None

    def elements(self, held: HeldWords, numbers: Index) -> Index:
        down, across = np.divmod(numbers, self.shape[1])
        if self.across:
            down, across = across, down
        row = down[:, None] * self.height + np.arange(min(self.height, self.rows))
        col = across[:, None] * self.width + np.arange(min(self.width, self.cols))
        kept = (row < self.rows)[:, :, None] & (col < self.cols)[:, None, :]
        found: Index = (row[:, :, None] * self.cols + col[:, None, :])[kept]
        return found

    def touched(self, hit: HitWords) -> Index:
        return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class ByColumn:
    """The array's row that an index in the file names for every column of the grid; the array is [groups, rows], or
    [rows, groups] where it is not `across`. As in torch, −1 is the last group; what is beyond them is none."""

    rows: int
    groups: int
    index: StoredNumbers  # [1, columns of the grid]
    across: bool = True

    @property
    def tensors(self) -> dict[str, str]:
        return self.index.tensors

    def _number(self, row: Index, group: Index) -> Index:
        return np.where(group < 0, -1, group * self.rows + row if self.across else row * self.groups + group)

    def numbers(self, memory: WordReader, elements: Index) -> Index:
        row, col = np.divmod(elements, self.index.cols)
        return self._number(row, self._groups(self.index.at(memory, col)))

    def expand(self, memory: WordReader, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        group = torch.from_numpy(self._groups(self.index.all(memory).view(-1)))
        by_row = numbers.view(self.groups, self.rows).T if self.across else numbers.view(self.rows, self.groups)
        none = group < 0
        return by_row[:, group.clamp(min=0)], none.expand(self.rows, -1) if bool(none.any()) else None

    def elements(self, held: HeldWords, numbers: Index) -> Index:
        group, row = np.divmod(numbers, self.rows) if self.across else np.divmod(numbers, self.groups)[::-1]
        order, start = self._by_group(held)
        count = start[group + 1] - start[group]
        first = np.repeat(start[group] - np.cumsum(count) + count, count)
        cols = order[first + np.arange(count.sum())]
        found: Index = np.repeat(row, count) * self.index.cols + cols
        return found

    def touched(self, hit: HitWords) -> Index:
        cols = self.index.touched(hit)
        return (np.arange(self.rows)[:, None] * self.index.cols + cols).reshape(-1)

    def _groups(self, index: Tensor) -> Index:
        found = index.numpy().astype(np.int64)
        found = np.where(found < 0, found + self.groups, found)
        return np.where((found < 0) | (found >= self.groups), -1, found)

    def _by_group(self, held: HeldWords) -> tuple[Index, Index]:
        return held.by_number(self.index.tensor, lambda: self._groups(self.index.all(held).view(-1)), self.groups)


@dataclass(frozen=True)
class ByCode:
    """The number that an element's own code names, in a table."""

    code: StoredNumbers  # as the grid
    size: int  # of the table

    @property
    def tensors(self) -> dict[str, str]:
        return self.code.tensors

    def numbers(self, memory: WordReader, elements: Index) -> Index:
        return self.code.at(memory, elements).numpy().astype(np.int64)

    def expand(self, memory: WordReader, numbers: Tensor) -> tuple[Tensor, None]:
        return numbers.view(-1)[self.code.all(memory).long()], None

    def elements(self, held: HeldWords, numbers: Index) -> Index:
        order, start = held.by_number(
            self.code.tensor, lambda: self.code.all(held).view(-1).numpy().astype(np.int64), self.size
        )
        return np.concatenate([order[start[n] : start[n + 1]] for n in numbers])

    def touched(self, hit: HitWords) -> Index:
        return self.code.touched(hit)
