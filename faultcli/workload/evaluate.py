"""Model, data and metrics together: what a trial runs, over and over, while the weights change under it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from faultcli.errors import FaultcliError, UsageError, WorkloadError
from faultcli.workload.architectures import Architecture, resolve_architecture
from faultcli.workload.data import Dataset, load_data
from faultcli.workload.metrics import GoldenRun, Outcome, measure
from faultcli.workload.models import load_model

DEFAULT_BATCH_SIZE = 100  # within 10 % of the fastest on a CPU for ResNet-20, LeNet and the demo
CACHE_BYTES = 1 << 30  # preprocessed inputs are kept up to this size, else made anew batch by batch
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class Workload:
    """A network that is ready to run on labelled inputs.

    `parameters` are the live tensors: writing into them in place changes what the next `logits()` computes, and
    nothing is derived from them or kept between calls.

    Args:
        architecture: what `model` is; its preprocessing is applied.
        model: from `load_model`; it is moved to `device`.
        dataset: inputs that fit the architecture.
        batch_size: inputs per forward pass.
        device: where the model runs; logits always come back to the CPU.
        cache_bytes: the bound below which the preprocessed inputs (float32, on `device`) are kept.

    Raises:
        WorkloadError: the data do not fit the architecture, or the inputs do not fit into memory.
        UsageError: `batch_size` is below 1.
    """

    def __init__(
        self,
        architecture: Architecture,
        model: nn.Module,
        dataset: Dataset,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        device: torch.device | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"a batch size of {batch_size} makes no batches", "--batch-size takes 1 or more")
        self.architecture = architecture
        self.dataset = dataset
        self.labels = dataset.labels  # int64 [N], CPU
        self.batch_size = batch_size
        self.device = device or torch.device("cpu")
        self._shape = _input_shape(architecture, dataset)
        self._check_labels(architecture.num_classes)
        self._classes = architecture.num_classes
        self._ran = False
        try:
            self.model = model.to(self.device)
            bytes_needed = 4 * len(dataset) * torch.Size(self._shape).numel()
            self._cache = self._prepare(0, len(dataset)) if bytes_needed <= cache_bytes else None
        except Exception as error:
            self._explain(error)
        # Without keep_vars these share storage with the parameters and carry no gradient.
        self.parameters: dict[str, Tensor] = dict(self.model.state_dict())

    def __len__(self) -> int:
        return len(self.dataset)

    def logits(self) -> Tensor:
        """Return what the model says now: float32 [N, K] on the CPU, a normal tensor that may be trained on.

        Raises:
            WorkloadError: memory runs out, the model does not take the inputs, or what it returns is no [N, K]
                tensor of reals with a K that fits the labels.
        """
        out: Tensor | None = None
        for start in range(0, len(self), self.batch_size):
            stop = min(start + self.batch_size, len(self))
            try:
                batch = self._prepare(start, stop) if self._cache is None else self._cache[start:stop]
                version = batch._version
                with torch.inference_mode():
                    answer = self.model(batch)
            except Exception as error:
                self._explain(error)
            if batch._version != version:
                raise WorkloadError(
                    f"{self.architecture.name}: the model changes its inputs in place, so no two runs would be alike",
                    "make its first operation out of place",
                )
            answer = self._checked(answer, stop - start)
            if out is None:
                out = torch.empty(len(self), answer.shape[1])
            out[start:stop] = answer
            self._ran = True
        assert out is not None  # a data set has at least one input
        return out

    def prepare(self, dataset: Dataset) -> Tensor:
        """Return other inputs as the model takes them: float32 [N, ...] on the device.

        Raises:
            WorkloadError: they do not fit the architecture.
        """
        shape = _input_shape(self.architecture, dataset)
        inputs = self.architecture.preprocess.apply(dataset.inputs.to(self.device), dataset.layout)
        return inputs.view(len(dataset), *shape)

    def describe(self) -> str:
        """Say what runs on what, for people."""
        return f"{self.architecture.name} on {len(self):,} inputs of {self.dataset.name}"

    def identity(self) -> str:
        """Return everything that changes what the model answers, apart from its weights, as one line of JSON: the
        network, the data, and what floating-point results depend on (threads, batch size, device type)."""
        preprocess = self.architecture.preprocess
        return json.dumps(
            {
                "architecture": self.architecture.name,
                "preprocess": [preprocess.scale, preprocess.mean, preprocess.std],
                "data": self.dataset.sha256(),
                "batch_size": self.batch_size,
                "threads": torch.get_num_threads(),
                "device": self.device.type,
            },
            sort_keys=True,
        )

    def golden(self) -> GoldenRun:
        """Run the model and return what later outcomes are compared with."""
        return GoldenRun(self.logits())

    def outcome(self, golden: GoldenRun | None = None) -> Outcome:
        """Run the model and measure its answers."""
        return measure(self.logits(), self.labels, golden)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy the given tensors into the live ones; the others stay.

        Raises:
            WorkloadError: the model has no such tensor, or one of another shape.
        """
        for name, values in state.items():
            own = self.parameters.get(name)
            if own is None or own.shape != values.shape:
                shape = "no such tensor" if own is None else f"it as {list(own.shape)}"
                raise WorkloadError(f"{self.architecture.name}: {name!r} {list(values.shape)}: the model has {shape}")
        for name, values in state.items():
            self.parameters[name].copy_(values)

    def _prepare(self, start: int, stop: int) -> Tensor:
        inputs = self.dataset.inputs[start:stop].to(self.device)
        prepared = self.architecture.preprocess.apply(inputs, self.dataset.layout)
        return prepared.view(stop - start, *self._shape)

    def _checked(self, answer: object, rows: int) -> Tensor:
        if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != rows:
            got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise WorkloadError(
                f"{self.architecture.name}: the model returns {got} for {rows} inputs", "logits [N, classes] are needed"
            )
        if not answer.is_floating_point():
            raise WorkloadError(f"{self.architecture.name}: the model returns {answer.dtype} and no logits")
        if answer.shape[1] != self._classes:
            if self._classes is not None:
                raise WorkloadError(
                    f"{self.architecture.name}: the model returns {answer.shape[1]} logits per input and not"
                    f" {self._classes}"
                )
            self._check_labels(answer.shape[1])
            self._classes = answer.shape[1]
        return answer

    def _check_labels(self, classes: int | None) -> None:
        highest = int(self.labels.max())
        if classes is not None and highest >= classes:
            raise WorkloadError(
                f"{self.dataset.name}: label {highest} is out of range, {self.architecture.name} has {classes} classes",
                "pass the --data that the checkpoint was trained for; classes count from 0",
            )

    def _explain(self, error: Exception) -> NoReturn:
        if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
            smaller = max(1, self.batch_size // 4)
            raise WorkloadError(
                f"{self.architecture.name}: memory ran out on {self.device} with batches of {self.batch_size}",
                f"pass a smaller --batch-size, e.g. {smaller}, or fewer inputs with --limit",
            ) from error
        if self._ran or isinstance(error, FaultcliError):  # it took these inputs before, so they are not what is wrong
            raise error
        raise WorkloadError(
            f"{self.architecture.name}: the model does not take inputs of shape {list(self._shape)}:"
            f" {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            f"pass the --data that the checkpoint was trained for, e.g. {self.architecture.data}",
        ) from error


def _input_shape(architecture: Architecture, dataset: Dataset) -> tuple[int, ...]:
    """Return the shape of one input as the model gets it.

    Floating-point inputs pass as they are, except that [N, H, W] become [N, 1, H, W] where the architecture is known
    to take one channel.
    """
    shape, wanted = dataset.item_shape, architecture.input_shape
    if dataset.inputs.is_floating_point():
        stored = tuple(dataset.inputs.shape[1:])
        shape = (1, *stored) if wanted == (1, *stored) else stored
    if wanted is not None and shape != wanted:
        raise WorkloadError(
            f"{dataset.name}: inputs of shape {list(shape)}, but {architecture.name} takes {list(wanted)}",
            f"pass the --data that the checkpoint was trained for, e.g. {architecture.data}",
        )
    return shape


def pick_device(spec: str = "auto") -> torch.device:
    """Return the device that `spec` names: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if spec == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(spec)
    except RuntimeError as error:
        raise UsageError(f"unknown device {spec!r}", "--device takes auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {spec!r}", "--device takes auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {spec!r} here", "pass --device cpu, or auto")
    return device


def build_workload(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    arch: str | None = None,
    data: str | None = None,
    limit: int | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    device: str = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Workload:
    """Put a workload together from what a command line says.

    Args:
        state: the checkpoint's tensors.
        metadata: the checkpoint's metadata; it may name a built-in architecture.
        arch: --arch, see `resolve_architecture`.
        data: --data, see `load_data`; None: the embedded digits, for the architecture of the demo only.
        limit: --limit, the first so many inputs.
        batch_size: --batch-size.
        device: --device, see `pick_device`.
        mean: --mean, per channel, in place of the architecture's own.
        std: --std, likewise.

    Raises:
        UsageError: a name or a number makes no sense.
        WorkloadError: checkpoint, architecture and data do not fit each other.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    architecture = resolve_architecture(arch, shapes, metadata)
    if data is None:
        if architecture.data != "digits":
            raise UsageError(f"{architecture.name} needs data to run on", f"pass --data, e.g. {architecture.data}")
        data = architecture.data
    dataset = load_data(data, limit)
    if mean is not None or std is not None:
        if dataset.inputs.is_floating_point():
            raise UsageError(
                f"{dataset.name}: floating-point inputs pass as they are, so they cannot be scaled or normalised",
                "store uint8 images, or leave out --mean and --std",
            )
        architecture = architecture.with_preprocess(architecture.preprocess.with_overrides(mean=mean, std=std))
    model = load_model(architecture, state)
    return Workload(architecture, model, dataset, batch_size=batch_size, device=pick_device(device))
