"""Range restriction: what a layer gives beyond the values that it gives without faults is known to be wrong.

Source: Chen, Li, Pattabiraman, A Low-cost Fault Corrector for Deep Neural Networks through Range Restriction (Ranger),
DSN 2021. There bounds stand behind activation functions; here behind every layer. Bounds come from a few clean inputs,
and are kept in a JSON file that a deployer's own code can read:

    {"schema": "faultcli.bounds/1", "inputs": 100, "data": "...", "layers": {"conv1": [-1.5, 2.25]}}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from faultcli.activations.layers import SeenOutputs, tensor_of, with_tensor, writes_over
from faultcli.errors import UsageError, WorkloadError
from faultcli.files import atomic_output, check_output
from faultcli.foreign import ForeignError, parse_json, read_text

BOUNDS_SCHEMA = "faultcli.bounds/1"
BOUND_BITS = 64  # two float32 numbers per layer
MODES = ("clip", "zero")
_LARGEST = 1 << 24  # bytes of a file


@dataclass(frozen=True)
class LayerBounds:
    """What layers give without faults: the smallest and the largest value of each.

    Attributes:
        layers: by name, as `named_modules` calls them.
        inputs: from how many clean inputs.
        data: what these are called.
    """

    layers: Mapping[str, tuple[float, float]]
    inputs: int = 0
    data: str = ""

    @classmethod
    def of(cls, model: nn.Module, run: Callable[[], object], data: str = "", glob: str = "*") -> LayerBounds:
        """Take bounds from a run on clean inputs.

        Args:
            model: in evaluation mode, with the weights that it is deployed with.
            run: runs the model on the inputs.
            data: what the inputs are called.
            glob: of the layers' names.

        Raises:
            UsageError: no layer has outputs of its own for each input.
        """
        seen = SeenOutputs.of(model, glob, run, bounds=True)
        return cls(seen.bounds, seen.inputs, data)

    @property
    def sha256(self) -> str:
        """Hash of names and numbers."""
        return hashlib.sha256(json.dumps(self._numbers, sort_keys=True).encode()).hexdigest()

    @property
    def bits(self) -> int:
        """What keeping them takes."""
        return BOUND_BITS * len(self.layers)

    @property
    def _numbers(self) -> dict[str, list[float]]:
        return {name: [low, high] for name, (low, high) in self.layers.items()}

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write the JSON file; raises OutputError."""
        document = {"schema": BOUNDS_SCHEMA, "inputs": self.inputs, "data": self.data, "layers": self._numbers}
        check_output(path, force=force)
        with atomic_output(path, force=force) as partial:
            partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> LayerBounds:
        """Read a file back.

        Raises:
            UsageError: it is none, one of another version, or holds what are no bounds.
        """
        try:
            document = parse_json(read_text(path, _LARGEST))
            schema = document["schema"]
        except (ForeignError, OSError, KeyError, TypeError, UnicodeDecodeError):
            raise UsageError(f"{path}: is no file of bounds", "evaluate --save-bounds FILE writes one") from None
        if schema != BOUNDS_SCHEMA:
            raise UsageError(f"{path}: is not {BOUNDS_SCHEMA}", "write it anew: evaluate --save-bounds FILE")
        try:
            layers = {str(name): (float(low), float(high)) for name, (low, high) in document["layers"].items()}
            inputs, data = int(document["inputs"]), str(document["data"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UsageError(
                f"{path}: the bounds are damaged", "write them anew: evaluate --save-bounds FILE"
            ) from None
        for name, (low, high) in layers.items():
            if not -math.inf < low <= high < math.inf:
                raise UsageError(f"{path}: layer {name!r}: {low:g} to {high:g} is no range", "write it anew")
        return cls(layers, inputs, data)

    @contextmanager
    def applied(self, model: nn.Module, mode: str = "clip") -> Iterator[None]:
        """Keep what layers give inside their bounds, for the length of a `with` block.

        Values beyond a bound become that bound (`clip`) or 0 (`zero`); NaN becomes 0 either way.

        Raises:
            WorkloadError: the model lacks a layer.
        """
        modules = dict(model.named_modules())
        lacking = next((name for name in self.layers if name not in modules), None)
        if lacking is not None:
            raise WorkloadError(
                f"the bounds are of a layer {lacking!r}, which the model does not have",
                "take bounds of this model: faultcli evaluate --save-bounds FILE",
            )

        def hook(low: float, high: float) -> Callable[..., Any]:
            def restrict(module: nn.Module, arguments: Any, output: Any) -> Any:
                values = tensor_of(output)
                restricted = None if values is None else within(values, low, high, mode)
                if values is None or restricted is None:
                    return None
                if writes_over(module) and not values.requires_grad:
                    values.copy_(restricted)
                    return None
                return with_tensor(output, values, restricted)

            return restrict

        handles = []
        try:
            for name, bounds in self.layers.items():
                handles.append(modules[name].register_forward_hook(hook(*bounds)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def within(values: Tensor, low: float, high: float, mode: str) -> Tensor | None:
    """Return values of which none lies beyond its bounds; None if that is so already, which one pass finds out."""
    if not values.numel():
        return None
    smallest, largest = torch.aminmax(values.detach())  # a single NaN makes both NaN
    if low <= float(smallest) and float(largest) <= high:
        return None
    if mode == "clip":
        return values.nan_to_num(nan=0.0, posinf=high, neginf=low).clamp(low, high)
    return torch.where((values >= low) & (values <= high), values, 0)


@dataclass(frozen=True)
class GuardId:
    """What tells one restriction in a campaign from another; `sha256`: of the bounds of a file, None where they are
    taken from clean inputs."""

    mode: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(
                f"--guard-activations {self.mode}: is not clip, zero or none", "one at a time: --guard-activations clip"
            )

    @property
    def text(self) -> str:
        """Short and unique."""
        return f"outputs:{self.mode}" + ("" if self.sha256 is None else f"@{self.sha256[:8]}")


@dataclass(frozen=True)
class Restrict(GuardId):
    """The option `--guard-activations MODE`, with the bounds of a file if there is one."""

    bounds: LayerBounds | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, bounds: LayerBounds | None = None) -> Restrict | None:
        """Read `clip`, `zero` or `none`.

        Raises:
            UsageError: it is none of these.
        """
        return None if text == "none" else cls(text, None if bounds is None else bounds.sha256, bounds)


class Guarded(TypedDict, total=False):
    """How outputs of layers are guarded. `guard_activations`: `clip`, `zero` or `none`, an arm each; `guard_bounds`: a
    file of their bounds, in place of those of clean inputs."""

    guard_activations: Sequence[str]
    guard_bounds: str | Path | None


def guards_of_texts(texts: Sequence[str], file: str | Path | None = None) -> list[Restrict | None]:
    """Read how outputs of layers are guarded: `clip`, `zero` or `none` each, with the bounds of a file if one is named.

    Raises:
        UsageError: one is none of these, or the file is none of bounds, or for nothing.
    """
    if file is not None and not texts:
        raise UsageError("--guard-bounds: nothing is guarded by them", "say how: --guard-activations clip")
    bounds = None if file is None else LayerBounds.load(Path(file))
    return [Restrict.parse(text, bounds) for text in texts]
