"""Whether an accuracy could be chance: what labels of another order, other preprocessing or untrained weights give."""

from __future__ import annotations

_SURE = 0.95  # one-sided, at either end
_WORKING = 0.1  # of the way from chance to perfect: less than that is no model that anybody would take


def no_better_than_chance(correct: int, answers: int, classes: int) -> bool:
    """Return whether so many correct answers do not differ from chance, and are too many to be an accident.

    Both have to hold, by exact one-sided 95 % bounds of the true accuracy (Clopper and Pearson): the lower one is not
    above chance, 1/K; the upper one is below a tenth of the way from chance to perfect. So few inputs never say so.
    """
    from scipy.special import betaincinv

    if not down_to_chance(correct, answers, classes):
        return False
    chance, high = 1 / classes, float(betaincinv(correct + 1, answers - correct, _SURE))
    return high < chance + _WORKING * (1 - chance)


def down_to_chance(correct: int, answers: int, classes: int) -> bool:
    """Return whether so many correct answers are no more than chance, or cannot be told from it: the exact one-sided
    95 % lower bound of the true accuracy is not above 1/K."""
    from scipy.special import betaincinv

    if classes < 2 or correct == answers:
        return False
    low = 0.0 if correct == 0 else float(betaincinv(correct, answers - correct + 1, 1 - _SURE))
    return low <= 1 / classes
