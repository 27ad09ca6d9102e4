"""Hardened files: 8-bit words written and read back per second on one core, and the memory that it takes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.measure import Row
from faultcli.checkpoint import Checkpoint, TensorSource, write_safetensors
from faultcli.hardened.read import Hardened, read_checkpoint
from faultcli.hardened.repair import repair_checkpoint
from faultcli.hardened.write import harden_checkpoint
from faultcli.protect.chain import parse_chain

TENSORS, ROWS, COLUMNS = 8, 2048, 4096  # 67 million weights
GOAL = 100.0  # MB/s of 8-bit words


def run() -> Iterator[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield from _speeds(Path(folder))
            yield from _memory(Path(folder))
    finally:
        torch.set_num_threads(threads)


def _speeds(folder: Path) -> Iterator[Row]:
    model = Checkpoint.open(_write_model(folder / "model.safetensors"))
    words = TENSORS * ROWS * COLUMNS / 1e6
    for chain in ("none", "secded=64", "inplace=2", "scale=max:channel,inplace=2"):
        out = folder / "h.safetensors"

        def harden(chain: str = chain, out: Path = out) -> None:
            harden_checkpoint(
                model, out, names=list(model.tensors), format_name="q2.5", chain=parse_chain(chain), force=True
            )

        yield Row(f"harden, q2.5 behind {chain}, 8-bit words", words / _seconds(harden), GOAL, "MB/s", at_least=True)
        file = Hardened.of(Checkpoint.open(out))
        assert file is not None

        def read(file: Hardened = file) -> None:
            read_checkpoint(file, folder / "p.safetensors", force=True)

        yield Row(f"harden --read, q2.5 behind {chain}", words / _seconds(read), GOAL, "MB/s", at_least=True)
        if chain == "inplace=2":

            def repair(file: Hardened = file) -> None:
                repair_checkpoint(file, folder / "r.safetensors", force=True)

            yield Row(f"repair, q2.5 behind {chain}, clean", words / _seconds(repair), GOAL, "MB/s", at_least=True)


def _memory(folder: Path) -> Iterator[Row]:
    program, model = str(Path(sys.executable).with_name("faultcli")), str(folder / "model.safetensors")
    largest = 2 * ROWS * COLUMNS
    idle = _peak(program, "--version")
    taken = _peak(
        program, "harden", model, "--format", "q2.5", "--protect", "inplace=2", "-o", f"{folder}/m.safetensors"
    )
    base = _peak(sys.executable, "-c", "import torch, numpy, typer, rich")
    yield Row(
        "peak memory of harden beyond PyTorch's, in tensors of the largest size",
        (taken - max(idle, base)) / largest,
        12.0,
        "×",
        detail=f"{taken / 1e6:.0f} MB, {max(idle, base) / 1e6:.0f} MB of them without a model",
    )


def _seconds(work: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _peak(*command: str) -> int:
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def _write_model(path: Path) -> Path:
    weights = (torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    write_safetensors(
        path,
        [TensorSource(f"layers.{n}.weight", "BF16", (ROWS, COLUMNS), lambda: weights) for n in range(TENSORS)],
    )
    return path
