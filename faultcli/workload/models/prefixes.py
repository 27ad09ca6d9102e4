"""Names of a file that differ from a network's by what they begin with: weights saved from inside a wrapper
(`module.`, `_orig_mod.`, `model.`), or of a network without the wrapper that it has here; and second copies beside them
(`ema.`, `teacher.`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import prod

from faultcli.checkpoint.locate import some

Shapes = Mapping[str, Sequence[int]]

_LOOKED_AT = 32  # names of the network that are looked for under other beginnings
_TRIED = 24  # changes, those that most of them ask for first
_WRAPPERS = frozenset(["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
_ASIDE = re.compile(
    r"(^|[._])(ema|swa|avg|averaged?|average_model|teacher|momentum|target|shadow|slow|encoder_k)([._]|$)"
)


@dataclass(frozen=True)
class Change:
    """What names begin with in the file, and in the network instead."""

    stored: str = ""
    own: str = ""

    def of(self, name: str) -> str | None:
        """Return the network's name for one of the file; None if it does not begin so."""
        return self.own + name[len(self.stored) :] if name.startswith(self.stored) else None

    def reached(self, stored: Shapes, own: Shapes) -> int:
        """Return how many tensors of the file the network has, by changed name and shape."""
        names = ((self.of(name), shape) for name, shape in stored.items())
        return sum(name in own and tuple(own[name]) == tuple(shape) for name, shape in names if name is not None)

    def wraps(self, stored: Shapes, size: int) -> bool:
        """Whether it takes off what most tensors of a network of this size, or all of the file, begin with."""
        count = sum(name.startswith(self.stored) for name in stored)
        return not self.own and (2 * count >= size or count == len(stored))

    @property
    def text(self) -> str:
        """What a user is told."""
        if not self.own:
            return f"the file's names begin with {self.stored!r}, which is taken off"
        if not self.stored:
            return f"the network's names begin with {self.own!r}, which the file's lack"
        return f"the file's names begin with {self.stored!r} where the network's begin with {self.own!r}"


AS_IT_IS = Change()


@dataclass(frozen=True)
class NameFit:
    """Names of a file as those of a network.

    Attributes:
        names: name in the file to name in the network, which may lack it; without those that are left out.
        left_out: what lies beside the network's tensors.
        notes: what a user may not expect.
    """

    names: Mapping[str, str]
    left_out: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def fit(stored: Shapes, own: Shapes, *, also: Shapes | None = None) -> NameFit:
    """Find the one change of beginnings that makes most names of a file those of a network.

    Names that fit as they are stay so. Of several copies the plain one counts, and one that is no average. What
    wrappers of inner modules put inside names is no part of them, if more of them fit without it.

    Args:
        stored: the file's tensors, name to shape.
        own: the network's.
        also: other names that the network's loading takes. Since it has rules for names, nothing is put before a name
            then, and only what a wrapper put there is taken off.
    """
    found = _fit(stored, own, also)
    inside = sorted({part for name in stored for part in name.split(".")} & _WRAPPERS)
    if inside and any(name not in own for name in found.names.values()):
        bare = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in stored}
        again = _fit({bare[name]: shape for name, shape in stored.items()}, own, also)
        if len({*bare.values()}) == len(bare) and _fitting(again, own) > _fitting(found, own):
            names = {name: again.names[bare[name]] for name in stored if bare[name] in again.names}
            note = f"the file's names have {' and '.join(f'{part}.' for part in inside)} in them, which is taken out"
            left_out = frozenset(name for name in stored if bare[name] in again.left_out)
            return NameFit(names, left_out, (note, *again.notes))
    return found


def _fitting(found: NameFit, own: Shapes) -> int:
    return sum(name in own for name in found.names.values())


def _fit(stored: Shapes, own: Shapes, also: Shapes | None) -> NameFit:
    known = {**(also or {}), **own}
    plain = AS_IT_IS.reached(stored, known)
    if plain == len(stored):
        return NameFit({name: name for name in stored})
    reached = {
        change: change.reached(stored, known) for change in _changes(stored, known) if also is None or not change.own
    }
    most = max([plain, *reached.values()])
    best = [
        change
        for change, count in reached.items()
        if plain < count == most and (2 * count >= len(own) or change.wraps(stored, len(own)))
    ]
    chosen = min(best, key=_plainness, default=AS_IT_IS)
    names = {name: changed for name in stored if (changed := chosen.of(name)) is not None}
    notes = [] if chosen == AS_IT_IS else [chosen.text]
    outside = [name for name in stored if name not in names]
    unknown = [name for name, changed in names.items() if changed not in known]
    copied: set[str] = set()
    for beginning in _copies(unknown + outside, chosen, reached, stored, known):
        found = [name for name in unknown + outside if name.startswith(beginning) and name not in copied]
        if found:
            copied |= {*found}
            runs = "those without it" if not chosen.stored else f"those under {chosen.stored!r}"
            copy = f"a second copy of the weights, {len(found)} tensors under {beginning!r}"
            notes.append(f"{copy}, is not run and not at risk: {runs} run")
    rest = [name for name in outside if name not in copied]
    if rest:
        notes.append(
            f"{len(rest)} tensor{'s' if len(rest) > 1 else ''} beside {chosen.stored!r}"
            f" {'are' if len(rest) > 1 else 'is'} not of the model, and not at risk: {some(rest)}"
        )
    left_out = frozenset([*rest, *copied])
    return NameFit({name: changed for name, changed in names.items() if name not in left_out}, left_out, tuple(notes))


def _plainness(change: Change) -> tuple[bool, int, str]:
    return bool(_ASIDE.search(change.stored)), len(change.stored), change.stored


def fits(stored: Shapes, own: Shapes) -> bool:
    """Whether a file has exactly a network's tensors, under whatever beginning, and besides at most a second copy."""
    found = fit(stored, own)
    return {name: tuple(stored[key]) for key, name in found.names.items()} == {n: tuple(s) for n, s in own.items()}


def _changes(stored: Shapes, own: Shapes) -> list[Change]:
    """Return changes that names of the network ask for, those that most ask for first."""
    by_shape: dict[tuple[int, ...], list[list[str]]] = {}
    for name, shape in stored.items():
        by_shape.setdefault(tuple(shape), []).append(name.split("."))
    step = max(1, len(own) // _LOOKED_AT)
    asked: Counter[Change] = Counter()
    for name in list(own)[::step]:
        parts = name.split(".")
        alike = [(_common(parts, other), other) for other in by_shape.get(tuple(own[name]), ())]
        longest = max((count for count, _ in alike), default=0)
        if longest:
            asked.update(
                Change(_beginning(other, count), _beginning(parts, count)) for count, other in alike if count == longest
            )
    levels = zip(*(name.split(".")[:-1] for name in stored), strict=False)
    wrapped = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels)]
    around = [Change(_beginning(wrapped, ending)) for ending in range(len(wrapped))]
    return [change for change in [*around, *(one for one, _ in asked.most_common(_TRIED))] if change != AS_IT_IS]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many of the last parts of two names are alike."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _beginning(parts: Sequence[str], ending: int) -> str:
    return "".join(f"{part}." for part in parts[: len(parts) - ending])


def _copies(
    left: Collection[str], chosen: Change, reached: Mapping[Change, int], stored: Shapes, own: Shapes
) -> list[str]:
    """Return what the names of second copies begin with, each as short as nothing else begins so.

    Args:
        left: names of the file that the network has no place for.
        chosen: what makes the others the network's.
        reached: how many tensors of the network each change reaches.
    """
    used = stored.keys() - set(left)
    most = chosen.reached(stored, own)
    beginnings = {change.stored for change, count in reached.items() if change.stored and 2 * count >= most > 0}
    squeezed = {name.replace(".", "") for name in own}
    for head in {name.split(".")[0] + "." for name in left if "." in name}:  # Lightning's averages have no more dots
        endings = {name[len(head) :] for name in left if name.startswith(head)}
        if 2 * len(endings & squeezed) >= most > 0:
            beginnings.add(head)
    beginnings = {one for one in beginnings if not any(name.startswith(one) for name in used)}
    shortest = {_alone(one, left, used, stored, beginnings) for one in beginnings}
    return sorted(shortest, key=len)


def _alone(
    beginning: str, left: Collection[str], used: Collection[str], stored: Shapes, others: Collection[str]
) -> str:
    """Return the first part of a beginning if it has nothing but copies and their counters."""
    head = beginning.partition(".")[0] + "."
    if any(name.startswith(head) for name in used):
        return beginning
    own = [name for name in left if name.startswith(head)]
    counters = [name for name in own if not any(name.startswith(other) for other in others)]
    return head if all(prod(stored[name]) <= 1 for name in counters) else beginning
