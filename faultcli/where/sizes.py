"""Published sample sizes of statistical fault injection, to compare with."""

from __future__ import annotations

import math
from collections.abc import Iterable


def leveugle(population: int, margin: float, confidence: float = 0.95, p: float = 0.5) -> int:
    """Return how many of `population` sites a sample needs for an interval of ± `margin`.

    n = N / (1 + e²(N − 1) / (t² p(1 − p))), rounded up: Leveugle et al., "Statistical fault injection: quantified error
    and confidence", DATE 2009, equation 4. p = 0.5 is the worst case.
    """
    from scipy.special import ndtri

    spread = float(ndtri(0.5 + confidence / 2)) ** 2 * p * (1 - p)
    if population < 1:
        return 0
    if spread <= 0:
        return 1
    return max(1, math.ceil(population / (1 + margin**2 * (population - 1) / spread)))


def per_part(populations: Iterable[int], margin: float, confidence: float = 0.95) -> int:
    """Return the sum of `leveugle` over parts that each get an interval of their own, such as layers or bits of layers.

    Ruospo et al., "Assessing convolutional neural networks reliability through statistical fault injections", DATE
    2023.
    """
    return sum(leveugle(population, margin, confidence) for population in populations)
