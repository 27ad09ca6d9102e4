"""The cheapest protection by tensor that meets a target: chosen by expected damage, settled by runs, judged on others.

1. every tensor behind every chain: overhead, and expected damage from gradients (`options`);
2. the plans that no cheaper one beats (`frontier`);
3. by bisection, the cheapest of them that loses little enough on a few inputs and fault maps, beyond what the dearest
   one loses. Few inputs say next to nothing about accuracy, where answers tip over one by one; so it is the mean
   probability of the right class that counts here;
4. the target, on all inputs and new fault maps. If it is missed, more is spent, and judged on new maps again;
5. before that, the cheapest chain that every tensor has, if there is one that takes less and loses as little (3): what
   one tensor's damage says of a plan is coarse where blocks are rarely lost, and nothing is coarse about a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from faultcli.campaign.bench import Bench, FaultFree, Trial, fault_free
from faultcli.campaign.plan import Arm
from faultcli.campaign.statistics import Interval, mean_interval
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.protect.chain import Chain
from faultcli.where.choosing import PlanSearch, Progress
from faultcli.where.frontier import Choice, Frontier, by_tensor, hull
from faultcli.where.goal import PlanGoal
from faultcli.where.options import Option, options_of
from faultcli.workload.curvature import curvature
from faultcli.workload.metrics import Outcome

PLAN_SCHEMA = "faultcli.plan/1"
_ROUNDS = 3  # of verification


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
    """A plan, and how it came about. `looked`: plans of the frontier, and chains for all tensors, that were run for the
    choice, with the drop of the right class's probability beyond that of the dearest one."""

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
    search = PlanSearch(subject, asked, few, frontier, original.outcome.top1 - drop, say)
    number = search.cheapest(drop)

    def judge(choice: Choice, what: str) -> bool:
        say(f"{what}, on new fault maps")
        seed = asked.seed + len(rounds) + 1
        rounds.append(_verified(subject, asked, original, choice, seed, drop, say))
        return bool(rounds[-1].met)

    for turn in range(1, 1 + _ROUNDS):
        alone = search.everywhere(options, below=number) if asked.verify_maps > 1 else None
        if alone is not None and judge(alone[0], f"{by_tensor(alone[0]).text} for all, {alone[1]:.3g} bits per weight"):
            break
        if judge(frontier.plan(number), f"plan {number} of {len(frontier)}, {search.bits(number):.3g} bits per weight"):
            break
        if rounds[-1].accuracy.low is None or number == len(frontier) - 1:
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
