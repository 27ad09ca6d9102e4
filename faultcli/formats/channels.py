"""Output channels: which elements of a tensor share a row, whatever dimension of it they lie along."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """How the elements of a tensor fall into output channels: seen as [groups, outer, channels, inner], every pair of a
    group and a channel is an output channel, and its row is what lies along the other two, in their order.

    A linear layer [out, in] is (1, 1, out, in), the same one as [in, out] (1, in, out, 1); a transposed convolution
    [in, out/g, *kernel] in g groups is (g, in/g, out/g, kernel); experts [experts, in, out] are (experts, in, out, 1).
    """

    groups: int
    outer: int
    channels: int
    inner: int

    @classmethod
    def first(cls, shape: tuple[int, ...]) -> Channels:
        """Return the slices of the first dimension; of a tensor with fewer than two dimensions the whole."""
        if len(shape) < 2:
            return cls(1, 1, 1, math.prod(shape))
        return cls(1, 1, shape[0], math.prod(shape[1:]))

    @property
    def count(self) -> int:
        """Output channels."""
        return self.groups * self.channels

    @property
    def row(self) -> int:
        """Elements of one."""
        return self.outer * self.inner

    @property
    def elements(self) -> int:
        return self.count * self.row

    @property
    def in_order(self) -> bool:
        """Whether rows follow each other in memory."""
        return self.outer == 1 or self.channels == 1

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """As records have it."""
        groups, outer, channels, inner = astuple(self)
        return groups, outer, channels, inner

    def rows(self, values: Tensor) -> Tensor:
        """Return the elements of a tensor as [count, row]; a view where rows are in order."""
        return values.reshape(self.numbers).transpose(1, 2).reshape(self.count, self.row)

    def back(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the tensor of this shape of which these are the rows [count, row]."""
        if self.in_order:
            return rows.reshape(shape)
        return rows.reshape(self.groups, self.channels, self.outer, self.inner).transpose(1, 2).reshape(shape)

    def position(self, index: Tensor) -> Tensor:
        """Return where, counted row by row, the elements lie that have these flat positions in the tensor."""
        return index if self.in_order else _swapped(index, self.outer, self.channels, self.inner)

    def element(self, position: Tensor) -> Tensor:
        """Return the flat positions in the tensor of elements that lie here, counted row by row."""
        return position if self.in_order else _swapped(position, self.channels, self.outer, self.inner)

    def spread(self, constants: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return constants, one per channel, in a shape that broadcasts to a tensor of this one, or in that shape."""
        if self.in_order and len(shape) and self.count == shape[0]:
            return constants.view(-1, *[1] * (len(shape) - 1))
        return constants.view(self.groups, 1, self.channels, 1).expand(self.numbers).reshape(shape)


def _swapped(index: Tensor, outer: int, channels: int, inner: int) -> Tensor:
    """Return flat positions in [groups, channels, outer, inner] of those in [groups, outer, channels, inner]."""
    place = index % inner
    above = index.div(inner, rounding_mode="floor")
    channel = above % channels
    above = above.div(channels, rounding_mode="floor")
    group, row = above.div(outer, rounding_mode="floor"), above % outer
    return ((group * channels + channel) * outer + row) * inner + place


ChannelsOf: TypeAlias = Mapping[str, Channels]  # by tensor; of those that are absent the first dimension counts
