"""Whether the intervals of `where` hold the truth: many runs of it, over flips whose outcomes are all known.

    faultcli where lenet.safetensors --arch lenet --data mnist:DIR --limit 500 --include conv1.weight \\
        --stratum-half-width 1e-6 --trials 100000 --store every.db
    python -m benchmarks.coverage every.db lenet.safetensors mnist:DIR --stratum-half-width 0.02

The first command runs every bit. The second one runs `where` with other seeds on the same memory; what a flip does is
looked up and not run again, which is exact, as the outcome of a single flip depends on nothing but the flip.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faultcli.campaign.bench import Bench, Trial
from faultcli.campaign.plan import Plan
from faultcli.campaign.records import Record
from faultcli.campaign.statistics import Interval
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.errors import FaultcliError, UsageError
from faultcli.faults.one_bit import AnyBit
from faultcli.where.running import Aim, Critical, run_where
from faultcli.where.strata import Stratum
from faultcli.workload.process import prepare

Key = tuple[str, int | None, int]  # region, channel, bit
SAME = 1e-12  # sums in another order


class LookedUp:
    """An executor that knows what every flip does."""

    def __init__(self, records: Mapping[int, Record]) -> None:
        self._records = records

    def run(self, bench: Bench, trials: Iterable[Trial]) -> Iterator[Record]:
        for trial in trials:
            yield replace(self._records[trial.number], arm=trial.arm)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Held:
    """How often intervals held the truth.

    Attributes:
        mean: the truth of the whole.
        flips: of every run.
        widths: half of the interval of the whole, of every run.
        whole: runs whose interval of the whole held it.
        strata: by stratum, its true mean, and in how many runs its interval held it.
        bits: the same by bit position, over all layers.
    """

    mean: float
    flips: list[int]
    widths: list[float]
    whole: int
    strata: dict[Key, tuple[float, int]]
    bits: dict[int, tuple[float, int]]


def every_flip(store: Store) -> tuple[Plan, dict[int, Record]]:
    """Return the plan of a store of `where`, and its flips by the number of the bit.

    Raises:
        UsageError: it holds something else, or not every bit.
    """
    plan = store.plan()
    if len(plan.arms) != 1 or not isinstance(plan.arms[0].fault, AnyBit):
        raise UsageError(f"{store.name}: holds no single flips of one memory", "run `faultcli where` with --store")
    (key,) = store.arms
    records, memory = store.records(key, 0), store.memory(key)
    bits = 0 if memory is None else memory.bits
    if not bits or len(records) < bits:
        problem = f"{store.name}: has {len(records):,} of {bits:,} flips"
        raise UsageError(problem, "go on with --stratum-half-width 1e-6 and more --trials")
    return plan, records


def truth(strata: Sequence[Stratum], values: NDArray[np.float64]) -> list[float]:
    """Return the true means of strata, by the values of all bits of the memory."""
    found = []
    for stratum in strata:
        words = stratum.first_word + np.arange(stratum.size)
        found.append(float(values[stratum.offset + words * stratum.word_bits + stratum.bit].mean()))
    return found


def held(
    subject: Subject,
    plan: Plan,
    records: Mapping[int, Record],
    aim: Aim,
    seeds: Iterable[int],
    *,
    channels: bool = False,
    on_run: Callable[[int], None] = lambda run: None,
) -> Held:
    """Run `where` once per seed, and count the intervals that hold the truth."""
    found, executor, values = Held(0.0, [], [], 0, {}, {}), LookedUp(records), np.empty(0)
    for run, seed in enumerate(seeds):
        result = run_where(replace(plan, seed=seed), subject, aim, channels=channels, executor=executor)
        allocation, stored = result.allocation, result.memory.stored
        strata = [stratum for stratum in allocation.strata if isinstance(stratum, Stratum)]
        if not len(values):
            values = np.array([aim.critical.value(records[n].outcome, stored) for n in range(result.memory.bits)])
        means = np.array(truth(strata, values))
        for h, (stratum, mean) in enumerate(zip(strata, means, strict=True)):
            key = stratum.region, stratum.channel, stratum.bit
            hits = found.strata.get(key, (0.0, 0))[1]
            found.strata[key] = float(mean), hits + holds(allocation.of(h), float(mean))
        bits = np.array([stratum.bit for stratum in strata])
        for bit in np.unique(bits):
            own = bits == bit
            mean = float(allocation.sizes[own] @ means[own] / allocation.sizes[own].sum())
            hits = found.bits.get(int(bit), (0.0, 0))[1]
            found.bits[int(bit)] = mean, hits + holds(allocation.estimate(own), mean)
        estimate = allocation.estimate()
        mean = float(values.mean())
        found = replace(found, mean=mean, whole=found.whole + holds(estimate, mean))
        found.flips.append(int(allocation.counts.sum()))
        found.widths.append(0.0 if estimate is None else estimate.half_width or 0.0)
        on_run(run)
    return found


def holds(interval: Interval | None, value: float) -> bool:
    """Whether an interval holds a value; none holds any."""
    if interval is None or interval.low is None or interval.high is None:
        return interval is None
    return interval.low - SAME <= value <= interval.high + SAME


def report(found: Held) -> Iterator[str]:
    """Yield what was found, as lines of text."""
    runs = len(found.flips)
    yield (
        f"all bits: {100 * found.mean:.3f} %; {runs} runs of {np.mean(found.flips):,.0f} flips"
        f" ({min(found.flips):,} to {max(found.flips):,})"
    )
    yield f"the whole (± {100 * np.mean(found.widths):.2f} points) held in {found.whole} of {runs} runs"
    for what, counted in (("strata", found.strata), ("bit positions", found.bits)):
        critical = [times for value, times in counted.values() if value]
        every = [times for _, times in counted.values()]
        for name, times in ((what, every), (f"{what} with critical flips", critical)):
            if times:
                part = sum(times) / len(times) / runs
                yield f"{len(times)} {name}: {part:.2%} of intervals hold, at least {min(times)} of {runs} each"
    missed = [(hits, key, value) for key, (value, hits) in found.strata.items() if value and hits < runs]
    least = sorted(missed, key=lambda one: one[0])
    for hits, (region, channel, bit), value in least[:5]:
        place = region if channel is None else f"{region}[{channel}]"
        yield f"  least: {place} bit {bit}, {100 * value:.3f} %: {hits} of {runs}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether the intervals of `where` hold what every single flip says.")
    parser.add_argument("store", type=Path, help="of a `where` that ran every bit")
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--arch")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--half-width", type=float)
    parser.add_argument("--stratum-half-width", type=float)
    parser.add_argument("--critical", default="share")
    parser.add_argument("--by", choices=("layer", "channel"), default="layer")
    asked = parser.parse_args()
    prepare(1)
    try:
        with closing(Store.read(asked.store)) as store:
            plan, records = every_flip(store)
            subject = Subject.open(
                asked.model,
                asked.data,
                arch=asked.arch,
                limit=store.inputs,
                target=plan.target,
                include=plan.include,
                exclude=plan.exclude,
            )
            if subject.identity(plan).base != store.base:
                raise UsageError(
                    f"{store.name}: is of another model, other data or other threads", "name the same ones"
                )
        half = asked.half_width if asked.half_width or asked.stratum_half_width else 0.005
        aim = Aim(half, asked.stratum_half_width, len(records), Critical.parse(asked.critical))
        seeds = range(asked.first_seed, asked.first_seed + asked.runs)
        by_channel = asked.by == "channel"
        found = held(subject, plan, records, aim, seeds, channels=by_channel, on_run=_tell)
    except FaultcliError as error:
        parser.error(f"{error.message}; {error.remedy}" if error.remedy else error.message)
    print("\n".join(report(found)))
    return 0


def _tell(run: int) -> None:
    print(f"\r{run + 1} runs ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
