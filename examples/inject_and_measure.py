"""The Python API in one page: corrupt a checkpoint, measure it, take the faults back, run a campaign.

    python examples/inject_and_measure.py [DIRECTORY]

Runs on the embedded demo and writes into DIRECTORY (default: a temporary one).
"""

import sys
import tempfile
from pathlib import Path

import faultcli as fc


def main(directory: Path) -> None:
    """Print what every step did."""
    demo = fc.Subject.open(limit=200)  # without a name: the embedded demo
    assert demo.checkpoint is not None
    clean, faulty, fault_map, restored = (directory / name for name in ("clean", "faulty", "faults", "restored"))
    clean.write_bytes(demo.checkpoint.path.read_bytes())

    # One corrupted file: the faults of trial 0 of seed 0
    done = fc.inject(clean, "bitflip:1e-4", faulty, save_faults=fault_map)
    print(f"injected: {done.faults.flips} of {done.faults.bits:,} bits, {done.values_changed} values")

    # What it answers, and its faults taken back
    for name, file in (("clean", clean), ("faulty", faulty)):
        outcome = fc.Subject.open(file, "digits").workload.outcome()
        print(f"{name}: {outcome.top1:.1%} of {outcome.n} images, {outcome.due} without a finite answer")
    fc.replay(faulty, fault_map, restored)
    print(f"restored every byte: {restored.read_bytes() == clean.read_bytes()}")

    # Many fault maps, in memory: nothing is written, the model is as it was afterwards
    result = fc.run_campaign(demo, "bitflip:1e-4", formats=["fp16", "q2.5"], trials=10)
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
