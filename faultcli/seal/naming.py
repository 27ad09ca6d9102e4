"""Which elements of which tensors lie in a range of bytes of a sealed file."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from faultcli.checkpoint.header import DTYPES
from faultcli.seal.record import SealedFile

HEADER, INDEX = "header", "index"


@dataclass(frozen=True)
class Part:
    """What lies in a range of bytes.

    `kind`: `tensor`, or `header` or `index`, of which nothing else is known. `first`, `last`: elements, row-major,
    `last` exclusive. `row_elements`: of one entry of the tensor's first dimension.
    """

    kind: str
    tensor: str | None = None
    first: int = 0
    last: int = 0
    row_elements: int | None = None

    @property
    def rows(self) -> tuple[int, int] | None:
        """First and last row, the last one exclusive; None where the tensor has no rows."""
        if not self.row_elements:
            return None
        return self.first // self.row_elements, -(-self.last // self.row_elements)


def parts_of(one: SealedFile, begin: int, end: int) -> list[Part]:
    """Name what lies in bytes `begin` to `end` (exclusive) of a file, in the order of the file.

    Tensors without elements lie nowhere.
    """
    layout = one.layout
    if layout is None:
        return [Part(INDEX)]
    found = [Part(HEADER)] if begin < layout.nbytes else []
    tensors = layout.tensors
    at = max(0, bisect_right(tensors, begin, key=lambda info: info.end))
    while at < len(tensors) and tensors[at].offset < end:
        info = tensors[at]
        at += 1
        if not info.nbytes:
            continue
        bits = DTYPES[info.dtype][0]
        first = max(0, begin - info.offset) * 8 // bits
        last = min(info.elements, -(-(min(end, info.end) - info.offset) * 8 // bits))
        row = math.prod(info.shape[1:]) if len(info.shape) > 1 else None
        found.append(Part("tensor", info.name, first, last, row))
    return found
