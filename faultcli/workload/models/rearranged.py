"""Tensors that a library moves about when it loads them: found again by running its own loading on numbers that count.

What is read off the numbers is held to the real values, bit for bit, before it counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from faultcli.workload.models.binding import Spot
from faultcli.workload.models.coding import Loading, counted, decoded, strided, unread

_Places = dict[str, tuple[Spot, ...] | None]


def rearranged(given: Mapping[str, Tensor], own: Mapping[str, Tensor], load: Loading) -> _Places:
    """Return where the live tensors of a model have those of a file.

    Layers that are alike are loaded once: what holds for the first is tried on the others. RAM: while one is loaded, 4
    bytes for each of its elements; a few times 8 bytes where they are permuted or cut.

    Args:
        given: what the library was given, and has loaded.
        own: the live tensors, contiguous.
        load: loads other values; what it is not given, it leaves out.

    Returns:
        Places by tensor, none at all for one that is not read; None for one that is read as something else than it is.
    """
    found: _Places = {}
    alike: dict[object, list[tuple[str, _Places]]] = {}
    layers = _layers(given)
    for (head, number), names in layers.items():
        part = {name: given[name] for name in names.values()}
        kind = (head, *((rest, part[name].shape) for rest, name in names.items()))
        known = alike.setdefault(kind, [])
        places = next((guess for one in known if (guess := _guessed(*one, number, names, part, own))), None)
        if places is None:
            places = _read_off(part, own, load)
            known.append((number, {rest: places[name] for rest, name in names.items()}))
        found |= places
    if None in found.values() and len(layers) > 1:  # tensors of several layers may make one
        found = _read_off(given, own, load)
    return found


def _layers(names: Mapping[str, Tensor]) -> dict[tuple[str, str], dict[str, str]]:
    """Group names by what comes before their first number, and the number; give what comes after it, and the name."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        parts = name.split(".")
        at = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
        if at is None:
            groups.setdefault(("", ""), {})[name] = name
        else:
            groups.setdefault((".".join(parts[:at]), parts[at]), {})[".".join(parts[at + 1 :])] = name
    return groups


def _guessed(
    first: str,
    known: _Places,
    number: str,
    names: Mapping[str, str],
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> _Places | None:
    """Return the places of a layer's tensors if they are those of another layer; else None."""
    places: _Places = {}
    for rest, name in names.items():
        spots = known[rest]
        if spots is None:
            return None
        spots = tuple(replace(spot, name=".".join(_swapped(spot.name.split("."), first, number))) for spot in spots)
        if not holds(spots, given[name], own):
            return None
        places[name] = spots
    return places


def _swapped(parts: list[str], old: str, new: str) -> list[str]:
    at = parts.index(old) if old in parts else len(parts)
    return [*parts[:at], new, *parts[at + 1 :]] if at < len(parts) else parts


def _read_off(given: Mapping[str, Tensor], own: Mapping[str, Tensor], load: Loading) -> _Places:
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    places: _Places = dict(strided(shapes, load))
    if len(places) < len(shapes):
        places |= dict.fromkeys(unread(shapes, load) - places.keys(), ())
    if len(places) < len(shapes):
        places = decoded(shapes, load(counted(shapes))) | places
    return {
        name: spots if spots is not None and holds(spots, given[name], own) else None for name, spots in places.items()
    }


def holds(spots: Sequence[Spot], stored: Tensor, own: Mapping[str, Tensor]) -> bool:
    """Whether live tensors hold a stored one in these places, bit for bit."""
    stored = stored.contiguous()
    for spot in spots:
        live = own.get(spot.name)
        if live is None or spot.last >= live.numel():
            return False
        part = spot.part(live)
        if not _same_bits(part.view, part.of(stored).to(live.dtype)):
            return False
    return True


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype and shape are alike bit for bit."""
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
