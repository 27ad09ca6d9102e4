"""Two workers against one, in time and in memory; and what a trial costs beyond its forward pass, store included."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.measure import Row
from faultcli.campaign.executors.base import Executor, Serial
from faultcli.campaign.executors.pool import Pool
from faultcli.campaign.executors.processes import Processes
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.report.trials import trials_jsonl
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload

DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data"))
TRIALS = 24


class Campaign:
    """A network, its data, and a plan of one arm."""

    def __init__(self, model: str, data: str, limit: int) -> None:
        self.checkpoint = Checkpoint.open(DATA / model)
        self.workload: Workload = build_workload(
            self.checkpoint.state(), self.checkpoint.metadata, WorkloadSpec(data=f"{data}:{DATA / data}", limit=limit)
        )
        self.tensors = {name: self.checkpoint.read(name) for name in select(self.checkpoint.tensors.values())}

    def run(self, executor: Executor, trials: int = TRIALS) -> tuple[bytes, float]:
        """Return the exported records and the seconds from the second trial to the last."""
        times: list[float] = []
        with tempfile.TemporaryDirectory() as folder, closing(Store.open(Path(folder) / "store")) as store:
            result = run_campaign(
                Plan(cross(["q2.5"], [parse_law("bitflip:1e-3")]), trials),
                Subject(self.workload, self.tensors, self.checkpoint.sha256()),
                executor=executor,
                store=store,
                on_record=lambda found, watch: times.append(time.perf_counter()),
            )
        warm = 4  # workers have loaded by then
        return trials_jsonl(result), (times[-1] - times[warm - 1]) / (len(times) - warm)

    def forward(self, repeats: int) -> float:
        """Return the seconds of one bare forward pass over all inputs."""
        batches = [
            self.workload.prepare(self.workload.dataset).first[start : start + self.workload.batch_size]
            for start in range(0, len(self.workload), self.workload.batch_size)
        ]
        times = []
        with torch.inference_mode():
            for _ in range(repeats):
                start = time.perf_counter()
                for batch in batches:
                    self.workload.model(batch)
                times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]


def proportional_memory(pids: list[int]) -> int:
    """Return the bytes that processes take together, shared pages counted once (Linux)."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def peak_memory(campaign: Campaign, size: int) -> int:
    """Return the highest memory of this process and `size` workers during a campaign."""
    crew = Processes(size)
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            pids = [os.getpid(), *(process.pid for process, _ in list(crew._workers.values()) if process.pid)]
            try:
                peak = max(peak, proportional_memory(pids))
            except OSError:
                continue

    thread = threading.Thread(target=watch)
    thread.start()
    with closing(Pool(crew)) as pool:
        campaign.run(pool, 12)
    over.set()
    thread.join()
    return peak


def run() -> Iterator[Row]:
    if not DATA.exists():
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resnet = Campaign("cifar10/resnet20.safetensors", "cifar10", 1000)
        records, seconds = {}, {}
        for size in (1, 2):
            with closing(Pool(Processes(size))) as pool:
                records[size], seconds[size] = resnet.run(pool)
        assert records[1] == records[2]
        detail = f"{seconds[1]:.3f} s against {seconds[2]:.3f} s a trial, {os.cpu_count()} cores; identical records"
        yield Row("1 worker / 2 workers on ResNet-20, 1000 images", seconds[1] / seconds[2], 1.8, "×", True, detail)
        for campaign, name, goal in ((resnet, "ResNet-20", 0.03), (Campaign(*LENET), "LeNet", None)):
            yield _overhead(campaign, name, goal)
        if Path("/proc/self/smaps_rollup").exists():
            one, two = peak_memory(resnet, 1), peak_memory(resnet, 2)
            detail = f"{two / 2**20:.0f} MiB against {one / 2**20:.0f} MiB"
            yield Row("memory of 2 workers / 1 worker, ResNet-20", two / one, 1.3, "×", detail=detail)
    finally:
        torch.set_num_threads(threads)


LENET = ("mnist/lenet.safetensors", "mnist", 2000)


def _overhead(campaign: Campaign, name: str, share: float | None) -> Row:
    """Serial trials with a store on the disk, against bare forward passes, in turns."""
    pairs = [(campaign.run(Serial(), 12)[1], campaign.forward(8)) for _ in range(3)]
    trial, bare = (min(values) for values in zip(*pairs, strict=True))
    detail = f"{1e3 * trial:.1f} ms a trial, {1e3 * bare:.1f} ms its forward pass"
    if share is not None:
        return Row(
            f"overhead of a trial on {name}, store included", (trial - bare) / bare, share, "of it", detail=detail
        )
    return Row(f"overhead of a trial on {name}, store included", 1e3 * (trial - bare), 3, "ms", detail=detail)
