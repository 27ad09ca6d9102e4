"""One curve against eleven direct campaigns of one size, at the same half-width: the demo, five decades of rates."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.curve import RATES, compare
from benchmarks.measure import Row

INPUTS = 100
HALF_WIDTH = 0.03
TRIALS = 120  # of each direct campaign, to know its spread


def run() -> Iterator[Row]:
    compared = compare("demo", "q2.5", INPUTS, TRIALS, HALF_WIDTH)
    needed = compared.needed["equal"]
    detail = f"{compared.trials} against {needed} trials for ± {HALF_WIDTH:g}; "
    detail += f"{compared.inside} of {RATES} direct means in the band"
    yield Row("trials of a curve / of 11 direct campaigns", compared.trials / needed, 1 / 3, "×", detail=detail)
