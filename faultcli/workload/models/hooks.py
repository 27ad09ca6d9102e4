"""What a module's own `load_state_dict` makes of names and layouts that it no longer has: those of older releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faultcli.workload.models.binding import Spot, own_tensors, whole
from faultcli.workload.models.rearranged import holds, rearranged
from faultcli.workload.models.ties import beginning


@dataclass(frozen=True)
class Hooked:
    """What a module's own loading did.

    Attributes:
        places: of the tensors that it took under other names or in other shapes, as `rearranged` gives them.
        missing: live tensors that it had nothing for.
    """

    places: Mapping[str, tuple[Spot, ...] | None]
    missing: frozenset[str]


def through_hooks(model: nn.Module, given: Mapping[str, Tensor], again: Callable[[], nn.Module]) -> Hooked:
    """Load a module by its own `load_state_dict`, and find what it renamed or moved.

    Args:
        model: filled with what fits.
        given: tensors by the names that `model.state_dict` has, or had.
        again: makes another such module.
    """
    own = own_tensors(model)
    start = beginning(model)
    try:
        found = nn.Module.load_state_dict(model, {start + name: t for name, t in given.items()}, strict=False)
    except RuntimeError:  # tensors of another shape
        return Hooked({}, frozenset(own.keys() - given.keys()))
    unexpected = {name.removeprefix(start) for name in found.unexpected_keys}
    missing = frozenset(name.removeprefix(start) for name in found.missing_keys)
    taken = {
        name: tensor
        for name, tensor in given.items()
        if name not in unexpected
        and not (name in own and own[name].shape == tensor.shape and holds(whole(name, tensor.shape), tensor, own))
    }
    if not taken:
        return Hooked({}, missing)
    probe = again()

    def load(codes: dict[str, Tensor]) -> dict[str, Tensor]:
        probe.to(next(iter(codes.values())).dtype)
        with torch.no_grad():
            for tensor in (*probe.parameters(), *probe.buffers()):
                tensor.zero_()
            nn.Module.load_state_dict(probe, {start + name: code for name, code in codes.items()}, strict=False)
        return own_tensors(probe)

    return Hooked(rearranged(taken, own, load), missing)
