"""What language models have in common, whatever they are asked: tokens and mask go in, logits over the vocabulary come
out."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.base import BaseWorkload
from faultcli.workload.data.choices import ChoiceDataset
from faultcli.workload.data.tokens import TokenDataset
from faultcli.workload.models.architectures import Architecture

LOGITS = 1 << 26  # float32 logits of one batch, by default, as many as are 256 MB
LARGEST_BATCH = 16  # sequences


class CausalWorkload(BaseWorkload):
    """A causal language model that is ready to run.

    Args:
        architecture: a language model.
        model: takes token ids and mask [B, T], returns logits [B, T, V].
        data: what it runs on.
        longest: tokens of the longest sequence.
        batch_size: sequences per forward pass; None: as many as keep the logits under `LOGITS`.
        device: where the model runs.

    Raises:
        WorkloadError: the model does not fit into memory.
        UsageError: `batch_size` is below 1.
    """

    task: ClassVar[str | None] = None  # what is asked, where it is not the next token

    def __init__(
        self,
        architecture: Architecture,
        model: nn.Module,
        data: TokenDataset | ChoiceDataset,
        *,
        longest: int,
        batch_size: int | None,
        device: torch.device | None,
    ) -> None:
        assert architecture.language is not None
        self._data = data
        self._vocabulary = architecture.language.vocabulary
        if batch_size is None:
            batch_size = max(1, min(LARGEST_BATCH, LOGITS // (longest * self._vocabulary)))
        super().__init__(architecture, model, batch_size=batch_size, device=device)

    def __len__(self) -> int:
        return len(self._data)

    @property
    def data_name(self) -> str:
        return self._data.name

    def data_sha256(self) -> str:
        return self._data.sha256()

    def _settings(self) -> dict[str, object]:
        return super()._settings() | ({} if self.task is None else {"task": self.task})

    def sample(self) -> Tensor:
        """Return the logits of one sequence: [1, T, V]."""
        ids = self._one_sequence().to(self.device)
        with self.inference():
            return self._logits(ids, torch.ones_like(ids))

    @abstractmethod
    def _one_sequence(self) -> Tensor:
        """Return a sequence as the model takes it: int64 [1, T]."""

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of a batch [B, T], on the device: [B, T, V].

        Raises:
            WorkloadError: the model returns something of another shape.
        """
        logits: Tensor = self.model(ids.to(self.device), mask.to(self.device))
        expected = (*ids.shape, self._vocabulary)
        if tuple(logits.shape) != expected:
            raise WorkloadError(
                f"{self.architecture.name}: the model returns {list(logits.shape)} and not {list(expected)}",
                "logits for every token are needed: pass the --arch that the checkpoint was trained with",
            )
        return logits
