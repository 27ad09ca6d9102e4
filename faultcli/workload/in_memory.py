"""A user's own module on a user's own data, as they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.answers import Pick
from faultcli.workload.classifier import Workload
from faultcli.workload.data.datasets import Dataset, make_dataset
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.score import ScoreTask, ScoreWorkload

_NAME = "data in memory"
_REMEDY = "pass a DataLoader of batches (inputs, labels), a pair (inputs, labels), or a score of your own: score=fn"


def module_workload(model: nn.Module, data: object, name: str, answer: str | Pick | None = None) -> Workload:
    """Return a classifier in memory as a workload: the module itself, on its own device, on inputs as it takes them.

    Args:
        model: returns logits [N, classes], or what holds them.
        data: an iterable of batches (inputs, labels), gone through once and kept, or one pair of tensors or arrays.
        name: what reports call the model.
        answer: the logits, out of what it returns; see `answer_picker`.

    Raises:
        WorkloadError: the data are none of these, or inputs are not floating point.
    """
    return Workload(module_architecture(model, name), model, collect(data), device=device_of(model), answer=answer)


def scored_module(model: nn.Module, task: ScoreTask, name: str) -> ScoreWorkload:
    """Return a module in memory with a score as a workload."""
    return ScoreWorkload(module_architecture(model, name), model, task, device=device_of(model))


def module_architecture(model: nn.Module, name: str) -> Architecture:
    """Return a live module as an architecture; it cannot be built anew, as nobody says how."""
    return Architecture(name=name, build=lambda: model, data="(inputs, labels) that the model was trained for")


def device_of(model: nn.Module) -> torch.device:
    """Return where a module's first tensor lies; the CPU for one without tensors."""
    return next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))


def collect(data: object) -> Dataset:
    """Return labelled inputs as one data set: those of all batches, in the order in which they come.

    Raises:
        WorkloadError: see `module_workload`.
    """
    if isinstance(data, Dataset):
        return data
    if _is_pair(data):
        batches: list[Any] = [data]
    elif isinstance(data, Iterable):
        batches = list(data)
    else:
        raise WorkloadError(f"{_NAME}: is a {type(data).__name__}", _REMEDY)
    if not batches:
        raise WorkloadError(f"{_NAME}: there are no batches", _REMEDY)
    for batch in batches:
        if not _is_pair(batch):
            raise WorkloadError(f"{_NAME}: a batch is a {type(batch).__name__} and no pair of tensors", _REMEDY)
    inputs, labels = (torch.cat([_tensor(batch[part]) for batch in batches]) for part in (0, 1))
    if not inputs.is_floating_point():
        problem = f"{_NAME}: inputs are {inputs.dtype}, and go to the model as they are"
        raise WorkloadError(problem, "pass them as the model takes them, scaled and normalised, or score=fn")
    return make_dataset(inputs, labels, _NAME)


def _is_pair(item: object) -> bool:
    return (
        isinstance(item, tuple | list)
        and len(item) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in item)
    )


def _tensor(values: Tensor | np.ndarray[Any, Any]) -> Tensor:
    return values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
