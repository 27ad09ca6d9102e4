"""The Python API in one page: corrupt a checkpoint, measure it, take the faults back, run a campaign.

    python examples/inject_and_measure.py [DIRECTORY]

Runs on the embedded demo and writes into DIRECTORY (default: a temporary one).
"""

import sys
import tempfile
from pathlib import Path

from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.faults.selection import select
from faultcli.injection import inject, replay
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.evaluate import build_workload


def main(directory: Path) -> None:
    """Print what every step did."""
    checkpoint = Checkpoint.open(demo_checkpoint_path())
    names = select(checkpoint.tensors.values())  # convolution and linear weights

    # One corrupted file: the faults of trial 0 of seed 0
    faulty, fault_map = directory / "faulty.safetensors", directory / "faults.safetensors"
    done = inject(checkpoint, parse_law("bitflip:1e-4"), faulty, names=names, save_faults=fault_map)
    print(f"injected: {done.faults.flips} of {done.faults.bits:,} bits, {done.values_changed} values")

    # What it answers, and its faults taken back
    for name, file in (("clean", checkpoint), ("faulty", Checkpoint.open(faulty))):
        outcome = build_workload(file.state(), file.metadata, data="digits").outcome()
        print(f"{name}: {outcome.top1:.1%} of {outcome.n} images, {outcome.due} without a finite answer")
    restored = directory / "restored.safetensors"
    replay(Checkpoint.open(faulty), FaultMap.load(fault_map), restored)
    print(f"restored every byte: {Checkpoint.open(restored).sha256() == checkpoint.sha256()}")

    # Many fault maps, in memory: nothing is written, the model is as it was afterwards
    workload = build_workload(checkpoint.state(), checkpoint.metadata, data="digits", limit=200)
    plan = Plan(cross(["fp16", "q2.5"], [parse_law("bitflip:1e-4")]), trials=10)
    tensors = {name: checkpoint.read(name) for name in names}
    result = run_campaign(plan, Subject(workload, tensors, checkpoint.sha256()))
    for arm in result.arms:
        accuracy = arm.accuracy(confidence=0.95)
        assert accuracy is not None
        print(f"{arm.arm.label}: {accuracy.mean:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}], worst {arm.worst:.1%}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
