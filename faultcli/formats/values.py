"""What formats do with the values they are given: take them exactly, count what is not finite, walk them in tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from faultcli.errors import FormatError, NonFiniteError

TILE = 1 << 20  # elements; larger temporaries cost more in page faults than the arithmetic on them


def exact_reals(values: Tensor, name: str) -> Tensor:
    """Return `values` unchanged in float64 or float32: float64 stays, every narrower floating dtype fits in float32.

    Raises:
        FormatError: the dtype is not a real floating one.
    """
    if not values.is_floating_point():
        dtype = str(values.dtype).removeprefix("torch.")
        raise FormatError(f"holds {dtype} values; {name} stores floating-point values", "store it as native")
    values = values.detach()
    return values if values.dtype == torch.float64 else values.to(torch.float32)


def count_non_finite(values: Tensor) -> tuple[int, int]:
    """Return how many values of a float32 or float64 tensor are NaN and how many are infinite.

    A tensor without any is recognised in one pass that allocates nothing.
    """
    if values.numel() == 0:
        return 0, 0
    low, high = torch.aminmax(values)  # a single NaN makes both NaN
    if math.isfinite(low.item()) and math.isfinite(high.item()):
        return 0, 0
    return int(values.isnan().sum()), int(values.isinf().sum())


def refuse(name: str, nan: int, infinite: int) -> None:
    """Raise the error for NaN and infinite values that format `name` has no code for; do nothing for none.

    Raises:
        NonFiniteError: one of the counts is not 0. The caller adds the tensor's name.
    """
    if nan or infinite:
        counts = " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (infinite, "infinite")) if n)
        plural, pronoun = ("value", "it") if nan + infinite == 1 else ("values", "them")
        raise NonFiniteError(f"holds {counts} {plural}; {name} cannot store {pronoun}")


def look_up(table: Tensor, codes: Tensor) -> Tensor:
    """Return the entries of a table that codes of up to 16 bits stand for, in the codes' shape."""
    table, flat = table.to(codes.device), codes.reshape(1, -1)
    values = torch.empty(flat.shape, dtype=table.dtype, device=codes.device)
    for tile in tiles(*flat.shape):
        values[tile] = table.index_select(0, flat[tile][0].to(torch.int32))
    return values.reshape(codes.shape)


def row_tiles(shape: tuple[int, ...], whole: int = 1) -> Iterator[slice]:
    """Yield slices of the first dimension that cover a tensor, of about `TILE` elements each, so that little is held
    beside it.

    Args:
        shape: the tensor's, with elements and a dimension at least.
        whole: each slice but the last has a multiple of so many elements.
    """
    row = math.prod(shape[1:])
    step = whole // math.gcd(whole, row)  # rows that have such a multiple
    height = max(1, TILE // (step * row)) * step
    for top in range(0, shape[0], height):
        yield slice(top, min(top + height, shape[0]))


def tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield the tiles, of about `TILE` elements at most, that cover a matrix."""
    height = max(1, TILE // max(1, columns))
    for top in range(0, rows, height):
        for left in range(0, columns, TILE):
            yield slice(top, top + height), slice(left, left + TILE)
