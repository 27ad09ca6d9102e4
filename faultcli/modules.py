"""Modules of PyTorch: which elements of a tensor are an output channel, by the module that reads it; and their mode."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from faultcli.formats import Channels

_NAMED = 4  # patterns of names that a note lists


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a network in evaluation mode for the length of a `with` block; each part is left in the mode that it has."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def channels_of(module: nn.Module) -> dict[str, Channels]:
    """Return the output channels of a network's tensors, by their names in its state, where they are no slices of the
    first dimension: transposed convolutions [in, out/groups, *kernel], `Conv1D` of transformers [in, out], and weights
    of several experts [experts, out, in] or [experts, in, out].

    Of modules that are none of these the first dimension counts, which is right for linear layers, convolutions,
    embeddings and recurrent layers. What a parametrisation keeps in a weight's shape is read as the weight.
    """
    found = {}
    for path, part in module.named_modules(remove_duplicate=False):
        for name, channels in _read_by(part):
            found[f"{path}.{name}" if path else name] = channels
    return found


def _read_by(part: nn.Module) -> Iterator[tuple[str, Channels]]:
    kinds = [kind.__name__ for kind in type(part).__mro__]
    if isinstance(part, _ConvTransposeNd):
        shape = (part.in_channels, part.out_channels // part.groups, *part.kernel_size)
        inside = part.in_channels // part.groups
        channels = Channels(part.groups, inside, shape[1], math.prod(part.kernel_size))
        yield from ((name, channels) for name, tensor in _tensors(part) if tuple(tensor.shape) == shape)
    elif "Conv1D" in kinds:
        yield from ((name, _columns(tensor, 1)) for name, tensor in _tensors(part) if tensor.dim() == 2)
    elif any("expert" in kind.lower() for kind in kinds):
        stacked = {name: tensor for name, tensor in part.named_parameters(recurse=False) if tensor.dim() == 3}
        transposed = _transposed(part, stacked)
        for name, tensor in stacked.items():
            experts, rows, columns = tensor.shape
            yield name, _columns(tensor, experts) if transposed else Channels(experts, 1, rows, columns)


def _tensors(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(part.named_parameters(remove_duplicate=False), part.named_buffers(remove_duplicate=False))


def _columns(tensor: Tensor, groups: int) -> Channels:
    """Every column of a matrix, or of one for each of several experts, as an output channel."""
    return Channels(groups, tensor.shape[-2], tensor.shape[-1], 1)


def _transposed(part: nn.Module, stacked: Mapping[str, Tensor]) -> bool:
    """Whether the weights of experts are [experts, in, out]: if the module says so, or if only so what leaves the up
    projection (halved, where it has a gate) goes into the down projection, and the other way round."""
    if isinstance(said := getattr(part, "is_transposed", None), bool):
        return said
    up = next((tensor.shape for name, tensor in stacked.items() if "up" in name or "w1" in name), None)
    down = next((tensor.shape for name, tensor in stacked.items() if "down" in name or "w2" in name), None)
    if up is None or down is None:
        return False
    (_, up_rows, up_columns), (_, down_rows, down_columns) = up, down
    if up_columns == down_rows and up_rows in (down_columns, 2 * down_columns):  # [out, in]
        return False
    return up_rows == down_columns and up_columns in (down_rows, 2 * down_rows)


def note_on(channels: Mapping[str, Channels]) -> str | None:
    """Say of which tensors the output channels are no slices of the first dimension; None if of none."""
    columns = [name for name, own in channels.items() if not own.in_order]
    experts = [name for name, own in channels.items() if own.in_order]
    parts = []
    if columns:
        parts.append(f"of {_listed(columns)} they lie as [in, out], and columns count")
    if experts:
        parts.append(f"of {_listed(experts)} every expert has its own")
    return None if not parts else "output channels: " + "; ".join(parts)


def _listed(names: list[str]) -> str:
    patterns = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names))
    more = f" and {len(patterns) - _NAMED} more" if len(patterns) > _NAMED else ""
    count = f" ({len(names)} tensors)" if len(names) > 1 else ""
    return ", ".join(patterns[:_NAMED]) + more + count
