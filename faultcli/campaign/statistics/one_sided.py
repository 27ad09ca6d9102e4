"""One-sided bounds of a share, exact for any number of trials: how bad it can still be."""

from __future__ import annotations

from faultcli.campaign.statistics.intervals import error_rate


def at_most(count: int, n: int, confidence: float = 0.95) -> float:
    """Return the largest share of which `count` or fewer of `n` independent trials are not improbable.

    The upper end of a one-sided interval of Clopper and Pearson (Biometrika 26, 1934): the share p for which
    P(X ≤ count) is 1 − confidence; for no events 1 − (1 − confidence)^(1/n). Without trials it is 1.

    Raises:
        ValueError: there are no so many events in so many trials, or the confidence is no probability.
    """
    _check(count, n)
    from scipy.special import betaincinv

    return 1.0 if count == n else float(betaincinv(count + 1, n - count, 1 - error_rate(confidence)))


def at_least(count: int, n: int, confidence: float = 0.95) -> float:
    """Return the smallest share of which `count` or more of `n` independent trials are not improbable; see `at_most`.
    Without trials it is 0.

    Raises:
        ValueError: as `at_most`.
    """
    return 1 - at_most(n - count, n, confidence)


def _check(count: int, n: int) -> None:
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} trials")
