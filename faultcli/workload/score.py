"""Any task: a model with a score of the user's own, a function from the model to numbers."""

from __future__ import annotations

import hashlib
import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.answers import Pick, all_finite, tensors_in
from faultcli.workload.base import BaseWorkload, Golden
from faultcli.workload.factory import import_named
from faultcli.workload.metrics import GoldenScores, Outcome
from faultcli.workload.models.architectures import Architecture

Score: TypeAlias = Callable[[nn.Module], Any]  # → a number, or numbers by name
Changed: TypeAlias = Callable[[Any, Any], Any]  # what a model call returned, without and with faults → per input

ONLY = "score"  # the name of a number that comes without one
_SEED = 0
_ALIKE = "let the score call the model alike every time, or leave out the comparison of answers"


@dataclass(frozen=True)
class ScoreTask:
    """What is asked of a model.

    Attributes:
        score: called with the model, in evaluation mode and without gradients; returns a number or numbers by name.
            The random generators of Python, numpy and torch start alike at every call.
        name: what it is called.
        changed: compares what a call of the model returned without faults (on the CPU) and with them, and says for
            every input whether its answer is another one: bool [inputs]. None: the whole run is one answer, and it has
            changed if any score has.
        inputs: how many inputs a run looks at, where that is known.
        data: what the inputs are called.
    """

    score: Score
    name: str
    changed: Changed | None = None
    inputs: int | None = None
    data: str = "its own data"


class ScoreWorkload(BaseWorkload):
    """A model and a score.

    A run is **masked** if its answers are the golden ones, **SDC** if they are others, **DUE** if a number that the
    model returned, or a score, is NaN or infinite: counted per input with `changed`, else for the run as a whole.

    Raises:
        WorkloadError: the score fails, is no number, or differs from run to run.
    """

    def __init__(
        self, architecture: Architecture, model: nn.Module, task: ScoreTask, *, device: torch.device | None = None
    ) -> None:
        super().__init__(architecture, model, batch_size=1, device=device)
        self.task = task
        self._inputs = 1 if task.changed is None else task.inputs or 1

    def __len__(self) -> int:
        """Return the number of answers that a run is taken for: 1, or one per input where the user compares them."""
        return self._inputs

    @property
    def data_name(self) -> str:
        return self.task.data

    def data_sha256(self) -> str:
        return _source_sha256(self.task.score)

    def describe(self) -> str:
        return f"{self.architecture.name}, scored by {self.task.name}"

    def _settings(self) -> dict[str, object]:
        return {"score": self.task.name}

    def fault_free(self) -> tuple[GoldenScores, Outcome]:
        scores, outputs, finite = self._run()
        again, _, _ = self._run(keep=False)
        if scores != again:
            name = next(name for name in scores if scores[name] != again.get(name))
            raise WorkloadError(
                f"{self.task.name}: is not deterministic: {name} is {scores[name]}, then {again.get(name)}",
                "seed what it draws inside the function, and let it look at the same inputs every time",
            )
        golden = GoldenScores(scores, outputs)
        outcome = self._compared(scores, outputs, golden, finite=finite)
        self._inputs = outcome.n
        return golden, outcome

    def outcome(self, golden: Golden | None = None) -> Outcome:
        assert golden is None or isinstance(golden, GoldenScores)
        scores, outputs, finite = self._run()
        if golden is None:
            return Outcome(
                n=len(self), correct1=None, correct5=None, loss=None, due=0 if finite else len(self), scores=scores
            )
        return self._compared(scores, outputs, golden, finite=finite)

    def _run(self, *, keep: bool = True) -> tuple[dict[str, float | None], tuple[Any, ...], bool]:
        """Return the scores, what every call of the model returned (if it is compared), whether all is finite."""
        outputs: list[Any] = []
        finite = True

        def look(module: nn.Module, arguments: Any, output: Any) -> None:
            nonlocal finite
            finite = finite and all_finite(output)
            if keep and self.task.changed is not None:
                outputs.append(_kept(output))

        handle = self.model.register_forward_hook(look)
        try:
            with self.evaluating(), torch.no_grad(), _same_randomness():
                found = self.task.score(self.model)
        except Exception as error:
            self.explain(error)
        finally:
            handle.remove()
        self.ran = True
        scores = _numbers(self.task.name, found)
        return scores, tuple(outputs), finite and _defined(scores)

    def _compared(
        self, scores: dict[str, float | None], outputs: tuple[Any, ...], golden: GoldenScores, *, finite: bool
    ) -> Outcome:
        if self.task.changed is None:
            n, due, sdc = 1, int(not finite), int(finite and scores != golden.scores)
        else:
            n, due, sdc = self._counted(outputs, golden.outputs)
        return Outcome(
            n=n, correct1=None, correct5=None, loss=None, due=due, masked=n - due - sdc, sdc=sdc, scores=scores
        )

    def _counted(self, outputs: tuple[Any, ...], golden: tuple[Any, ...]) -> tuple[int, int, int]:
        """Return how many inputs there are, how many have a number that is not finite, how many changed silently."""
        assert self.task.changed is not None
        if len(outputs) != len(golden):
            problem = f"called the model {len(golden)} times without faults and {len(outputs)} with them"
            raise WorkloadError(f"{self.task.name}: {problem}", _ALIKE)
        n = due = sdc = 0
        for clean, now in zip(golden, outputs, strict=True):
            changed = np.atleast_1d(np.asarray(self.task.changed(clean, now))).astype(bool).reshape(-1)
            broken = _broken_rows(now, len(changed))
            n += len(changed)
            due += int(broken.sum())
            sdc += int((changed & ~broken).sum())
        if golden is not outputs and n != len(self):
            raise WorkloadError(f"{self.task.name}: has {len(self)} inputs without faults and {n} with them", _ALIKE)
        return n, due, sdc

    def _refusal(self) -> str:
        return f"{self.task.name} fails on the model"


def named_score(spec: str) -> ScoreTask:
    """Return the score that `spec` names, `package.module:function`, from the command line only.

    A `changed` that the function carries as an attribute is its comparison of answers.

    Raises:
        WorkloadError: it cannot be imported.
    """
    score = import_named("score", spec)
    return ScoreTask(score, spec, changed=getattr(score, "changed", None))


def score_name(score: Score) -> str:
    """Return what a score in memory is called."""
    return str(getattr(score, "__qualname__", None) or type(score).__name__)


class MetricScore:
    """A score from batches of data and a metric with `reset`, `update` and `compute`, as those of torchmetrics.

    Args:
        batches: (inputs, targets); inputs are moved to the model's device. A tuple or dict of inputs is spread out.
        metric: the object, or what makes a new one when it is called.
        pick: the answer, out of what the model returns.
    """

    def __init__(self, batches: Iterable[Any], metric: Any, pick: Pick) -> None:
        self.batches = list(batches)
        self.metric, self.pick = metric, pick
        if not self.batches or not all(isinstance(batch, tuple | list) and len(batch) == 2 for batch in self.batches):
            raise WorkloadError("data in memory: are no batches (inputs, targets)", "pass a DataLoader of such pairs")
        if not hasattr(metric, "update") and not callable(metric):
            problem = f"a metric of type {type(metric).__name__} has no update and compute"
            raise UsageError(problem, "pass one as those of torchmetrics, or a score of your own: score=fn")

    def __call__(self, model: nn.Module) -> Any:
        made = isinstance(self.metric, type) or not hasattr(self.metric, "update")
        metric = self.metric() if made else self.metric
        if hasattr(metric, "reset"):
            metric.reset()
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        for inputs, targets in self.batches:
            metric.update(self.pick(_called(model, _moved(inputs, device))), _moved(targets, device))
        return metric.compute()

    @property
    def inputs(self) -> int | None:
        """How many inputs there are, if batches say so."""
        sizes = [next((len(tensor) for tensor in tensors_in(inputs)), None) for inputs, _ in self.batches]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


def _called(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _moved(item: Any, device: torch.device) -> Any:
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, Mapping):
        return {name: _moved(value, device) for name, value in item.items()}
    return type(item)(_moved(value, device) for value in item) if isinstance(item, tuple | list) else item


def _kept(output: Any) -> Any:
    """Return an output with copies of its tensors on the CPU: networks may reuse their memory."""
    if isinstance(output, Tensor):
        return output.detach().to("cpu", copy=True)
    if isinstance(output, Mapping):
        return {name: _kept(value) for name, value in output.items()}
    return type(output)(map(_kept, output)) if type(output) in (tuple, list) else output


def _broken_rows(output: Any, rows: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for every input whether a number of its output is not finite; tensors without a row per input count for
    all."""
    broken = np.zeros(rows, dtype=bool)
    for tensor in tensors_in(output):
        if tensor.is_floating_point() or tensor.is_complex():
            bad = ~torch.isfinite(tensor)
            by_row = (
                bad.reshape(rows, -1).any(1).cpu().numpy() if tensor.dim() and len(tensor) == rows else bool(bad.any())
            )
            broken |= by_row
    return broken


def _numbers(name: str, found: Any) -> dict[str, float | None]:
    """Return what a score gave as plain numbers by name; None for one that is not finite. Of a mapping, what is no
    single number (a value per class) is left out."""
    if isinstance(found, Mapping):
        numbers = {str(key): _number(value) for key, value in found.items()}
        kept = {key: value for key, value in numbers.items() if value is not None}
    else:
        value = _number(found)
        kept = {} if value is None else {ONLY: value}
    if not kept:
        given = f"{list(found)}" if isinstance(found, Mapping) else type(found).__name__
        problem = f"{name}: returned {given} and no number"
        raise WorkloadError(problem, "return a float, or floats by name: {'mAP': 0.4}")
    return {key: value if math.isfinite(value) else None for key, value in kept.items()}


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        if np.prod(value.shape) != 1:
            return None
        value = value.item()
    return float(value) if isinstance(value, int | float) else None


def _defined(scores: Mapping[str, float | None]) -> bool:
    return all(value is not None for value in scores.values())


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Start the generators of Python, numpy and torch alike, and give them back as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(_SEED)
            np.random.seed(_SEED)
            torch.manual_seed(_SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _source_sha256(score: Score) -> str:
    """Return what tells one score from another: a hash of its code, as far as it can be had, and its name."""
    subject = score if inspect.isfunction(score) or inspect.ismethod(score) else type(score)
    try:
        text = inspect.getsource(subject)
    except (OSError, TypeError):
        text = ""
    digest = hashlib.sha256(
        f"{getattr(subject, '__module__', '')}.{getattr(subject, '__qualname__', '')}\n{text}".encode()
    )
    for batch in getattr(score, "batches", ()):
        for tensor in tensors_in(batch):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
