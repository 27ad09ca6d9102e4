"""Commands on a language model's checkpoint, 3.2 GB of bf16 in three shards, against `sha256sum` of the same files.

CPU seconds, of all threads: a machine that does something else as well changes them little. FAULTCLI_BENCH_GB sets the
size in GB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Row
from faultcli.checkpoint import TensorSource, write_safetensors

GB = 1e9
SHARDS, ROWS, COLUMNS = 3, 8192, 2048  # 33.5 MB a tensor, as in the blocks of a model with 1.6e9 weights


def run() -> Iterator[Row]:
    size = float(os.environ.get("FAULTCLI_BENCH_GB", "3.2"))
    program = str(Path(sys.executable).with_name("faultcli"))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        index = _write_model(model, tensors=max(SHARDS, round(size * GB / (2 * ROWS * COLUMNS))))
        files = sorted(map(str, model.glob("*.safetensors")))
        hashed = _cpu_seconds("sha256sum", *files)
        scaled, back = Path(folder) / "scaled", Path(folder) / "back"
        for what, goal, command in (
            ("inspect", 2.0, ["inspect", index]),
            ("inspect --ber", 3.0, ["inspect", index, "--format", "q2.5", "--ber", "1e-4"]),
            ("scale --factor 4", 4.0, ["scale", index, "--factor", "4", "-o", str(scaled)]),
            ("scale --undo", 4.0, ["scale", str(scaled), "--undo", "-o", str(back)]),
            ("scale --factor max --format q2.5", 4.0, ["scale", index, *_MAX, "-o", str(scaled), "--force"]),
        ):
            taken = _cpu_seconds(program, *command)
            detail = f"{taken:.1f} s of CPU against {hashed:.1f} s"
            yield Row(f"{what} of {size:g} GB in bf16 / sha256sum", taken / hashed, goal, "×", detail=detail)


_MAX = ("--factor", "max", "--format", "q2.5")


def _write_model(folder: Path, tensors: int) -> str:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = (torch.randn(ROWS, COLUMNS, generator=generator) * 0.02).to(torch.bfloat16).view(torch.int16).numpy()
    where = {}
    for shard in range(SHARDS):
        file = folder / f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        names = [f"layers.{number}.weight" for number in range(shard, tensors, SHARDS)]
        write_safetensors(file, [TensorSource(name, "BF16", (ROWS, COLUMNS), lambda: weights) for name in names])
        where.update(dict.fromkeys(names, file.name))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return str(index)


def _cpu_seconds(*command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
