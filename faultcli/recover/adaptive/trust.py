"""Whether the names that a mixture gave are to be trusted: one number against a threshold learned on fault maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faultcli.recover.base import Array

FALSE_REFUSALS = 0.005  # of fair windows, at the level where they are explained worst
_FEWEST_MAPS = 3  # of a level; and so many degrees of freedom in all
_FREEDOM = 8
_CLIP = 1e-6


@dataclass(frozen=True)
class Trust:
    """A window is refused if the law of the damage explains too little of the class means that were found in it.

    Attributes:
        least: of `FittedMixture.explained`; below, the window is refused.
        expected: share of fair windows that is refused, on fault maps that the threshold was not learned from.
        maps: fault maps that this was learned from.
        enough: whether these are enough to rely on it.
    """

    least: float
    expected: float
    maps: int
    enough: bool

    @classmethod
    def learn(cls, explained: Sequence[Sequence[float]]) -> Trust:
        """Set the threshold as far below the means of the levels as fault maps scatter.

        Between maps of a level log(ρ² / (1 − ρ²)) is taken to be normal, of one variance for all levels; the threshold
        is a quantile of Student's predictive distribution for a new map, so that few maps make a wide margin.

        Args:
            explained: per level, of every fault map, by a mixture that does not know this map.
        """
        levels = [_logit(np.array(level)) for level in explained if len(level)]
        maps = sum(len(level) for level in levels)
        threshold, freedom = _threshold(levels)
        refused = [one < threshold_without for one, threshold_without in _left_out(levels)]
        enough = freedom >= _FREEDOM and min(len(level) for level in levels) >= _FEWEST_MAPS
        expected = float(np.mean(refused)) if refused else FALSE_REFUSALS
        return cls(float(1 / (1 + np.exp(-threshold))), max(expected, FALSE_REFUSALS), maps, enough)

    def refuses(self, explained: float) -> bool:
        """Return whether the window's classes are not to be trusted."""
        return explained < self.least

    @property
    def remark(self) -> str:
        """What is to be said of it."""
        found = f"of windows with the class mix of training, {100 * self.expected:.1f} % are expected to be refused"
        if self.enough:
            return f"{found} (from {self.maps} fault maps, each judged by the others)"
        few = "1 fault map is" if self.maps == 1 else f"{self.maps} fault maps are"
        return (
            f"{few} too few to tell how many fair windows will be refused: "
            f"train on {_FEWEST_MAPS} per level and {_FREEDOM + 4} in all, or more, with --maps"
        )


def _logit(explained: Array) -> Array:
    clipped = np.clip(explained, _CLIP, 1 - _CLIP)
    result: Array = np.log(clipped / (1 - clipped))
    return result


def _threshold(levels: Sequence[Array]) -> tuple[float, int]:
    """Return the threshold and the degrees of freedom of the scatter that it rests on: 0, and nothing is refused."""
    from scipy.special import stdtrit

    freedom = sum(len(level) - 1 for level in levels)
    if freedom < 1:
        return -np.inf, 0
    variance = sum(float(((level - level.mean()) ** 2).sum()) for level in levels) / freedom
    margin = -float(stdtrit(freedom, FALSE_REFUSALS))
    return min(float(x.mean()) - margin * np.sqrt(variance * (1 + 1 / len(x))) for x in levels), freedom


def _left_out(levels: Sequence[Array]) -> list[tuple[float, float]]:
    """Return every map's value beside the threshold that the other maps would have set."""
    found = []
    for number, level in enumerate(levels):
        for at in range(len(level)):
            others = [*levels[:number], *levels[number + 1 :]]
            if len(level) > 1:
                others.append(np.delete(level, at))
            if others:
                found.append((float(level[at]), _threshold(others)[0]))
    return found
