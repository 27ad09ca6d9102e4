"""Networks that are described by somebody else's file are built no further than the checkpoint's tensors reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn

Shapes = Mapping[str, Sequence[int]]

_SLACK_TENSORS, _SLACK_ELEMENTS = 2000, 1 << 24  # that a model may have beyond those of the file: ties, buffers, masks
_TIMES = 3  # as many elements as the file: an embedding may be tied, and counted twice


class TooMuch(BaseException):
    """Ends a build half-way; not an Exception, so that no model's own code takes it for one of its own."""


@contextmanager
def without_memory(shapes: Shapes, device: str = "meta") -> Iterator[None]:
    """Build on the meta device, for the length of a `with` block; or on another one, still not without bound.

    Raises:
        TooMuch: modules get far more tensors, or values, than a checkpoint of these shapes holds.
    """
    tensors = _TIMES * len(shapes) + _SLACK_TENSORS
    elements = _TIMES * values_of(shapes) + _SLACK_ELEMENTS
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no other gets its id

    def count(module: nn.Module, key: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        seen[id(tensor)] = tensor.numel()
        kept.append(tensor)
        if len(kept) > tensors or sum(seen.values()) > elements:
            raise TooMuch

    hooks = nn.modules.module
    watching = (
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    )
    try:
        with torch.device(device), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for handle in watching:
            handle.remove()


def values_of(shapes: Shapes) -> int:
    """Return how many values tensors of these shapes hold."""
    return sum(prod(shape) for shape in shapes.values())
