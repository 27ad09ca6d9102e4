"""kill -9 of the supervisor, of workers and of Ray actors: nothing acknowledged is lost, records do not change.

FAULTCLI_KILLS sets how many of each (1; 20 were done for the record).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from small_campaign import run_demo

from faultcli.campaign.executors.pool import Pool
from faultcli.campaign.executors.processes import Processes
from faultcli.campaign.store import Store
from faultcli.report.trials import trials_jsonl

KILLS = int(os.environ.get("FAULTCLI_KILLS", "1"))
SCRIPT = Path(__file__).with_name("small_campaign.py")

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc and POSIX signals")


@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_a_supervisor_killed_at_random_moments_loses_nothing(kind: str, tmp_path: Path, undisturbed: bytes) -> None:
    path = tmp_path / "s"
    chance = random.Random(kind)
    acknowledged: set[tuple[int, int]] = set()
    command = [sys.executable, str(SCRIPT), str(path), kind, "0.01"]
    (temporary := tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    for _ in range(KILLS):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(chance.uniform(0, 1.5 if kind == "serial" else 4))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines()
        process.wait()
        acknowledged |= {
            (int(arm), int(trial)) for word, arm, trial in (x.split() for x in lines if x.startswith("kept"))
        }
        with closing(Store.open(path)) as store:
            held = {(n, trial) for n, arm in enumerate(store.arms) for trial in store.records(arm, n)}
        assert acknowledged <= held
        assert list(temporary.iterdir()) == [], "what workers share has no name that would stay"
    with closing(Store.open(path)) as store:
        assert trials_jsonl(run_demo(store)) == undisturbed


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_workers_killed_at_random_moments_change_nothing(kind: str, tmp_path: Path, undisturbed: bytes) -> None:
    """A trial whose worker is killed three times is recorded as failed; continuing runs it again."""
    if kind == "ray":
        pytest.importorskip("ray", reason="needs the extra faultcli[ray]")
        from faultcli.campaign.executors.actors import RayActors

    chance = random.Random(kind)
    killed: list[int] = []
    while len(killed) < KILLS:
        path = tmp_path / f"after-{len(killed)}"
        pool = Pool(Processes(2) if kind == "processes" else RayActors("local", 2))
        with closing(Store.open(path)) as store, closing(pool):
            with killing("spawn_main" if kind == "processes" else "ray::_Actor", chance, killed):
                run_demo(store, pool, on_record=lambda found, watch: time.sleep(0.05))
            assert trials_jsonl(run_demo(store)) == undisturbed


@contextmanager
def killing(name: str, chance: random.Random, killed: list[int]) -> Iterator[None]:
    """Kill descendants of this process whose command line holds `name`, a random one once a second or so."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(chance.uniform(0, 1)) and len(killed) < KILLS:
            found = [pid for pid in descendants(os.getpid()) if name in command_line(pid)]
            if found:
                pid = chance.choice(found)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def descendants(root: int) -> list[int]:
    """Return the processes that `root` has started, and those that they have started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended

    def below(pid: int) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return sorted(pid for pid in parents if pid != root and below(pid))


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
