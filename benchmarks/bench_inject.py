"""`inject` on a checkpoint of 1 GB against `cp` of the same file."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, side_by_side
from faultcli.checkpoint import Checkpoint, TensorSource, write_safetensors
from faultcli.faults.laws import parse_law
from faultcli.injection import Draw, inject

TENSORS, ROWS = 64, 4096  # of 1024 fp32 values each: 16 MB a tensor


def run() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        model, copy, faulty = (Path(folder) / f"{name}.safetensors" for name in ("model", "copy", "faulty"))
        values = np.random.default_rng(0).normal(0, 0.05, (ROWS, 1024)).astype(np.float32)
        write_safetensors(
            model, [TensorSource(f"layer{n:02d}.weight", "F32", (ROWS, 1024), lambda: values) for n in range(TENSORS)]
        )
        checkpoint = Checkpoint.open(model)
        cp = shutil.which("cp") or "cp"

        def copying() -> None:
            subprocess.run([cp, model, copy], check=True)

        for format, rate, goal in (("native", 1e-5, 2.5), ("q2.5", 1e-5, 2.5)):
            law = parse_law(f"bitflip:{rate}")

            def injecting(format: str = format, law: object = law) -> None:
                inject(checkpoint, Draw(law, list(checkpoint.tensors), format), faulty, force=True)  # type: ignore[arg-type]

            ours, theirs = side_by_side(injecting, copying, repeats=3)
            detail = f"{ours:.2f} s against {theirs:.2f} s, flushed to the disk where cp is not"
            yield Row(f"inject into 1 GB, {format} / cp", ours / theirs, goal, "×", detail=detail)
