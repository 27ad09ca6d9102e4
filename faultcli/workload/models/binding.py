"""Which live tensors hold a checkpoint's: a binding, found when a model is loaded.

A binding names places instead of holding views, because a model may still be moved to another device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from faultcli.live import LivePart, LiveTensor, scattered

_ATTRIBUTE = "_faultcli_binding"


@dataclass(frozen=True)
class Spot:
    """A box of a stored tensor, and where a live tensor has it. Both are counted row-major, as strides from an offset.

    Attributes:
        name: the live tensor.
        shape: of the box; dimensions may be split.
        live, live_strides: the first element in the live tensor, and the steps to the next along each dimension.
        stored, stored_strides: the same in the stored tensor; as `live.LivePart` wants them.
    """

    name: str
    shape: tuple[int, ...]
    live: int
    live_strides: tuple[int, ...]
    stored: int
    stored_strides: tuple[int, ...]

    @property
    def last(self) -> int:
        """The last element that it has in the live tensor."""
        return self.live + sum((size - 1) * step for size, step in zip(self.shape, self.live_strides, strict=True))

    def view(self, own: Tensor) -> Tensor:
        """Return the place as a view of the live tensor, which is contiguous."""
        assert own.is_contiguous()
        return own.as_strided(self.shape, self.live_strides, own.storage_offset() + self.live)

    def part(self, own: Tensor) -> LivePart:
        """Return the part that it is of the live tensor."""
        return LivePart(self.view(own), self.stored, self.stored_strides)


@dataclass(frozen=True)
class Binding:
    """Where a model has the tensors of a checkpoint.

    Attributes:
        spots: places of every tensor that the model reads, by its name in the checkpoint.
        shapes: of those tensors, as stored.
        computed: tensors that the model reads as something else than they are, so that no element has a place.
        left_out: tensors that lie beside the model's, which a note says.
        unknown: tensors that the model's library has no use for, and does not expect.
        notes: what a user may not expect, a line each.
    """

    spots: Mapping[str, tuple[Spot, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    computed: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def live(self, own: Mapping[str, Tensor]) -> dict[str, LiveTensor]:
        """Return the live tensors by their names in the checkpoint."""
        return {name: self._live(spots, self.shapes[name], own) for name, spots in self.spots.items()}

    @staticmethod
    def _live(spots: Sequence[Spot], shape: tuple[int, ...], own: Mapping[str, Tensor]) -> LiveTensor:
        if tuple(spots) == whole(spots[0].name, shape) and tuple(own[spots[0].name].shape) == shape:
            return own[spots[0].name]
        return scattered(shape, [spot.part(own[spot.name]) for spot in spots])

    def inside(self, prefix: str) -> Binding:
        """Return the binding of a module that holds the model under another name."""
        return replace(
            self,
            spots={
                name: tuple(replace(spot, name=prefix + spot.name) for spot in spots)
                for name, spots in self.spots.items()
            },
        )


def whole(name: str, shape: Sequence[int]) -> tuple[Spot, ...]:
    """Return the place of a tensor that a live one is, as it is."""
    size = prod(shape)
    return (Spot(name, (size,), 0, (1,), 0, (1,)),)


def bind(model: nn.Module, binding: Binding) -> nn.Module:
    """Let a module say where it has the tensors of the checkpoint that it was loaded from."""
    setattr(model, _ATTRIBUTE, binding)
    return model


def binding_of(model: nn.Module) -> Binding | None:
    """Return what `bind` said; None: the model's tensors are the checkpoint's, name by name."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, Binding) else None


def live_tensors(model: nn.Module) -> dict[str, LiveTensor]:
    """Return a model's tensors by their names in the checkpoint: writing into them changes the model."""
    own = own_tensors(model)
    binding = binding_of(model)
    return dict(own) if binding is None else binding.live(own)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the live tensors of a module by its own names: the very memory, and no gradient. A module may keep other
    things beside them."""
    return {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def by_storage(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, tuple[Spot, ...]]:
    """Return where live tensors lie in the memory of those that a loader was given, and so hold them as they are: under
    other names, in other shapes, or in pieces. Tensors that lie there in part only are not among them.

    Args:
        given: contiguous tensors, each in memory of its own.
        own: live tensors; of tied ones the first name counts.
    """
    memory = {tensor.untyped_storage().data_ptr(): key for key, tensor in given.items() if tensor.numel()}
    found: dict[str, dict[tuple[int, ...], Spot]] = {}
    for name, tensor in own.items():
        key = memory.get(tensor.untyped_storage().data_ptr()) if tensor.numel() else None
        if key is None or tensor.dtype != given[key].dtype:
            continue
        shape, strides = tuple(tensor.shape), tuple(tensor.stride())
        dims = sorted((d for d in range(len(shape)) if shape[d] > 1), key=lambda d: -strides[d])
        sizes, steps = tuple(shape[d] for d in dims), tuple(strides[d] for d in dims)
        if any(size * step > before for size, step, before in zip(sizes[1:], steps[1:], steps, strict=False)):
            continue
        start = int(tensor.storage_offset() - given[key].storage_offset())
        row_major = [prod(shape[dim + 1 :]) for dim in range(len(shape))]
        spot = Spot(name, sizes, 0, tuple(row_major[d] for d in dims), start, steps)
        found.setdefault(key, {}).setdefault((start, *shape, *strides), spot)
    return {
        key: tuple(spots.values())
        for key, spots in found.items()
        if sum(prod(spot.shape) for spot in spots.values()) == given[key].numel()
    }


def empty(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, tuple[Spot, ...]]:
    """Return the places of tensors without elements, which have no memory to be known by."""
    return {key: whole(key, tensor.shape) for key, tensor in given.items() if not tensor.numel() and key in own}


def own_memory(model: nn.Module, shared: Iterable[Tensor]) -> None:
    """Give a model tensors of its own, contiguous, in place of those that lie in the memory of `shared`; tied ones stay
    tied. What lies elsewhere is made contiguous."""
    others = {tensor.untyped_storage().data_ptr() for tensor in shared}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.untyped_storage().data_ptr() in others:
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        elif not tensor.is_contiguous():
            tensor.data = tensor.data.contiguous()
