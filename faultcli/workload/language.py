"""A causal language model on token sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from faultcli.workload.base import Golden
from faultcli.workload.causal import CausalWorkload
from faultcli.workload.data.tokens import TokenDataset
from faultcli.workload.metrics import Outcome, cross_entropies
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.token_metrics import GoldenTokens, TokenMeter


class LanguageWorkload(CausalWorkload):
    """A language model that is ready to predict every next token.

    RAM: the tokens, one batch of logits [B, T, V] in the model's dtype, and one sequence's in float32.

    Args:
        architecture: a language model.
        model: takes token ids and mask [B, T], returns logits [B, T, V].
        tokens: the sequences.
        batch_size: sequences per forward pass; None: as many as keep the logits under `causal.LOGITS`.
        device: where the model runs.

    Raises:
        WorkloadError: the model does not fit into memory.
        UsageError: `batch_size` is below 1.
    """

    def __init__(
        self,
        architecture: Architecture,
        model: nn.Module,
        tokens: TokenDataset,
        *,
        batch_size: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.tokens = tokens
        longest = tokens.ids.shape[1]
        super().__init__(architecture, model, tokens, longest=longest, batch_size=batch_size, device=device)

    def describe(self) -> str:
        """Say what runs on what, for people."""
        sequences = f"{len(self):,} sequence{'' if len(self) == 1 else 's'}"
        return f"{self.architecture.name} on {self.tokens.targets:,} tokens in {sequences} of {self.tokens.name}"

    def fault_free(self) -> tuple[GoldenTokens, Outcome]:
        """Run the model; return what later outcomes are compared with, and the outcome compared with it."""
        meter = self._run(TokenMeter(self.tokens.lengths, self.tokens.ids.shape[1], keep=True))
        return meter.golden, meter.outcome()

    def outcome(self, golden: Golden | None = None, correct: Callable[[Tensor], Tensor] | None = None) -> Outcome:
        """Run the model and measure its answers.

        Args:
            golden: the run to compare with.
            correct: gives the logits [n, V] of n positions as they are to be measured.
        """
        assert golden is None or isinstance(golden, GoldenTokens)
        meter = TokenMeter(self.tokens.lengths, self.tokens.ids.shape[1], golden=golden)
        return self._run(meter, correct).outcome()

    @property
    def labels(self) -> Tensor:
        """The next tokens, int64 [n], of all scored positions, sequence after sequence."""
        scored = torch.arange(1, self.tokens.ids.shape[1]) < self.tokens.lengths[:, None]
        return self.tokens.ids[:, 1:][scored]

    def logits(self) -> Tensor:
        """Return what the model says now at all scored positions: float32 [n, V] on the CPU; see `labels`."""
        found: list[Tensor] = []
        for ids, lengths, mask in self._batches():
            try:
                with self.inference():
                    logits = self._logits(ids, mask)[:, :-1]
            except Exception as error:
                self.explain(error)
            self.ran = True
            scored = torch.arange(1, ids.shape[1]) < lengths[:, None]
            with torch.inference_mode(mode=False):  # a normal tensor, which may be trained on
                found.append(logits.cpu().clone()[scored].float())
        return torch.cat(found)

    def beside(self, tokens: TokenDataset) -> LanguageWorkload:
        """Return the same live model on other sequences."""
        size = self.batch_size
        return LanguageWorkload(self.architecture, self.model, tokens, batch_size=size, device=self.device)

    def losses(self, temperature: float = 1.0) -> Iterator[Tensor]:
        for ids, lengths, mask in self._batches():
            try:
                with self.evaluating():
                    logits = self._logits(ids, mask)[:, :-1].float()
            except Exception as error:
                self.explain(error)
            self.ran = True
            scored = (torch.arange(1, ids.shape[1]) < lengths[:, None]).to(logits.device)
            yield cross_entropies(logits[scored] / temperature, ids[:, 1:].to(logits.device)[scored])

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield ids [B, T], lengths [B] and mask [B, T] of every batch."""
        for start in range(0, len(self), self.batch_size):
            lengths = self.tokens.lengths[start : start + self.batch_size]
            ids = self.tokens.ids[start : start + self.batch_size, : int(lengths.max())]
            yield ids, lengths, (torch.arange(ids.shape[1]) < lengths[:, None]).long()

    def _one_sequence(self) -> Tensor:
        return self.tokens.ids[:1, : int(self.tokens.lengths[0])]

    def _run(self, meter: TokenMeter, correct: Callable[[Tensor], Tensor] | None = None) -> TokenMeter:
        for number, (ids, _, mask) in enumerate(self._batches()):
            try:
                here = ids.to(self.device)
                with self.inference():
                    logits = self._logits(here, mask)
                    if correct is not None:
                        logits = torch.stack([correct(one.float()).to(self.device) for one in logits])
                    meter.add(number * self.batch_size, here, logits)
            except Exception as error:
                self.explain(error)
            self.ran = True
        return meter

    def _refusal(self) -> str:
        return f"the model does not take {len(self)} sequences of {self.tokens.ids.shape[1]} tokens"
