"""Checkpoints as they come, in several number formats, as is and hardened for nothing: the tables of
docs/real-checkpoints.md.

    python -m benchmarks.real_checkpoints llama resnet20 squeezenet mobilenet -o results.md

Needs transformers and Pillow, and the data directory ($FAULTCLI_DATA). `--limit` and `--trials` set the size; every
model's own are a compromise for two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.records import ArmResult
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.protect.chain import UNPROTECTED, parse_chain
from faultcli.report.numbers import percent, percent_interval, perplexity_interval
from faultcli.workload.building import WorkloadSpec, build_workload

DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data"))

# Number format to what hardens it for (nearly) nothing: the padding of a tensor's last block, a bound per tensor, and
# where it scales, one factor per output channel.
HARDENED = {
    "fp32": ("guard,inplace=4",),
    "fp16": ("guard,inplace=2",),
    "bf16": ("guard,inplace=2",),
    "fp8-e4m3": ("scale=max:channel,inplace=0.5", "scale=max:channel,inplace=1"),
    "int8-channel": ("inplace=0.5", "inplace=1"),
    "q2.5": ("scale=max:channel,inplace=0.5", "scale=max:channel,inplace=1"),
}
BERS = ("1e-5", "1e-4", "1e-3")


@dataclass(frozen=True)
class Case:
    """A checkpoint, what it runs on, and how much of it."""

    title: str
    model: str
    data: str
    trials: int
    limit: int | None = None
    arch: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGES = f"images:{DATA}/imagenet/images,classes={DATA}/imagenet/classes.csv"
CASES = {
    "llama": Case(
        "Llama, 260 k parameters, TinyStories (Hugging Face directory)",
        "stories260k/hf",
        f"{DATA}/stories260k/eval_tokens.safetensors",
        trials=10,
    ),
    "resnet20": Case(
        "ResNet-20, CIFAR-10 (.pt2)",
        "cifar10/resnet20.safetensors",
        f"cifar10:{DATA}/cifar10",
        trials=5,
        limit=200,
        arch=f"{DATA}/cifar10/pt2/resnet20.pt2",
        mean=_MEAN,
        std=_STD,
    ),
    "squeezenet": Case(
        "SqueezeNet 1.1, ImageNet (.pt2)",
        "imagenet/squeezenet1_1.safetensors",
        _IMAGES,
        trials=3,
        limit=30,
        arch=f"{DATA}/imagenet/pt2/squeezenet1_1.pt2",
        mean=_MEAN,
        std=_STD,
    ),
    "mobilenet": Case(
        "MobileNetV2, ImageNet (Hugging Face directory)", "imagenet/mobilenet_v2-hf", _IMAGES, trials=3, limit=30
    ),
}


def main() -> None:
    """Print one Markdown table per checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--format", help="only these, with commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    formats = options.format.split(",") if options.format else list(HARDENED)
    output = options.output.open("w") if options.output else sys.stdout
    for name in options.cases:
        case = CASES[name]
        text = _table(
            case,
            formats,
            trials=options.trials or case.trials,
            limit=options.limit or case.limit,
            seed=options.seed,
            device=options.device,
        )
        print(text, file=output, flush=True)


def _table(case: Case, formats: list[str], *, trials: int, limit: int | None, seed: int, device: str) -> str:
    start = time.perf_counter()
    checkpoint = Checkpoint.open(DATA / case.model)
    state = checkpoint.state()
    workload = build_workload(
        state,
        checkpoint.metadata,
        WorkloadSpec(arch=case.arch, data=case.data, limit=limit, device=device, mean=case.mean, std=case.std),
        directory=checkpoint.directory,
        is_directory=checkpoint.kind == "directory",
    )
    names = select(checkpoint.tensors.values())
    arms = tuple(
        Arm(format_name, parse_law(f"bitflip:{ber}"), parse_chain(chain))
        for format_name in formats
        for ber in BERS
        for chain in ("none", *HARDENED[format_name])
    )
    result = run_campaign(
        Plan(arms, trials, seed),
        Subject(workload, {name: state[name] for name in names}, checkpoint.sha256()),
        on_record=lambda found, watch: print(f"{found.arm + 1}/{len(arms)} {found.trial}", file=sys.stderr, flush=True),
    )
    language = result.original.scored is not None
    clean = f"perplexity {result.original.perplexity:.3f}" if language else f"{percent(result.original.top1)} %"
    lines = [
        f"### {case.title}\n",
        f"{sum(state[name].numel() for name in names):,} weights at risk, {len(workload)} inputs, {trials} fault maps"
        f" (seed {seed}), clean {clean}.\n",
        "| format | hardening | bits per weight | fault-free | " + " | ".join(f"BER {ber}" for ber in BERS) + " |",
        "|---" * (4 + len(BERS)) + "|",
    ]
    for format_name in formats:
        for chain in (UNPROTECTED, *map(parse_chain, HARDENED[format_name])):
            row = [arm for arm in result.arms if arm.arm.format == format_name and arm.arm.protect == chain]
            stored = row[0].stored
            lines.append(
                f"| {format_name} | `{row[0].arm.protect.text}` | {row[0].overhead_bits_per_weight:.3f} | "
                + (f"{stored.perplexity:.3f}" if stored.perplexity else percent(stored.top1))
                + " | "
                + " | ".join(map(_cell, row))
                + " |"
            )
    return "\n".join([*lines, f"\n{time.perf_counter() - start:.0f} s on {workload.device}.\n"])


def _cell(arm: ArmResult) -> str:
    if arm.stored.scored is None:
        return percent_interval(arm.accuracy())
    return perplexity_interval(arm.perplexity())


if __name__ == "__main__":
    main()
