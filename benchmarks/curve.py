"""One curve against eleven direct campaigns: the tables of docs/statistics.md.

    python -m benchmarks.curve lenet [--limit 1000] [--trials 100] [--half-width 0.03] [--format native] [-o FILE]
    python -m benchmarks.curve resnet20 ...

Direct campaigns have as many trials at each of eleven rates. From their spread follow the trials that they would need
for the half-width that the curve stops at: if all of them had as many as the worst one needs, if each knew its own
spread beforehand, and if each found out while running (`--until-ci`).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np

from faultcli.campaign.curves import run_curves
from faultcli.campaign.plan import Plan, Question, cross
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.statistics import trials_needed
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import AnyFlips, BitFlip
from faultcli.faults.selection import select
from faultcli.workload.evaluate import build_workload

DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data"))
MODELS = {
    "lenet": (DATA / "mnist" / "lenet.safetensors", f"mnist:{DATA / 'mnist'}"),
    "resnet20": (DATA / "cifar10" / "resnet20.safetensors", str(DATA / "cifar10" / "cifar10_test1000.npz")),
}
RATES = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--format", default="native")
    parser.add_argument("--limit", type=int, default=1000, help="inputs")
    parser.add_argument("--trials", type=int, default=100, help="of each direct campaign")
    parser.add_argument("--half-width", type=float, default=0.03)
    parser.add_argument("--rates", default="1e-7:1e-2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    text = compare(asked)
    sys.stdout.write(text)
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")


def compare(asked: argparse.Namespace) -> str:
    """Run the curve and the direct campaigns; return the comparison as Markdown."""
    path, data = MODELS[asked.model]
    checkpoint = Checkpoint.open(path)
    workload = build_workload(checkpoint.state(), checkpoint.metadata, data=data, limit=asked.limit)
    tensors = {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}
    low, high = map(float, asked.rates.split(":"))
    bers = [float(ber) for ber in np.geomspace(low, high, RATES)]
    plan = Plan(
        cross([asked.format], [AnyFlips()]),
        trials=20_000,
        seed=asked.seed,
        until_half_width=asked.half_width,
        question=Question(asked.rates),
    )
    result = run_curves(plan, workload, tensors, checkpoint_hash=checkpoint.sha256())
    curve = result.arms[0].curve
    band = [point.interval for point in curve.band(bers)]
    # Other fault maps than those of the curve: the two have to agree without sharing any.
    direct = Plan(cross([asked.format], [BitFlip(ber) for ber in bers]), trials=asked.trials, seed=asked.seed + 1)
    campaigns = run_campaign(direct, workload, tensors, checkpoint_hash=checkpoint.sha256())
    lines = ["| BER | direct | curve | band | difference / its error |", "|---|---|---|---|---|"]
    scores, inside, needed = [], 0, {"equal": [], "ideal": [], "until-ci": []}
    for ber, arm, held in zip(bers, campaigns.arms, band, strict=True):
        values = np.array([record.outcome.top1 for record in arm.records])
        known, found = arm.accuracy(), curve.estimate(ber)
        assert known is not None
        assert found is not None
        deviation = float(values.std(ddof=1))
        error = math.hypot(deviation / math.sqrt(len(values)), (found.half_width or 0) / 1.96)
        scores.append((found.mean - known.mean) / error)
        inside += (held.low or 0) <= known.mean <= (held.high or 1)
        needed["ideal"].append(max(2, math.ceil((1.96 * deviation / asked.half_width) ** 2)))
        needed["until-ci"].append(
            trials_needed(asked.half_width, mean=known.mean, deviation=deviation, sequential=True) or 0
        )
        lines.append(
            f"| {ber:.3g} | {_percent(known)} | {_percent(found)} | [{100 * (held.low or 0):.1f}, "
            f"{100 * (held.high or 0):.1f}] | {scores[-1]:+.1f} |"
        )
    needed["equal"] = [max(needed["ideal"])] * RATES
    head = (
        f"{asked.model}, {asked.format}, {curve.bits:,} bits, {asked.limit} inputs, ± {asked.half_width:g}; direct: "
        f"{asked.trials} trials each\n"
    )
    totals = ", ".join(f"{name} {sum(n)} ({curve.trials / sum(n):.2f})" for name, n in needed.items())
    tail = (
        f"\ncurve: {curve.trials} trials, {result.seconds:.0f} s; direct campaigns of the same half-width (ratio): "
        f"{totals}\n"
        f"direct means inside the band: {inside} of {RATES}; differences over their errors: root mean square "
        f"{math.sqrt(np.mean(np.square(scores))):.2f}, largest {max(scores, key=abs):+.1f}\n"
    )
    return "\n".join([head, *lines, tail])


def _percent(interval: object) -> str:
    mean, low, high = (100 * (getattr(interval, end) or 0) for end in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
