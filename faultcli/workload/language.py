"""A causal language model on token sequences."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.base import BaseWorkload, Golden
from faultcli.workload.data.tokens import TokenDataset
from faultcli.workload.metrics import Outcome
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.token_metrics import GoldenTokens, TokenMeter

LOGITS = 1 << 26  # float32 logits of one batch, by default, as many as are 256 MB
LARGEST_BATCH = 16  # sequences


class LanguageWorkload(BaseWorkload):
    """A language model that is ready to predict every next token.

    RAM: the tokens, one batch of logits [B, T, V] in the model's dtype, and one sequence's in float32.

    Args:
        architecture: a language model.
        model: takes token ids and mask [B, T], returns logits [B, T, V].
        tokens: the sequences.
        batch_size: sequences per forward pass; None: as many as keep the logits under `LOGITS`.
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
        assert architecture.language is not None
        self.tokens = tokens
        self._vocabulary = architecture.language.vocabulary
        if batch_size is None:
            batch_size = max(1, min(LARGEST_BATCH, LOGITS // (tokens.ids.shape[1] * self._vocabulary)))
        super().__init__(architecture, model, batch_size=batch_size, device=device)

    def __len__(self) -> int:
        return len(self.tokens)

    def describe(self) -> str:
        """Say what runs on what, for people."""
        sequences = f"{len(self):,} sequence{'' if len(self) == 1 else 's'}"
        return f"{self.architecture.name} on {self.tokens.targets:,} tokens in {sequences} of {self.tokens.name}"

    @property
    def data_name(self) -> str:
        return self.tokens.name

    def data_sha256(self) -> str:
        return self.tokens.sha256()

    def identity(self) -> str:
        """Return everything that changes what the model answers, apart from its weights, as one line of JSON."""
        return json.dumps(
            {
                "architecture": self.architecture.name,
                "data": self.data_sha256(),
                "batch_size": self.batch_size,
                "threads": torch.get_num_threads(),
                "device": self.device.type,
            },
            sort_keys=True,
        )

    def fault_free(self) -> tuple[GoldenTokens, Outcome]:
        """Run the model; return what later outcomes are compared with, and the outcome compared with it."""
        meter = self._run(TokenMeter(self.tokens.lengths, self.tokens.ids.shape[1], keep=True))
        return meter.golden, meter.outcome()

    def outcome(self, golden: Golden | None = None) -> Outcome:
        """Run the model and measure its answers."""
        assert golden is None or isinstance(golden, GoldenTokens)
        return self._run(TokenMeter(self.tokens.lengths, self.tokens.ids.shape[1], golden=golden)).outcome()

    def sample(self) -> Tensor:
        """Return the logits of the first sequence: [1, T, V]."""
        length = int(self.tokens.lengths[0])
        ids = self.tokens.ids[:1, :length].to(self.device)
        with self.inference():
            logits: Tensor = self.model(ids, torch.ones_like(ids))
        return logits

    def _run(self, meter: TokenMeter) -> TokenMeter:
        for start in range(0, len(self), self.batch_size):
            lengths = self.tokens.lengths[start : start + self.batch_size]
            ids = self.tokens.ids[start : start + self.batch_size, : int(lengths.max())]
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            try:
                ids, mask = ids.to(self.device), mask.to(self.device)
                with self.inference():
                    logits = self.model(ids, mask)
                    expected = (*ids.shape, self._vocabulary)
                    if tuple(logits.shape) != expected:
                        raise WorkloadError(
                            f"{self.architecture.name}: the model returns {list(logits.shape)} and not"
                            f" {list(expected)}",
                            "logits for every token are needed: pass the --arch that the checkpoint was trained with",
                        )
                    meter.add(start, ids, logits)
            except Exception as error:
                self.explain(error)
            self.ran = True
        return meter

    def _refusal(self) -> str:
        return f"the model does not take {len(self)} sequences of {self.tokens.ids.shape[1]} tokens"
