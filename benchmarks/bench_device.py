"""The reader in C on clean blocks against a bytewise CRC-32 of the same bytes, and what a corrected block costs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Row
from faultcli.hardened.device.export import export_device
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain

WEIGHTS = 1 << 20
GOALS = {"inplace=2": 1 / 4, "secded=64": 1 / 2}  # of the CRC's bytes per second
FLIPS = {"inplace=2": (1, 2, 4, 8, 9), "secded=64": (1,)}


def run() -> Iterator[Row]:
    if shutil.which("cc") is None:
        return
    weights = torch.randn(WEIGHTS, generator=torch.Generator().manual_seed(0)) * 0.3
    with tempfile.TemporaryDirectory() as folder:
        for chain, goal in GOALS.items():
            image = MemoryImage({"w": weights}, "q2.5", parse_chain(chain))
            target = Path(folder) / chain
            export = export_device(image.tensors, target, title="benchmark")
            times = _timed(target, FLIPS[chain])
            rate = {name: export.memory_bytes / spent for name, spent in times.items()}
            speeds = ", ".join(f"{name} {rate[name] / 1e6:.0f} MB/s" for name in ("crc", "words", "check", "float"))
            for what, name in (("checked", "check"), ("read as float32", "float")):
                yield Row(
                    f"{chain} on clean 8-bit blocks, {what} / CRC-32, bytes per second",
                    rate[name] / rate["crc"],
                    goal,
                    "×",
                    at_least=True,
                    detail=speeds,
                )
            blocks = WEIGHTS // 32
            clean = times["check"] / blocks
            costs = [times[f"flips-{flips}"] / blocks - clean for flips in FLIPS[chain]]
            spent = ", ".join(f"{flips}: {1e6 * cost:.2f} µs" for flips, cost in zip(FLIPS[chain], costs, strict=True))
            crc = times["crc"] / blocks
            detail = f"by flips in 32 bytes, {spent}; CRC of them {1e6 * crc:.2f} µs"
            yield Row(f"{chain}, a block with one flip / CRC-32 of the block", costs[0] / crc, 4, "×", detail=detail)


def _timed(folder: Path, flips: tuple[int, ...]) -> dict[str, float]:
    """Compile the driver in an exported folder, and return the seconds that it prints by name."""
    program = folder / "device"
    driver = Path(__file__).with_name("device.c")
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", f"-I{folder}"]
    sources = [driver, folder / "faultcli_reader.c", folder / "weights.c"]
    subprocess.run(["cc", *flags, *sources, "-o", program], check=True)
    command = [program, folder / "weights.bin", *map(str, flips)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {name: float(spent) for name, spent in (line.split() for line in done.stdout.splitlines())}
