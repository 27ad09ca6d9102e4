"""One curve against eleven direct campaigns: the tables of docs/statistics.md.

    python -m benchmarks.curve lenet [--limit 1000] [--trials 100] [--half-width 0.03] [--format native] [-o FILE]
    python -m benchmarks.curve resnet20 ...
    python -m benchmarks.curve demo ...

Direct campaigns have as many trials at each of eleven rates. From their spread follow the trials that they would need
for the half-width that the curve stops at: if all of them had as many as the worst one needs, if each knew its own
spread beforehand, and if each found out while running (`--until-ci`).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faultcli.campaign.curves import run_curves
from faultcli.campaign.plan import Plan, Question, cross
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.statistics import Interval, trials_needed
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import AnyFlips, BitFlip
from faultcli.faults.memories import parse_range
from faultcli.faults.selection import select
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.demo import demo_checkpoint_path

DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data"))
MODELS: dict[str, tuple[Path, str | None]] = {
    "demo": (demo_checkpoint_path(), None),
    "lenet": (DATA / "mnist" / "lenet.safetensors", f"mnist:{DATA / 'mnist'}"),
    "resnet20": (DATA / "cifar10" / "resnet20.safetensors", str(DATA / "cifar10" / "cifar10_test1000.npz")),
}
RATES = 11


@dataclass(frozen=True)
class Comparison:
    """What the curve and the direct campaigns said of the same rates, and what they cost.

    `needed`: trials of all direct campaigns together for the half-width of the curve, by what they know beforehand.
    """

    bers: list[float]
    direct: list[Interval]
    found: list[Interval]
    band: list[Interval]
    scores: list[float]  # differences over their standard errors
    bits: int
    trials: int
    needed: dict[str, int]

    @property
    def inside(self) -> int:
        """How many direct means lie in the band."""
        return sum((b.low or 0) <= d.mean <= (b.high or 1) for b, d in zip(self.band, self.direct, strict=True))


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
    compared = compare(
        asked.model, asked.format, asked.limit, asked.trials, asked.half_width, rates=asked.rates, seed=asked.seed
    )
    head = f"{asked.model}, {asked.format}, {asked.limit} inputs, ± {asked.half_width:g}; {asked.trials} trials each"
    text = f"{head}\n\n{markdown(compared)}"
    sys.stdout.write(text)
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")


def compare(
    model: str, format: str, limit: int, trials: int, half_width: float, *, rates: str = "1e-7:1e-2", seed: int = 0
) -> Comparison:
    """Run the curve until it is as narrow as `half_width` at every rate, and direct campaigns of `trials` trials."""
    path, data = MODELS[model]
    checkpoint = Checkpoint.open(path)
    workload = build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(data=data, limit=limit))
    tensors = {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}
    question = Question(parse_range(rates))
    bers = [float(ber) for ber in np.geomspace(question.axis.low, question.axis.high, RATES)]
    plan = Plan(cross([format], [AnyFlips()]), trials=20_000, seed=seed, until_half_width=half_width, question=question)
    subject = Subject(workload, tensors, checkpoint.sha256())
    curve = run_curves(plan, subject).arms[0].curve
    # Other fault maps than those of the curve: the two have to agree without sharing any.
    direct = Plan(cross([format], [BitFlip(ber) for ber in bers]), trials=trials, seed=seed + 1)
    campaigns = run_campaign(direct, subject)
    known = [_there(arm.accuracy()) for arm in campaigns.arms]
    found = [_there(curve.estimate(ber)) for ber in bers]
    spread = [float(np.std([r.outcome.top1 for r in arm.records], ddof=1)) for arm in campaigns.arms]
    errors = [math.hypot(s / math.sqrt(trials), (f.half_width or 0) / 1.96) for s, f in zip(spread, found, strict=True)]
    ideal = [max(2, math.ceil((1.96 * s / half_width) ** 2)) for s in spread]
    looking = [
        trials_needed(half_width, mean=k.mean, deviation=s, sequential=True) or 0
        for k, s in zip(known, spread, strict=True)
    ]
    return Comparison(
        bers,
        known,
        found,
        [point.interval for point in curve.band(bers)],
        [(f.mean - k.mean) / e for f, k, e in zip(found, known, errors, strict=True)],
        curve.bits,
        curve.trials,
        {"equal": RATES * max(ideal), "ideal": sum(ideal), "until-ci": sum(looking)},
    )


def markdown(compared: Comparison) -> str:
    """Return the comparison as a table and two sentences."""
    lines = ["| BER | direct | curve | band | difference / its error |", "|---|---|---|---|---|"]
    for ber, known, found, band, score in zip(
        compared.bers, compared.direct, compared.found, compared.band, compared.scores, strict=True
    ):
        lines.append(f"| {ber:.3g} | {_percent(known)} | {_percent(found)} | {_percent(band)} | {score:+.1f} |")
    totals = ", ".join(f"{name} {n} ({compared.trials / n:.2f})" for name, n in compared.needed.items())
    mean_square = math.sqrt(np.mean(np.square(compared.scores)))
    lines += [
        "",
        f"{compared.bits:,} bits; curve: {compared.trials} trials; direct campaigns as narrow (ratio): {totals}",
        f"direct means inside the band: {compared.inside} of {RATES}; differences over their errors: root mean square "
        f"{mean_square:.2f}, largest {max(compared.scores, key=abs):+.1f}",
    ]
    return "\n".join(lines) + "\n"


def _there(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} [{100 * (interval.low or 0):.1f}, {100 * (interval.high or 1):.1f}]"


if __name__ == "__main__":
    main()
