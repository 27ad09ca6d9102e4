"""Where a loader puts the elements of tensors that it rearranges: stacked, concatenated, cut, transposed, permuted.

The loader is run on numbers that say which element is which: whatever it does that moves them, and only that, can be
read off what it makes of them. `strided` asks for one coordinate at a time, which takes no memory on the way in and
little on the way out, and understands tensors that stay whole; `decoded` counts all elements, and understands
permutations and cuts besides. Both are proofs: every element was seen where it is said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from faultcli.workload.models.binding import Spot

Shapes = Mapping[str, Sequence[int]]
Loading = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]  # tensors of a file → the live tensors made of them

COUNT = torch.float64  # holds every whole number up to 2**53
COORDINATE = torch.float32  # and up to 2**24
_MOST_RUNS = 1024  # along one dimension; what is cut into more is a shuffle
_AT_ONCE = 1 << 22  # elements


def strided(shapes: Shapes, load: Loading) -> dict[str, tuple[Spot, ...]]:
    """Return where a loader puts tensors that stay whole, each in one live tensor, whatever their strides; others are
    absent.

    RAM: the live tensors made of them, in 4 bytes per element, once.
    """
    dims = max((len(shape) for shape in shapes.values()), default=0)
    if max((size for shape in shapes.values() for size in shape), default=0) >= 1 << 24 or len(shapes) >= 1 << 24:
        return {}
    corners: dict[str, _Corners] = {}
    for dim in range(dims):
        corners = _corners(load(_coordinates(shapes, dim)), dim, corners)
    spots = _boxes(shapes, load(_numbers(shapes)), corners)
    for dim in range(dims):
        spots = _seen(spots, shapes, _coordinates(shapes, dim), load)
    return {name: (spot,) for name, spot in spots.items()}


_Corners = tuple[
    Tensor, Tensor
]  # places where all coordinates are 1 but for one 2 at most; along which dimension, from 1


def _corners(made: Mapping[str, Tensor], dim: int, before: Mapping[str, _Corners]) -> dict[str, _Corners]:
    """Return, of places that were corners along the dimensions before, those that still are."""
    corners = {}
    for live, codes in made.items():
        flat = codes.reshape(-1)
        if dim:
            where, twos = before[live]
            kept = (flat[where] == 1) | ((flat[where] == 2) & (twos == 0))
            where, twos = where[kept], twos[kept]
        else:
            where = ((flat == 1) | (flat == 2)).nonzero().reshape(-1)
            twos = torch.zeros_like(where)
        corners[live] = where, torch.where(flat[where] == 2, dim + 1, twos)
    return corners


def _boxes(shapes: Shapes, made: Mapping[str, Tensor], corners: Mapping[str, _Corners]) -> dict[str, Spot]:
    """Return the places of tensors that have all their corners once, if they are all there."""
    names = list(shapes)
    found: dict[str, list[tuple[int, str, int]]] = {name: [] for name in names}
    for live, codes in made.items():
        flat = codes.reshape(-1)
        where, twos = corners.get(live, (torch.arange(len(flat)), torch.zeros(len(flat), dtype=torch.int64)))
        for number, two, place in zip(flat[where].tolist(), twos.tolist(), where.tolist(), strict=True):
            if 1 <= number <= len(names) and number == int(number):
                found[names[int(number) - 1]].append((two, live, place))
    spots = {name: spot for name, shape in shapes.items() if (spot := _box(shape, found[name])) is not None}
    numbers = _numbers(shapes)
    return {name: spot for name, spot in spots.items() if _holds(spot, made, numbers[name])}


def _seen(spots: Mapping[str, Spot], shapes: Shapes, asked: Mapping[str, Tensor], load: Loading) -> dict[str, Spot]:
    """Return those places that hold what was asked for."""
    made = load(dict(asked))
    return {name: spot for name, spot in spots.items() if _holds(spot, made, asked[name])}


def _holds(spot: Spot, made: Mapping[str, Tensor], codes: Tensor) -> bool:
    live = made.get(spot.name)
    return (
        live is not None
        and spot.last < live.numel()
        and torch.equal(spot.view(live.contiguous()), codes.reshape(spot.shape))
    )


def _wide(shape: Sequence[int]) -> list[int]:
    return [dim for dim, size in enumerate(shape) if size > 1]


def _box(shape: Sequence[int], corners: Sequence[tuple[int, str, int]]) -> Spot | None:
    """Return the place of a tensor whose first element (0), and next ones along each dimension (1, 2, …), are found."""
    wide = _wide(shape)
    places = {two: place for two, _, place in corners}
    if len({live for _, live, _ in corners}) != 1 or sorted(two for two, _, _ in corners) != [
        0,
        *(d + 1 for d in wide),
    ]:
        return None
    steps = tuple(places[dim + 1] - places[0] for dim in wide)
    if any(step <= 0 for step in steps):
        return None
    stored = tuple(prod(shape[dim + 1 :]) for dim in wide)
    return Spot(corners[0][1], tuple(shape[dim] for dim in wide), places[0], steps, 0, stored)


def _coordinates(shapes: Shapes, dim: int) -> dict[str, Tensor]:
    """Return tensors that say each element's coordinate along a dimension, from 1, and take no memory."""
    codes = {}
    for name, shape in shapes.items():
        own = torch.arange(1, shape[dim] + 1, dtype=COORDINATE) if dim < len(shape) else torch.ones(1, dtype=COORDINATE)
        codes[name] = own.reshape([-1 if d == dim else 1 for d in range(len(shape))]).expand(tuple(shape))
    return codes


def _numbers(shapes: Shapes) -> dict[str, Tensor]:
    """Return tensors that say which one they are, from 1, and take no memory."""
    return {
        name: torch.tensor(number, dtype=COORDINATE).expand(tuple(shape))
        for number, (name, shape) in enumerate(shapes.items(), 1)
    }


def unread(shapes: Shapes, load: Loading) -> set[str]:
    """Return tensors that a loader makes nothing of: with and without them, the live tensors are the same."""
    asked = _numbers(shapes)
    made = _something(load(dict(asked)))
    seen = torch.zeros(len(shapes) + 1, dtype=torch.bool)
    for codes in made.values():
        for some in torch.split(codes.reshape(-1), _AT_ONCE):
            seen[some[(some >= 0) & (some <= len(shapes))].long()] = True
    absent = {name for number, name in enumerate(shapes, 1) if not seen[number]}
    rest = {name: codes for name, codes in asked.items() if name not in absent}
    without = _something(load(rest)) if absent and rest else {}
    same = made.keys() == without.keys() and all(torch.equal(made[live], without[live]) for live in made)
    return absent if same else set()


def _something(made: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {live: codes for live, codes in made.items() if bool((codes != 0).any())}


def counted(shapes: Shapes) -> dict[str, Tensor]:
    """Return tensors of these shapes whose elements count on from 1, row-major, one tensor after the other."""
    codes, start = {}, 1
    for name, shape in shapes.items():
        codes[name] = torch.arange(start, start + prod(shape), dtype=COUNT).reshape(tuple(shape))
        start += prod(shape)
    return codes


def decoded(shapes: Shapes, made: Mapping[str, Tensor]) -> dict[str, tuple[Spot, ...] | None]:
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
    backwards = any(step < 0 for dim in runs for _, _, factors in dim for _, step in factors)
    if backwards or prod(map(len, runs)) > _MOST_RUNS:
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
