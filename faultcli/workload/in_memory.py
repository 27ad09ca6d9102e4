"""A user's own module on a user's own data, as they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.answers import Pick
from faultcli.workload.classifier import Workload
from faultcli.workload.data.labelled import Dataset, labelled, make_dataset, plain_tensor
from faultcli.workload.data.readers import INPUTS
from faultcli.workload.models.architectures import Architecture, parameters_of
from faultcli.workload.score import ScoreTask, ScoreWorkload

_NAME = "data in memory"
_REMEDY = (
    "pass a DataLoader of batches (inputs, labels) or of tensors by name with labels among them, one such pair, or a"
    " score of your own: score=fn"
)


def module_workload(model: nn.Module, data: object, name: str, answer: str | Pick | None = None) -> Workload:
    """Return a classifier in memory as a workload: the module itself, on its own device, on inputs as it takes them.

    Args:
        model: returns logits [N, classes], or what holds them.
        data: an iterable of batches, gone through once and kept, or one of them: a pair (inputs, labels) of tensors or
            arrays, the inputs perhaps several by name; or all by name, `labels` among them.
        name: what reports call the model.
        answer: the logits, out of what it returns; see `answer_picker`.

    Raises:
        WorkloadError: the data are none of these, or inputs are images as they are stored.
    """
    takes, dataset = parameters_of(model), collect(data)
    if takes is None:
        takes = (dataset.input_name, *dataset.others)
    architecture = replace(module_architecture(model, name), takes=takes)
    return Workload(architecture, model, _taken(dataset, takes), device=device_of(model), answer=answer)


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
    batches: list[Any]
    if labelled(data) is not None:
        batches = [data]
    elif isinstance(data, Iterable) and not isinstance(data, Mapping):
        batches = list(data)
    else:
        raise WorkloadError(f"{_NAME}: is a {type(data).__name__}", _REMEDY)
    if not batches:
        raise WorkloadError(f"{_NAME}: there are no batches", _REMEDY)
    pairs = [labelled(batch) for batch in batches]
    labels: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    for batch, pair in zip(batches, pairs, strict=True):
        if pair is None:
            raise WorkloadError(f"{_NAME}: a batch is a {type(batch).__name__} and no pair of tensors", _REMEDY)
        inputs = pair[0] if isinstance(pair[0], Mapping) else {INPUTS: pair[0]}
        if parts and inputs.keys() != parts.keys():
            raise WorkloadError(f"{_NAME}: batches hold {', '.join(parts)}, and then {', '.join(inputs)}", _REMEDY)
        labels.append(plain_tensor(_NAME, "labels", pair[1]))
        for name, values in inputs.items():
            parts.setdefault(name, []).append(plain_tensor(_NAME, name, values))
    joined = {name: _joined(name, tensors) for name, tensors in parts.items()}
    widths = {name: width for name, (_, width) in joined.items() if width is not None}
    found = make_dataset({name: tensor for name, (tensor, _) in joined.items()}, torch.cat(labels), _NAME)
    if found.images:
        problem = f"{_NAME}: inputs are {found.inputs.dtype}, and go to the model as they are"
        raise WorkloadError(problem, "pass them as the model takes them, scaled and normalised, or score=fn")
    return replace(found, widths=widths)


def _joined(name: str, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return what comes in batches as one tensor, and how wide every row's batch was where these are not equally wide.

    The columns that are added are never shown to the model.
    """
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) == 1:
        return torch.cat(list(tensors)), None
    if len({tensor.dim() for tensor in tensors}) > 1 or len({shape[1:] for shape in shapes}) > 1:
        found = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise WorkloadError(f"{_NAME}: {name} of a batch are of shape {found}", "pass inputs of one shape")
    longest = max(tensor.shape[1] for tensor in tensors)
    padded = [torch.cat([t, t.new_zeros(len(t), longest - t.shape[1], *t.shape[2:])], dim=1) for t in tensors]
    width = torch.cat([torch.full((len(tensor),), tensor.shape[1]) for tensor in tensors])
    return torch.cat(padded), width


def _taken(dataset: Dataset, takes: Sequence[str]) -> Dataset:
    """Return the data set without what the model has no parameter for, as trainers do; with a note of it."""
    names = [dataset.input_name, *dataset.others]
    first = next((name for name in names if name in takes), names[0])
    others = {name: tensor for name, tensor in dataset.others.items() if name in takes and name != first}
    left = [name for name in names if name not in (first, *others)]
    if not left:
        return dataset
    note = f"{dataset.name}: {', '.join(left)}: not given to the model, whose forward has no such parameter"
    inputs = {dataset.input_name: dataset.inputs, **dataset.others}
    return replace(
        make_dataset({first: inputs[first], **others}, dataset.labels, dataset.name, dataset.class_names),
        widths={name: width for name, width in dataset.widths.items() if name in (first, *others)},
        notes=(*dataset.notes, note),
    )
