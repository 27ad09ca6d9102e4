"""Late starts against full runs, side by side: one campaign per layer of ResNet-20, with the same records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Row, side_by_side
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.subject import Subject
from faultcli.faults.laws import parse_law
from faultcli.report.trials import trials_jsonl
from faultcli.workload.classifier import Workload

DATA = Path(os.environ.get("FAULTCLI_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
INPUTS = 40
TRIALS = 5  # per layer


def run() -> Iterator[Row]:
    if not DATA.exists():
        return
    subject = Subject.open(DATA / "resnet20.safetensors", str(DATA / "cifar10_test1000.npz"), limit=INPUTS)
    workload = subject.workload
    assert isinstance(workload, Workload)
    plan = Plan(cross(["native"], [parse_law(f"flips:1,include={name}") for name in subject.tensors]), TRIALS)
    records: dict[int | None, bytes] = {}

    def campaign(most: int | None) -> None:
        workload.late_bytes = most
        records[most] = trials_jsonl(run_campaign(plan, subject))

    late, full = side_by_side(lambda: campaign(None), lambda: campaign(0), repeats=2)
    assert records[None] == records[0]
    detail = (
        f"{late:.1f} s against {full:.1f} s, {len(plan.arms)} layers × {TRIALS} trials, {INPUTS} images; same records"
    )
    yield Row("campaign per layer of ResNet-20, late starts / full runs", late / full, 0.65, "×", detail=detail)
