"""Logits made up for tests: a clean model's, and those of copies whose damage is known."""

import numpy as np
import torch

from faultcli.recover.damaged_logits import Copy, LabelledLogits

CLASSES = 6


def labels_of(n: int, seed: int = 0, classes: int = CLASSES) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(n) % classes)


def clean_logits(labels: np.ndarray, seed: int = 1, classes: int = CLASSES) -> np.ndarray:
    """Well separated classes: logit 9 for the right one, similar classes (c, c + 1) closer, noise of 1.5."""
    random = np.random.default_rng(seed)
    means = 9.0 * np.eye(classes)
    for c in range(0, classes - 1, 2):
        means[c, c + 1] = means[c + 1, c] = 3.0
    return means[labels] + 1.5 * random.standard_normal((len(labels), classes))


def damaged(clean: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Each logit shifted, stretched and mixed with the others: what noise in the last layer does."""
    random = np.random.default_rng(seed)
    classes = clean.shape[1]
    mixing = np.eye(classes) + 0.25 * strength * random.standard_normal((classes, classes))
    shift = 6 * strength * random.standard_normal(classes)
    stretch = np.exp(0.5 * strength * random.standard_normal(classes))
    return (clean @ mixing.T) * stretch + shift


def labelled(n: int = 1500, copies: int = 4, strengths: tuple[float, ...] = (0.3, 1.0)) -> LabelledLogits:
    labels = labels_of(n)
    clean = clean_logits(labels)
    made = [
        Copy(f"made-up:{strength}", number, torch.from_numpy(damaged(clean, strength, 100 + number)).float())
        for strength in strengths
        for number in range(copies)
    ]
    return LabelledLogits(torch.from_numpy(clean).float(), torch.from_numpy(labels), tuple(made))


def accuracy(logits: torch.Tensor, labels: np.ndarray | torch.Tensor) -> float:
    return float((logits.argmax(1) == torch.as_tensor(labels)).double().mean())
