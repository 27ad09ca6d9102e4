"""Where a loader puts the elements of tensors that it rearranges: stacked, concatenated, cut, transposed, permuted.

The loader is run on numbers that count the elements: whatever it does that moves them, and only that, can be read off
what it makes of them. Float64 holds every whole number up to 2**53.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from faultcli.workload.models.binding import Spot

CODE = torch.float64
_MOST_RUNS = 1024  # along one dimension; what is cut into more is a shuffle


def counted(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return tensors of these shapes whose elements count on from 1, row-major, one tensor after the other."""
    codes, start = {}, 1
    for name, shape in shapes.items():
        codes[name] = torch.arange(start, start + prod(shape), dtype=CODE).reshape(tuple(shape))
        start += prod(shape)
    return codes


def decoded(shapes: Mapping[str, Sequence[int]], made: Mapping[str, Tensor]) -> dict[str, tuple[Spot, ...] | None]:
    """Return where a loader put the elements of tensors.

    Args:
        shapes: of the tensors that `counted` was asked for.
        made: live tensors that the loader made of them.

    Returns:
        Places by tensor, none at all for one that nothing was made of. None if places do not say it: the loader
        computes with the elements, puts them in an order that strides cannot tell, or twice into one live tensor.
    """
    spots: dict[str, list[Spot]] = {name: [] for name in shapes}
    lost: set[str] = set()
    computed = False
    total = sum(map(prod, shapes.values()))
    for live, values in made.items():
        codes = values.reshape(-1)
        known = (codes >= 1) & (codes <= total) & (codes == codes.floor())
        computed |= bool((codes[~known] != 0).any())  # 0: what the loader fills up with
        where = known.nonzero().reshape(-1)
        if not len(where):
            continue
        elements = codes[where].long()
        first, last = int(elements.min()), int(elements.max())
        places = torch.full((last - first + 1,), -1, dtype=torch.int64)
        places[elements - first] = where
        repeated = int((places >= 0).sum()) < len(where)
        start = 1
        for name, shape in shapes.items():
            size = prod(shape)
            low, high = max(start, first), min(start + size - 1, last)
            if low <= high and (places[low - first : high - first + 1] >= 0).any():
                whole = torch.full((size,), -1, dtype=torch.int64)
                whole[low - start : high - start + 1] = places[low - first : high - first + 1]
                found = None if repeated else _spots(live, whole.reshape(tuple(shape)))
                if found is None:
                    lost.add(name)
                else:
                    spots[name] += found
            start += size
    if computed:
        lost |= {name for name, found in spots.items() if sum(prod(s.shape) for s in found) < prod(shapes[name])}
    return {name: None if name in lost else tuple(found) for name, found in spots.items()}


def _spots(live: str, places: Tensor) -> list[Spot] | None:
    """Return boxes of a tensor, given the place of each element in a live tensor (−1: it has none there); None if there
    are too many."""
    held = places >= 0
    dims = range(places.dim())
    lines = [held.any(dim=[d for d in dims if d != dim]) if places.dim() > 1 else held for dim in dims]
    starts = [int(line.nonzero()[0]) for line in lines]
    sizes = [int(line.sum()) for line in lines]
    strides = places.stride()
    for dim in dims:
        places = places.narrow(dim, starts[dim], min(sizes[dim], places.shape[dim] - starts[dim]))
    if bool((places < 0).any()):
        return None
    origin = int(places.reshape(-1)[0])
    steps = [places[tuple(slice(None) if d == dim else 0 for d in dims)] - origin for dim in dims]
    sums = torch.tensor(origin)
    for dim in dims:
        sums = sums + steps[dim].reshape([-1 if d == dim else 1 for d in dims])
    if not torch.equal(sums.expand_as(places), places):
        return None
    runs = [list(_runs(line)) for line in steps]
    if (
        any(step < 0 for dim in runs for _, _, factors in dim for _, step in factors)
        or prod(map(len, runs)) > _MOST_RUNS
    ):
        return None
    return [_spot(live, origin, starts, strides, box) for box in product(*runs)]


_Run = tuple[int, int, list[tuple[int, int]]]  # where it starts along a dimension, its place, sizes and steps


def _spot(live: str, origin: int, starts: Sequence[int], strides: Sequence[int], box: Sequence[_Run]) -> Spot:
    shape: list[int] = []
    live_strides: list[int] = []
    stored_strides: list[int] = []
    stored = 0
    for (first, _, factors), start, stride in zip(box, starts, strides, strict=True):
        stored += (start + first) * stride
        inner = prod(size for size, _ in factors)
        for size, step in factors:
            inner //= size
            shape.append(size)
            live_strides.append(step)
            stored_strides.append(inner * stride)
    begin = origin + sum(place for _, place, _ in box)
    return Spot(live, tuple(shape), begin, tuple(live_strides), stored, tuple(stored_strides))


def _runs(line: Tensor) -> Iterator[_Run]:
    """Cut a line of places into runs that strides can tell; one, if its steps repeat."""
    factors = _factors(line)
    if factors is not None:
        yield 0, int(line[0]), factors
        return
    steps = line.diff()
    first = 0
    while first < len(line):
        size = 1 + _alike(steps[first:])
        yield first, int(line[first]), [(size, int(steps[first]))] if size > 1 else []
        first += size


def _factors(line: Tensor) -> list[tuple[int, int]] | None:
    """Return sizes and steps, outermost first, of nested loops that go along a line; None if there are none."""
    if len(line) == 1:
        return []
    steps = line.diff()
    size = 1 + _alike(steps)
    inner = [(size, int(steps[0]))]
    if size == len(line):
        return inner
    if len(line) % size:
        return None
    rows = line.reshape(-1, size)
    if not torch.equal(rows - rows[:, :1], (rows[0] - rows[0, 0]).expand_as(rows)):
        return None
    outer = _factors(rows[:, 0])
    return None if outer is None else outer + inner


def _alike(steps: Tensor) -> int:
    """Return how many of the first steps are the same."""
    other = (steps != steps[0]).nonzero() if len(steps) else steps
    return int(other[0]) if len(other) else len(steps)
