"""The cheapest protections of all tensors together, for any damage: bits are spent where they avoid the most.

The damages of tensors add up, so the best plans follow from each tensor's convex hull of bits and damage, its steps
sorted by damage avoided per bit (Shoham and Gersho, IEEE Trans. ASSP 36, 1988): nothing cheaper does better than any of
these plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from faultcli.faults.selection import escaped
from faultcli.protect.chain import Chain
from faultcli.where.options import Option

Choice = Mapping[str, Option]  # by tensor


@dataclass(frozen=True)
class Frontier:
    """Plans from the cheapest to the one with the least damage.

    `start`: the cheapest. `steps`: what to choose instead, for which tensor, one after the other.
    """

    start: Choice
    steps: tuple[tuple[str, Option], ...]

    @classmethod
    def of(cls, options: Mapping[str, Sequence[Option]]) -> Frontier:
        """Return the frontier of what every tensor may be protected by."""
        hulls = {name: hull(own) for name, own in options.items()}
        steps = [(slope(before, after), name, after) for name, own in hulls.items() for before, after in pairwise(own)]
        order = sorted(steps, key=lambda step: -step[0])  # stable: of one tensor, slopes fall
        return cls({name: own[0] for name, own in hulls.items()}, tuple((name, after) for _, name, after in order))

    def __len__(self) -> int:
        return len(self.steps) + 1

    def plan(self, number: int) -> dict[str, Option]:
        """Return a plan by its number, from 0."""
        return {**self.start, **dict(self.steps[:number])}

    def costs(self) -> Iterator[tuple[int, float]]:
        """Yield bits and damage of every plan."""
        chosen = dict(self.start)
        bits, damage = (sum(one.bits for one in chosen.values()), sum(one.damage for one in chosen.values()))
        yield bits, damage
        for name, option in self.steps:
            bits += option.bits - chosen[name].bits
            damage += option.damage - chosen[name].damage
            chosen[name] = option
            yield bits, max(0.0, damage)


def by_tensor(choice: Choice) -> Chain:
    """Return a choice as a chain: what most tensors have by default, and a rule for every other one."""
    kinds = [one.links for one in choice.values()]
    default = max(dict.fromkeys(kinds), key=kinds.count)
    return Chain(
        default, rules=tuple((escaped(name), one.links) for name, one in choice.items() if one.links != default)
    )


def slope(before: Option, after: Option) -> float:
    """Return the damage avoided per bit."""
    return (before.damage - after.damage) / (after.bits - before.bits)


def hull(options: Sequence[Option]) -> list[Option]:
    """Return the options of one tensor on the lower convex hull of bits and damage, from the cheapest on. Of those that
    are alike in both, the one with fewer code words to check, then the first, stays."""
    found: list[Option] = []
    for option in sorted(options, key=lambda one: (one.bits, one.damage, one.code_words)):
        if found and option.damage >= found[-1].damage:
            continue
        if found and option.bits == found[-1].bits:
            continue
        while len(found) > 1 and slope(found[-1], option) >= slope(found[-2], found[-1]):
            found.pop()
        found.append(option)
    return found
