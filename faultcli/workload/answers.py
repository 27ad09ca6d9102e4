"""What of a model's output is its answer: networks return tensors, tuples, dicts and objects with fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.workload.factory import import_named, is_factory

Pick: TypeAlias = Callable[[Any], Any]
_SHOWN = 6  # parts of an output that a message lists
_USUAL = ("logits", "out")  # of transformers, and of torchvision's segmentation networks


def answer_picker(answer: str | Pick | None) -> Pick:
    """Return what picks a model's answer out of its output.

    Args:
        answer: a field, key or position of the output (`logits`, `out`, `0`); `package.module:function`, called with
            the output; a function; or None: the field or key `logits` or `out`, else the first tensor.

    Raises:
        WorkloadError: the function cannot be imported.
    """
    if answer is None:
        return first_answer
    if callable(answer):
        return answer
    if is_factory(answer):
        return import_named("answer", answer)
    return _Part(answer)


def first_answer(output: Any) -> Any:
    """Return the field or key `logits` or `out` of an output, else its first tensor; itself if it has none."""
    if isinstance(output, Tensor):
        return output
    for name in _USUAL:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    return next(tensors_in(output), output)


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, however deep in tuples, lists, dicts and dataclasses they lie."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_in(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield from tensors_in(getattr(output, field.name))


def described(output: Any) -> str:
    """Say what an output is, for people: its shape, or its parts by name or position and theirs."""
    if isinstance(output, Tensor):
        return f"{output.dtype} {list(output.shape)}".removeprefix("torch.")
    kind = type(output).__name__
    if isinstance(output, Mapping):
        parts = {str(name): part for name, part in output.items()}
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", None) or range(len(output))
        parts = {str(name): part for name, part in zip(names, output, strict=True)}
    elif is_dataclass(output):
        parts = {field.name: getattr(output, field.name) for field in fields(output)}
    else:
        return kind
    kinds = {name: described(part) if isinstance(part, Tensor) else type(part).__name__ for name, part in parts.items()}
    shown = [f"{name}: {what}" for name, what in kinds.items()]
    return f"{kind} ({', '.join(shown[:_SHOWN])}{', …' if len(shown) > _SHOWN else ''})"


def all_finite(output: Any) -> bool:
    """Return whether no number of an output is NaN or infinite."""
    return all(
        bool(torch.isfinite(tensor).all())
        for tensor in tensors_in(output)
        if tensor.is_floating_point() or tensor.is_complex()
    )


class _Part:
    """Picks a field, key or position by its name; a class, so that worker processes can be sent it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, output: Any) -> Any:
        if isinstance(output, Mapping) and self.name in output:
            return output[self.name]
        if hasattr(output, self.name):
            return getattr(output, self.name)
        if self.name.isdecimal() and isinstance(output, tuple | list) and int(self.name) < len(output):
            return output[int(self.name)]
        known = ", ".join(map(str, output)) if isinstance(output, Mapping) else type(output).__name__
        raise WorkloadError(f"--answer {self.name}: the model's output has no such part", f"it is or holds: {known}")
