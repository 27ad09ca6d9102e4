"""The cheapest protection by tensor that meets a target: chosen by expected damage, settled by runs, judged on others.

1. every tensor behind every chain: overhead, and expected damage from gradients (`options`);
2. the plans that no cheaper one beats (`frontier`);
3. by bisection, the cheapest of them that loses little enough on a few inputs and fault maps, beyond what the dearest
   one loses. Few inputs say next to nothing about accuracy, where answers tip over one by one; so it is the mean
   probability of the right class that counts here;
4. the target, on all inputs and new fault maps. If it is missed, more is spent, and judged on new maps again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from faultcli.campaign.bench import Bench, FaultFree, Trial, fault_free
from faultcli.campaign.plan import Arm
from faultcli.campaign.statistics import Interval, mean_interval
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.selection import escaped
from faultcli.memory import Patch
from faultcli.protect.chain import Chain, parse_chain
from faultcli.where.frontier import Choice, Frontier, hull
from faultcli.where.options import Option, options_of
from faultcli.workload.classifier import Workload
from faultcli.workload.curvature import curvature
from faultcli.workload.metrics import Outcome

PLAN_SCHEMA = "faultcli.plan/1"
CANDIDATES = (
    *("none", "inplace=0.5", "inplace=1", "inplace=2", "inplace=4", "secded=64", "tmr=msb:4", "tmr"),
    *("ldpc=0.5", "ldpc=1", "ldpc=2.5"),  # read by hosts only
)
Progress = Callable[[str], None]
_ROUNDS = 3  # of verification
_SAME = 0.005  # bits per weight: plans nearer than that are not told apart by runs


@dataclass(frozen=True)
class PlanGoal:
    """What a plan is for.

    `min_accuracy`: to be held, a fraction; or `max_drop`: below that of the checkpoint as it is. `margin`: of the drop
    that the choice leaves free. `choose_on`: so many inputs, the first. `choose_maps`, `verify_maps`: fault maps of a
    plan. `seed`: of those that are chosen by; the next ones are of those that are judged by.
    """

    format: str
    law: FaultLaw
    min_accuracy: float | None = None
    max_drop: float = 0.01
    candidates: Sequence[Chain] = tuple(map(parse_chain, CANDIDATES))
    seed: int = 0
    choose_on: int = 200
    choose_maps: int = 2
    verify_maps: int = 20
    margin: float = 0.25
    confidence: float = 0.95

    def allowed_drop(self, original: float) -> float:
        """Return how far accuracy may fall below that of the checkpoint as it is.

        Raises:
            UsageError: it is no higher than what is asked for.
        """
        if self.min_accuracy is None:
            return self.max_drop
        if original <= self.min_accuracy:
            raise UsageError(
                f"--min-accuracy {self.min_accuracy:g}: without faults it is {original:.4g}", "ask for less"
            )
        return original - self.min_accuracy

    def __post_init__(self) -> None:
        if self.min_accuracy is not None and not 0 < self.min_accuracy <= 1:
            raise UsageError(f"an accuracy of {self.min_accuracy:g}: is a fraction", "--min-accuracy 0.9 is 90 %")
        if not 0 < self.max_drop < 1:
            raise UsageError(f"a drop of {self.max_drop:g}: lies between 0 and 1", "--max-drop 0.01 is one point")
        if min(self.choose_on, self.choose_maps, self.verify_maps) < 1:
            raise UsageError("--choose-on, --choose-maps and --trials are 1 or more", "leave them out")
        for chain in self.candidates:
            if chain.rules or chain.roles:
                raise UsageError(f"--candidate {chain.text}: is no chain for any tensor", "such as secded=64")
        if self.law.ber is None:
            raise UsageError(f"{self.law.spec}: has no bit-error rate", "name one: --ber 1e-3")


@dataclass(frozen=True)
class Verified:
    """What new fault maps said of a plan.

    `overhead`: bits per weight beside the words of the whole memory, where a code may keep check words for its smallest
    tensors. `accuracies`: one per map, on all inputs. `seed`: of the maps.
    """

    choice: Choice
    overhead: float
    stored_accuracy: float
    accuracies: tuple[float, ...]
    seed: int
    accuracy: Interval
    least: float

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None: the interval holds it, or one map alone gives none."""
        low, high = self.accuracy.low, self.accuracy.high
        if low is None or high is None:
            return None
        return True if low >= self.least else False if high < self.least else None


@dataclass(frozen=True)
class Planned:
    """A plan, and how it came about. `looked`: plans of the frontier that were run for the choice, with the drop of the
    right class's probability beyond that of the dearest one."""

    asked: PlanGoal
    chain: Chain
    original_accuracy: float
    inputs: int
    weights: Mapping[str, int]
    options: Mapping[str, Sequence[Option]]
    looked: tuple[tuple[float, float], ...]
    rounds: tuple[Verified, ...]

    @property
    def choice(self) -> Choice:
        """What every tensor is protected by."""
        return self.rounds[-1].choice

    def overhead(self, choice: Choice) -> float:
        """Return bits per weight beside the words, each tensor's own added up."""
        return sum(one.bits for one in choice.values()) / max(1, sum(self.weights.values()))


def find_plan(
    subject: Subject,
    asked: PlanGoal,
    say: Progress = lambda text: None,
    on_original: Callable[[Outcome], None] = lambda outcome: None,
) -> Planned:
    """Return the cheapest protection by tensor that meets a target, as far as the method sees.

    Args:
        subject: a classifier of a plain checkpoint; afterwards in the same state, bit for bit.
        asked: what the plan is for.
        say: told what is done.
        on_original: called with the run of the checkpoint as it is.

    Raises:
        UsageError: the checkpoint's memory is its own, or the task is no classification.
        WorkloadError: the network has no gradients by a tensor at risk.
        FaultcliError: no candidate works on a tensor in this format.
    """
    if subject.layers is not None:
        raise UsageError("outputs of layers are at risk, and a plan is for weights", "--target weights")
    if subject.hardened is not None or subject.quantised is not None:
        raise UsageError(f"{subject.model}: has a memory of its own, protected or not", "plan for the plain checkpoint")
    whole = subject.classifier("plan")
    say(f"the model as it is, on {len(whole)} inputs")
    original, rounds = fault_free(whole), list[Verified]()
    on_original(original.outcome)
    drop = asked.allowed_drop(original.outcome.top1)
    few = whole.beside(whole.dataset.rows(slice(0, asked.choose_on))) if asked.choose_on < len(whole) else whole
    say(f"gradients on {len(few)} inputs")
    bend = curvature(few, list(subject.tensors), asked.seed)
    options = _options(subject, asked, bend, say)
    frontier = Frontier.of(options)
    weights = {name: tensor.numel() for name, tensor in subject.tensors.items()}
    search = _Search(subject, asked, few, frontier, sum(weights.values()), say)
    number = search.cheapest(drop)
    for turn in range(1, 1 + _ROUNDS):
        say(f"plan {number} of {len(frontier)}, {search.bits(number):.3g} bits per weight, on new fault maps")
        rounds.append(_verified(subject, asked, original, frontier.plan(number), asked.seed + turn, drop, say))
        if rounds[-1].met or rounds[-1].accuracy.low is None or number == len(frontier) - 1:
            break  # of one map alone no more can be said by a dearer plan
        if turn < _ROUNDS:
            number = search.better(number)
    return Planned(
        asked,
        by_tensor(rounds[-1].choice),
        original.outcome.top1,
        len(whole),
        weights,
        options,
        tuple(search.looked),
        tuple(rounds),
    )


def _options(subject: Subject, asked: PlanGoal, bend: Mapping[str, Tensor], say: Progress) -> dict[str, list[Option]]:
    """Return what every tensor may be protected by; what it reads as only of those that a frontier can take."""
    options: dict[str, list[Option]] = {name: [] for name in subject.tensors}
    told = {"seed": asked.seed, "kept": asked.choose_maps}
    for chain, found in options_of(subject, asked.format, asked.law, asked.candidates, bend, **told):
        say(f"{chain.text}: {f'{len(found)} of {len(options)} tensors' if found else 'left out'}")
        for name, one in found.items():
            own = [*options[name], one]
            taken = {id(each) for each in hull(own)}
            options[name] = [each if id(each) in taken else replace(each, reads=None) for each in own]
    return options


def by_tensor(choice: Choice) -> Chain:
    """Return a choice as a chain: what most tensors have by default, and a rule for every other one."""
    kinds = [one.links for one in choice.values()]
    default = max(dict.fromkeys(kinds), key=kinds.count)
    return Chain(
        default, rules=tuple((escaped(name), one.links) for name, one in choice.items() if one.links != default)
    )


class _Search:
    """Runs plans of a frontier on a few inputs."""

    def __init__(
        self, subject: Subject, asked: PlanGoal, few: Workload, frontier: Frontier, weights: int, say: Progress
    ) -> None:
        self._subject, self._asked, self._few, self._frontier, self._say = subject, asked, few, frontier, say
        self._costs = [(bits / max(1, weights), damage) for bits, damage in frontier.costs()]
        self.looked: list[tuple[float, float]] = []

    def cheapest(self, drop: float) -> int:
        """Return the number of the cheapest plan that loses less than `drop` beyond the last one, which loses least.

        What the last one loses is mostly rounding to the format, which no plan avoids, and which moves probabilities
        more than answers; the target is settled by runs that count it. What costs no more than `_SAME` beyond the
        cheapest is taken, too. Between a plan that loses too much and one that does not, the next one to look at is the
        one whose expected damage is the geometric mean of theirs.
        """
        allowed = (1 - self._asked.margin) * drop
        before = min(self._right(), self._right(len(self._costs) - 1))
        low, high = -1, len(self._costs) - 1
        while high - low > 1 and self._costs[high][0] - self._costs[max(low, 0)][0] > _SAME:
            middle = self._between(low, high)
            lost = before - self._right(middle)
            self.looked.append((self._costs[middle][0], lost))
            self._say(f"{self._costs[middle][0]:.3g} bits per weight: the right class loses {100 * lost:.2f} points")
            low, high = (low, middle) if lost <= allowed else (middle, high)
        return max(k for k, (bits, _) in enumerate(self._costs) if bits <= self._costs[high][0] + _SAME)

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
        few, asked = self._few, self._asked
        if number is None:
            return few.right_probability()
        reads = [one.reads for one in self._frontier.plan(number).values() if one.reads is not None]
        try:
            for own in reads:
                few.load(dict(own.image.values()))
            found, healthy = 0.0, None
            for trial in range(asked.choose_maps):
                several = [own.patches[trial] for own in reads]
                elements = {name: own for patch in several for name, own in patch.elements.items()}
                patch = Patch(elements, frozenset().union(*(patch.pairs for patch in several)))
                if patch.values_changed:
                    with patch.applied(few.parameters):
                        found += few.right_probability() / asked.choose_maps
                else:
                    healthy = few.right_probability() if healthy is None else healthy
                    found += healthy / asked.choose_maps
            return found
        finally:
            few.load(self._subject.tensors)


def _verified(
    subject: Subject, asked: PlanGoal, original: FaultFree, choice: Choice, seed: int, drop: float, say: Progress
) -> Verified:
    """Run a plan on all inputs and fault maps of a seed that no choice was made on."""
    chain = by_tensor(choice)
    arm = Arm(asked.format, asked.law, chain)
    try:
        bench = Bench.set_up(subject, {0: arm}, original, seed=seed)
        found = []
        for trial in range(asked.verify_maps):
            found.append(bench.run(Trial(0, trial, asked.law)).outcome.top1)
            say(f"new fault map {trial + 1} of {asked.verify_maps}: {100 * found[-1]:.1f} %")
    finally:
        subject.workload.load(subject.tensors)
    accuracy = mean_interval(found, confidence=asked.confidence)
    assert accuracy is not None
    overhead = bench.image.overhead_bits_per_weight
    return Verified(
        choice, overhead, bench.stored.outcome.top1, tuple(found), seed, accuracy, original.outcome.top1 - drop
    )
