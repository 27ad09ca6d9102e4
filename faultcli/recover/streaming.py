"""A corrector around a deployed model: it collects its window from the answers as they come in."""

from __future__ import annotations

import torch
from torch import Tensor

from faultcli.recover.base import Correction, Corrector, CorrectorError, identity
from faultcli.recover.few_shot import few_shot, labelled_rows


class StreamingCorrector:
    """`logits = corrector(model(x))`, batch after batch.

    Answers are left alone until the window is full; then the correction is made from the newest `window` answers, and
    made anew whenever `refresh` more have come in. Damage that grows, or goes away, is followed.

    Args:
        corrector: trained for this model.
        window: answers that it looks at; memory is window × K numbers.
        refresh: answers between two looks; None: as many as the window holds.
        strength: see `Corrector.observe`.
        labelled: logits [n, K] of the device as it is now and labels int64 [n], 10 inputs or more; see `few_shot`.

    Raises:
        CorrectorError: the window is smaller than the corrector takes, or labels and logits do not belong together.
    """

    def __init__(
        self,
        corrector: Corrector,
        *,
        window: int = 1000,
        refresh: int | None = None,
        strength: float = 1.0,
        labelled: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if not isinstance(corrector, Corrector):
            raise CorrectorError(f"{corrector!r:.60}: is no corrector", "faultcli.load_corrector(FILE) reads one")
        for name, count in (("window", window), ("refresh", 1 if refresh is None else refresh)):
            if not isinstance(count, int) or count < 1:
                raise CorrectorError(f"{name}={count!r:.60}: is no number of answers", f"{name}=1000")
        corrector.check_window(window)
        if labelled is not None:
            if not isinstance(labelled, tuple) or len(labelled) != 2:
                raise CorrectorError("labelled is no pair", "labelled=(logits, labels), tensors [n, K] and [n]")
            labelled_rows(corrector, *labelled)
        self.corrector = corrector
        self.strength = strength
        self._labelled = labelled
        self.correction: Correction = identity(f"waiting for {window} answers")
        self._seen = torch.empty(window, corrector.card.classes)
        self._count = 0  # answers so far
        self._refresh = refresh or window
        self._due = window
        if not corrector.needs_window:
            self.correction = self._made(None)

    def __call__(self, logits: Tensor) -> Tensor:
        """Take note of logits [n, K], and return them corrected: float32 [n, K]."""
        self.corrector.check_classes(logits)
        if self.corrector.needs_window:
            self._note(logits.detach().cpu().float())
        return self.correction(logits)

    def _note(self, logits: Tensor) -> None:
        size = len(self._seen)
        newest = logits[-size:]
        first = self._count + len(logits) - len(newest)
        self._seen[(first + torch.arange(len(newest))) % size] = newest
        self._count += len(logits)
        if self._count >= self._due:
            self.correction = self._made(self._seen)
            self._due = self._count + self._refresh

    def _made(self, window: Tensor | None) -> Correction:
        if self._labelled is None:
            return self.corrector.observe(window, strength=self.strength)
        return few_shot(self.corrector, window, *self._labelled, strength=self.strength)
