"""The inputs that the worst flips are looked for on: others than those that damage is quoted of, if there are any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.faults.sampling import Stream
from faultcli.workload.base import BaseWorkload
from faultcli.workload.classifier import Workload
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.data.tokens import TokenDataset, load_tokens
from faultcli.workload.language import LanguageWorkload

_GLANCE = 8  # one input of so many is glanced at
_LEAST = 8  # inputs that a classifier is glanced at with


@dataclass(frozen=True)
class LookedAt:
    """The live model on the inputs that are searched on.

    `some`: on a few of them, for a first glance. `apart`: they are others than the subject's. `text`: what they are.
    """

    all: BaseWorkload
    some: BaseWorkload
    apart: bool
    text: str


def looked_at(subject: Subject, count: int, seed: int, named: str | None = None) -> LookedAt:
    """Return the live model on inputs to search on.

    Args:
        subject: a classifier or a language model.
        count: inputs, drawn by `seed`; fewer where there are not so many.
        named: what they are drawn from, as `--data` takes it. None: the training split of the subject's data; where
            there is none, the inputs that `--limit` left out; where there are none of these either, the subject's own.

    Raises:
        UsageError: the model is judged by something that has no gradient.
        WorkloadError: the model does not take the inputs.
    """
    workload = subject.workload
    if isinstance(workload, Workload):
        return _labelled(subject, workload, count, seed, named)
    if isinstance(workload, LanguageWorkload):
        return _tokens(subject, workload, count, seed, named)
    raise UsageError(
        f"{workload.architecture.name}: the worst flips are found by the gradient of a loss, and this model is judged"
        " by something else",
        "pass labelled inputs, or sequences of tokens: --data D",
    )


def _labelled(subject: Subject, workload: Workload, count: int, seed: int, named: str | None) -> LookedAt:
    architecture, own = workload.architecture, workload.dataset
    spec = named or subject.training_split or subject.data
    whole = own if spec is None else load_data(spec, label_offset=architecture.label_offset, **architecture.wanted)
    others = named is not None or subject.training_split is not None
    start = 0 if others or len(whole) <= len(own) else len(own)  # the subject has the first ones
    drawn = _drawn(len(whole) - start, count, seed, architecture.batch) + start
    dataset: Dataset = whole.rows(drawn)
    chosen = workload.beside(dataset)
    few = len(dataset) if architecture.batch else min(len(dataset), max(_LEAST, -(-len(dataset) // _GLANCE)))
    some = chosen if few == len(dataset) else workload.beside(dataset.rows(torch.arange(few) * len(dataset) // few))
    return LookedAt(chosen, some, others or start > 0, _text(whole.name, start))


def _tokens(subject: Subject, workload: LanguageWorkload, count: int, seed: int, named: str | None) -> LookedAt:
    architecture, spec = workload.architecture, named or subject.data
    assert architecture.language is not None
    whole = workload.tokens if spec is None else load_tokens(spec, architecture.language)
    start = 0 if named is not None or len(whole) <= len(workload) else len(workload)
    tokens: TokenDataset = whole.rows(_drawn(len(whole) - start, count, seed) + start)
    few = torch.arange(-(-len(tokens) // _GLANCE))
    chosen, some = workload.beside(tokens), workload.beside(tokens.rows(few))
    return LookedAt(chosen, some, named is not None or start > 0, _text(whole.name, start))


def _text(name: str, start: int) -> str:
    return f"{name}, after the first {start:,}" if start else name


def _drawn(of: int, count: int, seed: int, batch: int | None = None) -> Tensor:
    """Return `count` of so many positions, ascending; a multiple of `batch`."""
    count = min(count, of)
    if batch:
        count = max(batch, count // batch * batch)
    order = np.argsort(Stream("faultcli worst", seed, of).uniform(of), kind="stable")
    return torch.from_numpy(np.sort(order[:count]))
