"""Tensors that a network ties together, and a checkpoint that holds them twice: then they are two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy

from torch import Tensor, nn

from faultcli.workload.models.binding import own_tensors

Pair = tuple[str, str]


def stored_twice(own: Mapping[str, Tensor], filled: Collection[str]) -> list[Pair]:
    """Return names of live tensors that are the very same memory and are both filled, the first of each with every
    other."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    pairs = []
    for name, tensor in own.items():
        if name in filled and tensor.numel():
            one = first.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
            if one != name:
                pairs.append((one, name))
    return pairs


def untied(model: nn.Module, pairs: Sequence[Pair]) -> None:
    """Give the second of each pair memory of its own. A module that stands in two places becomes two."""
    for _, name in pairs:
        _separate(model, registered(model, name))


def registered(model: nn.Module, name: str) -> str:
    """Return the name under which a module has what its `state_dict` calls `name`: it may give the names of what it
    wraps."""
    return beginning(model) + name


def beginning(model: nn.Module) -> str:
    """Return what names begin with in a module besides what its `state_dict` says."""
    said, names = own_tensors(model), nn.Module.state_dict(model)
    for name, tensor in said.items():
        if name in names:
            return ""
        for other, own in names.items():
            if other.endswith(f".{name}") and isinstance(own, Tensor) and own.data_ptr() == tensor.data_ptr():
                return other[: -len(name)]
    return ""


def _separate(model: nn.Module, name: str) -> None:
    *path, leaf = name.split(".")
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    module = model
    for part in path:
        child = module.get_submodule(part)
        if places[id(child)] > 1:
            child = deepcopy(child)
            setattr(module, part, child)
        module = child
    tensor = getattr(module, leaf)
    copy = tensor.detach().clone()
    setattr(module, leaf, nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy)
