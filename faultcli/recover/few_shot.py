"""Known damage that arrives in the field: a correction without labels, bettered by a few labelled inputs.

Labels may be the stored answers of the healthy model. The model is multinomial logistic regression on top of the
correction: a temperature of what it says, a bias per class and weights of the damaged logits, all pulled to 0 by a
penalty that cross-validation chooses. Where that does not surely help, the correction is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from faultcli.recover.base import Array, Correction, Corrector, CorrectorError, usable_rows
from faultcli.recover.mixture.gaussians import log_normalised, softmax
from faultcli.recover.reference import MOST_CLASSES
from faultcli.recover.threads import one_numpy_thread

_PENALTIES = (3.0, 10.0, 30.0, 100.0)  # on squares of weights and biases, beside the summed cross entropy
_ON_WARMTH = 4.0  # on the square of the logarithm of the temperature
_FOLDS = 5
FEWEST = 10  # labelled inputs with finite logits
_SURELY, _FEW = 2.0, 10.0  # the loss has to fall by 2 + 10 / √n standard errors: those of few inputs mean little
_ROUNDS = 100


@one_numpy_thread()
def few_shot(
    corrector: Corrector, window: Tensor | None, logits: Tensor, labels: Tensor, *, strength: float = 1.0
) -> Correction:
    """Return what `corrector.observe(window)` does, bettered by labelled inputs where cross-validation says that it is.

    With more than 64 classes only temperature and biases are learned.

    Args:
        corrector: for unseen damage.
        window: see `Corrector.observe`.
        logits: [n, K] of the damaged device as it is now, n ≥ 10; rows that are not finite are left out.
        labels: int64 [n], of these inputs, or the classes that the healthy model gave them.
        strength: see `Corrector.observe`.

    Raises:
        CorrectorError: as `Corrector.observe`; or labels that do not belong to the logits, or too few inputs.
    """
    z, y = labelled_rows(corrector, logits, labels)
    correction = corrector.observe(window)
    whole = corrector.card.classes <= MOST_CLASSES
    rows = z if window is None else np.concatenate([usable_rows(window.detach().cpu().double().numpy()), z])
    features = _Features(correction, rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-9), whole)
    penalty = _chosen(features(z), y)
    if penalty is None:
        return replace(correction, strength=strength)
    fitted = _fit(features(z), y, penalty)
    more = fitted.weights.size + fitted.biases.size
    return Correction(
        lambda new: fitted.scores(features(new)),
        correction.numbers + more,
        f"{correction.decision} + {len(y)} labels",
        correction.reason,
        strength,
        severity=correction.severity,
        labels=len(y),
    )


def labelled_rows(corrector: Corrector, logits: Tensor, labels: Tensor) -> tuple[Array, NDArray[np.int64]]:
    """Return the usable ones of labelled inputs: their logits [n, K] and labels [n].

    Raises:
        CorrectorError: the labels do not belong to the logits, or these not to the corrector, or they are too few.
    """
    corrector.check_classes(logits)
    classes = corrector.card.classes
    if not isinstance(labels, Tensor):
        raise CorrectorError(f"labels are {type(labels).__name__}, and a tensor [n] is needed", "torch.tensor(labels)")
    if labels.shape != (len(logits),) or labels.is_floating_point():
        raise CorrectorError(
            f"{len(logits)} rows of logits, and labels of shape {list(labels.shape)} and {labels.dtype}",
            "pass one class number per row",
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise CorrectorError(f"labels do not lie between 0 and {classes - 1}, the classes of the logits")
    z, y = logits.detach().cpu().double().numpy(), labels.cpu().numpy().astype(np.int64)
    finite = np.isfinite(z).all(axis=1)
    if finite.sum() < FEWEST:
        raise CorrectorError(f"{finite.sum()} labelled inputs with finite logits, {FEWEST} or more are needed")
    return z[finite], y[finite]


@dataclass(frozen=True)
class _Features:
    """What the regression looks at: the log probabilities of the correction, and the standardised logits."""

    correction: Correction
    mean: Array
    spread: Array
    whole: bool  # with the logits

    def __call__(self, logits: Array) -> tuple[Array, Array]:
        base = log_normalised(logits if self.correction.is_identity else self.correction.apply(logits))
        return base, (logits - self.mean) / self.spread if self.whole else np.empty((len(logits), 0))


@dataclass(frozen=True)
class _Regression:
    warmth: float
    weights: Array  # [d, K]
    biases: Array  # [K]

    def scores(self, features: tuple[Array, Array]) -> Array:
        base, x = features
        result: Array = self.warmth * base + x @ self.weights + self.biases
        return result

    def losses(self, features: tuple[Array, Array], labels: NDArray[np.int64]) -> Array:
        result: Array = -log_normalised(self.scores(features))[np.arange(len(labels)), labels]
        return result


def _fit(features: tuple[Array, Array], labels: NDArray[np.int64], penalty: float | None) -> _Regression:
    """Fit the regression; without a penalty, its temperature only."""
    from scipy.optimize import minimize

    base, x = features
    (n, k), d = base.shape, x.shape[1]
    hard = np.zeros((n, k))
    hard[np.arange(n), labels] = 1

    def unpacked(values: Array) -> _Regression:
        if penalty is None:
            return _Regression(float(np.exp(values[0])), np.zeros((d, k)), np.zeros(k))
        return _Regression(float(np.exp(values[0])), values[1 : 1 + d * k].reshape(d, k), values[1 + d * k :])

    def objective(values: Array) -> tuple[float, Array]:
        model = unpacked(values)
        scores = model.scores(features)
        rest = softmax(scores) - hard
        loss = -log_normalised(scores)[np.arange(n), labels].sum() + _ON_WARMTH / 2 * values[0] ** 2
        slope = [np.array([model.warmth * (rest * base).sum() + _ON_WARMTH * values[0]])]
        if penalty is not None:
            loss += penalty / 2 * (values[1:] ** 2).sum()
            slope.append(np.concatenate([(x.T @ rest).ravel(), rest.sum(axis=0)]) + penalty * values[1:])
        return float(loss), np.concatenate(slope)

    start = np.zeros(1 if penalty is None else 1 + d * k + k)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _ROUNDS})
    return unpacked(found.x)


def _chosen(features: tuple[Array, Array], labels: NDArray[np.int64]) -> float | None:
    """Return the penalty of the smallest loss on inputs that were not fitted; None where the loss is not surely below,
    or the right answers are fewer than, those of the correction alone."""
    fold = np.random.default_rng(0).permutation(len(labels)) % _FOLDS
    losses, right = np.empty((2, 1 + len(_PENALTIES), len(labels)))
    for number in range(_FOLDS):
        own = fold == number
        kept, held = ((features[0][at], features[1][at]) for at in (~own, own))
        for row, penalty in enumerate((None, *_PENALTIES)):
            fitted = _fit(kept, labels[~own], penalty)
            losses[row, own] = fitted.losses(held, labels[own])
            right[row, own] = fitted.scores(held).argmax(axis=1) == labels[own]
    best = int(losses.sum(axis=1).argmin())
    better = losses[0] - losses[best]
    root = np.sqrt(len(labels))
    if better.mean() <= (_SURELY + _FEW / root) * better.std() / root or right[best].sum() < right[0].sum():
        return None
    return _PENALTIES[best - 1]
