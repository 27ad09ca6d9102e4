"""Weights into words: links that change values, scales, codes, and the nearest words that links can store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from faultcli.errors import FormatError
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.formats.fixed import FixedFormat
from faultcli.formats.values import count_non_finite, exact_reals
from faultcli.protect.base import Protection, Words, Written, words_of
from faultcli.protect.parts import TensorPart, parts


@dataclass(frozen=True)
class Values:
    """What is to be stored of a tensor, its weights behind the links that change values, computed when it is asked for.

    `whole_blocks`: each part but the last has a multiple of so many elements.
    """

    weights: Tensor
    format: NumberFormat
    links: tuple[Protection, ...]
    whole_blocks: int = 1

    @property
    def shape(self) -> torch.Size:
        return self.weights.shape

    def whole(self) -> Tensor:
        return _values(self.weights, self.format, self.links)

    def parts(self) -> Iterator[Tensor]:
        return (values for _, values in self.with_parts())

    def with_parts(self) -> Iterator[tuple[TensorPart[Protection], Tensor]]:
        """Yield the parts of the tensor with their values."""
        for part in parts(tuple(self.shape), self.format, self.links, self.whole_blocks):
            yield part, _values(self.weights[part.rows], self.format, part.links)


def _values(weights: Tensor, format: NumberFormat, links: Sequence[Protection]) -> Tensor:
    for link in links:
        weights = link.write_values(weights)
    return exact_reals(weights, format.name) if isinstance(format, FixedFormat | ScaledFormat) else weights


def encoded(values: Values, ber: float | None) -> tuple[NumberFormat, Words]:
    """Return the format as it is fitted to the values, and their words, flat, before links protect them.

    Words of a tensor that is stored as it is share its memory.

    Raises:
        FormatError, UsageError: what cannot be stored, or does not work on this format.
    """
    try:
        fitted = _fitted(values)
        if _as_it_is(values):
            return fitted, _nearest(values.links, values.whole(), fitted, ber)
        words: Words | None = None
        for part, own in replace(values, format=fitted).with_parts():
            nearest = _nearest(part.links, own, part.format, ber)
            if part.rows is ...:
                return fitted, nearest
            words = np.empty(values.weights.numel(), nearest.dtype) if words is None else words
            words[part.start : part.stop] = nearest
    except FormatError:
        _refuse_all(values)
        raise
    assert words is not None  # there is a part at least
    return fitted, words


def _as_it_is(values: Values) -> bool:
    native = getattr(values.format, "native", None)
    return native == values.weights.dtype and all(link.rank > Protection.VALUE for link in values.links)


def _fitted(values: Values) -> NumberFormat:
    if isinstance(values.format, ScaledFormat):
        return values.format.fitted_to(values.parts(), tuple(values.shape))
    if type(values.format).fitted is NumberFormat.fitted:
        return values.format
    return values.format.fitted(values.whole())


def _nearest(links: Sequence[Protection], values: Tensor, format: NumberFormat, ber: float | None) -> Words:
    words = words_of(format.encode(values))
    for link in links:
        words = link.nearest(Written(values, words, format, ber))
    return words


def _refuse_all(values: Values) -> None:
    """Raise the format's refusal of a tensor, which counts values, for all parts together."""
    found = []
    for part in values.parts():
        own = part if part.dtype == torch.float64 else part.float()
        if any(count_non_finite(own)):
            found.append(own[~own.isfinite()])
    if found:
        refused = torch.cat(found)
        values.format.fitted(refused).encode(refused)
