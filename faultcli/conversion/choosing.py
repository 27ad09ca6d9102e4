"""Which of the dicts in a training checkpoint is the model."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from faultcli.checkpoint.other_formats import quoted
from faultcli.errors import CheckpointError, UsageError

_SHOWN = 8
_DEEPEST = 20  # dicts in dicts
_OPTIMIZER = {"state", "param_groups"}  # torch.optim's state dict


@dataclass(frozen=True)
class StateDict:
    """A dict of tensors, somewhere in a file.

    Attributes:
        key: the keys that lead to it, with dots; empty: the file is that dict.
        tensors: by name.
        others: names beside the tensors that are none, with what they are.
    """

    key: str
    tensors: Mapping[str, Tensor]
    others: Mapping[str, str]

    @property
    def dimensions(self) -> int:
        """The most that a floating-point tensor of it has; 0 where there is none but scalars."""
        return max(
            (one.dim() for one in self.tensors.values() if one.is_floating_point() or one.is_complex()), default=0
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def choose(tree: Any, key: str | None, path: Path) -> StateDict:
    """Return the model's tensors.

    Without `key` it is the one dict that holds weights: floating-point tensors of two or more dimensions (of one, if
    none has more). Scalars, counters, states of random generators and of optimizers are no weights.

    Args:
        tree: what the file holds.
        key: `--key`, the dict to take, with dots between keys; None: the only one.
        path: the file, for messages.

    Raises:
        UsageError: there is no such key, or there are several models and no key.
        CheckpointError: there are no weights.
    """
    found = list(_state_dicts(tree, ""))
    if key is not None:
        named = next((one for one in found if one.key == key), None)
        if named is None:
            raise UsageError(f"{path}: --key {key}: leads to no dict of tensors", _listed(found))
        return named
    for least in (2, 1):
        models = [one for one in found if one.dimensions >= least]
        if len(models) == 1:
            return models[0]
        if models:
            raise UsageError(
                f"{path}: holds {len(models)} models: {_said(models)}",
                f"say which: faultcli convert {quoted(path)} --key {shlex.quote(models[0].key)}",
            )
    what = "a single tensor" if isinstance(tree, Tensor) else "no weights"
    raise CheckpointError(f"{path}: holds {what}, and no dict of tensors by name", "save model.state_dict()")


def left_out(tree: Any, chosen: StateDict) -> dict[str, str]:
    """Return what of a file is not converted, by its key, with what it is."""
    out = dict(chosen.others)
    prefix, place = "", tree
    for part in chosen.key.split(".") if chosen.key else []:
        own = _step(place, part)
        out |= {f"{prefix}{name}": _kind(value) for name, value in _items(place) if str(name) != part}
        prefix, place = f"{prefix}{part}.", own
    return out


def _state_dicts(tree: Any, key: str, seen: tuple[int, ...] = ()) -> Iterator[StateDict]:
    """Yield every dict with tensors in it, from the outside inward."""
    if len(seen) > _DEEPEST or id(tree) in seen:  # it may hold itself
        return
    items = _items(tree)
    if isinstance(tree, Mapping):
        if set(tree) >= _OPTIMIZER:
            return
        tensors = {str(name): value for name, value in items if isinstance(value, Tensor)}
        if tensors:
            yield StateDict(key, tensors, {str(n): _kind(v) for n, v in items if not isinstance(v, Tensor)})
    for name, value in items:
        if not isinstance(value, Tensor):
            yield from _state_dicts(value, f"{key}.{name}" if key else str(name), (*seen, id(tree)))


def _items(tree: Any) -> list[tuple[Any, Any]]:
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        return list(enumerate(tree))
    return []


def _step(tree: Any, part: str) -> Any:
    return next((value for name, value in _items(tree) if str(name) == part), None)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _said(models: Sequence[StateDict]) -> str:
    shown = [
        f"{one.key or '(the file itself)'} ({len(one.tensors)} tensors, {one.nbytes / 1e6:.1f} MB)" for one in models
    ]
    return ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")


def _listed(found: Sequence[StateDict]) -> str:
    return f"there are: {_said(found)}" if found else "save model.state_dict()"
