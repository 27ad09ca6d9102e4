"""The tables of the weight-scaling paper (arXiv 2411.18993): four networks, three formats, five bit-error rates.

    python examples/reproduce_scaling.py alexnet.safetensors resnet18.safetensors resnet50.safetensors \
        densenet169.safetensors --data images:imagenet/val --store runs -o scaling.md

The rows of a format meet the same faults: stored as they are, scaled, and behind the best protection here that takes no
words of its own. The folder --store keeps every trial; the same command continues there. On all 50,000 images it takes
hours on a GPU: begin with --limit 1000.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faultcli as fc

RATES = "1e-6,1e-5,1e-4,1e-3,1e-2"
BEST = {"fp32": "inplace=8", "fp16": "inplace=4", "q2.5": "scale=max:channel,inplace=2"}  # see docs/hardening.md


def rows(model: Path, asked: argparse.Namespace) -> Iterator[str]:
    """Yield a network's rows, those of a format as soon as it has been measured."""
    opening = {"limit": asked.limit, "device": asked.device, "batch_size": asked.batch_size}
    subject = fc.Subject.open(model, asked.data, **opening)
    print(subject.workload.describe(), *subject.workload.doubts(), sep="\n", file=sys.stderr)
    for stored, best in BEST.items():
        result = fc.run_campaign(
            subject,
            [f"bitflip:{rate}" for rate in asked.ber.split(",")],
            formats=[stored],
            protect=["none", f"scale={asked.scale}", best],
            trials=asked.trials,
            store=asked.store / f"{model.stem}-{stored}.sqlite",
            workers=asked.workers,
        )
        chains: dict[str, list[Any]] = {}
        for arm in result.arms:
            chains.setdefault(arm.arm.protect.text, []).append(arm)
        for chain, arms in chains.items():
            original = f"{100 * result.original.top1:.2f}"
            memory = [f"{arms[0].overhead_bits_per_weight:.3f}", f"{100 * arms[0].stored.top1:.2f}"]
            yield row(model.stem, original, stored, f"`{chain}`", *memory, *map(accuracy, arms))


def accuracy(arm: Any) -> str:
    """The mean of top-1 over fault maps and its 95 % interval."""
    found = arm.accuracy()
    interval = "" if found.low is None else f" [{100 * found.low:.2f}, {100 * found.high:.2f}]"  # one map has none
    return f"{100 * found.mean:.2f}{interval}"


def row(*cells: str) -> str:
    """A line of Markdown."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table row by row, and write it whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--data", required=True, help="ImageNet's validation images, a folder per class: images:DIR")
    parser.add_argument("--store", required=True, type=Path, help="the folder that keeps the trials")
    parser.add_argument("-o", "--output", type=Path, help="where the table goes, too")
    parser.add_argument("--ber", default=RATES, help="bit-error rates (default: %(default)s)")
    parser.add_argument("--scale", default="max", help="the factor: what fits, layer by layer, or a number for all")
    parser.add_argument("--trials", type=int, default=10, help="fault maps per cell (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="the first N images, of all classes alike (default: all)")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    asked.store.mkdir(parents=True, exist_ok=True)
    rates = asked.ber.split(",")
    heads = ["network", "original", "format", "protection", "bits per weight", "stored, no faults", *rates]
    table = [row(*heads), row(*["---"] * len(heads))]
    print(*table, sep="\n", flush=True)
    for model in asked.models:
        for line in rows(model, asked):
            table.append(line)
            print(line, flush=True)
    if asked.output is not None:
        asked.output.write_text("\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except fc.FaultcliError as error:
        sys.exit(f"{error.message}\n{error.remedy or ''}")
