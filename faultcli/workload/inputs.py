"""Inputs as a model takes them: one tensor, or several of which most go by the names of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from faultcli.workload.data.labelled import Dataset
from faultcli.workload.models.architectures import Architecture

_TOKEN_NUMBERS = 256  # a token becomes a vector of about so many numbers in every layer


@dataclass(frozen=True, eq=False)
class Inputs:
    """A row per input in every tensor.

    Attributes:
        first: passed by position, unless `by_name` says otherwise.
        others: passed by name.
        by_name: the name by which `first` is passed; None: by position.
        widths: of `first` ("") and `others` that are padded for being kept together, how many columns of a row are for
            the model, int64 [N] on the CPU.
    """

    first: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)
    by_name: str | None = None
    widths: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: slice | Tensor) -> Inputs:
        return Inputs(
            self.first[rows],
            {name: tensor[rows] for name, tensor in self.others.items()},
            self.by_name,
            {name: width[rows] for name, width in self.widths.items()},
        )

    @property
    def version(self) -> int:
        """A number that grows when somebody writes into a tensor."""
        return self.first._version + sum(tensor._version for tensor in self.others.values())

    def given_to(self, model: nn.Module) -> Any:
        """Return what the model answers."""
        first = self._cut("", self.first)
        others = {name: self._cut(name, tensor) for name, tensor in self.others.items()}
        return model(first, **others) if self.by_name is None else model(**{self.by_name: first}, **others)

    def _cut(self, name: str, tensor: Tensor) -> Tensor:
        return tensor[:, : int(self.widths[name].max())] if name in self.widths else tensor


def prepared(architecture: Architecture, dataset: Dataset, shape: tuple[int, ...], device: torch.device) -> Inputs:
    """Return inputs as the model takes them, on the device: images and floats as float32, integers as they are.

    Args:
        architecture: its preprocessing is applied, and the names of its parameters count.
        dataset: as stored.
        shape: of one input.
        device: where the model runs.
    """
    first = architecture.preprocess.apply(dataset.inputs.to(device), dataset.layout).view(len(dataset), *shape)
    others = {name: architecture.preprocess.ready(tensor.to(device)) for name, tensor in dataset.others.items()}
    name = dataset.input_name
    widths = {"" if key == name else key: width for key, width in dataset.widths.items()}
    return Inputs(first, others, name if name in architecture.takes else None, widths)


def cuts(dataset: Dataset, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yield where every batch starts and ends: of at most so many inputs, whose sequences are padded alike."""
    edges = {0, len(dataset)}
    for width in dataset.widths.values():
        edges |= {int(at) + 1 for at in (width[1:] != width[:-1]).nonzero()}
    ordered = sorted(edges)
    for begin, end in pairwise(ordered):
        yield from ((start, min(start + batch_size, end)) for start in range(begin, end, batch_size))


def numbers_in(dataset: Dataset) -> int:
    """Return how many numbers an input becomes, about, for choosing how many fit into a batch."""
    each = dataset.inputs[0].numel()
    return each * _TOKEN_NUMBERS if dataset.tokens else each
