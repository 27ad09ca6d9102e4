"""Folders of images into the classes of a network: by their names where it has the same, else in their order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from faultcli.workload.models.architectures import Classes

_SYNSET = re.compile(r"n\d{8}")  # WordNet's number of a noun, which folders of ImageNet are named by
_TABLE = ",classes=FILE.csv (columns index and name)"


class Numbered(NamedTuple):
    """The classes of folders."""

    numbers: list[int]  # of the network, one per folder
    names: tuple[str, ...] | None  # of all classes from 0 on; None: not known
    note: str | None  # what was done, where that may not be what was meant


def in_classes_of(data: str, folders: Sequence[str], network: Classes, offset: int) -> Numbered:
    """Return the classes of folders, which come in the order of their names.

    Where each folder has the name of a class of its own, that is its class. Else the order counts, from `offset` on.

    Args:
        data: the folders' place, for the note.
        folders: their names.
        network: the classes that there are.
        offset: the class of the first folder where the order counts.
    """
    named = numbers_by_name(folders, network.names)
    in_order = list(range(offset, offset + len(folders)))
    if len(set(named.values())) == len(folders):
        numbers = [named[folder] for folder in folders]
        note = f"{data}: its folders are the network's classes of the same names, whatever their order"
        return Numbered(numbers, network.names, None if numbers == in_order else note)
    return Numbered(in_order, None if offset else tuple(folders), _doubt(data, folders, named, network, offset))


def _doubt(data: str, folders: Sequence[str], named: Mapping[str, int], network: Classes, offset: int) -> str | None:
    some = len(folders) > len(named) >= len(folders) / 2
    if network.number is None or not (some or offset + len(folders) < network.number):
        return None
    stranger = next((folder for folder in folders if folder not in named), None)
    others = f", though {len(named)} are named like classes ({stranger!r} is not)" if some else ""
    return (
        f"{data}: {len(folders)} folders are taken for classes {offset} to {offset + len(folders) - 1} of"
        f" {network.number} in the order of their names{others}; if they are others, pass {_TABLE}"
    )


def numbers_by_name(folders: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Return the class of every folder that is named as exactly one class is: by its whole name, or by one of several
    (`tench, Tinca tinca`), or by its number in WordNet (`n01440764 tench`). Case and underscores do not count."""
    whole = _of_one((_plain(name), number) for number, name in enumerate(classes))
    parts = _of_one((part, number) for number, name in enumerate(classes) for part in _parts(name))
    found = ((folder, whole.get(_plain(folder), parts.get(_plain(folder)))) for folder in folders)
    return {folder: number for folder, number in found if number is not None}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _parts(name: str) -> set[str]:
    return {_plain(part) for part in (*name.split(","), *_SYNSET.findall(name))}


def _of_one(named: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the names that one class alone has."""
    pairs = list(named)
    often = Counter(name for name, _ in pairs)
    return {name: number for name, number in pairs if name and often[name] == 1}
