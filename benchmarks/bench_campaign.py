"""A whole campaign against the bare forward passes in it: LeNet, 50 trials, 2000 images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Row, side_by_side
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.workload.building import WorkloadSpec, build_workload

TRIALS = 50
DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mnist"


def run() -> Iterator[Row]:
    if not DATA.exists():
        return
    checkpoint = Checkpoint.open(DATA / "lenet.safetensors")
    workload = build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(data=f"mnist:{DATA}", limit=2000))
    tensors = {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}
    plan = Plan(cross(["native"], [parse_law("bitflip:1e-5")]), TRIALS)

    def campaign() -> None:
        run_campaign(plan, Subject(workload, tensors, checkpoint.sha256()))

    images = workload.architecture.preprocess.apply(workload.dataset.inputs, workload.dataset.layout)
    batches = images.split(workload.batch_size)  # type: ignore[no-untyped-call]

    def forward_passes() -> None:
        with torch.inference_mode():
            for _ in range(TRIALS):
                for batch in batches:
                    workload.model(batch)

    total, bare = side_by_side(campaign, forward_passes, repeats=3)
    detail = f"{total:.2f} s against {bare:.2f} s; {1e3 * (total - bare) / TRIALS:.1f} ms more per trial"
    yield Row(f"campaign of {TRIALS} trials on LeNet / its bare forward passes", total / bare, 1.10, "×", detail=detail)
