"""`seal` and `verify` on a checkpoint of 1 GB against `cp` and `sha256sum` of the same file, one after the other."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, side_by_side
from faultcli.checkpoint import Checkpoint, TensorSource, write_safetensors
from faultcli.seal.checking import verify_with_seal
from faultcli.seal.making import write_seal
from faultcli.seal.record import Seal

TENSORS, ROWS = 64, 4096  # of 1024 fp32 values each: 16 MB a tensor
GOAL = 2.0  # times the seconds of cp and sha256sum: half their speed


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        model, copy, seal = (Path(folder) / name for name in ("model.safetensors", "copy.safetensors", "seal"))
        values = np.random.default_rng(0).normal(0, 0.05, (ROWS, 1024)).astype(np.float32)
        write_safetensors(
            model, [TensorSource(f"layer{n:02d}.weight", "F32", (ROWS, 1024), lambda: values) for n in range(TENSORS)]
        )
        checkpoint = Checkpoint.open(model)
        cp, sha256sum = (shutil.which(name) or name for name in ("cp", "sha256sum"))

        def copying_and_hashing() -> None:
            subprocess.run([cp, model, copy], check=True)
            subprocess.run([sha256sum, model], check=True, stdout=subprocess.DEVNULL)

        def verifying() -> None:
            if not verify_with_seal(model, Seal.open(seal)).whole:
                raise RuntimeError("a file that nobody touched is not whole")

        for parity in (0, 2):

            def sealing(parity: int = parity) -> None:
                write_seal(checkpoint, seal, parity=parity, force=True)

            ours, theirs = side_by_side(sealing, copying_and_hashing, repeats=3)
            detail = f"{ours:.2f} s against {theirs:.2f} s, seal of {seal.stat().st_size / 2**20:.1f} MiB"
            yield Row(f"seal of 1 GB, --parity {parity} / cp + sha256sum", ours / theirs, GOAL, "×", detail=detail)
        ours, theirs = side_by_side(verifying, copying_and_hashing, repeats=3)
        detail = f"{ours:.2f} s against {theirs:.2f} s"
        yield Row("verify of 1 GB with its seal / cp + sha256sum", ours / theirs, GOAL, "×", detail=detail)
