"""A state dict into a module that is ready for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.architectures import IGNORED_SUFFIX, Architecture

_SHOWN = 3  # how many of a kind an error lists


class Renamed(nn.Module):
    """A module whose tensors have other names than the checkpoint's.

    Attributes:
        checkpoint_names: name in the checkpoint to name in the module; what the module does not read is absent.
    """

    checkpoint_names: Mapping[str, str]


def live_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors by their names in the checkpoint: writing into them changes the model."""
    own: dict[str, Tensor] = dict(model.state_dict())  # without keep_vars: the same storage, and no gradient
    if isinstance(model, Renamed):
        return {name: own[key] for name, key in model.checkpoint_names.items()}
    return own


def load_model(architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the module of `architecture` and fill it with `state`.

    The module is in eval mode, needs no gradients, keeps the dtypes it was built with (float32 for all built-ins;
    narrower floating-point tensors are widened) and owns contiguous tensors: `state` is copied, never aliased. The
    global random generator is left as it was. An architecture with a `load` of its own decides the dtypes itself.

    Keys and shapes have to match exactly, with two exceptions: batch norm's `num_batches_tracked` may be missing or
    left over, and of parameters that the module ties together one name is enough.

    Raises:
        WorkloadError: tensors are missing, left over, of another shape, or integers where reals are needed, or the
            names of one tied parameter hold different values.
    """
    if architecture.load is not None:
        return architecture.load(state)
    with torch.random.fork_rng(devices=[]):
        model = architecture.build()
    model.requires_grad_(False)
    if model.training:
        model.eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.contiguous()
    own = model.state_dict()
    _check_fit(architecture.name, own, state)
    loaded = [key for key in own if key in state]
    for key in loaded:
        own[key].copy_(state[key])
    _check_ties(architecture.name, own, state)
    return model


def _check_fit(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    held = {own[key].data_ptr() for key in own if key in state and own[key].numel()}
    missing = [
        key for key in own if key not in state and not key.endswith(IGNORED_SUFFIX) and own[key].data_ptr() not in held
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


def _check_ties(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    first: dict[int, str] = {}
    for key, tensor in own.items():
        if key not in state or not tensor.numel():
            continue
        other = first.setdefault(tensor.data_ptr(), key)
        if other != key and not torch.equal(state[other], state[key]):
            raise WorkloadError(
                f"{name} ties {other!r} and {key!r} together, but the checkpoint's values differ",
                "save the checkpoint from the model again, or pass the --arch that does not tie them",
            )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
