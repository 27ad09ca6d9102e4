"""How many inputs a trial should run: what fault maps and inputs differ by, and what they cost, in a few trials before.

Per second, n inputs a trial tell most where (c₁ + c₂·n)·(σ² + S²·(1/n − 1/N)) is least: n = √(c₁/c₂ · S²/(σ² − S²/N)),
the classical optimum of two-stage sampling (Cochran, Sampling Techniques, 1977, section 10.6). The least is broad, so n
is a power of two times what a batch has to be: that costs 3 percent at the most.

The number of trials to come does not depend on the pilot, and its fault maps are others than theirs: what they say is
without bias, whatever n it chose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from faultcli.campaign.bench import Bench, FaultFree, Trial
from faultcli.campaign.plan import MOST_TRIALS, Arm, Plan
from faultcli.campaign.subject import Subject
from faultcli.campaign.subsets import Subsets, check_subsets
from faultcli.memory import MemoryImage

MAPS = 24  # per arm
INPUTS = 16  # per map
FEWEST = 8  # inputs per trial that are chosen: of fewer a trial says little of what its map does
_TIMES = 3  # a run is timed; the fastest counts


@dataclass(frozen=True)
class Pilot:
    """What a few trials said.

    Attributes:
        between: σ², the variance over fault maps of the part of all inputs whose answer changes.
        within: S², the variance over inputs, within a fault map, of whether the answer changes.
        map_seconds: what a trial takes whatever it runs, c₁.
        input_seconds: what an input takes, c₂.
        inputs: how many there are, N.
    """

    between: float
    within: float
    map_seconds: float
    input_seconds: float
    inputs: int

    def variance(self, size: int) -> float:
        """Return that of a trial of so many inputs."""
        return self.between + self.within * (1 / size - 1 / self.inputs)

    def best(self, unit: int = 1) -> int | None:
        """Return how many inputs a trial should run, `unit` times a power of two; None: all of them."""
        sizes, size = [self.inputs], unit
        while 2 * size <= self.inputs:
            if size >= FEWEST:
                sizes.append(size)
            size *= 2
        best = min(sizes, key=lambda n: (self.map_seconds + self.input_seconds * n) * self.variance(n))
        return None if best == self.inputs else best


def components(parts: Sequence[float], size: int, inputs: int) -> tuple[float, float]:
    """Return σ² and S² from the part of `size` inputs out of `inputs` that changed in each trial.

    One trial more counts as if it had changed half of the answers: where nothing was seen, or all alike, the little
    that is known does not say that there is nothing.
    """
    found = np.array([*parts, 0.5])
    within = float((found * (1 - found)).mean()) * size / (size - 1)
    return max(0.0, float(found.var(ddof=1)) - within * (1 / size - 1 / inputs)), within


Draws = Callable[[int, Arm, MemoryImage], Iterable[Trial]]  # the trials of a pilot of an arm


def evenly(number: int, arm: Arm, image: MemoryImage) -> Iterable[Trial]:
    """Return trials of the arm's law, of numbers that a campaign has not."""
    return (Trial(number, MOST_TRIALS + trial, arm.fault) for trial in range(MAPS))


def pilot(plan: Plan, subject: Subject, original: FaultFree, draws: Draws = evenly) -> Pilot | None:
    """Run a few trials of every arm; None where there are so few inputs that it would not pay.

    Args:
        plan: of the campaign.
        subject: its model holds the checkpoint, before and afterwards.
        original: the run of the checkpoint as it is.
        draws: which trials.
    """
    inputs = len(subject.workload)
    unit = subject.workload.architecture.batch or 1
    size = unit * -(-INPUTS // unit)
    if 4 * size > inputs:
        return None
    check_subsets(subject.workload, size)
    between = within = 0.0
    seconds, per_input = [], []
    for memory in dict.fromkeys(arm.memory for arm in plan.arms):
        arms = {number: arm for number, arm in enumerate(plan.arms) if arm.memory == memory}
        bench = Bench.set_up(subject, arms, original, seed=plan.seed, inputs_per_trial=size)
        for number, arm in arms.items():
            records = [bench.run(trial) for trial in draws(number, arm, bench.image)]
            found = components([1 - (one.outcome.masked or 0) / size for one in records], size, inputs)
            between, within = between + found[0], within + found[1]
            seconds += [record.seconds for record in records if record.values_changed]
        assert bench.subsets is not None
        per_input.append(_seconds_per_input(bench.subsets, unit))
    subject.workload.load(subject.tensors)
    each = float(np.mean(per_input))
    whole = float(np.median(seconds)) if seconds else size * each
    return Pilot(between, within, max(0.0, whole - each * size), each, inputs)


def _seconds_per_input(subsets: Subsets, unit: int) -> float:
    """Return what a run takes more for an input more."""
    rows, times = subsets.rows(0), []
    few = max(unit, subsets.size // 4 // unit * unit)
    for count in (few, subsets.size):
        took = []
        for _ in range(_TIMES):
            start = time.perf_counter()
            subsets.workload.answers_to(rows[:count], min(count, subsets.batch_size))
            took.append(time.perf_counter() - start)
        times.append(min(took))
    more = (times[1] - times[0]) / max(1, subsets.size - few)
    return max(more, 1e-3 * times[1] / subsets.size)
