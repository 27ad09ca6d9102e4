"""A state dict into a module that is ready for inference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.live import fill
from faultcli.workload.models.architectures import IGNORED_SUFFIX, Architecture
from faultcli.workload.models.binding import Binding, bind, own_tensors, whole
from faultcli.workload.models.hooks import through_hooks
from faultcli.workload.models.prefixes import fit
from faultcli.workload.models.ties import stored_twice, untied

_SHOWN = 3  # how many of a kind an error lists


def load_model(architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the module of `architecture` and fill it with `state`.

    The module is in eval mode, needs no gradients, keeps the dtypes it was built with (float32 for all built-ins;
    narrower floating-point tensors are widened) and owns contiguous tensors: `state` is copied, never aliased. The
    global random generator is left as it was. An architecture with a `load` of its own decides the dtypes itself.
    Where the module has the tensors of `state` is bound to it (`binding.binding_of`).

    Keys and shapes have to match exactly, with these exceptions: all keys may begin with something else than in the
    module (`prefixes.fit`); older names that the module's own `load_state_dict` takes are taken (`hooks`); batch norm's
    `num_batches_tracked` may be missing or left over; and of parameters that the module ties together one name is
    enough. If both are there, they are two.

    Raises:
        WorkloadError: tensors are missing, left over, of another shape, or integers where reals are needed.
    """
    if architecture.load is not None:
        return architecture.load(state)
    model = _built(architecture)
    own = own_tensors(model)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    fitting = fit(shapes, {key: tuple(tensor.shape) for key, tensor in own.items()})
    spots = {
        key: whole(name, shapes[key])
        for key, name in fitting.names.items()
        if name in own and tuple(own[name].shape) == shapes[key]
    }
    given = {name: state[key] for key, name in fitting.names.items()}
    computed: frozenset[str] = frozenset()
    filled: Collection[str] = given.keys() & own.keys()
    if any(key not in spots and not key.endswith(IGNORED_SUFFIX) for key in fitting.names):
        hooked = through_hooks(model, given, lambda: _built(architecture))
        filled = own.keys() - hooked.missing
        moved = {key: hooked.places[name] for key, name in fitting.names.items() if name in hooked.places}
        computed = frozenset(key for key, places in moved.items() if places is None)
        spots = {key: places for key, places in (spots | moved).items() if places}
        given = {name: tensor for name, tensor in given.items() if name in own or name not in hooked.places}
    _check_fit(architecture.name, own, given, filled)
    twice = stored_twice(own, filled)
    untied(model, twice)
    notes = [
        f"the network ties {one} and {other}; the file has both, and they differ: they run as two"
        for one, other in twice
        if one in given and other in given and not torch.equal(given[one], given[other])
    ]
    binding = Binding(spots, shapes, computed, fitting.left_out, notes=(*fitting.notes, *notes))
    for key, live in binding.live(own_tensors(model)).items():
        fill(live, state[key])
    return bind(model, binding)


def _built(architecture: Architecture) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        model = architecture.build()
    model.requires_grad_(False)
    if model.training:
        model.eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.contiguous()
    return model


def _check_fit(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor], filled: Collection[str]) -> None:
    held = {own[key].data_ptr() for key in filled if own[key].numel()}
    missing = [
        key for key in own if key not in filled and not key.endswith(IGNORED_SUFFIX) and own[key].data_ptr() not in held
    ]
    unexpected = [key for key in state if key not in own and not key.endswith(IGNORED_SUFFIX)]
    reshaped = [
        f"{key} {list(state[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape
    ]
    integers = [
        f"{key} {state[key].dtype}"
        for key, tensor in own.items()
        if key in state and tensor.is_floating_point() and not state[key].is_floating_point()
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped, "not real numbers": integers}
    problems = [f"{len(found)} {kind} ({_first(found)})" for kind, found in kinds.items() if found]
    if problems:
        raise WorkloadError(
            f"the checkpoint does not fit the architecture {name}: tensors {'; '.join(problems)}",
            "pass the --arch that the checkpoint was trained with",
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
