"""A tensor in parts of some rows each, so that what is computed on its way into the memory and out stays small."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Generic, Protocol, Self, TypeVar

from faultcli.formats import NumberFormat
from faultcli.formats.values import TILE, row_tiles


class _InRows(Protocol):
    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> Self | None: ...


Link = TypeVar("Link", bound=_InRows)


@dataclass(frozen=True)
class TensorPart(Generic[Link]):
    """Some rows (slices of the first dimension) of a tensor, or all of it.

    `rows`: which; `...` for all. `start`, `stop`: its flat positions. `shape`: of the part. `format`, `links`: those of
    these rows.
    """

    rows: slice | EllipsisType
    start: int
    stop: int
    shape: tuple[int, ...]
    format: NumberFormat
    links: tuple[Link, ...]


def parts(
    shape: tuple[int, ...], format: NumberFormat, links: Sequence[Link] = (), whole: int = 1
) -> Iterator[TensorPart[Link]]:
    """Yield the parts of a tensor in order; all of it where it is small, or where something has to see the whole.

    Args:
        shape: the tensor's.
        format: fitted to it.
        links: what is done to it.
        whole: each part but the last has a multiple of so many elements.
    """
    elements = math.prod(shape)
    if shape and elements > TILE:
        row = elements // shape[0]
        for rows in row_tiles(shape, math.lcm(whole, format.whole)):
            own_format, own_links = format.of_rows(rows, shape), [link.of_rows(rows, shape) for link in links]
            known = tuple(link for link in own_links if link is not None)
            if own_format is None or len(known) < len(own_links):
                break  # at the first part, or at none
            own_shape = (rows.stop - rows.start, *shape[1:])
            yield TensorPart(rows, rows.start * row, rows.stop * row, own_shape, own_format, known)
        else:
            return
    yield TensorPart(..., 0, elements, shape, format, tuple(links))
