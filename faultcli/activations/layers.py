"""Layers of a model, and what they give when it runs: leaf modules, call by call, and the inputs that it is for."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faultcli.errors import UsageError, WorkloadError

_SHOWN = 6  # names in a message


class Given(NamedTuple):
    """What a layer gave."""

    layer: str  # as `named_modules` calls it
    call: int  # which of the layer's calls it is, within one call of the model
    first: int  # number of the first input that the model was called with, since the run began
    inputs: int  # how many there are
    module: nn.Module
    arguments: tuple[Any, ...]
    output: Any


Visit = Callable[[Given], Any]  # what takes the output's place; None: the output stays


def leaves(model: nn.Module, glob: str) -> dict[str, nn.Module]:
    """Return the modules without modules of their own whose names match a glob.

    Raises:
        UsageError: there is none; names some that there are.
    """
    known = {name: module for name, module in model.named_modules() if not any(module.children())}
    found = {name: module for name, module in known.items() if fnmatch.fnmatchcase(name, glob)}
    if not found:
        shown = [*list(known)[:_SHOWN], *(["…"] if len(known) > _SHOWN else [])]
        raise UsageError(
            f"--target activations:{glob}: matches no layer",
            f"layers without parts of their own are: {', '.join(shown)}" if any(known) else "the model has no layers",
        )
    return found


@contextmanager
def listening(model: nn.Module, layers: Mapping[str, nn.Module], visit: Visit) -> Iterator[None]:
    """Have `visit` called with everything that some layers give, for the length of a `with` block.

    Inputs are numbered as they come: the first call of the model has inputs from 0, the next one goes on behind them.
    """
    first = inputs = 0
    calls: dict[str, int] = {}
    running = False

    def begin(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal first, inputs, running
        first, inputs, running = first + inputs, _rows((*arguments, *named.values())), True
        calls.clear()

    def end(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        nonlocal running
        running = False

    def after(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
            if not running:
                raise WorkloadError(
                    f"layer {name!r}: was called without the model that it is a part of, so its inputs have no numbers",
                    "call the model as a whole",
                )
            call = calls.get(name, 0)
            calls[name] = call + 1
            return visit(Given(name, call, first, inputs, module, arguments, output))

        return hook

    handles = [model.register_forward_pre_hook(begin, with_kwargs=True)]
    try:
        handles += [module.register_forward_hook(after(name)) for name, module in layers.items()]
        handles.append(model.register_forward_hook(end))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(arguments: Iterable[Any]) -> int:
    """Return how many inputs a model is called with: rows of the first tensor, or the length of a list of tensors."""
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.dim():
            return len(argument)
        if isinstance(argument, list | tuple) and argument and isinstance(argument[0], Tensor):
            return len(argument)
    raise WorkloadError(
        "the model is called without a tensor, so nobody knows how many inputs there are",
        "put weights at risk: --target weights",
    )


def tensor_of(output: Any) -> Tensor | None:
    """Return the floating-point tensor that a layer gives: its output, or the first one in a tuple, list or mapping."""
    parts = [output]
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, tuple | list):
        parts = list(output)
    return next((part for part in parts if isinstance(part, Tensor) and part.is_floating_point()), None)


def with_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """Return an output with another tensor in one's place."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        return type(output)({name: new if part is old else part for name, part in output.items()})  # type: ignore[call-arg]
    parts = [new if part is old else part for part in output]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)


def shares_memory(tensor: Tensor, others: Iterable[Any]) -> bool:
    """Whether a tensor lies in the memory of another one."""
    place = tensor.untyped_storage().data_ptr()
    return any(isinstance(other, Tensor) and other.untyped_storage().data_ptr() == place for other in others)


def writes_over(module: nn.Module) -> bool:
    """Whether a layer puts its output where its input was."""
    return getattr(module, "inplace", False) is True


@dataclass
class SeenOutputs:
    """What layers gave in a run without faults.

    Attributes:
        elements: how many numbers, in all calls for all inputs, by layer.
        dtypes: of these numbers.
        bounds: the smallest and the largest finite one, by layer.
        left_out: layers whose outputs are no values of their own for each input, and why.
        inputs: how many there were.
        glob: what the layers were selected by.
    """

    elements: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    inputs: int = 0
    glob: str = "*"

    @classmethod
    def of(cls, model: nn.Module, glob: str, run: Callable[[], object], *, bounds: bool = False) -> SeenOutputs:
        """Look at what the layers that match a glob give in a run.

        Args:
            model: the model.
            glob: of the layers' names.
            run: runs the model on its inputs.
            bounds: look at values, too, which costs a pass over them.

        Raises:
            UsageError: no layer matches, or none has outputs that can be hit.
        """
        seen, layers = cls(glob=glob), leaves(model, glob)

        def look(given: Given) -> None:
            seen.inputs = max(seen.inputs, given.first + given.inputs)
            problem = _problem(given)
            tensor = tensor_of(given.output)
            if problem is not None or tensor is None:
                seen.left_out.setdefault(given.layer, problem or "")
                return
            seen.elements[given.layer] = seen.elements.get(given.layer, 0) + tensor.numel()
            seen.dtypes.setdefault(given.layer, tensor.dtype)
            if bounds:
                known = seen.bounds.get(given.layer)
                now = _finite_bounds(tensor)
                seen.bounds[given.layer] = now if known is None else (min(known[0], now[0]), max(known[1], now[1]))

        with listening(model, layers, look):
            run()
        for name in layers:
            if name not in seen.elements:
                seen.left_out.setdefault(name, "not called")
        for name in seen.left_out:
            for kept in (seen.elements, seen.dtypes, seen.bounds):
                kept.pop(name, None)
        if not seen.elements:
            raise UsageError(
                f"--target activations:{glob}: no layer has outputs that can be hit: {seen.excuse}",
                "name other layers, or put weights at risk: --target weights",
            )
        return seen

    @property
    def excuse(self) -> str:
        """Which layers are left out, and why; empty where none is."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            by_reason.setdefault(reason, []).append(name)
        told = []
        for reason, names in by_reason.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            told.append(f"{', '.join(names[:_SHOWN])}{more} ({reason})")
        return "; ".join(told)


def _problem(given: Given) -> str | None:
    """Return why a layer's output cannot be hit input by input; None where it can."""
    tensor = tensor_of(given.output)
    if tensor is None:
        return "no floating-point tensor"
    if shares_memory(tensor, given.arguments) and not writes_over(given.module):
        return "hands its input on"
    if tensor.dim() == 0 or len(tensor) != given.inputs:
        return "no row per input"
    return None


def _finite_bounds(values: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest finite value; 0 and 0 where there is none."""
    if not values.numel():
        return 0.0, 0.0
    low, high = (float(bound) for bound in torch.aminmax(values.detach()))
    if abs(low) < float("inf") and abs(high) < float("inf"):
        return low, high
    finite = values[values.isfinite()]
    return (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
