"""A causal language model on questions with choices: it answers with the one whose text it finds likeliest.

As in the multiple-choice tasks of EleutherAI's lm-evaluation-harness: a choice's score is the sum of the
log-probabilities of its tokens behind the context. `acc` takes the choice of the largest score (here: top-1),
`acc_norm` that of the largest score per character of the choice. Of equal scores the earlier choice is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from faultcli.workload.base import Golden
from faultcli.workload.causal import CausalWorkload
from faultcli.workload.data.choices import ChoiceDataset, ChoiceTokens
from faultcli.workload.metrics import GoldenRun, Outcome, measure
from faultcli.workload.models.architectures import Architecture

_NONE = torch.finfo(torch.float64).min  # the score where a question has no such choice: below any that there can be


class ChoiceWorkload(CausalWorkload):
    """A language model that is ready to answer questions by choice; its answers are counted as a classifier's.

    A question is **masked** if every logit that its scores are made of is finite and the answer is the golden one,
    **SDC** if it is another one, **DUE** if one of these logits is NaN or infinite.

    What the model looks at is padded on the right and masked, longest first; choices of one token behind one context
    share their run. Scores are summed up in float64 from logits in float32; how a model groups its own sums can depend
    on the batch size, and with it the last digits.

    RAM: the tokens, one batch of logits [B, T, V] in the model's dtype, and those of one choice in float32.

    Args:
        architecture: a language model.
        model: takes token ids and mask [B, T], returns logits [B, T, V].
        questions: what is asked.
        batch_size: sequences per forward pass; None: as many as keep the logits under `causal.LOGITS`.
        device: where the model runs.

    Raises:
        WorkloadError: the model does not fit into memory.
        UsageError: `batch_size` is below 1.
    """

    task = "choices"

    def __init__(
        self,
        architecture: Architecture,
        model: nn.Module,
        questions: ChoiceDataset,
        *,
        batch_size: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.questions = questions
        self._runs = _runs(questions)
        longest = len(self._runs[0][0])
        super().__init__(architecture, model, questions, longest=longest, batch_size=batch_size, device=device)
        lengths = [[choice.length for choice in question] for question in questions.questions]
        self._lengths = _padded(lengths, questions.most_choices, 1.0)

    def describe(self) -> str:
        """Say what runs on what, for people."""
        questions = f"{len(self):,} question{'' if len(self) == 1 else 's'}"
        choices = f"{len(self.questions.choices):,} choices"
        return f"{self.architecture.name} on {questions} with {choices} of {self.questions.name}"

    def doubts(self) -> list[str]:
        choices = self.questions.choices
        cut = sum(choice.cut > 0 for choice in choices)
        if not cut:
            return super().doubts()
        language = self.architecture.language
        most = "" if language is None else f" {language.context} tokens"
        text = f"{self.data_name}: of {cut:,} of {len(choices):,} choices the beginning of the context is left out"
        return [*super().doubts(), f"{text}: with it they are longer than the{most} that the model looks at"]

    def fault_free(self) -> tuple[GoldenRun, Outcome]:
        """Run the model; return what later outcomes are compared with, and the outcome compared with it."""
        scores = self.scores()
        golden = GoldenRun(scores)
        return golden, self._measured(scores, golden)

    def outcome(self, golden: Golden | None = None) -> Outcome:
        """Run the model and measure its answers."""
        assert golden is None or isinstance(golden, GoldenRun)
        return self._measured(self.scores(), golden)

    def scores(self) -> Tensor:
        """Return the log-likelihoods of all choices: float64 [N, C], C the most choices of a question; NaN where a
        logit is not finite, and the least number that there is for choices that a question does not have.

        Raises:
            WorkloadError: memory runs out, or the model does not take the tokens.
        """
        scores = _padded([[0.0] * len(question) for question in self.questions.questions],
                         self.questions.most_choices, _NONE)  # fmt: skip
        for start in range(0, len(self._runs), self.batch_size):
            runs = self._runs[start : start + self.batch_size]
            width = len(runs[0][0])
            ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens, _ in runs])
            mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in runs])
            try:
                with self.inference():
                    logits = self._logits(ids, mask)
                    for row, (tokens, asked) in enumerate(runs):
                        for question, choice, targets in asked:
                            seen = logits[row, len(tokens) - len(targets) : len(tokens)].float()
                            scores[question, choice] = _log_likelihood(seen, torch.tensor(targets, device=seen.device))
            except Exception as error:
                self.explain(error)
            self.ran = True
        return scores

    def _one_sequence(self) -> Tensor:
        return torch.tensor([self._runs[0][0]])

    def _measured(self, scores: Tensor, golden: GoldenRun | None) -> Outcome:
        outcome = measure(scores, self.questions.labels, golden)
        answers = (scores / self._lengths).max(dim=1).indices
        right = (answers == self.questions.labels) & scores.isfinite().all(dim=1)
        return replace(outcome, correct_norm=int(right.sum()))

    def _refusal(self) -> str:
        return f"the model does not take {len(self._runs[0][0])} tokens"


Asked = list[tuple[int, int, tuple[int, ...]]]  # question, choice, and its tokens


def _runs(questions: ChoiceDataset) -> list[tuple[tuple[int, ...], Asked]]:
    """Return what the model looks at, longest first, and what is scored by it: of every choice all tokens but the last
    are looked at."""
    runs: dict[tuple[int, ...], Asked] = {}
    for number, place, choice in _numbered(questions):
        runs.setdefault(choice.ids[:-1], []).append((number, place, choice.ids[-choice.scored :]))
    return sorted(runs.items(), key=lambda run: -len(run[0]))


def _numbered(questions: ChoiceDataset) -> Iterator[tuple[int, int, ChoiceTokens]]:
    for number, question in enumerate(questions.questions):
        for place, choice in enumerate(question):
            yield number, place, choice


def _padded(rows: list[list[float]] | list[list[int]], width: int, filler: float) -> Tensor:
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.float64)


def _log_likelihood(logits: Tensor, targets: Tensor) -> float:
    """Return Σ log p of targets [T] under logits, float32 [T, V]; NaN if one of these is not finite."""
    if not bool(((logits * 0).sum(dim=1) == 0).all()):
        return float("nan")
    largest = logits.max(dim=1).values
    of_target = logits.gather(1, targets[:, None]).squeeze(1).double()
    return float((of_target - largest.double() - (logits - largest[:, None]).exp().sum(dim=1).double().log()).sum())
