"""Logits into an outcome: accuracy, loss, and what became of every answer against the golden run.

Per input, with the golden run being the one to compare with (the same checkpoint as it should be):

- **masked**: every logit is finite and the top-1 class is the golden one;
- **SDC** (silent data corruption): every logit is finite and the top-1 class is another one;
- **DUE** (detected unrecoverable error): a logit is NaN or infinite. Such a row is never correct and never an SDC.

SDC-1, SDC-5, SDC-10 % and SDC-20 % follow Li et al., "Understanding Error Propagation in Deep Learning Neural Network
(DNN) Accelerators and Applications", SC'17, section 4.5. An input whose *golden* logits are not finite has no golden
answer; a finite answer to it counts as changed under all four.

Ranks are deterministic: among equal logits the lower class comes first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

_TOP = 5


@dataclass(frozen=True)
class Sample:
    """What an evaluation of some of the inputs has to know of them all, without faults.

    Attributes:
        inputs: how many there are, N.
        right: how many of them are answered right.
        right_here: of those that were evaluated.
    """

    inputs: int
    right: int
    right_here: int

    def estimate(self, correct1: int, n: int) -> float:
        """Return the top-1 accuracy on all inputs, if n drawn evenly have so many right answers under faults.

        The part right without faults, less what these n have lost: a difference estimate (Cochran, Sampling Techniques,
        1977, section 7.9 with a slope of 1). Without bias; it may leave 0 to 1, but never `estimate_bounds`.
        """
        return self.right / self.inputs - (self.right_here - correct1) / n


def estimate_bounds(right: int, inputs: int, n: int) -> tuple[float, float]:
    """Return the least and the largest value of `Sample.estimate`; 0 and 1 where all inputs are drawn."""
    return right / inputs - min(n, right) / n, right / inputs + min(n, inputs - right) / n


@dataclass(frozen=True)
class Outcome:
    """What one evaluation gave. Counts of inputs; what is undefined is None, never 0.

    `top1`, `top5` and `rates()` are the fractions. A language model answers at every scored position of an input: of
    it, `correct1`, `correct5`, `agreed` and `loss` count positions, and all others sequences (see `token_metrics`). One
    that answers questions by choice is counted as a classifier, and has `correct_norm` besides (see `choice`). A
    task with a score of its own has `scores`, and no accuracy (see `score`).
    """

    n: int  # inputs, at least 1; with a golden run masked + sdc + due = n
    correct1: int | None  # the label is the top-1 class; None where answers are no classes
    correct5: int | None  # the label is among the top 5; None with 5 classes or fewer
    loss: float | None  # mean cross entropy in nats over the rows that are finite; None if none is
    due: int  # rows with a NaN or infinite logit
    masked: int | None = None  # None, as all below, without a golden run
    sdc: int | None = None
    sdc1: int | None = None  # the top-1 class is another one: the same as sdc
    sdc5: int | None = None  # the golden top-1 class is not in the top 5; None with 5 classes or fewer
    sdc10pct: int | None = None  # softmax confidence of the top-ranked class off by over 10 % of the golden one
    sdc20pct: int | None = None  # the same with 20 %
    scored: int | None = None  # positions of a language model that were scored; None for classifiers
    agreed: int | None = None  # those whose top-1 token is the golden one
    correct_norm: int | None = None  # of questions with choices: the label has the largest score per character
    scores: Mapping[str, float | None] | None = None  # numbers of a score of the user's own; None is not finite
    sample: Sample | None = None  # where the n inputs were drawn from more
    labels_used: bool | None = None  # whether labelled inputs bettered the correction; None where it was given none

    @property
    def answers(self) -> int:
        """What accuracies are fractions of: scored positions of a language model, else inputs."""
        return self.n if self.scored is None else self.scored

    @property
    def top1(self) -> float:
        """Top-1 accuracy, 0 to 1; of a sample of the inputs, the estimate for all of them (`Sample.estimate`).

        Raises:
            ValueError: answers are no classes; see `scores`.
        """
        if self.correct1 is None:
            raise ValueError("a task with a score of its own has no accuracy")
        if self.sample is not None:
            return self.sample.estimate(self.correct1, self.n)
        return self.correct1 / self.answers

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy, 0 to 1; None with 5 classes or fewer."""
        return None if self.correct5 is None else self.correct5 / self.answers

    @property
    def acc_norm(self) -> float | None:
        """Part of questions with choices that are answered right by score per character; None for other tasks."""
        return None if self.correct_norm is None else self.correct_norm / self.n

    @property
    def agreement(self) -> float | None:
        """Part of a language model's scored positions that have the golden top-1 token; None for classifiers."""
        return None if self.agreed is None else self.agreed / self.answers

    @property
    def token_probability(self) -> float | None:
        """exp(−NLL per token), the geometric mean of what a language model gave the tokens that came: 1/perplexity,
        0 if a logit is not finite; None for classifiers."""
        if self.scored is None:
            return None
        return 0.0 if self.due or self.loss is None else math.exp(-self.loss)

    @property
    def perplexity(self) -> float | None:
        """exp(NLL per token) of a language model; None for classifiers, and where it has no finite value."""
        probability = self.token_probability
        return 1 / probability if probability else None

    def rates(self) -> dict[str, float | None]:
        """Return `top1`, `top5`, `loss` (in nats), and the other counts as fractions of the inputs; for language models
        also `agreement`, for questions with choices `acc_norm`."""
        counts = {name: value for name, value in asdict(self).items() if name not in _NOT_OF_INPUTS}
        fractions = {name: None if count is None else count / self.n for name, count in counts.items()}
        tokens = {} if self.scored is None else {"agreement": self.agreement}
        if self.correct_norm is not None:
            tokens["acc_norm"] = self.acc_norm
        top1 = None if self.correct1 is None else self.top1
        return {"top1": top1, "top5": self.top5, "loss": self.loss, **tokens, **fractions, **(self.scores or {})}


_NOT_OF_INPUTS = (
    "n",
    "loss",
    "correct1",
    "correct5",
    "scored",
    "agreed",
    "correct_norm",
    "scores",
    "sample",
    "labels_used",
)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of every row in nats, [N]; NaN where one of its logits is not finite.

    Args:
        logits: float32 [N, K].
        labels: int64 [N], on the same device.
    """
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return losses.masked_fill(~_finite_rows(logits), torch.nan)


class GoldenRun:
    """What outcomes are compared with: computed once from logits [N, K], used by every trial.

    Attributes:
        top1: int64 [N], the class ranked first; -1 where a logit is not finite.
        confidence: float32 [N], its softmax probability; NaN where a logit is not finite.
        classes: K.
    """

    def __init__(self, logits: Tensor) -> None:
        _check_logits(logits)
        largest, top1 = logits.max(dim=1)
        finite = _finite_rows(logits)
        self.classes = logits.shape[1]
        self.top1 = torch.where(finite, top1, -1)
        self.confidence = torch.where(finite, 1 / _exp_sum(logits, largest), torch.nan)

    def __len__(self) -> int:
        return len(self.top1)


@dataclass(frozen=True)
class GoldenScores:
    """What outcomes are compared with.

    `outputs`: what every call of the model returned, where the user compares them; else empty.
    """

    scores: Mapping[str, float | None]
    outputs: tuple[Any, ...] = ()


def measure(logits: Tensor, labels: Tensor, golden: GoldenRun | None = None) -> Outcome:
    """Compare logits with the labels, and with the golden run if there is one.

    Args:
        logits: float32 [N, K], N and K at least 1; NaN and infinity are allowed. Everything is computed on its device.
        labels: int64 [N], 0 to K - 1.
        golden: of the same inputs in the same order.

    Raises:
        ValueError: the shapes do not belong together.
    """
    _check_logits(logits)
    n, classes = logits.shape
    if labels.shape != (n,):
        raise ValueError(f"{n} rows of logits and labels of shape {list(labels.shape)}")
    labels = labels.to(logits.device)
    largest, top1 = logits.max(dim=1)
    finite = _finite_rows(logits)
    answered = int(finite.sum())
    exp_sum = _exp_sum(logits, largest)
    of_label = logits.gather(1, labels[:, None]).squeeze(1)
    fifth = logits.topk(_TOP, dim=1).values[:, -1] if classes > _TOP else None
    # In float64, where the difference of two finite float32 cannot overflow.
    losses = (largest.double() - of_label.double() + exp_sum.double().log())[finite]
    outcome = Outcome(
        n=n,
        correct1=int(((top1 == labels) & finite).sum()),
        correct5=None if fifth is None else int((in_top(logits, fifth, labels) & finite).sum()),
        loss=float(losses.mean()) if answered else None,
        due=n - answered,
    )
    if golden is None:
        return outcome
    if (len(golden), golden.classes) != (n, classes):
        raise ValueError(f"logits of shape {[n, classes]} and a golden run of {[len(golden), golden.classes]}")
    golden_top1, confidence = golden.top1.to(logits.device), golden.confidence.to(logits.device)
    masked = int(((top1 == golden_top1) & finite).sum())
    drift = (1 / exp_sum - confidence).abs_() / confidence
    sdc5 = None
    if fifth is not None:
        kept = in_top(logits, fifth, golden_top1.clamp(min=0)) & (golden_top1 >= 0)
        sdc5 = int((~kept & finite).sum())
    return Outcome(
        n=n,
        correct1=outcome.correct1,
        correct5=outcome.correct5,
        loss=outcome.loss,
        due=outcome.due,
        masked=masked,
        sdc=answered - masked,
        sdc1=answered - masked,
        sdc5=sdc5,
        # Written as "not within" because the drift from no golden answer is NaN and counts as a change.
        sdc10pct=int((~(drift <= 0.1) & finite).sum()),
        sdc20pct=int((~(drift <= 0.2) & finite).sum()),
    )


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 2 or not logits.numel():
        raise ValueError(f"logits of shape {list(logits.shape)}, not [inputs, classes]")


def _finite_rows(logits: Tensor) -> Tensor:
    # 0 · x is 0 for a finite x and NaN for the others: one pass, and no mask of N × K.
    return (logits * 0).sum(dim=1) == 0


def _exp_sum(logits: Tensor, largest: Tensor) -> Tensor:
    """Return Σ exp(logit − largest) per row, from 1 to K: its inverse is the confidence of the top-ranked class."""
    return (logits - largest[:, None]).exp_().sum(dim=1)


def in_top(logits: Tensor, fifth: Tensor, index: Tensor) -> Tensor:
    """Return whether class `index` [N] is among the first 5 of its row, whose fifth largest logit is `fifth` [N]."""
    value = logits.gather(1, index[:, None]).squeeze(1)
    inside = value > fifth
    tied = (value == fifth).nonzero().squeeze(1)  # few rows, and only there does the order of equal logits decide
    rows, value, index = logits[tied], value[tied, None], index[tied, None]
    before = torch.arange(logits.shape[1], device=logits.device) < index
    inside[tied] = ((rows > value) | ((rows == value) & before)).sum(dim=1) < _TOP
    return inside
