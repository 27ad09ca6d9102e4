"""Language models: a temperature, by how far the frequencies of tokens over a window have moved.

Damage makes a language model surer of wrong tokens than it was of right ones. A temperature changes no answer, so no
accuracy is lost or won, and most of the perplexity that logits alone can give back comes from it.

How high it has to be depends on how bad the damage is. That is the Kullback-Leibler divergence of the mean
probabilities over the window from those of the clean model. The temperature is taken that surely lowered the loss on
the damaged copies of training whose windows are most alike in that; where none did, logits are left alone. Labelled
tokens of the device (`few_shot`) can give answers back, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from faultcli.recover.base import (
    NOTHING_TO_LEARN,
    Array,
    Card,
    Correction,
    Corrector,
    CorrectorError,
    identity,
    usable_rows,
)
from faultcli.recover.damaged_logits import LabelledLogits
from faultcli.recover.mixture.gaussians import log_normalised
from faultcli.recover.parts import array, number
from faultcli.recover.reference import check_finite

_SMALLEST_WINDOW = 100  # tokens
_DRAWS = 2  # windows per damaged copy in training
_JUDGED = 400  # tokens per window in training, outside of it
_CLEAN_WINDOWS = 8
_MARGIN = 4.0  # standard deviations between windows of the clean model's severity, above the mean
_LIKE = 6  # windows of training whose severity is nearest, of which is learned what helps
_LESS = 1.0  # standard errors over copies that are taken off the mean fall of the loss
_MIXED_IN = 0.01  # of the clean frequencies, so that no divergence is infinite
_SMALLEST_SHARE = 1e-30
_ROWS = 256  # that are normalised at once
HEATS = (0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.2, 4.5, 6.5, 10.0)


@dataclass(frozen=True)
class LanguageCorrector(Corrector):
    """The temperature that did best, at a severity, on copies of that severity in training.

    Attributes:
        log_share: [V], logarithms of the clean model's mean probabilities.
        upper: [S], ascending, the severity up to which a step goes; the last step holds for all beyond.
        heats: [S], temperatures that logits are divided by; 1: leave alone.
        intact_below: severity up to which the model counts as intact.
    """

    name: ClassVar[str] = "language"
    summary: ClassVar[str] = "for language models: a temperature, by how far frequencies of tokens have moved"

    log_share: Array
    upper: Array
    heats: Array
    intact_below: float

    @property
    def smallest_window(self) -> int:
        return _SMALLEST_WINDOW

    def adapt(self, window: Array) -> Correction:
        severity = divergence(self.log_share, _shares(window))
        if severity <= self.intact_below:
            return identity("tokens are as frequent as the clean model has them", severity)
        heat = float(self.heats[min(int(np.searchsorted(self.upper, severity)), len(self.upper) - 1)])
        if heat == 1:
            return identity("no temperature surely helps at this severity", severity)
        return Correction(lambda z: z / heat, 1, f"temperature {heat:g}", predicted_gain=0.0, severity=severity)

    @classmethod
    def train(cls, data: LabelledLogits, card: Card, window: int) -> Self:
        """Learn which temperature helps at which severity, from windows of damaged copies.

        The clean model's own temperature on this text is taken out: what is wrong without damage is left as it is.

        Args:
            data: next-token logits and next tokens in the order of a text, at least twice as many as `window`.
            card: what it is trained for; its seed is that of the windows.
            window: tokens per window in training, one behind the other; use about as many.

        Raises:
            CorrectorError: too few tokens, or no damaged copy with a usable window.
        """
        if window < _SMALLEST_WINDOW:
            raise CorrectorError(
                f"a window of {window} tokens is too small: {cls.name} needs {_SMALLEST_WINDOW} or more",
                "give more text with --train-data, or a larger --window",
            )
        data.check_windows(window)
        random = np.random.default_rng(card.seed)
        clean = data.clean.numpy()
        check_finite(clean)
        text = _TrainingText(clean, data.labels.numpy(), window)
        healthy = [text.judge(-1 - at, clean, text.window(random)) for at in range(_CLEAN_WINDOWS)]
        damaged = [
            text.judge(at, copy.logits.numpy(), text.window(random))
            for at, copy in enumerate(data.copies)
            for _ in range(_DRAWS)
        ]
        if not any(damaged):
            raise CorrectorError("no damaged copy has usable logits to learn from", NOTHING_TO_LEARN)
        moved = np.array([case.severity for case in healthy if case is not None])
        intact = float(moved.mean() + _MARGIN * moved.std()) if len(moved) else 0.0
        cases = [case for case in (*healthy, *damaged) if case is not None]
        return cls(text.log_share(), *heat_steps(cases), intact, card=card)

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays = {"log_share": self.log_share, "steps.upper": self.upper, "steps.heats": self.heats}
        return arrays, {"intact_below": self.intact_below}

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        steps = arrays["steps.upper"].size
        upper = array(arrays, "steps.upper", steps)
        if not steps or not (np.diff(upper) >= 0).all():
            raise ValueError("its steps of severity contradict each other")
        heats = array(arrays, "steps.heats", steps, positive=True)
        log_share = array(arrays, "log_share", card.classes)
        return cls(log_share, upper, heats, number(values, "intact_below"), card=card)


def divergence(log_share: Array, shares: Array) -> float:
    """Return the Kullback-Leibler divergence in nats of frequencies [V], a bit of the clean ones mixed in, from the
    clean ones, whose logarithms are given."""
    clean = np.exp(log_share)
    return float((clean * (log_share - np.log((1 - _MIXED_IN) * shares + _MIXED_IN * clean))).sum())


def _shares(logits: NDArray[Any]) -> Array:
    """Return the mean probability [V] of every token over rows [n, V], a part of them at a time."""
    total = np.zeros(logits.shape[1])
    for start in range(0, len(logits), _ROWS):
        total += np.exp(log_normalised(logits[start : start + _ROWS].astype(np.float64))).sum(axis=0)
    return total / len(logits)


@dataclass(frozen=True)
class HeatCase:
    """One window of one damaged copy in training; the clean model's have numbers below 0.

    `falls`: [H], of the mean loss at every temperature of `HEATS`, in nats.
    """

    copy: int
    severity: float
    falls: Array


class _TrainingText:
    """The clean model on the training text: windows of it, and how frequent tokens are outside of them.

    A window is never compared with what it is a part of: it would look less moved than a new one.
    """

    def __init__(self, clean: NDArray[Any], labels: NDArray[np.int64], window: int) -> None:
        self._clean, self._labels, self._window = clean, labels, window
        self._shares = _shares(clean) * len(clean)
        some = np.linspace(0, len(labels) - 1, min(len(labels), 2 * _JUDGED)).astype(int)
        self._own_heat = HEATS[int(np.argmin(self._losses(clean, some, 1.0)))]

    def window(self, random: np.random.Generator) -> slice:
        start = int(random.integers(len(self._labels) - self._window + 1))
        return slice(start, start + self._window)

    def log_share(self, without: slice = slice(0)) -> Array:
        """Return logarithms of the mean probabilities [V], outside of a window."""
        part = self._clean[without]
        inside = _shares(part) * len(part) if len(part) else 0
        return np.log(np.maximum((self._shares - inside) / (len(self._labels) - len(part)), _SMALLEST_SHARE))

    def judge(self, copy: int, logits: NDArray[Any], window: slice) -> HeatCase | None:
        """Try every temperature on tokens that are not in the window; None where it is of no use."""
        rows = usable_rows(logits[window].astype(np.float64))
        rest = np.setdiff1d(np.arange(len(self._labels)), np.arange(window.start, window.stop))
        rest = rest[np.isfinite(logits[rest]).all(axis=1)]
        if len(rows) < _SMALLEST_WINDOW or not len(rest):
            return None
        rest = rest[np.linspace(0, len(rest) - 1, min(len(rest), _JUDGED)).astype(int)]
        losses = self._losses(logits, rest, self._own_heat)
        severity = divergence(self.log_share(window), _shares(rows))
        return HeatCase(copy, severity, losses[HEATS.index(1.0)] - losses)

    def _losses(self, logits: NDArray[Any], rows: NDArray[np.int64], own: float) -> Array:
        z, labels = torch.from_numpy(logits[rows]).float(), torch.from_numpy(self._labels[rows])
        return np.array([float(cross_entropy(z / (heat * own), labels)) for heat in HEATS])


def heat_steps(cases: Sequence[HeatCase]) -> tuple[Array, Array]:
    """Return, for every run of windows next to each other in severity, up to which severity it is the nearest, and the
    best temperature there."""
    ordered = sorted(cases, key=lambda case: case.severity)
    like = min(_LIKE, len(ordered))
    at = np.array([case.severity for case in ordered])
    upper = np.append((at[:-like] + at[like:]) / 2, at[-1])
    return upper, np.array([best_heat(ordered[first : first + like]) for first in range(len(upper))])


def best_heat(alike: Sequence[HeatCase]) -> float:
    """Return the temperature that lowers the loss most, a standard error taken off, 1 where none surely does. Windows
    of one copy are one case; of a single copy nothing is learned."""
    known = sorted({case.copy for case in alike})
    if len(known) < 2:
        return 1.0
    falls = np.stack([np.mean([case.falls for case in alike if case.copy == copy], axis=0) for copy in known])
    surely = falls.mean(axis=0) - _LESS * falls.std(axis=0, ddof=1) / np.sqrt(len(known))
    return HEATS[int(surely.argmax())] if surely.max() > 0 else 1.0
