"""Timing, and the rows that benchmarks report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure next to its goal."""

    what: str
    measured: float
    goal: float
    unit: str  # "×" for ratios, "s" for seconds
    at_least: bool = False  # whether the goal is a lower bound
    detail: str = ""

    @property
    def met(self) -> bool:
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


def seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Return the median wall-clock time of `repeats` calls, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def side_by_side(first: Callable[[], object], second: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Return the median times of two actions that take turns, so that both see the same machine."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for action, found in zip((first, second), times, strict=True):
            start = time.perf_counter()
            action()
            found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])
