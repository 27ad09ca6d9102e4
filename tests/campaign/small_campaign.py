"""A small campaign on the embedded demo, for tests; also as a process: `small_campaign.py STORE KIND PAUSE`.

As a process it runs the trials serially or on `processes`, and prints a line `kept ARM TRIAL` for every trial
that the store has acknowledged.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

import torch

from faultcli.campaign.executors.base import Executor, Serial
from faultcli.campaign.executors.pool import Pool
from faultcli.campaign.executors.processes import Processes
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.records import CampaignResult
from faultcli.campaign.runner import Listener, run_campaign
from faultcli.campaign.shard import WHOLE, Shard
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.protect.chain import parse_chain
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload
from faultcli.workload.demo import demo_checkpoint_path

PLAN = Plan(
    cross(["q2.5", "fp16"], [parse_law("bitflip:1e-3")], [parse_chain("none"), parse_chain("scale=max,parity")]),
    trials=8,
)


def demo_workload(limit: int = 30) -> Workload:
    checkpoint = Checkpoint.open(demo_checkpoint_path())
    return build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(limit=limit))


def run_demo(
    store: Store | None = None,
    executor: Executor | None = None,
    *,
    plan: Plan = PLAN,
    shard: Shard = WHOLE,
    workload: Workload | None = None,
    on_record: Listener = lambda found, watch: None,
) -> CampaignResult:
    """Run the plan with one thread."""
    checkpoint = Checkpoint.open(demo_checkpoint_path())
    tensors = {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_campaign(
            plan,
            Subject(workload or demo_workload(), tensors, "demo"),
            store=store,
            executor=executor,
            shard=shard,
            on_record=on_record,
        )
    finally:
        torch.set_num_threads(threads)


def main(path: str, kind: str, pause: str) -> None:
    executor: Executor = Serial()
    if kind == "processes":
        executor = Pool(Processes(2))
    with closing(Store.open(Path(path))) as store, closing(executor):
        print("started", flush=True)

        def acknowledged(found: object, watch: object) -> None:
            print("kept", found.arm, found.trial, flush=True)  # type: ignore[attr-defined]
            time.sleep(float(pause))

        run_demo(store, executor, on_record=acknowledged)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
