"""A model as the list of steps that it computes, one after the other: traced by torch.fx, run by ourselves.

The steps are the model's own modules and operations, on the model's own tensors, so that a run gives what the model
gives, bit for bit. Between two steps all that a run knows is the values that later steps use (`Program.live`): a run
that has those can begin there.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, fx, nn
from torch.nn.modules import module as modules

Values: TypeAlias = Mapping[fx.Node, Any]
Look: TypeAlias = Callable[[int, Values], bool]

_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")


class UntraceableError(Exception):
    """A model is no fixed list of steps; the reason, for who looks."""


class Program:
    """The steps of a model that takes one tensor.

    Args:
        model: in evaluation mode; what it is now, its module tree, is what is traced. It is left as it is.

    Attributes:
        steps: in the order in which the model computes them.
        live: by position, 0 to the number of steps: the values made before it that the steps from there on use.
        input: the value that is the model's input.

    Raises:
        UntraceableError: it decides by values, writes into its own tensors, computes with tensors that it makes from
            nothing, or has forward hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        graph = _traced(model)
        nodes = list(graph.nodes)
        (self.input,) = [node for node in nodes if node.op == "placeholder"]
        self._fetched = {node: _attribute(node) for node in nodes if node.op == "get_attr"}
        self.steps: list[fx.Node] = [node for node in nodes if node.op.startswith("call_")]
        (self.output,) = [node for node in nodes if node.op == "output"]
        for node in self._fetched:
            try:
                self._fetch(node)
            except AttributeError:  # made while it was traced
                raise UntraceableError(
                    "computes with a tensor of its own making, which may depend on anything"
                ) from None
        modules_of = dict(model.named_modules(remove_duplicate=False))
        self._called = {n: modules_of[_inside(str(n.target))] for n in self.steps if n.op == "call_module"}
        for node in self.steps:
            if _writes(node) and node.all_input_nodes[:1] and node.all_input_nodes[0] in self._fetched:
                raise UntraceableError(f"writes into its own tensors: {node}")
        self.live, self._last = self._liveness()
        self._reads = [self._read_by(node) for node in self.steps]
        self._spans: dict[int, tuple[int, int]] = {}  # by memory
        for at, read in enumerate(self._reads):
            for memory in read:
                self._spans[memory] = self._spans.get(memory, (at, at))[0], at

    def __len__(self) -> int:
        return len(self.steps)

    def span(self, tensors: Iterable[Tensor]) -> tuple[int, int] | None:
        """Return the positions of the first and the last step that reads one of some live tensors (by their memory);
        None if there are none, or one of them is read by no step, as far as that can be seen."""
        found = [self._spans.get(tensor.untyped_storage().data_ptr()) for tensor in tensors]
        known = [span for span in found if span is not None]
        if not known or len(known) < len(found):
            return None
        return min(first for first, _ in known), max(last for _, last in known)

    def readers(self, tensors: Iterable[Tensor]) -> list[int]:
        """Return the positions of all steps that read one of some live tensors."""
        memories = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        return [at for at, read in enumerate(self._reads) if not memories.isdisjoint(read)]

    def run(self, values: Values, start: int = 0, look: Look | None = None) -> tuple[Any, bool]:
        """Compute the steps from a position on.

        Args:
            values: what is live there.
            look: called before every step, and after the last, with the position and the values; True ends the run.

        Returns:
            What the model returns, and whether the run went through; None and False if `look` ended it.
        """
        known = dict(values)
        for at in range(start, len(self)):
            if look is not None and look(at, known):
                return None, False
            node = self.steps[at]
            args, kwargs = self._given(node.args, known), self._given(node.kwargs, known)
            if node.op == "call_module":
                known[node] = self._called[node](*args, **kwargs)
            elif node.op == "call_method":
                known[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                assert callable(node.target)
                known[node] = node.target(*args, **kwargs)
            del args, kwargs
            for old in self._last[at]:
                known.pop(old, None)
        if look is not None and look(len(self), known):
            return None, False
        return self.returned(known), True

    def returned(self, values: Values) -> Any:
        """Return what the model returns, out of what is live after the last step."""
        return self._given(self.output.args[0], values)

    def _given(self, argument: Any, known: Mapping[fx.Node, Any]) -> Any:
        return fx.node.map_arg(argument, lambda node: self._fetch(node) if node in self._fetched else known[node])

    def _fetch(self, node: fx.Node) -> Any:
        found: Any = self.model
        for part in self._fetched[node].split("."):
            found = getattr(found, part)
        return found

    def _liveness(self) -> tuple[list[tuple[fx.Node, ...]], list[list[fx.Node]]]:
        """Return what is live at every position, and what dies with every step."""
        live: list[tuple[fx.Node, ...]] = []
        dying: list[list[fx.Node]] = []
        needed = dict.fromkeys(self._used(self.output))
        live.append(tuple(needed))
        for node in reversed(self.steps):
            used = self._used(node)
            dying.append([one for one in used if one not in needed] + ([] if node in needed else [node]))
            needed.pop(node, None)
            needed.update(dict.fromkeys(used))
            live.append(tuple(needed))
        return live[::-1], dying[::-1]

    def _used(self, node: fx.Node) -> list[fx.Node]:
        return [one for one in node.all_input_nodes if one not in self._fetched]

    def _read_by(self, node: fx.Node) -> frozenset[int]:
        """Return the memory of all tensors of the model that a step reads."""
        tensors = [self._fetch(one) for one in node.all_input_nodes if one in self._fetched]
        if node in self._called:
            tensors += _held(self._called[node])
        return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel())


def hooked(model: nn.Module) -> bool:
    """Return whether somebody listens to a module of a model, or changes what it is given or gives."""
    if modules._global_forward_hooks or modules._global_forward_pre_hooks:
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class _Wrapped(nn.Module):
    """Calls a model with one input, whatever else it could take."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model(x)


class _Proxy(fx.Proxy):
    """A value whose `+=` is written down as what it is; the proxies of torch make it an addition."""


def _in_place(name: str) -> Callable[[_Proxy, Any], Any]:
    def method(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return method


for _name in _IN_PLACE:
    setattr(_Proxy, f"__{_name}__", _in_place(_name))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _traced(model: nn.Module) -> fx.Graph:
    """Return the graph of a model; what it keeps while it is traced, it keeps in a copy that has the same tensors."""
    if hooked(model):
        raise UntraceableError("has forward hooks")
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        with warnings.catch_warnings():  # of what a model makes of values that are none
            warnings.simplefilter("ignore")
            return _Tracer().trace(_Wrapped(copy.deepcopy(model, dict(tensors))))
    except Exception as error:  # forward is anybody's code, run on values that are none
        raise UntraceableError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _inside(target: str) -> str:
    """Return what a part of `_Wrapped` is called in the model."""
    return "" if target == "model" else target.removeprefix("model.")


def _attribute(node: fx.Node) -> str:
    return _inside(str(node.target))


def _writes(node: fx.Node) -> bool:
    """Return whether a step says of itself that it writes into its first input."""
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    written = name.endswith("_") and not name.endswith("__")
    return written or name in _IN_PLACE or bool(node.kwargs.get("inplace"))


def _held(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        yield from part.parameters(recurse=False)
        yield from part.buffers(recurse=False)
        yield from (value for value in vars(part).values() if isinstance(value, Tensor))
