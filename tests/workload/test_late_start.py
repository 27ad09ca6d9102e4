"""Late starts: every answer is that of a full run, bit for bit; what is kept fits; what cannot be traced still runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faultcli.campaign.bench import Bench, Trial, fault_free
from faultcli.campaign.executors.parcel import pack, unpack
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.records import Record
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.subject import Subject
from faultcli.faults.laws import parse_law
from faultcli.report.trials import trials_jsonl
from faultcli.workload.classifier import Workload
from faultcli.workload.late.kept import Cut, Version, chosen, same_bits
from faultcli.workload.late.program import Program, UntraceableError
from faultcli.workload.late.room import MOST_BYTES, bytes_for
from faultcli.workload.late.starting import LateStart
from faultcli.workload.models.networks.resnet import CifarResNet


class Residual(nn.Module):
    """Batch norm, a shortcut, ReLUs in place, `+=`, and an average that a function computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(x)))))
        y += x
        return self.fc(F.relu(y).mean(dim=(2, 3)))


class Overwriting(nn.Module):
    """Writes into a value after the position at which a run may begin: into `x` while `fc2` is read, and by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(108, 12), nn.Linear(12, 12), nn.Linear(12, 10)
        self.scale = nn.Parameter(torch.ones(12, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x.flatten(1))
        y = self.fc2(x)
        x.sigmoid_()
        y.view(-1).mul_(2)
        left, right = (x + y * self.scale.t()).chunk(2, dim=1)
        return self.fc3(torch.cat([left, right], dim=1))


class Dead(nn.Module):
    """The first layer's outputs are negative, so no change of its small bits gets through."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(108, 6), nn.Linear(6, 6), nn.Linear(6, 10)
        nn.init.constant_(self.fc1.bias, -1e3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


def subject(model: nn.Module, target: str = "all", inputs: int = 10) -> Subject:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(inputs, 3, 6, 6, generator=generator)
    found = Subject.of(model, (x, torch.arange(inputs) % 10), target=target)
    found.workload.batch_size = 4  # the last batch is a smaller one
    return found


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = build()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model


def bench(model: Subject, law: str = "flips:1", *, owed: float = 1.0) -> Bench:
    arms = cross(["native"], [parse_law(f"{law},include={name}") for name in model.tensors])
    found = Bench.set_up(model, dict(enumerate(arms)), fault_free(model.workload), seed=0)
    assert found.late is not None
    found.late._owed = owed  # as if some runs had been
    return found


def laws(model: Subject, law: str) -> list[Trial]:
    return [
        Trial(arm, number, parse_law(f"{law},include={name}"))
        for number in range(3)
        for arm, name in enumerate(model.tensors)
    ]


def record(found: Bench, trial: Trial) -> Record:
    return replace(found.run(trial), seconds=0)


def demo() -> Subject:
    return Subject.open(limit=10, target="all")


SMALL = {"residual": lambda: made(Residual), "overwriting": lambda: made(Overwriting), "dead": lambda: made(Dead)}


@pytest.mark.parametrize("network", [*SMALL, "demo", "resnet"])
@pytest.mark.parametrize("law", ["flips:1", "flips:6,bits=30"])
def test_every_answer_is_that_of_a_full_run(network: str, law: str) -> None:
    """Of every tensor, parameters of batch norm and its running statistics included; in the logits themselves."""
    if network == "demo":
        model = demo()
    elif network == "resnet":
        model = subject(made(lambda: CifarResNet(8)), "weights", inputs=6)
    else:
        model = subject(SMALL[network]())
    workload = model.workload
    assert isinstance(workload, Workload)
    found, before = bench(model, law), {name: own.clone() for name, own in model.workload.model.state_dict().items()}
    late, odd = found.late, 0
    assert late is not None
    for trial in laws(model, law):
        patch = found.image.patch(found.image.draw(trial.law, seed=0, trial=trial.number))
        run = late.run_with(patch.elements)
        with patch.applied(workload.parameters):
            full, saved = workload.answers(), workload.answers(run)
        assert same_bits(full, saved), trial.law
        odd += not bool(full.isfinite().all())
    assert late.reason is None
    assert late.late > len(model.tensors)
    assert odd or law == "flips:1" or network != "residual", "NaN and infinity have to be among them"
    assert all(same_bits(own, before[name]) for name, own in workload.model.state_dict().items())


def test_campaigns_have_the_same_records() -> None:
    model = subject(made(Residual), "weights")
    plan = Plan(cross(["native", "fp16"], [parse_law("flips:1,include=conv3*"), parse_law("flips:2")]), trials=3)
    late = trials_jsonl(run_campaign(plan, model))
    model.workload.late_bytes = 0
    assert trials_jsonl(run_campaign(plan, model)) == late


def test_a_run_ends_where_nothing_differs_any_more() -> None:
    model = subject(made(Dead), "weights")
    found = bench(model)
    assert found.late is not None
    found.run(Trial(2, 0, parse_law("flips:1,include=fc3*")))
    for number in range(4):
        trial = Trial(0, number, parse_law("flips:1,include=fc1*,bits=0-10"))
        assert found.run(trial).outcome == found.stored.outcome
    assert found.late.early == 4 * 3  # of all batches


def test_no_run_ends_before_its_last_changed_layer() -> None:
    """Faults in every layer: after the first of them nothing differs, and later something does."""
    model = subject(made(Dead), "weights")
    found, full = bench(model), bench(model)
    assert found.late is not None
    found.late.run_with(["fc3.weight"])  # values are kept from here on
    assert found.late._kept is not None
    full.late = None
    trial = Trial(0, 0, parse_law("flips:500,bits=15-20"))
    assert record(found, trial) == record(full, trial)
    assert full.run(trial).outcome != full.stored.outcome


def test_bits_are_compared_and_not_numbers() -> None:
    nan, zero = torch.tensor([torch.nan]), torch.tensor([0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(nan, (nan.view(torch.int32) ^ 1).view(torch.float32))
    for dtype in (torch.bool, torch.bfloat16, torch.float64, torch.complex64):
        assert same_bits(torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype))
        assert not same_bits(torch.ones(2, dtype=dtype), torch.zeros(2, dtype=dtype))


def test_nothing_is_kept_before_a_run_would_have_been_saved() -> None:
    model = subject(made(Residual), "weights")
    found = bench(model, owed=0.0)
    late = found.late
    assert late is not None
    for number in range(20):
        found.run(Trial(0, number, parse_law("flips:1,include=conv1*")))
    assert late._kept is None
    for number in range(3):
        found.run(Trial(3, number, parse_law("flips:1,include=fc*")))
    assert late._kept is not None
    assert late.late == 2 * 3  # the batches of all but the first, which would have saved less than one run


@pytest.mark.parametrize("limit", [0, 1, 3000, 12_000])
def test_what_is_kept_fits(limit: int) -> None:
    model = subject(made(Residual), "weights")
    assert isinstance(model.workload, Workload)
    model.workload.late_bytes = limit
    found, full = bench(model), bench(model)
    full.late = None
    assert all(record(found, trial) == record(full, trial) for trial in laws(model, "flips:1"))
    late = found.late
    assert late is not None
    if not limit:
        assert late.reason == "is off"
        return
    if limit == 1:
        assert late.reason == "no values that would save anything fit into 1 bytes"
        return
    assert late._kept is not None
    values = [value for kept in late._kept.values() for value in kept.values.values()]
    assert 0 < sum(value.nbytes for value in values) <= limit
    assert late.late


def test_the_next_position_kept_saves_most_per_byte() -> None:
    nodes = list(Program(made(Dead)).steps)
    versions = [Version(node, 0) for node in nodes[:3]]
    cuts = [Cut(at, (version,), False, frozenset()) for at, version in zip((2, 4, 6), versions, strict=True)]
    seconds = [0.0, 1, 2, 3, 4, 5, 6]
    readers = [0, 2, 4, 6]
    sizes = dict(zip(versions, (100, 100, 300), strict=True))
    assert [cut.at for cut in chosen(cuts, sizes, seconds, readers, 1000)] == [2, 4, 6]
    assert [cut.at for cut in chosen(cuts, sizes, seconds, readers, 250)] == [2, 4]
    assert [cut.at for cut in chosen(cuts, sizes, seconds, readers, 150)] == [
        4
    ]  # saves 4 of two layers, not 2 of three
    assert chosen(cuts, sizes, seconds, readers, 99) == []
    assert chosen(cuts, sizes, seconds, [0, 1], 1000) == []


def test_a_bench_that_is_sent_keeps_its_own() -> None:
    model = subject(made(Residual), "weights")
    found = bench(model)
    trials = laws(model, "flips:1")[-4:]
    here = [record(found, trial) for trial in trials]
    late = found.late
    assert late is not None
    assert late._kept is not None
    parcel = pack(late)
    sent = unpack(parcel.head, [bytearray(buffer) for buffer in parcel.buffers])
    assert isinstance(sent, LateStart)
    assert sent._kept is sent._program is None
    again = replace(found, workload=sent._workload, late=sent)
    sent._owed = 1.0
    assert [record(again, trial) for trial in trials] == here
    assert sent.late == late.late > 0


class Deciding(Dead):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else x


class Making(Dead):
    """Computes with what torch.fx takes for a constant, though it follows from a weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.fc3._parameters["bias"].exp()


class Remembering(Dead):
    """Keeps the last value, and what it made at its first call."""

    last: Tensor | None = None
    made: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.made is None:
            self.made = torch.ones(10)
        self.last = super().forward(x) * self.made
        return self.last


class Counting(Dead):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().forward(x) + self.calls * 0


class Aliasing(Dead):
    """A view of a weight that is no parameter: who reads it cannot be seen by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.first_row = self.fc1.weight.data[0, :10]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.first_row


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Deciding, "control flow"),
        (Making, "tensor of its own making"),
        (Counting, "writes into its own tensors"),
        (Remembering, None),
        (Aliasing, None),
    ],
)
def test_whatever_a_model_does_the_records_are_those_of_full_runs(build: type[Dead], reason: str | None) -> None:
    model = subject(made(build), "weights")
    found, full = bench(model), bench(model)
    full.late = None
    for trial in laws(model, "flips:1,bits=exponent"):
        assert record(found, trial) == record(full, trial)
    assert found.late is not None
    assert reason is None or reason in str(found.late.reason)
    assert isinstance(getattr(model.workload.model, "last", None), Tensor | None), (
        "no value of the tracing is left behind"
    )


def test_a_weight_that_is_read_elsewhere_too_begins_where_that_is() -> None:
    program = Program(made(Aliasing))
    assert program.span([program.model.fc1.weight]) == (1, len(program) - 1)
    assert program.span([torch.ones(1)]) is None


def test_hooks_turn_it_off_while_they_are_there() -> None:
    model = subject(made(Residual), "weights")
    found, trial = bench(model), Trial(3, 0, parse_law("flips:1,include=fc*"))
    plain = record(found, trial)
    late = found.late
    assert late is not None
    began = late.late
    assert began == 3
    layer = model.workload.model.conv1
    hook = layer.register_forward_hook(lambda module, given, returned: torch.zeros_like(returned))
    hooked = record(found, trial)
    hook.remove()
    assert late.late == began
    assert hooked != plain
    assert record(found, trial) == plain
    assert late.late == 2 * began
    layer.register_forward_pre_hook(lambda module, given: None)
    with pytest.raises(UntraceableError, match="hooks"):
        Program(model.workload.model)


def test_free_memory_is_shared_with_the_workers_beside() -> None:
    assert 0 < bytes_for(torch.device("cpu")) <= MOST_BYTES
