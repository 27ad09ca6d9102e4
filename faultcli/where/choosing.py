"""The cheapest plan, and the cheapest chain for all tensors, that lose little enough in runs on a few inputs."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from faultcli.campaign.subject import Subject
from faultcli.faults.maps import FaultMap
from faultcli.memory import MemoryImage, Patch
from faultcli.protect.chain import Chain, Links
from faultcli.where.frontier import Choice, Frontier, by_tensor
from faultcli.where.goal import PlanGoal
from faultcli.where.options import Option
from faultcli.workload.classifier import Workload

Progress = Callable[[str], None]
_DOUBT = 2.0  # so many times the expected damage may not be more damage
_SAME = 0.005  # bits per weight: plans nearer than that are not told apart by runs


class PlanSearch:
    """Runs plans of a frontier on a few inputs; `least`: the accuracy to be held on all of them."""

    def __init__(
        self, subject: Subject, asked: PlanGoal, few: Workload, frontier: Frontier, least: float, say: Progress
    ) -> None:
        self._subject, self._asked, self._few, self._frontier, self._say = subject, asked, few, frontier, say
        self._whole, self._least = subject.classifier("plan"), least
        weights = sum(tensor.numel() for tensor in subject.tensors.values())
        self._weights = max(1, weights)
        self._costs = [(bits / self._weights, damage) for bits, damage in frontier.costs()]
        self._before = self._allowed = 0.0  # set by `cheapest`
        self._tried, self._refused = set[Links](), math.inf  # chains for all tensors; the least damage of one that lost
        self.looked: list[tuple[float, float]] = []

    def cheapest(self, drop: float) -> int:
        """Return the number of the cheapest plan that loses less than `drop` beyond the last one, which loses least.

        What the last one loses is mostly rounding to the format, which no plan avoids, and which moves probabilities
        more than answers; the target is settled by runs that count it. What costs no more than `_SAME` beyond the
        cheapest is taken, too. Between a plan that loses too much and one that does not, the next one to look at is the
        one whose expected damage is the geometric mean of theirs.
        """
        self._allowed = (1 - self._asked.margin) * drop
        self._before = min(self._right(), self._right(len(self._costs) - 1))
        low, high = -1, len(self._costs) - 1
        while high - low > 1 and self._costs[high][0] - self._costs[max(low, 0)][0] > _SAME:
            middle = self._between(low, high)
            low, high = (low, middle) if self._holds(self._costs[middle][0], self._right(middle)) else (middle, high)
        return max(k for k, (bits, _) in enumerate(self._costs) if bits <= self._costs[high][0] + _SAME)

    def _holds(self, bits: float, right: float, of: str = "") -> bool:
        lost = self._before - right
        self.looked.append((bits, lost))
        self._say(f"{of}{bits:.3g} bits per weight: the right class loses {100 * lost:.2f} points")
        return lost <= self._allowed

    def everywhere(self, options: Mapping[str, Sequence[Option]], below: int) -> tuple[Choice, float] | None:
        """Return the cheapest chain for all tensors, and its bits per weight, that takes less than a plan and loses no
        more than `cheapest` allows; None if there is none that was not returned or refused before.

        No chain is looked at that is a plan of the frontier, or thought to do far worse than one that was refused.
        """
        most = self._overhead(below) - _SAME
        known = list(self._frontier.costs())
        waiting: list[tuple[float, int, Choice, MemoryImage | None]] = []
        for number, choice in enumerate(_alone(options)):
            bits, damage = _cost(choice)
            if not any(bits == b and math.isclose(damage, d) for b, d in known):
                waiting.append((bits / self._weights, number, choice, None))
        heapq.heapify(waiting)
        while waiting:
            overhead, number, choice, image = heapq.heappop(waiting)
            (links,) = {one.links for one in choice.values()}
            if overhead > most or links in self._tried or _cost(choice)[1] >= _DOUBT * self._refused:
                continue
            if image is None:  # together they may take more than one by one
                image = self._memory(Chain(links))
                heapq.heappush(waiting, (image.overhead_bits_per_weight, number, choice, image))
                continue
            self._tried.add(links)
            patches = (image.patch(self._drawn(image, trial)) for trial in range(self._asked.choose_maps))
            if not self._holds(overhead, self._run([image], patches), f"{Chain(links).text} for all, "):
                self._refused = min(self._refused, _cost(choice)[1])
            elif self._rounds_too_much(image):
                self._say(f"{Chain(links).text} for all: what is stored has lost too much before any fault")
            else:
                return choice, overhead
        return None

    def _rounds_too_much(self, image: MemoryImage) -> bool:
        try:
            self._whole.load(dict(image.values()))
            return self._whole.outcome().top1 < self._least
        finally:
            self._whole.load(self._subject.tensors)

    def _overhead(self, number: int) -> float:
        """Return what a plan takes, where it is one chain for all tensors what the memory of all of them takes."""
        chain = by_tensor(self._frontier.plan(number))
        return self.bits(number) if chain.rules else self._memory(chain).overhead_bits_per_weight

    def _memory(self, chain: Chain) -> MemoryImage:
        return self._subject.memory(self._asked.format, chain, self._asked.law.ber if chain.needs_ber else None)

    def _drawn(self, image: MemoryImage, trial: int) -> FaultMap:
        return image.draw(self._asked.law, seed=self._asked.seed, trial=trial)

    def bits(self, number: int) -> float:
        """Return the bits per weight of a plan."""
        return self._costs[number][0]

    def better(self, number: int) -> int:
        """Return the next plan with at most half of the expected damage, beyond that which no plan avoids."""
        goal = (self._costs[number][1] + self._costs[-1][1]) / 2
        return next((k for k in range(number + 1, len(self._costs)) if self._costs[k][1] <= goal), len(self._costs) - 1)

    def _between(self, low: int, high: int) -> int:
        damages = [max(damage, 1e-12) for _, damage in self._costs]
        goal = math.sqrt(damages[max(low, 0)] * damages[high])
        found = next(k for k in range(max(low, 0), high + 1) if damages[k] <= goal * (1 + 1e-9))
        return min(max(found, low + 1), high - 1)

    def _right(self, number: int | None = None) -> float:
        """Return the mean probability of the right class: of the model as it is, or behind a plan with faults."""
        if number is None:
            return self._few.right_probability()
        reads = [one.reads for one in self._frontier.plan(number).values() if one.reads is not None]
        several = ([own.patches[trial] for own in reads] for trial in range(self._asked.choose_maps))
        patches = (
            Patch(
                {name: own for patch in patches for name, own in patch.elements.items()},
                frozenset().union(*(patch.pairs for patch in patches)),
            )
            for patches in several
        )
        return self._run([own.image for own in reads], patches)

    def _run(self, images: Sequence[MemoryImage], patches: Iterable[Patch]) -> float:
        """Return the mean probability of the right class over fault maps in some tensors."""
        few = self._few
        try:
            for image in images:
                few.load(dict(image.values()))
            found, healthy = 0.0, None
            for patch in patches:
                if patch.values_changed:
                    with patch.applied(few.parameters):
                        found += few.right_probability() / self._asked.choose_maps
                else:
                    healthy = few.right_probability() if healthy is None else healthy
                    found += healthy / self._asked.choose_maps
            return found
        finally:
            few.load(self._subject.tensors)


def _alone(options: Mapping[str, Sequence[Option]]) -> Iterator[Choice]:
    """Yield the choices that give every tensor the same chain."""
    by_name = [{one.links: one for one in own} for own in options.values()]
    for links in by_name[0]:
        if all(links in own for own in by_name):
            yield {name: own[links] for name, own in zip(options, by_name, strict=True)}


def _cost(choice: Choice) -> tuple[int, float]:
    return sum(one.bits for one in choice.values()), sum(one.damage for one in choice.values())
