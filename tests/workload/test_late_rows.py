"""Late starts of runs on a part of the inputs: every record is that of a full run, whatever the network does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_late_start import SMALL, Dead, demo, made, subject
from torch import Tensor, nn

from faultcli.campaign.bench import Bench, Trial, fault_free
from faultcli.campaign.executors.parcel import pack, unpack
from faultcli.campaign.plan import cross
from faultcli.campaign.records import Record
from faultcli.campaign.subject import Subject
from faultcli.faults.laws import parse_law
from faultcli.workload.late.rows import LateRows
from faultcli.workload.models.networks.resnet import CifarResNet

SIZE = 3  # of 10 inputs, in two batches of 2, of which the last is filled up


def bench(model: Subject, *, owed: float = 10.0) -> Bench:
    model.workload.batch_size = 2
    arms = cross(["native"], [parse_law(f"flips:1,include={name}") for name in model.tensors])
    found = Bench.set_up(model, dict(enumerate(arms)), fault_free(model.workload), seed=0, inputs_per_trial=SIZE)
    assert isinstance(found.late, LateRows)
    found.late._owed = owed
    return found


def records(found: Bench, law: str) -> list[Record]:
    names = enumerate(found.image.tensors)
    trials = [Trial(arm, 7 * number + arm, parse_law(f"{law},include={n}")) for arm, n in names for number in range(3)]
    return [replace(found.run(trial), seconds=0) for trial in trials]


class Permuted(nn.Module):
    """Channels last in the middle, as transformers for images have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x)))).permute(0, 2, 3, 1)
        return self.fc2(torch.relu(self.fc1(torch.relu(x))).mean(dim=(1, 2)))


NETWORKS: dict[str, Callable[[], Subject]] = {
    **{name: lambda build=build: subject(build()) for name, build in SMALL.items()},  # type: ignore[misc]
    "demo": demo,
    "resnet": lambda: subject(made(lambda: CifarResNet(8)), "weights"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_records_are_those_of_full_runs(network: str) -> None:
    model = NETWORKS[network]()
    before = {name: own.clone() for name, own in model.workload.model.state_dict().items()}
    for law in ("flips:1", "flips:6,bits=30"):
        found, full = bench(model), bench(model)
        full.late = None
        assert records(found, law) == records(full, law)
        late = found.late
        assert late is not None
        assert late.reason is None
        assert late.late >= 2 * 3 * (len(model.tensors) - 2)
        assert late.early or law != "flips:1" or network not in ("demo", "resnet")
    assert all(torch.equal(own, before[name]) for name, own in model.workload.model.state_dict().items())


def test_values_are_kept_once_a_run_of_all_inputs_pays() -> None:
    model = subject(made(Dead), "weights")
    found, last = bench(model, owed=0.0), parse_law("flips:1,include=fc3*,bits=30")
    late = found.late
    assert isinstance(late, LateRows)
    seen = []
    for number in range(8):
        found.run(Trial(2, number, last))
        seen.append(late._kept is not None)
    assert seen.index(True) == 3  # 10 inputs, at 3 a run, of which five of six steps are saved
    assert late.late == 2 * 5


def test_where_nothing_fits_that_is_why() -> None:
    model = subject(made(SMALL["residual"]), "weights")
    model.workload.late_bytes = 1
    found = bench(model)
    records(found, "flips:1")
    assert found.late is not None
    assert found.late.reason == "no values that would save anything fit into 1 bytes"


def test_a_bench_that_is_sent_keeps_its_own() -> None:
    found = bench(subject(made(SMALL["residual"]), "weights"))
    here = records(found, "flips:1")
    parcel = pack(found)
    sent = unpack(parcel.head, [bytearray(buffer) for buffer in parcel.buffers])
    assert isinstance(sent.late, LateRows)
    assert sent.late._kept is None
    sent.late._owed = 10.0
    assert records(sent, "flips:1") == here
    assert sent.late.late > 0


class Placed(Dead):
    """The last digits of an answer depend on the place in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1) + 1e-6 * torch.linspace(0, 1, 2).repeat(len(x) // 2)[:, None])


class Crossed(nn.Module):
    """Keeps values with the inputs along the second dimension, which is as long as the first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(54, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc1(x.view(-1, 2, 54)).permute(1, 0, 2).contiguous()
        return self.fc2(y).permute(1, 0, 2).flatten(1)


@pytest.mark.parametrize("build", [Placed, Crossed])
def test_where_rows_cannot_be_taken_none_are(build: Callable[[], nn.Module]) -> None:
    model = subject(made(build), "weights")
    found, full = bench(model), bench(model)
    full.late = None
    assert records(found, "flips:1,bits=exponent") == records(full, "flips:1,bits=exponent")
    late = found.late
    assert late is not None
    assert late.early == 0
    assert all(cut.at <= 1 for cut in late._cuts)  # what a view of the input is, rows of which are its own
