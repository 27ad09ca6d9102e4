"""Model, data and metrics together: what a trial runs, over and over, while the weights change under it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn, split

from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.answers import Pick, answer_picker
from faultcli.workload.base import BaseWorkload, Golden
from faultcli.workload.choice import ChoiceWorkload
from faultcli.workload.data.choices import load_choices
from faultcli.workload.data.datasets import Dataset, load_data
from faultcli.workload.data.tokens import load_tokens
from faultcli.workload.language import LanguageWorkload
from faultcli.workload.metrics import GoldenRun, Outcome, measure
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.loading import load_model
from faultcli.workload.score import ScoreWorkload, named_score

DEFAULT_BATCH_SIZE = 100  # within 10 % of the fastest on a CPU for ResNet-20, LeNet and the demo
# With more numbers per batch a CPU is slower: MobileNetV2 takes twice as long with 32 images of 224×224 as with 4.
_BATCH_NUMBERS = 1 << 20
# A GPU is faster the more there are (benchmarks/gpu.md); the bound keeps activations of large inputs in its memory.
_GPU_BATCH_SIZE, _GPU_BATCH_NUMBERS = 1000, 1 << 25
CACHE_BYTES = 1 << 30  # preprocessed inputs are kept up to this size, else made anew batch by batch


class Workload(BaseWorkload):
    """A classifier that is ready to run on labelled inputs.

    RAM: the inputs as stored, the preprocessed ones if they take no more than `cache_bytes`, the logits. Where inputs
    are prepared batch by batch, the next batch is prepared while the model runs on this one.

    Args:
        architecture: what `model` is; its preprocessing is applied.
        model: from `load_model`; it is moved to `device`.
        dataset: inputs that fit the architecture.
        batch_size: inputs per forward pass; None: `DEFAULT_BATCH_SIZE` (1000 on a GPU), fewer where inputs are large,
            or what the architecture is made for.
        device: where the model runs; `logits()` come back to the CPU, outcomes are computed where the model is.
        cache_bytes: the bound below which the preprocessed inputs (float32, on `device`) are kept.
        answer: the logits, out of what the model returns; see `answer_picker`.

    Raises:
        WorkloadError: the data do not fit the architecture, or the inputs do not fit into memory.
        UsageError: `batch_size` is below 1, or not what the architecture is made for.
    """

    def __init__(
        self,
        architecture: Architecture,
        model: nn.Module,
        dataset: Dataset,
        *,
        batch_size: int | None = None,
        device: torch.device | None = None,
        cache_bytes: int = CACHE_BYTES,
        answer: str | Pick | None = None,
    ) -> None:
        self._answer, self._pick = answer, answer_picker(answer)
        self.dataset = dataset
        self.labels = dataset.labels  # int64 [N], CPU
        self._shape = _input_shape(architecture, dataset)
        self._check_labels(dataset, architecture)
        self._classes = architecture.num_classes
        if batch_size is None:
            batch_size = architecture.batch or _batch_size(self._shape, device)
        super().__init__(architecture, model, batch_size=batch_size, device=device)
        if architecture.batch is not None and (batch_size != architecture.batch or len(dataset) % batch_size):
            raise UsageError(
                f"{architecture.name}: was exported for batches of exactly {architecture.batch}; there are"
                f" {len(dataset):,} inputs in batches of {batch_size}",
                f"pass --batch-size {architecture.batch}, with a --limit that it divides;"
                " or export it with a dynamic first dimension",
            )
        try:
            bytes_needed = 4 * len(dataset) * torch.Size(self._shape).numel()
            self._cache = self._prepare(0, len(dataset)) if bytes_needed <= cache_bytes else None
        except Exception as error:
            self.explain(error)

    def beside(self, inputs: Dataset) -> Workload:
        """Return the same live model on other inputs.

        Raises:
            WorkloadError: they do not fit the architecture.
        """
        return Workload(
            self.architecture,
            self.model,
            inputs,
            batch_size=self.batch_size,
            device=self.device,
            answer=self._answer,
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def logits(self) -> Tensor:
        """Return what the model says now: float32 [N, K] on the CPU, a normal tensor that may be trained on.

        Raises:
            WorkloadError: memory runs out, the model does not take the inputs, or what it returns is no [N, K]
                tensor of reals with a K that fits the labels.
        """
        return self.answers().cpu()

    def answers(self) -> Tensor:
        """Return what `logits` returns, on the device of the model."""
        out: Tensor | None = None
        with self.inference():
            for start, batch in self._batches():
                version = batch._version
                try:
                    answer = self._pick(self.model(batch))
                except Exception as error:
                    self.explain(error)
                if batch._version != version:
                    raise WorkloadError(
                        f"{self.architecture.name}: the model changes its inputs in place, so no two runs would be"
                        " alike",
                        "make its first operation out of place",
                    )
                answer = self._checked(answer, len(batch))
                if out is None:
                    with torch.inference_mode(mode=False):
                        out = torch.empty(len(self), answer.shape[1], device=self.device)
                out[start : start + len(batch)] = answer
                self.ran = True
        assert out is not None  # a data set has at least one input
        return out

    def _batches(self) -> Iterator[tuple[int, Tensor]]:
        """Yield where every batch starts, and the batch."""
        starts = range(0, len(self), self.batch_size)
        if self._cache is not None:
            yield from zip(starts, split(self._cache, self.batch_size), strict=True)
            return
        with ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(self._prepare, 0, self.batch_size)
            for start in starts:
                try:
                    batch = pending.result()
                except Exception as error:
                    self.explain(error)
                after = start + self.batch_size
                if after < len(self):
                    pending = ahead.submit(self._prepare, after, after + self.batch_size)
                yield start, batch

    def prepare(self, dataset: Dataset) -> Tensor:
        """Return other inputs as the model takes them: float32 [N, ...] on the device.

        Raises:
            WorkloadError: they do not fit the architecture.
        """
        shape = _input_shape(self.architecture, dataset)
        inputs = self.architecture.preprocess.apply(dataset.inputs.to(self.device), dataset.layout)
        return inputs.view(len(dataset), *shape)

    def describe(self) -> str:
        """Say what runs on what, and what is done to the inputs, for people."""
        plural = "" if len(self) == 1 else "s"
        return f"{self.architecture.name} on {len(self):,} input{plural} of {self.dataset.name}, {self.preparation}"

    @property
    def preparation(self) -> str:
        return "as they are" if self.dataset.inputs.is_floating_point() else self.architecture.preprocess.text

    def doubts(self) -> list[str]:
        preprocess, images = self.architecture.preprocess, not self.dataset.inputs.is_floating_point()
        seen = preprocess.doubt(self.dataset.inputs)
        inputs = [*(preprocess.found() if images else []), *([] if seen is None else [f"{self.data_name}: {seen}"])]
        return [*super().doubts(), *self.dataset.notes, *inputs]

    @property
    def classes(self) -> int | None:
        """The number of classes, known from the first logits at the latest."""
        return self._classes

    @property
    def data_name(self) -> str:
        return self.dataset.name

    def data_sha256(self) -> str:
        return self.dataset.sha256()

    def identity(self) -> str:
        """Return everything that changes what the model answers, apart from its weights, as one line of JSON: the
        network, the data, and what floating-point results depend on (threads, batch size, device type)."""
        return json.dumps(
            {
                "architecture": self.architecture.name,
                "preprocess": self.architecture.preprocess.key,
                "data": self.data_sha256(),
                "batch_size": self.batch_size,
                "threads": torch.get_num_threads(),
                "device": self.device.type,
                **({} if self._answer is None else {"answer": str(self._answer)}),
            },
            sort_keys=True,
        )

    def golden(self) -> GoldenRun:
        """Run the model and return what later outcomes are compared with."""
        return GoldenRun(self.answers())

    def outcome(self, golden: Golden | None = None, correct: Callable[[Tensor], Tensor] | None = None) -> Outcome:
        """Run the model and measure its answers; `correct` maps logits [N, K] on the CPU to better ones."""
        assert golden is None or isinstance(golden, GoldenRun)
        logits = self.answers() if correct is None else correct(self.logits()).to(self.device)
        return measure(logits, self.labels, golden)

    def fault_free(self) -> tuple[GoldenRun, Outcome]:
        """Run the model once; return the golden run, and the outcome compared with it."""
        logits = self.answers()
        golden = GoldenRun(logits)
        return golden, measure(logits, self.labels, golden)

    def _prepare(self, start: int, stop: int) -> Tensor:
        inputs = self.dataset.inputs[start:stop].to(self.device)
        prepared = self.architecture.preprocess.apply(inputs, self.dataset.layout)
        return prepared.view(len(inputs), *self._shape)

    def _checked(self, answer: object, rows: int) -> Tensor:
        if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != rows:
            got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise WorkloadError(
                f"{self.architecture.name}: the model returns {got} for {rows} inputs", "logits [N, classes] are needed"
            )
        if not answer.is_floating_point():
            raise WorkloadError(
                f"{self.architecture.name}: the model returns {answer.dtype} and no logits",
                "let the model return floating-point logits, before any argmax",
            )
        if answer.shape[1] != self._classes:
            if self._classes is not None:
                raise WorkloadError(
                    f"{self.architecture.name}: the model returns {answer.shape[1]} logits per input and not"
                    f" {self._classes}",
                    "pass the --arch that the checkpoint was trained with",
                )
            self._check_labels(self.dataset, replace(self.architecture, num_classes=answer.shape[1]))
            self._classes = answer.shape[1]
        return answer

    @staticmethod
    def _check_labels(dataset: Dataset, architecture: Architecture) -> None:
        highest, classes = int(dataset.labels.max()), architecture.num_classes
        if classes is not None and highest >= classes:
            raise WorkloadError(
                f"{dataset.name}: label {highest} is out of range, {architecture.name} has {classes} classes",
                "pass the --data that the checkpoint was trained for; classes count from 0",
            )

    def _refusal(self) -> str:
        return f"the model does not take inputs of shape {list(self._shape)}"


def _batch_size(shape: tuple[int, ...], device: torch.device | None) -> int:
    gpu = device is not None and device.type != "cpu"
    most, numbers = (_GPU_BATCH_SIZE, _GPU_BATCH_NUMBERS) if gpu else (DEFAULT_BATCH_SIZE, _BATCH_NUMBERS)
    return max(1, min(most, numbers // torch.Size(shape).numel()))


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


@dataclass(frozen=True)
class WorkloadSpec:
    """What a model runs on, and how, as a command line says it.

    Attributes:
        data: --data, see `load_data` and `load_tokens`; None: the embedded digits, for the demo's architecture only.
        arch: --arch, see `resolve_architecture`.
        limit: --limit, the first so many inputs.
        batch_size: --batch-size; None: chosen by the size of inputs, or of a language model's logits.
        device: --device, see `pick_device`.
        mean: --mean, per channel, in place of the architecture's own.
        std: --std, likewise.
        answer: --answer, see `answer_picker`; for classifiers.
        score: --score, see `named_score`; instead of data.
    """

    data: str | None = None
    arch: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    answer: str | None = None
    score: str | None = None


def build_workload(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    spec: WorkloadSpec | None = None,
    *,
    directory: Path | None = None,
    is_directory: bool = False,
) -> BaseWorkload:
    """Put a workload together from what a command line says.

    Args:
        state: the checkpoint's tensors.
        metadata: the checkpoint's metadata; it may name a built-in architecture.
        spec: what the model runs on; None: the defaults.
        directory: where the checkpoint's files lie.
        is_directory: the checkpoint was named as a directory, which may then say what its architecture is.

    Raises:
        UsageError: a name or a number makes no sense.
        WorkloadError: checkpoint, architecture and data do not fit each other.
    """
    spec = spec or WorkloadSpec()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    architecture = resolve_architecture(spec.arch, shapes, metadata, directory, is_directory=is_directory)
    place = pick_device(spec.device)
    if spec.score is not None:
        given = {"--data": spec.data, "--limit": spec.limit, "--mean": spec.mean, "--std": spec.std}
        for option, value in (given | {"--answer": spec.answer}).items():
            if value is not None:
                raise UsageError(f"{option}: a --score looks at data of its own", f"leave {option} out")
        return ScoreWorkload(architecture, load_model(architecture, state), named_score(spec.score), device=place)
    data = spec.data
    if data is None:
        if architecture.data != "digits":
            remedy = f"pass --data, e.g. {architecture.data}, or a score of your own: --score package.module:function"
            raise UsageError(f"{architecture.name} needs data to run on", remedy)
        data = architecture.data
    if architecture.language is not None:
        if spec.answer is not None:
            raise UsageError("--answer: is for classifiers; of a language model the logits are taken", "leave it out")
        if spec.mean is not None or spec.std is not None:
            raise UsageError(f"{architecture.name} takes tokens, which have no mean", "leave out --mean and --std")
        questions = load_choices(data, architecture.language, spec.limit)
        if questions is not None:
            model = load_model(architecture, state)
            return ChoiceWorkload(architecture, model, questions, batch_size=spec.batch_size, device=place)
        tokens = load_tokens(data, architecture.language, spec.limit)
        return LanguageWorkload(
            architecture, load_model(architecture, state), tokens, batch_size=spec.batch_size, device=place
        )
    dataset = load_data(
        data,
        spec.limit,
        geometry=architecture.geometry,
        label_offset=architecture.label_offset,
        classes=architecture.classes,
    )
    if spec.mean is not None or spec.std is not None:
        if dataset.inputs.is_floating_point():
            raise UsageError(
                f"{dataset.name}: floating-point inputs pass as they are, so they cannot be scaled or normalised",
                "store uint8 images, or leave out --mean and --std",
            )
        architecture = architecture.with_preprocess(
            architecture.preprocess.with_overrides(mean=spec.mean, std=spec.std)
        )
    model = load_model(architecture, state)
    return Workload(architecture, model, dataset, batch_size=spec.batch_size, device=place, answer=spec.answer)
