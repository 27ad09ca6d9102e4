"""What every workload can do: hold a live model, run it under a device's rules, and say in plain words what failed."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from typing import NoReturn, Self

import torch
from torch import Tensor, nn

from faultcli.checkpoint.locate import some
from faultcli.errors import FaultcliError, UsageError, WorkloadError
from faultcli.formats import ChannelsOf
from faultcli.live import LiveTensor, fill
from faultcli.modules import evaluating
from faultcli.workload.metrics import GoldenRun, GoldenScores, Outcome
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.binding import Binding, binding_of, live_tensors
from faultcli.workload.models.channels import live_channels
from faultcli.workload.token_metrics import GoldenTokens

Golden = GoldenRun | GoldenTokens | GoldenScores
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class BaseWorkload(ABC):
    """A model that is ready to run on inputs.

    `parameters` are the live tensors by their names in the checkpoint: writing into them in place changes what the next
    run computes, and nothing is derived from them or kept between runs. A tensor of the checkpoint that is not among
    them, the model does not read.

    Args:
        architecture: what `model` is.
        model: from `load_model`; it is moved to `device`.
        batch_size: inputs per forward pass.
        device: where the model runs.

    Raises:
        WorkloadError: the model does not fit into memory.
        UsageError: `batch_size` is below 1.
    """

    def __init__(
        self, architecture: Architecture, model: nn.Module, *, batch_size: int, device: torch.device | None
    ) -> None:
        if not 1 <= batch_size < 1 << 31:
            raise UsageError(f"a batch size of {batch_size} makes no batches", "--batch-size takes 1 or more")
        self.architecture = architecture
        self.batch_size = batch_size
        self.device = device or torch.device("cpu")
        self.ran = False  # the model took these inputs before
        try:
            self.model = model.to(self.device)
        except Exception as error:
            self.explain(error)
        self.binding: Binding | None = binding_of(self.model)
        self.parameters: dict[str, LiveTensor] = live_tensors(self.model)
        self.found: list[str] = []  # what was found since, a line each, for `doubts`
        self.noise: float | None = None  # part of the answers that change from run to run without faults; None: none

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of inputs."""

    @property
    @abstractmethod
    def data_name(self) -> str:
        """What the inputs are called."""

    @abstractmethod
    def data_sha256(self) -> str:
        """Return the content hash of inputs and labels."""

    @abstractmethod
    def describe(self) -> str:
        """Say what runs on what, for people."""

    @property
    def preparation(self) -> str:
        """What is done to the inputs before the model gets them, for people; empty where that is nothing to tell."""
        return ""

    def channels(self) -> ChannelsOf:
        """Return the output channels of tensors where they are no slices of the first dimension, by their names in the
        checkpoint."""
        return live_channels(self.model, self.parameters)

    def doubts(self) -> list[str]:
        """Return what was found when the model was opened that a user may not expect, a line each: what was not
        understood, not applied, not read, and what would help."""
        return [*self.architecture.notes, *(self.binding.notes if self.binding else ()), *self.found]

    def identity(self) -> str:
        """Return everything that changes what the model answers, apart from its weights, as one line of JSON: the
        network, the data, and what floating-point results depend on (threads, batch size, device type)."""
        own = {
            "architecture": self.architecture.name,
            "data": self.data_sha256(),
            "threads": torch.get_num_threads(),
            "device": self.device.type,
        }
        return json.dumps(own | self._settings(), sort_keys=True)

    def _settings(self) -> dict[str, object]:
        """Return what else its `identity` consists of."""
        return {"batch_size": self.batch_size}

    def answered_by(self, model: nn.Module) -> Self:
        """Return the workload with a model in place of its own, which takes the same inputs and is on its device; none
        of its tensors can be loaded or hit."""
        other = copy(self)
        other.model, other.binding, other.parameters, other.ran = model, None, {}, False
        return other

    @abstractmethod
    def fault_free(self) -> tuple[Golden, Outcome]:
        """Run the model; return what later outcomes are compared with, and the outcome compared with it."""

    @abstractmethod
    def outcome(self, golden: Golden | None = None) -> Outcome:
        """Run the model and measure its answers."""

    def losses(self, temperature: float = 1.0) -> Iterator[Tensor]:
        """Yield, batch by batch, the cross entropy of every answer in nats, float32 [n], of logits that are divided by
        `temperature`; NaN where a logit is not finite. With gradients, where the caller has them on.

        Raises:
            UsageError: the model is judged by something else.
        """
        raise UsageError(
            f"{self.architecture.name}: is judged by something that has no gradient",
            "pass labelled inputs, or sequences of tokens: --data D",
        )

    def sample(self) -> Tensor | None:
        """Return what the model says of a few inputs now, [..., K]; None where two runs are compared elsewhere."""
        return None

    def listen(self, golden: Golden) -> None:
        """Find out whether the model answers alike twice, from a few inputs; if it does not, how many of its answers
        differ from the golden run for no reason: `noise`. The weights have to be those of the golden run.

        On a GPU answers are compared and not logits, whose last bits may vary.
        """
        self.noise = None
        one, other = self.sample(), self.sample()
        if one is None or other is None:
            return
        alike = torch.equal(one.argmax(-1), other.argmax(-1))
        if alike and (self.device.type != "cpu" or torch.equal(one.nan_to_num(), other.nan_to_num())):
            return
        outcome = self.outcome(golden)
        self.noise = 1 - (outcome.masked or 0) / outcome.n

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy the given tensors into the live ones; the others stay.

        Raises:
            WorkloadError: the model has no such tensor, or one of another shape.
        """
        for name, values in state.items():
            own = self.parameters.get(name)
            if own is None:
                raise WorkloadError(
                    f"{self.architecture.name}: {name!r} {list(values.shape)}: the model has no such tensor",
                    f"faults in it change no answer: leave it out with --exclude {name}",
                )
            if tuple(own.shape) != tuple(values.shape):
                raise WorkloadError(
                    f"{self.architecture.name}: {name!r} {list(values.shape)}: the model has it as {list(own.shape)}",
                    "pass the --arch that the checkpoint was trained with",
                )
        for name, values in state.items():
            fill(self.parameters[name], values)

    def read_by_model(self, names: Sequence[str]) -> list[str]:
        """Return those of some tensors of the checkpoint that the model reads.

        Raises:
            WorkloadError: the model reads one as something else than it is, so that no fault in it can be carried over.
        """
        computed = [name for name in names if self.binding is not None and name in self.binding.computed]
        if computed:
            raise WorkloadError(
                f"{self.architecture.name}: computes with {some(computed)} on loading, so faults in the file cannot be"
                " carried over",
                "leave such tensors out with --exclude, or pass a network that takes them as they are:"
                " --arch package.module:factory",
            )
        return [name for name in names if name in self.parameters]

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Run as `evaluating`, without gradients."""
        with self.evaluating(), torch.inference_mode():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run in evaluation mode; on CUDA, with convolutions that give the same answer every time.

        A module that comes from a user's program, and may be in training, is left in its mode."""
        with evaluating(self.model), self._exact_convolutions():
            yield

    def _exact_convolutions(self) -> AbstractContextManager[object]:
        if self.device.type != "cuda":
            return nullcontext()
        flags: AbstractContextManager[object] = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        return flags

    def explain(self, error: Exception) -> NoReturn:
        """Raise what `error` means to somebody who does not know the model's code."""
        if isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY):
            smaller = max(1, self.batch_size // 4)
            raise WorkloadError(
                f"{self.architecture.name}: memory ran out on {self.device} with batches of {self.batch_size}",
                f"pass a smaller --batch-size, e.g. {smaller}, or fewer inputs with --limit",
            ) from error
        if self.ran or isinstance(error, FaultcliError):  # it took these inputs before, so they are not what is wrong
            raise error
        raise WorkloadError(
            f"{self.architecture.name}: {self._refusal()}:"
            f" {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            f"pass the --data that the checkpoint was trained for, e.g. {self.architecture.data}",
        ) from error

    @abstractmethod
    def _refusal(self) -> str:
        """Say that the model does not take these inputs."""
