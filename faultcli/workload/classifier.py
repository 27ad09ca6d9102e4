"""Classifiers on labelled inputs: what a trial runs, over and over, while the weights change under it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor, nn

from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.answers import Pick, answer_picker, described
from faultcli.workload.base import BaseWorkload, Golden
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.inputs import Inputs, cuts, numbers_in, prepared
from faultcli.workload.late.rows import LateRows, filled
from faultcli.workload.late.starting import LateStart, Run
from faultcli.workload.metrics import GoldenRun, Outcome, cross_entropies, measure
from faultcli.workload.models.architectures import Architecture

DEFAULT_BATCH_SIZE = 100  # within 10 % of the fastest on a CPU for ResNet-20, LeNet and the demo
# With more numbers per batch a CPU is slower: MobileNetV2 takes twice as long with 32 images of 224×224 as with 4.
_BATCH_NUMBERS = 1 << 20
# A GPU is faster the more there are (benchmarks/gpu.md); the bound keeps activations of large inputs in its memory.
_GPU_BATCH_SIZE, _GPU_BATCH_NUMBERS = 1000, 1 << 25
_SAMPLE = 16  # inputs that are run twice, to see whether answers vary by themselves
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
        self.late_bytes: int | None = None  # that a late start may keep; None: as many as are free, 0: none begins late
        self.dataset = dataset
        self.labels = dataset.labels  # int64 [N], CPU
        self._shape = _input_shape(architecture, dataset)
        self._check_labels(dataset, architecture)
        self._classes = architecture.num_classes
        if batch_size is None:
            batch_size = architecture.batch or _batch_size(numbers_in(dataset), device)
        super().__init__(architecture, model, batch_size=batch_size, device=device)
        if architecture.batch is not None and (batch_size != architecture.batch or len(dataset) % batch_size):
            raise UsageError(
                f"{architecture.name}: was exported for batches of exactly {architecture.batch}; there are"
                f" {len(dataset):,} inputs in batches of {batch_size}",
                f"pass --batch-size {architecture.batch}, with a --limit that it divides;"
                " or export it with a dynamic first dimension",
            )
        try:
            bytes_needed = len(dataset) * (4 * torch.Size(self._shape).numel() + _row_bytes(dataset))
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

    def answers(self, run: Run | None = None) -> Tensor:
        """Return what `logits` returns, on the device of the model.

        Args:
            run: gives what the model returns for a batch; None: the model itself.
        """
        return self._answers(len(self), self._batches(), run)

    def answers_to(self, rows: Tensor, batch_size: int, run: Run | None = None) -> Tensor:
        """Return the logits of some inputs, float32 [n, K], on the device of the model.

        All batches have the same size, the last one filled up with repeats: what a kernel computes of an input can
        depend on the number of inputs beside it, so runs that are compared with each other have to agree in that.

        Args:
            rows: positions of inputs, int64 [n] on the CPU, n at least 1.
            batch_size: inputs per forward pass.
            run: see `answers`.
        """
        return self._answers(len(rows), self._chosen(filled(rows, batch_size), batch_size), run)

    def _answers(self, count: int, batches: Iterator[tuple[int, Inputs]], run: Run | None = None) -> Tensor:
        """Return the logits of batches, [count, K]; what is beyond `count` is dropped."""
        out: Tensor | None = None
        with self.inference():
            for start, batch in batches:
                version = batch.version
                try:
                    returned = batch.given_to(self.model) if run is None else run(start, batch)
                    answer = self._pick(returned)
                except Exception as error:
                    self.explain(error)
                if batch.version != version:
                    raise WorkloadError(
                        f"{self.architecture.name}: the model changes its inputs in place, so no two runs would be"
                        " alike",
                        "make its first operation out of place",
                    )
                answer = self._checked(answer, len(batch), returned)
                if out is None:
                    with torch.inference_mode(mode=False):
                        out = torch.empty(count, answer.shape[1], device=self.device)
                out[start : start + len(batch)] = answer[: count - start]
                self.ran = True
        assert out is not None  # there is at least one input
        return out

    def _chosen(self, rows: Tensor, batch_size: int) -> Iterator[tuple[int, Inputs]]:
        """Yield where every batch starts, and the batch, of inputs of these positions."""
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            with torch.inference_mode(mode=False):  # tensors whose versions are counted
                batch = (
                    prepared(self.architecture, self.dataset.rows(chosen), self._shape, self.device)
                    if self._cache is None
                    else self._cache[chosen.to(self.device)]
                )
            yield start, batch

    def losses(self, temperature: float = 1.0) -> Iterator[Tensor]:
        for start, logits in self.logits_by_batch():
            labels = self.labels[start : start + len(logits)].to(logits.device)
            yield cross_entropies(logits / temperature, labels)

    def logits_by_batch(self) -> Iterator[tuple[int, Tensor]]:
        """Yield where every batch starts, and its logits in float32; where gradients are enabled, with the graph that
        they were computed by, if the model has one.

        Raises:
            WorkloadError: see `logits`.
        """
        with self.evaluating():
            for start, batch in self._batches():
                try:
                    returned = batch.given_to(self.model)
                    answer = self._pick(returned)
                except Exception as error:
                    self.explain(error)
                self.ran = True
                yield start, self._checked(answer, len(batch), returned).float()

    def sample(self) -> Tensor:
        """Return the logits of the first inputs: [n, K]."""
        rows = self.architecture.batch or min(self.batch_size, len(self), _SAMPLE)
        start, stop = next(cuts(self.dataset, rows))
        batch = self._prepare(start, stop)
        with self.inference():
            logits: Tensor = self._pick(batch.given_to(self.model))
        return logits

    def _batches(self) -> Iterator[tuple[int, Inputs]]:
        """Yield where every batch starts, and the batch."""
        batches = list(cuts(self.dataset, self.batch_size))
        if self._cache is not None:
            yield from ((start, self._cache[start:stop]) for start, stop in batches)
            return
        with ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(self._prepare, *batches[0])
            for at, (start, _) in enumerate(batches, 1):
                try:
                    batch = pending.result()
                except Exception as error:
                    self.explain(error)
                if at < len(batches):
                    pending = ahead.submit(self._prepare, *batches[at])
                yield start, batch

    def prepare(self, dataset: Dataset) -> Inputs:
        """Return other inputs as the model takes them, on the device.

        Raises:
            WorkloadError: they do not fit the architecture.
        """
        return prepared(self.architecture, dataset, _input_shape(self.architecture, dataset), self.device)

    def describe(self) -> str:
        """Say what runs on what, and what is done to the inputs, for people."""
        plural = "" if len(self) == 1 else "s"
        return f"{self.architecture.name} on {len(self):,} input{plural} of {self.dataset.name}, {self.preparation}"

    @property
    def preparation(self) -> str:
        return self.architecture.preprocess.text if self.dataset.images else "as they are"

    def doubts(self) -> list[str]:
        preprocess, wanted = self.architecture.preprocess, self.architecture.input_shape
        seen = preprocess.doubt(self.dataset.inputs)
        data = [
            *(preprocess.found() if self.dataset.images else []),
            *([] if seen is None else [f"{self.data_name}: {seen}"]),
        ]
        if wanted is not None and self._shape != wanted:
            size, usual = ("×".join(map(str, shape[1:])) for shape in (self._shape, wanted))
            data.append(f"{self.data_name}: inputs are {size}; {self.architecture.name} is usually given {usual}")
        return [*super().doubts(), *self.dataset.notes, *data]

    @property
    def classes(self) -> int | None:
        """The number of classes, known from the first logits at the latest."""
        return self._classes

    @property
    def data_name(self) -> str:
        return self.dataset.name

    def data_sha256(self) -> str:
        return self.dataset.sha256()

    def _settings(self) -> dict[str, object]:
        answer = {} if self._answer is None else {"answer": str(self._answer)}
        return {**super()._settings(), "preprocess": self.architecture.preprocess.key, **answer}

    def golden(self) -> GoldenRun:
        """Run the model and return what later outcomes are compared with."""
        return GoldenRun(self.answers())

    def outcome(
        self,
        golden: Golden | None = None,
        correct: Callable[[Tensor], Tensor] | None = None,
        run: Run | None = None,
    ) -> Outcome:
        """Run the model and measure its answers.

        Args:
            golden: of the same inputs.
            correct: maps logits [N, K] on the CPU to better ones.
            run: see `answers`.
        """
        assert golden is None or isinstance(golden, GoldenRun)
        logits = self.answers(run)
        if correct is not None:
            logits = correct(logits.cpu()).to(self.device)
        return measure(logits, self.labels, golden)

    def right_probability(self) -> float:
        """Run the model; return the mean softmax probability of the labels, 0 where a logit is not finite."""
        probabilities = self.answers().double().softmax(-1).nan_to_num(0.0)
        return float(probabilities[torch.arange(len(self)), self.labels.to(self.device)].mean())

    def late_start(self, golden: Golden, names: Collection[str]) -> LateStart | None:
        """Return what runs the model faster while few tensors differ from the golden run; None where it takes several
        inputs, or padded ones.

        Args:
            golden: of the tensors as they are whenever one of its runs is asked for.
            names: the tensors that may change, by their names in the checkpoint.
        """
        assert isinstance(golden, GoldenRun)
        return None if self.dataset.others or self.dataset.widths else LateStart(self, golden, names)

    def late_rows(self, golden: Golden, names: Collection[str], batch_size: int, size: int) -> LateRows | None:
        """Return the same for runs by `answers_to` on `size` inputs, in batches of `batch_size`, as `golden` is."""
        assert isinstance(golden, GoldenRun)
        several = self.dataset.others or self.dataset.widths
        return None if several else LateRows(self, golden, names, batch_size, size)

    def fault_free(self) -> tuple[GoldenRun, Outcome]:
        """Run the model once; return the golden run, and the outcome compared with it."""
        logits = self.answers()
        golden = GoldenRun(logits)
        return golden, measure(logits, self.labels, golden)

    def _prepare(self, start: int, stop: int) -> Inputs:
        return prepared(self.architecture, self.dataset.rows(slice(start, stop)), self._shape, self.device)

    def _checked(self, answer: object, rows: int, returned: object) -> Tensor:
        if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != rows:
            raise WorkloadError(
                f"{self.architecture.name}: the model returns {described(returned)} for {rows} inputs, and no logits"
                " [N, classes]",
                "say where they are: --answer NAME; or judge the model by a score of your own: --score"
                " package.module:function",
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
        kind = f"{self.dataset.inputs.dtype} " if self.dataset.tokens else ""
        further = f", with {', '.join(self.dataset.others)}" if self.dataset.others else ""
        images = " (images have to be uint8)" if self.dataset.tokens and len(self._shape) > 1 else ""
        return f"the model does not take {kind}inputs of shape {list(self._shape)}{further}{images}"


def _batch_size(numbers_per_input: int, device: torch.device | None) -> int:
    gpu = device is not None and device.type != "cpu"
    most, numbers = (_GPU_BATCH_SIZE, _GPU_BATCH_NUMBERS) if gpu else (DEFAULT_BATCH_SIZE, _BATCH_NUMBERS)
    return max(1, min(most, numbers // max(1, numbers_per_input)))


def _row_bytes(dataset: Dataset) -> int:
    """Return what an input's further tensors take."""
    return sum(tensor.nbytes // len(dataset) for tensor in dataset.others.values())


def _input_shape(architecture: Architecture, dataset: Dataset) -> tuple[int, ...]:
    """Return the shape of one input as the model gets it.

    Floating-point inputs and tokens pass as they are, except that [N, H, W] become [N, 1, H, W] where the architecture
    is known to take one channel.
    """
    shape, wanted = dataset.item_shape, architecture.input_shape
    if not dataset.images:
        stored = tuple(dataset.inputs.shape[1:])
        shape = (1, *stored) if wanted == (1, *stored) else stored
    sized = architecture.any_size and wanted is not None and (len(shape), shape[:1]) == (len(wanted), wanted[:1])
    if wanted is not None and shape != wanted and not sized:
        raise WorkloadError(
            f"{dataset.name}: inputs of shape {list(shape)}, but {architecture.name} takes {list(wanted)}",
            f"pass the --data that the checkpoint was trained for, e.g. {architecture.data}",
        )
    return shape
