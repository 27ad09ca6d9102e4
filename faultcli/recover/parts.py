"""The parts of a corrector file, checked: each is there, has its shape, and holds numbers that can be reckoned with.

Training gives no others. A file that says otherwise is damaged, and its NaNs and infinities would show far from here.
Every function raises KeyError, TypeError or ValueError, which the reader of the file turns into its error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from faultcli.foreign import is_number
from faultcli.recover.base import Array, Card, Setting

LARGEST = 1e30  # of any number: products of four stay finite
_SMALLEST = 1e-30  # of one that is divided by
_MOST_CLASSES = 1 << 20


def read_card(values: Mapping[str, Any]) -> Card:
    """Return the card that `dataclasses.asdict` made these values of."""
    card = Card(**{**values, "faults": tuple(values["faults"])})
    texts = (card.setting, card.model, card.format, card.protect, *card.faults)
    if not all(isinstance(text, str) for text in texts) or card.setting not in get_args(Setting):
        raise TypeError("its card is damaged")
    if not _is_whole(card.classes, 2, _MOST_CLASSES) or not _is_whole(card.seed, 0, 1 << 64):
        raise ValueError(f"its card has {card.classes!r:.40} classes and the seed {card.seed!r:.40}")
    return card


def number(values: Mapping[str, Any], name: str) -> float:
    """Return a number that is no array."""
    if not is_number(values[name], -LARGEST, LARGEST):
        raise ValueError(f"{name} is no number")
    return float(values[name])


def array(arrays: Mapping[str, NDArray[Any]], name: str, *shape: int, positive: bool = False) -> Array:
    """Return a float64 array of this shape; `positive` where it is divided by or its logarithm is taken."""
    found = arrays[name]
    if found.dtype != np.float64 or found.shape != shape:
        raise ValueError(f"{name} is {found.dtype} of shape {list(found.shape)}, not float64 of {list(shape)}")
    if positive and not (found >= _SMALLEST).all():
        raise ValueError(f"{name} is not positive")
    return found


def precision(arrays: Mapping[str, NDArray[Any]], name: str, size: int) -> Array:
    """Return the inverse [size, size] of a covariance."""
    found = array(arrays, name, size, size)
    if not np.allclose(found, found.T):
        raise ValueError(f"{name} is not symmetric")
    np.linalg.cholesky(found)
    np.linalg.cholesky(np.linalg.inv(found))
    return found


def check_numbers(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse NaN, infinities and absurdly large numbers; ValueError says where."""
    for name, found in arrays.items():
        values = found[:-1] if name == "policy.upper" and found.ndim else found  # whose last step has no upper end
        if found.dtype not in (np.float32, np.float64):
            raise ValueError(f"{name} is {found.dtype}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite")
        if values.size and float(np.abs(values).max()) > LARGEST:
            raise ValueError(f"{name} holds {float(np.abs(values).max()):.3g}")


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and is_number(value, low, high)
