"""Checkpoints larger than memory: what commands hold follows the largest tensor, not the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TENSOR = 8 << 20  # bytes
KEPT = 48 << 20  # bytes of temporaries of all sizes that a command keeps for the next tensor, however many there are
ROWS = 8192  # many channels, as in language models
SHARDS = 2

# Runs commands in a process of its own, once on a small checkpoint, for what the libraries take, and once on a large
# one. It is a fork of one that has loaded them, which all tests share; its peak starts with what it begins with.
SERVER = """
import importlib, json, os, pkgutil, re, sys
import faultcli
for module in pkgutil.walk_packages(faultcli.__path__, "faultcli."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from faultcli.cli import run
told = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for asked in sys.stdin:
    child = os.fork()
    if not child:
        folder, lines = json.loads(asked)
        os.chdir(folder)
        for model in ("small", "large"):
            if any(run(line.format(model=model).split()) for line in lines):
                os._exit(1)
            peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
            print("peak", peak, file=told, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("ended", file=told, flush=True)
"""
Peaks = Callable[[list[str], Path], tuple[int, int]]


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peaks]:
    """What commands take at most, in bytes, on the small model in a folder and on the large one after it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    # glibc else raises both as it goes, by its history, and keeps what was freed: one tensor of 40 MB more or less.
    environment |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    environment["MALLOC_TRIM_THRESHOLD_"] = str(1 << 20)
    errors = tmp_path_factory.mktemp("peaks") / "errors.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None

        def measured(lines: list[str], folder: Path) -> tuple[int, int]:
            print(json.dumps([str(folder), lines]), file=server.stdin, flush=True)
            found = list(iter(server.stdout.readline, "ended\n")) if server.poll() is None else []  # type: ignore[union-attr]
            assert len(found) == 2, errors.read_text()
            small, large = (1024 * int(line.split()[1]) for line in found)
            return small, large

        yield measured
        server.communicate()


def sparse_checkpoint(directory: Path, per_shard: int) -> None:
    """Shards of zeros that take no space, with their index."""
    directory.mkdir()
    weight_map = {}
    for shard in range(SHARDS):
        header = {
            f"{shard}.{n}.weight": {
                "dtype": "F32",
                "shape": [ROWS, TENSOR // 4 // ROWS],
                "data_offsets": [n * TENSOR, (n + 1) * TENSOR],
            }
            for n in range(per_shard)
        }
        file = directory / f"model-{shard}.safetensors"
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(file, 8 + len(text) + per_shard * TENSOR)
        weight_map |= dict.fromkeys(header, file.name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("lines", "tensors_held"),
    [
        (["inject {model} --ber 1e-6 --save-faults {model}.map -o {model}.out -q"], 4),
        (["inject {model} --ber 1e-6 --format q2.5 -o {model}.out -q"], 4),
        (["scale {model} --factor max --format q2.5 -o {model}.out -q", "scale {model}.out --undo -o {model}.b -q"], 6),
        (["scale {model} --factor auto --granularity model --format q2.5 -o {model}.out -q"], 6),
        (["inspect {model} --ber 1e-6 --format q2.5 -q"], 4),
    ],
    ids=["inject native", "inject q2.5", "scale and undo", "scale the model", "inspect"],
)
def test_memory_follows_the_largest_tensor_not_the_file(
    lines: list[str], tensors_held: int, peaks: Peaks, tmp_path: Path
) -> None:
    sparse_checkpoint(tmp_path / "small", 2)
    sparse_checkpoint(tmp_path / "large", 8)
    small, large = peaks(lines, tmp_path)
    assert large - small < 2 * TENSOR + KEPT  # for twelve tensors more
    assert large < tensors_held * TENSOR + KEPT + 300_000_000
    assert not list(tmp_path.glob(".faultcli-*"))


LARGE = 40 << 20  # bytes: many times what is computed at once
COLUMNS = 4096


def one_tensor(file: Path, nbytes: int) -> None:
    """A bf16 matrix of zeros that takes no space."""
    shape = [nbytes // 2 // COLUMNS, COLUMNS]
    header = json.dumps({"w": {"dtype": "BF16", "shape": shape, "data_offsets": [0, nbytes]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(file, 8 + len(header) + nbytes)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("lines", "tensors_held"),
    [
        (["inject {model}{end} --ber 1e-4 --format int8-channel -o {model}.out{end} -q"], 2.6),
        (["harden {model}{end} --format q2.5 --protect scale=max:channel,guard,secded=64 -o {model}.hard{end} -q",
          "harden {model}.hard{end} --read -o {model}.out{end} -q",
          "repair {model}.hard{end} -o {model}.mended{end} -q"], 3.4),
        (["scale {model}{end} --factor max --format q2.5 -o {model}.out{end} -q"], 3.2),
    ],
    ids=["inject int8", "harden, read and repair", "scale"],
)  # fmt: skip
def test_memory_is_a_few_times_the_largest_tensor(
    lines: list[str], tensors_held: float, peaks: Peaks, tmp_path: Path
) -> None:
    for name, nbytes in (("small", 1 << 20), ("large", LARGE)):
        one_tensor(tmp_path / f"{name}.safetensors", nbytes)
    small, large = peaks([line.replace("{end}", ".safetensors") for line in lines], tmp_path)
    assert large - small < tensors_held * LARGE + KEPT
