"""kill -9 of every command that writes: what was there stays, an output is whole or absent, the next run cleans up.

FAULTCLI_KILLS sets how many of each, over no output and as many over an older one; with 2, the default, commands take
turns at the two.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from faultcli.workload.demo import demo_checkpoint_path

KILLS = int(os.environ.get("FAULTCLI_KILLS", "2"))
# Runs commands in processes of their own, forked from one that has loaded all libraries. Before and after every step of
# the file system, from a command's first output on, it may kill itself, as suddenly as anybody else could; a write is
# two steps, so that half of it may be there.
SERVER = """
import atexit, gc, importlib, json, os, pkgutil, signal, sys, threading
import faultcli
from faultcli import files

moments, struck_at, plain_write = None, 0, files.write_all

def pass_by():
    global moments
    if moments is not None:
        moments += 1
        if moments == struck_at:
            os.kill(os.getpid(), signal.SIGKILL)

def stepwise(module, name):
    plain = getattr(module, name)
    def step(*values, **how):
        pass_by()
        done = plain(*values, **how)
        pass_by()
        return done
    setattr(module, name, step)

def in_halves(target, data):
    plain_write(target, data[: len(data) // 2])
    pass_by()
    plain_write(target, data[len(data) // 2 :])

def first(target, plain=files._temporary):
    global moments
    moments = moments or 0
    return plain(target)

files._temporary, files.write_all = first, in_halves
for module, names in ((files, "write_all copy_range reserve _exchange"), (os, "fsync link replace rename unlink")):
    for name in names.split():
        stepwise(module, name)
for module in pkgutil.walk_packages(faultcli.__path__, "faultcli."):  # now, as they take names from files
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from faultcli.cli import main
import matplotlib.figure, scipy.stats
told = os.fdopen(os.dup(1), "w")
gc.collect()
gc.freeze()
for line in sys.stdin:
    child = os.fork()
    if not child:
        struck_at, words = json.loads(line)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv[1:] = words
        try:
            main()
        except SystemExit as stop:
            threading._shutdown()
            atexit._run_exitfuncs()
            print("moments", moments or 0, file=told, flush=True)
            os._exit(stop.code)  # to take all modules apart would take longer than the command
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=told, flush=True)
"""
QUICK = ("--maps", "1", "--report-maps", "1", "--window", "50", "--train-limit", "150", "--limit", "50")
COMMANDS: dict[str, tuple[str, ...]] = {
    "inject": ("inject", "big.safetensors", "--ber", "1e-4", "-o", "out", "--save-faults", "map"),
    "inject, directory": ("inject", "sharded", "--ber", "1e-4", "-o", "folder"),
    "scale": ("scale", "big.safetensors", "--factor", "3", "-o", "out"),
    "scale --undo": ("scale", "scaled.safetensors", "--undo", "-o", "out"),
    "harden": ("harden", "big.safetensors", "--format", "q2.5", "--protect", "inplace=2", "-o", "out"),
    "harden, directory": ("harden", "sharded", "--format", "q2.5", "--protect", "secded=64", "-o", "folder"),
    "harden --read": ("harden", "hardened.safetensors", "--read", "-o", "out"),
    "repair": ("repair", "damaged.safetensors", "-o", "out"),
    "train-corrector": ("train-corrector", "--fault", "gaussian:0.1", "--method", "align", *QUICK, "-o", "out",
                        "--report", "out.md"),
    "merge": ("merge", "part-1.db", "part-2.db", "-o", "out"),
    "report": ("report", "part-1.db", "-o", "out.html", "-o", "out.md", "-o", "out.json"),
}  # fmt: skip
WRITING = ("-o", "--save-faults", "--report")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and POSIX signals")


class Server:
    """Runs commands in a folder, and kills them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, struck_at: int = 0) -> tuple[int, int]:
        """Return how a command ends, and how many moments to be killed at it has passed; it is at this one, if any."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps([struck_at, [*words, '--quiet']])}\n")
        self._process.stdin.flush()
        moments = 0
        while True:
            word, _, number = self._process.stdout.readline().strip().partition(" ")
            if word == "ended":
                return int(number), moments
            assert word == "moments", "the server has ended"
            moments = int(number)

    def close(self) -> None:
        self._process.communicate()


def content(path: Path) -> object:
    """Return what lies there, None if nothing does."""
    if path.is_dir():
        return {entry.name: entry.read_bytes() for entry in path.iterdir()}
    return path.read_bytes() if path.exists() else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kills")
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer{n}.weight": torch.randn(128, 128, generator=generator) for n in range(8)}
    save_file(tensors, folder / "big.safetensors")
    (folder / "sharded").mkdir()
    save_file(tensors, folder / "sharded" / "model.safetensors")
    (folder / "sharded" / "config.json").write_text("{}")
    server = Server(folder)
    assert server.run("scale", "big.safetensors", "--factor", "3", "-o", "scaled.safetensors")[0] == 0
    hardening = ("--format", "q2.5", "--protect", "inplace=2")
    assert server.run("harden", "big.safetensors", *hardening, "-o", "hardened.safetensors")[0] == 0
    assert server.run("inject", "hardened.safetensors", "--ber", "1e-3", "-o", "damaged.safetensors")[0] == 0
    for part in ("1", "2"):
        campaign = ("campaign", str(demo_checkpoint_path()), "--ber", "1e-4", "--trials", "6", "--limit", "20")
        assert server.run(*campaign, "--shard", f"{part}/2", "--store", f"part-{part}.db")[0] == 0
    yield server
    server.close()


@pytest.mark.parametrize(
    ("name", "force"),
    [(name, force) for n, name in enumerate(COMMANDS) for force in (False, True) if KILLS > 2 or force == (n % 2 == 1)],
)
def test_a_killed_command_leaves_nothing_half_done(name: str, force: bool, server: Server) -> None:
    words, folder, chance = COMMANDS[name], server.folder, random.Random(f"{name} {force}")
    outputs = [folder / word for before, word in pairwise(words) if before in WRITING]
    try:
        untouched = {entry: content(entry) for entry in folder.iterdir()}
        code, moments = server.run(*words)
        assert code == 0
        assert moments > 3
        new = {output: content(output) for output in outputs}
        older = {output: an_older_one(new[output]) if force else None for output in outputs}
        if force:
            moments = server.run(*words, "--force")[1]
        for kill in range(KILLS):
            for output in outputs:
                put(output, older[output])
            struck_at = chance.randint(max(1, moments - 9) if kill % 2 else 1, moments)  # every other one near the end
            assert server.run(*words, *(["--force"] if force else []), struck_at=struck_at)[0] == -signal.SIGKILL
            assert {entry: content(entry) for entry in untouched} == untouched
            for output in outputs:
                assert content(output) in (older[output], new[output]), f"{output.name}: neither the old nor the new"
        for path in left_in(folder):
            if not has_content(path):  # what is empty and young is kept, as it may be about to be locked
                os.utime(path, (1, 1))
        assert server.run(*words, "--force")[0] == 0
        assert {output: content(output) for output in outputs} == new
        assert left_in(folder) == [], "the next run removes what killed ones left"
    finally:
        for path in (*outputs, *left_in(folder)):
            put(path, None)


def an_older_one(new: object) -> object:
    return {**new, "older.json": b"{}"} if isinstance(new, dict) else bytes(new) + b"\n"  # type: ignore[call-overload]


def put(path: Path, there: object) -> None:
    """Let this lie there, and nothing else."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if isinstance(there, dict):
        path.mkdir()
        for name, entry in there.items():
            (path / name).write_bytes(entry)
    elif isinstance(there, bytes):
        path.write_bytes(there)


def left_in(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob(".faultcli-*"))


def has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0
