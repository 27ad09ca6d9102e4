"""Output channels: which elements of a tensor share a row, whatever dimension of it they lie along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """How the elements of a tensor fall into output channels: seen as [groups, outer, channels, inner], every pair of a
    group and a channel is an output channel, and its row is what lies along the other two, in their order.

    A linear layer that is kept as [in, out] is (1, in, out, 1); a transposed convolution [in, out/g, *kernel] in g
    groups (g, in/g, out/g, kernel); experts [experts, in, out] are (experts, in, out, 1).
    """

    groups: int
    outer: int
    channels: int
    inner: int

    @property
    def count(self) -> int:
        """Output channels."""
        return self.groups * self.channels

    @property
    def row(self) -> int:
        """Elements of one."""
        return self.outer * self.inner

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix of its rows."""
        return self.count, self.row

    @property
    def elements(self) -> int:
        return self.count * self.row

    @property
    def in_order(self) -> bool:
        """Whether rows follow each other in the tensor."""
        return self.outer == 1 or self.channels == 1

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """As records have it."""
        groups, outer, channels, inner = astuple(self)
        return groups, outer, channels, inner

    def rows(self, values: Tensor) -> Tensor:
        """Return the elements of a tensor as [count, row], contiguous; a view where rows are in order."""
        return values.reshape(self.numbers).transpose(1, 2).reshape(self.count, self.row).contiguous()

    def back(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the tensor of this shape, contiguous, of which these are the rows [count, row]; a view where they are
        in order."""
        apart = rows.reshape(self.groups, self.channels, self.outer, self.inner)
        return apart.transpose(1, 2).reshape(shape).contiguous()

    def element(self, position: Tensor) -> Tensor:
        """Return the flat positions in the tensor of elements that lie here, counted row by row."""
        if self.in_order:
            return position
        inner, above = position % self.inner, position // self.inner
        outer, above = above % self.outer, above // self.outer
        channel, group = above % self.channels, above // self.channels
        return ((group * self.outer + outer) * self.channels + channel) * self.inner + inner

    def views(self, values: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield views [channels, outer, inner] of a contiguous tensor, a group each, and which channels they are."""
        for number, group in enumerate(values.view(self.numbers)):
            yield slice(number * self.channels, (number + 1) * self.channels), group.transpose(0, 1)


ChannelsOf: TypeAlias = Mapping[str, Channels]  # by tensor; of those that are absent the first dimension counts


class ByRows(Mapping[str, Tensor]):
    """Tensors by name, those whose channels are known as the rows of these, made when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], channels: ChannelsOf) -> None:
        self._tensors, self._channels = tensors, channels

    def __getitem__(self, name: str) -> Tensor:
        own = self._channels.get(name)
        return self._tensors[name] if own is None else own.rows(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
