"""One real campaign for all reports: the demo, formats, levels, protections, a corrector, gates of all fates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from faultcli.campaign.gates import Gate
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.provenance import Provenance, installed_versions
from faultcli.campaign.records import CampaignResult
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.protect.chain import parse_chain
from faultcli.recover.align import Align
from faultcli.recover.applied import Correct
from faultcli.recover.base import Card
from faultcli.recover.file import save_corrector
from faultcli.recover.reference import Reference
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.data.datasets import load_data
from faultcli.workload.demo import demo_checkpoint_path


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the campaign."""
    place = tmp_path_factory.mktemp("campaign")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(demo_checkpoint_path())
    workload = build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(limit=60))
    unlabelled = load_data("digits,split=train").first(200)
    train = build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(data="digits,split=train", limit=300))
    reference = Reference.measure(train.logits().double().numpy(), train.labels.numpy())
    save_corrector(Align(reference, card=Card(10, model=checkpoint.sha256())), place / "align.safetensors")
    correct = Correct.load(place / "align.safetensors", window=200)
    laws = [parse_law(f"bitflip:{ber}") for ber in ("1e-4", "1e-3", "1e-2")]
    arms = cross(["q2.5", "fp16"], laws, [parse_chain(text) for text in ("none", "scale=max,guard")])
    arms += tuple(replace(arm, correct=correct) for arm in arms[:1])
    names = select(checkpoint.tensors.values())
    store = Store.open(place / "campaign.sqlite")
    run_campaign(
        Plan(arms, trials=4, gates=(Gate("min-accuracy", 0.9), Gate("max-sdc", 1.0))),
        Subject(
            workload,
            {name: checkpoint.read(name) for name in names},
            checkpoint.sha256(),
            unlabelled=unlabelled,
        ),
        store=store,
        provenance=Provenance(
            model="demo <b>&amp;</b>",  # what a user may name a file
            checkpoint_sha256=checkpoint.sha256(),
            architecture=workload.architecture.name,
            data=workload.dataset.name,
            data_sha256=workload.dataset.sha256(),
            device="cpu",
            batch_size=workload.batch_size,
            threads=1,
            command="faultcli campaign 'demo <b>&amp;</b>' --ber 1e-4,1e-3,1e-2",
            versions=installed_versions(),
            tensors={name: list(checkpoint.tensors[name].shape) for name in names},
        ),
    )
    store.close()
    torch.set_num_threads(threads)
    return place / "campaign.sqlite"


@pytest.fixture(scope="session")
def result(store_path: Path) -> CampaignResult:
    """What the store says."""
    from faultcli.campaign.result import result_of

    return result_of(Store.read(store_path))
