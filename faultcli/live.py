"""Where a model that runs reads a stored tensor: one live tensor, or parts that are scattered over several.

Everything here is a view of live tensors: writing through it changes what the model computes next, and costs what is
written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class LivePart:
    """A box of a stored tensor, and the live elements that hold it.

    Attributes:
        view: the live elements, a view with any strides; its shape may split the dimensions of the box.
        offset, strides: `view[i, j, …]` holds the element `offset + i·strides[0] + j·strides[1] + …` of the stored
            tensor, counted row-major. Strides fall, and a dimension never reaches into the next step of the one
            before it.
    """

    view: Tensor
    offset: int
    strides: tuple[int, ...]

    def find(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of some stored elements (row-major, int64) lie in this part, bool, and where those lie in
        `view`, row-major."""
        rest = index - self.offset
        inside = rest >= 0
        where = torch.zeros_like(rest)
        for size, stride in zip(self.view.shape, self.strides, strict=True):
            place = torch.div(rest, stride, rounding_mode="floor")
            inside &= place < size
            rest = rest - place * stride
            where = where * size + place
        inside &= rest == 0
        return inside, where[inside]

    def of(self, stored: Tensor) -> Tensor:
        """Return the box of a stored tensor, contiguous, in the shape of `view`."""
        return stored.as_strided(self.view.shape, self.strides, stored.storage_offset() + self.offset)


@dataclass(frozen=True)
class Scattered:
    """A stored tensor that the model reads in parts; what is in none of them, it does not read."""

    shape: tuple[int, ...]  # of the stored tensor
    parts: tuple[LivePart, ...]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.parts[0].view.device


LiveTensor: TypeAlias = Tensor | Scattered


def as_pairs(live: LiveTensor) -> LiveTensor:
    """Return where the real and the imaginary parts of a complex tensor lie, as a tensor [..., 2] of numbers."""
    if isinstance(live, Tensor):
        return torch.view_as_real(live)
    parts = (
        LivePart(torch.view_as_real(p.view), 2 * p.offset, (*(2 * stride for stride in p.strides), 1))
        for p in live.parts
    )
    return Scattered((*live.shape, 2), tuple(parts))


def views(live: LiveTensor) -> tuple[Tensor, ...]:
    """Return the views of live tensors that hold a stored tensor."""
    return (live,) if isinstance(live, Tensor) else tuple(part.view for part in live.parts)


def places(live: LiveTensor, index: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | slice]]:
    """Yield where stored elements lie: a view, their places in it (row-major), and which of the elements those are.

    Args:
        index: elements of the stored tensor, row-major, int64, on the device of the live ones.
    """
    if isinstance(live, Tensor):
        yield live, index, slice(None)
        return
    for part in live.parts:
        inside, where = part.find(index)
        if len(where):
            yield part.view, where, inside


def fill(live: LiveTensor, stored: Tensor) -> None:
    """Copy a stored tensor to where the model reads it."""
    if isinstance(live, Tensor):
        live.copy_(stored.reshape(live.shape))
        return
    stored = stored.contiguous()
    for part in live.parts:
        part.view.copy_(part.of(stored))


def scattered(shape: Sequence[int], parts: Sequence[LivePart]) -> LiveTensor:
    """Return the live tensor that parts make; as one tensor of the stored shape if a single part is all of it."""
    if len(parts) == 1 and parts[0].view.numel() == torch.Size(shape).numel():
        try:
            return parts[0].view.view(tuple(shape))
        except RuntimeError:  # its dimensions were split and moved
            pass
    return Scattered(tuple(shape), tuple(parts))
