"""Run every benchmark and print its figures next to their goals; exit 1 if one is missed."""

from __future__ import annotations

import sys

from benchmarks import (
    bench_activations,
    bench_campaign,
    bench_curve,
    bench_device,
    bench_hardened,
    bench_inject,
    bench_large,
    bench_late,
    bench_seal,
    bench_startup,
    bench_trial,
    bench_where,
    bench_workers,
)
from faultcli.workload.process import prepare

BENCHMARKS = (
    bench_startup,
    bench_trial,
    bench_campaign,
    bench_activations,
    bench_curve,
    bench_workers,
    bench_inject,
    bench_large,
    bench_late,
    bench_where,
    bench_seal,
    bench_device,
    bench_hardened,
)


def main() -> int:
    prepare()  # as the commands do
    chosen = sys.argv[1:]
    missed = 0
    for benchmark in BENCHMARKS:
        name = benchmark.__name__.removeprefix("benchmarks.bench_")
        if chosen and name not in chosen:
            continue
        measured = 0
        for row in benchmark.run():
            measured += 1
            missed += not row.met
            sign = "≥" if row.at_least else "≤"
            verdict = "met   " if row.met else "MISSED"
            goal = f"(goal {sign} {row.goal:g})"
            print(f"{verdict}  {row.what}: {row.measured:.3g} {row.unit} {goal} {row.detail}", flush=True)
        if not measured:
            print(f"skipped  {name}: its data are not here (FAULTCLI_DATA names another folder)")
    return 1 if missed else 0


sys.exit(main())
