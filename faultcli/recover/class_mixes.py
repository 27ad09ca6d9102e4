"""Windows of other class mixes than training has: what a healthy model's logits may look like in the field."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def unfair_windows(labels: NDArray[np.int64], window: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield windows of another class mix: twice half of the classes only, and every class at a rate of its own."""
    classes = int(labels.max()) + 1
    order = np.argsort(random.random((2, classes)), axis=1)
    halves = (order < max(1, classes // 2)).astype(float)
    for weight in (*halves, random.dirichlet(np.ones(classes))):
        chance = weight[labels]
        few = int((chance > 1e-4 * chance.max()).sum())
        yield random.choice(len(labels), min(window, few), replace=False, p=chance / chance.sum())
