"""Next-token logits into an outcome, batch by batch: logits of a whole set, [N, T, V], are never held.

A position is scored when it and the next one are tokens and no padding: it predicts the next token. Per sequence,
against the golden run:

- **masked**: at every scored position the logits are finite and the top-1 token is the golden one;
- **SDC**: the logits are finite, and at some scored position the top-1 token is another one;
- **DUE**: a logit of a scored position is NaN or infinite. Such a position is never right and never agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faultcli.workload.metrics import Outcome, in_top

_TOP = 5


@dataclass(frozen=True)
class GoldenTokens:
    """The top-1 tokens of a fault-free run: int64 [N, T - 1], -1 where a logit is not finite or nothing is scored."""

    top1: Tensor


class TokenMeter:
    """Adds up what the batches of one run gave.

    Args:
        lengths: int64 [N], tokens of every sequence, at least 2.
        width: T, the longest length.
        golden: of the same sequences.
        keep: the run is to become a golden one, and is compared with itself.
    """

    def __init__(self, lengths: Tensor, width: int, *, golden: GoldenTokens | None = None, keep: bool = False) -> None:
        self._lengths = lengths
        self._golden = golden
        self._kept = torch.full((len(lengths), width - 1), -1) if keep else None
        self._right = self._right5 = self._agreed = self._due = self._masked = self._answered = 0
        self._loss = 0.0
        self._wide = False

    def add(self, start: int, ids: Tensor, logits: Tensor) -> None:
        """Take the logits [B, T', V] of the sequences from `start` on, one at a time in float32.

        Args:
            start: number of the first sequence.
            ids: int64 [B, T'], on the logits' device.
            logits: of any floating-point dtype.
        """
        self._wide = logits.shape[2] > _TOP
        for row in range(len(ids)):
            scored = int(self._lengths[start + row]) - 1
            self._add_one(start + row, ids[row, 1 : scored + 1], logits[row, :scored].float())

    def _add_one(self, number: int, targets: Tensor, logits: Tensor) -> None:
        largest, top1 = logits.max(dim=1)
        finite = (logits * 0).sum(dim=1) == 0
        answered = int(finite.sum())
        of_target = logits.gather(1, targets[:, None]).squeeze(1)
        losses = (largest.double() - of_target.double()) + (logits - largest[:, None]).exp_().sum(dim=1).double().log()
        self._loss += float(losses[finite].sum())
        self._answered += answered
        self._right += int(((top1 == targets) & finite).sum())
        if self._wide:
            fifth = logits.topk(_TOP, dim=1).values[:, -1]
            self._right5 += int((in_top(logits, fifth, targets) & finite).sum())
        broken = answered < len(targets)
        self._due += broken
        golden = None
        if self._kept is not None:
            self._kept[number, : len(targets)] = torch.where(finite, top1, -1).cpu()
            golden = self._kept
        elif self._golden is not None:
            golden = self._golden.top1
        if golden is not None:
            same = (top1 == golden[number, : len(targets)].to(top1.device)) & finite
            self._agreed += int(same.sum())
            self._masked += not broken and bool(same.all())

    @property
    def golden(self) -> GoldenTokens:
        """The run as what later ones are compared with; it has to be one that keeps."""
        assert self._kept is not None
        return GoldenTokens(self._kept)

    def outcome(self) -> Outcome:
        """Return what all batches gave together."""
        n, compared = len(self._lengths), self._golden is not None or self._kept is not None
        sdc = n - self._due - self._masked if compared else None
        return Outcome(
            n=n,
            correct1=self._right,
            correct5=self._right5 if self._wide else None,
            loss=self._loss / self._answered if self._answered else None,
            due=self._due,
            masked=self._masked if compared else None,
            sdc=sdc,
            sdc1=sdc,
            scored=int((self._lengths - 1).sum()),
            agreed=self._agreed if compared else None,
        )
