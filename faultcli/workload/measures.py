"""The number of a trial that a campaign is about: top-1 accuracy, or the first score of a task of the user's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from faultcli.errors import UsageError
from faultcli.workload.metrics import Outcome

Bounds: TypeAlias = tuple[float, float]
Side: TypeAlias = Literal["above", "below"]

UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Measure:
    """A number that every trial has.

    Attributes:
        score: its name among the scores of a task; None: top-1 accuracy.
        bounds: the least and the largest value it can have in a trial; infinite where nobody said.
        good: where better values lie, as far as a gate says it.
    """

    score: str | None = None
    bounds: Bounds = (0.0, 1.0)
    good: Side | None = "above"

    @property
    def name(self) -> str:
        """What it is called in texts."""
        return "top-1 accuracy" if self.score is None else self.score

    @property
    def bounded(self) -> bool:
        """Whether anything can be said of its mean at every look."""
        return math.isfinite(self.bounds[0]) and math.isfinite(self.bounds[1])

    @property
    def of_means(self) -> Bounds:
        """What its mean lies between: an accuracy is a fraction, whatever a trial's estimate of it is."""
        return (0.0, 1.0) if self.score is None else self.bounds

    def of(self, outcome: Outcome) -> float | None:
        """Return it of a run; None where a score is not finite."""
        return outcome.top1 if self.score is None else (outcome.scores or {}).get(self.score)

    def checked(self, outcome: Outcome) -> float | None:
        """Return it of a run, as `of`.

        Raises:
            UsageError: a score lies outside its bounds.
        """
        value = self.of(outcome)
        return value if self.score is None or value is None else within(self.score, value, self.bounds)


def within(score: str, value: float, bounds: Bounds) -> float:
    """Return a score that lies within its bounds.

    Raises:
        UsageError: it does not.
    """
    low, high = bounds
    if low <= value <= high:
        return value
    problem = f"--bounds {score}={low:g}:{high:g}: there is a run with {score} {value:g}"
    raise UsageError(problem, "name bounds that no fault map leaves, or let the score end there; trials are kept")


ACCURACY = Measure()
