"""Work of `where` against published sample sizes, where every flip is a full pass: ResNet-20, processor time.

Few inputs, so that it is over soon; with more of them a flip's own work weighs less, and its share varies less.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Row
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.subject import Subject
from faultcli.faults.one_bit import AnyBit
from faultcli.where.running import Aim, WhereResult, run_where
from faultcli.where.sizes import per_part

DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
INPUTS = 10
RUOSPO = 201_079  # flips of their data-aware campaign on this network (DATE 2023)
MOST = 1_000_000
LAYERS = ("conv1.weight", "layer2.1.conv1.weight", "linear.weight")  # of the map: the first, a middle and the last


def run() -> Iterator[Row]:
    if not DATA.exists():
        return
    found, work, full = measured(half_width=0.001)
    whole = found.allocation.estimate()
    assert whole is not None
    detail = (
        f"{int(found.allocation.counts.sum()):,} flips, {work / full:,.0f} full passes of {1e3 * full:.1f} ms;"
        f" {INPUTS} images; {100 * whole.mean:.2f} ± {100 * (whole.half_width or 0):.2f} %"
    )
    what = f"critical bits of ResNet-20 to ± 0.1 points / {RUOSPO:,} full passes"
    yield Row(what, work / full / RUOSPO, 0.1, "×", detail=detail)
    yield map_row(LAYERS)


def map_row(include: tuple[str, ...] = (), inputs: int = INPUTS) -> Row:
    """Return the work of the map of some layers by bits (none named: all), every stratum to ± 2 points."""
    found, work, full = measured(per_stratum=0.02, include=include, inputs=inputs)
    strata = found.allocation.strata
    flips = per_part((stratum.size for stratum in strata), 0.02)
    layers = len({stratum.region for stratum in strata})
    detail = (
        f"{int(found.allocation.counts.sum()):,} flips, {work / full:,.0f} full passes of {1e3 * full:.1f} ms against"
        f" {flips:,}; {inputs} images, {layers} layers, {len(strata)} strata{'' if found.reached else ', NOT reached'}"
    )
    what = "map of layers by bits to ± 2 points / Leveugle's sizes in full passes"
    return Row(what, work / full / flips, 0.2, "×", detail=detail)


def measured(
    half_width: float | None = None,
    per_stratum: float | None = None,
    include: tuple[str, ...] = (),
    inputs: int = INPUTS,
) -> tuple[WhereResult, float, float]:
    """Run `where`; return what it found, and the seconds of processor time that it and one full pass take."""
    subject = Subject.open(
        DATA / "resnet20.safetensors", str(DATA / "cifar10_test1000.npz"), limit=inputs, include=include
    )
    plan = Plan(cross(["native"], [AnyBit()]), MOST)
    workload, found = subject.workload, list[WhereResult]()
    passes = [_used(workload.fault_free) for _ in range(20)]
    work = _used(lambda: found.append(run_where(plan, subject, Aim(half_width, per_stratum, MOST))))
    passes += [_used(workload.fault_free) for _ in range(20)]
    return found[0], work, median(passes)


def _used(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start
