"""Range restriction: what layers give beyond their clean bounds, the file of bounds, and arms that are guarded."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import faultcli
from faultcli.activations.guard import GuardId, LayerBounds, Restrict, within
from faultcli.campaign.plan import Plan, cross, read_arm
from faultcli.campaign.result import result_of
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.cli import run
from faultcli.errors import UsageError, WorkloadError
from faultcli.faults.laws import parse_law
from faultcli.report.trials import trials_jsonl


@pytest.mark.parametrize(("mode", "expected"), [("clip", [-1, 2, 0, 2, -1, 0.5]), ("zero", [0, 0, 0, 0, 0, 0.5])])
def test_values_beyond_their_bounds(mode: str, expected: list[float]) -> None:
    values = torch.tensor([-3.0, 2.5, torch.nan, torch.inf, -torch.inf, 0.5])
    restricted = within(values, -1.0, 2.0, mode)
    assert restricted is not None
    assert restricted.tolist() == expected
    assert within(torch.tensor([-1.0, 2.0]), -1.0, 2.0, mode) is None
    assert within(torch.empty(0), -1.0, 2.0, mode) is None


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)).eval()


def test_a_model_inside_its_bounds_is_left_as_it_is() -> None:
    model, inputs = small_net(), torch.randn(50, 4)
    bounds = LayerBounds.of(model, lambda: model(inputs), "a few")
    assert list(bounds.layers) == ["0", "1", "2"]
    assert (bounds.inputs, bounds.data, bounds.layers["1"][0]) == (50, "a few", 0.0)
    clean = model(inputs)
    with bounds.applied(model):
        assert torch.equal(model(inputs), clean)
        with torch.no_grad():
            assert model[0](1e9 * inputs).abs().max() <= max(map(abs, bounds.layers["0"]))  # type: ignore[arg-type]
            model[0].weight.mul_(1e20)
        kept = model(inputs)
    assert kept.isfinite().all()
    assert kept.max() <= bounds.layers["2"][1]
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(WorkloadError, match="bounds are of a layer '1'"), bounds.applied(nn.Sequential(nn.ReLU())):
        pass


def test_who_ignores_what_a_layer_in_place_returns_is_guarded_too() -> None:
    class Ignoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = x * 1
            self.relu(y)
            return y

    model = Ignoring()
    with LayerBounds({"relu": (0.0, 2.0)}).applied(model, "zero"):
        assert model(torch.tensor([1.0, 5.0])).tolist() == [1.0, 0.0]


def test_bounds_are_written_and_read_back(tmp_path: Path) -> None:
    bounds, path = LayerBounds({"a": (-1.5, 0.1), "b": (0.0, 3e38)}, 100, "digits"), tmp_path / "bounds.json"
    bounds.save(path)
    assert LayerBounds.load(path) == bounds
    assert LayerBounds.load(path).sha256 == bounds.sha256
    assert json.loads(path.read_text())["layers"]["a"] == [-1.5, 0.1]  # what a deployer's own code reads


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "is no file of bounds"),
        ("[]", "is no file of bounds"),
        ('{"schema": "faultcli.bounds/9"}', "is not faultcli.bounds/1"),
        ('{"schema": "faultcli.bounds/1", "layers": {}}', "are damaged"),
        ('{"schema": "faultcli.bounds/1", "inputs": 1, "data": "", "layers": {"a": [1]}}', "are damaged"),
        (
            '{"schema": "faultcli.bounds/1", "inputs": 1, "data": "", "layers": {"a": [2, 1]}}',
            "'a': 2 to 1 is no range",
        ),
        ('{"schema": "faultcli.bounds/1", "inputs": 1, "data": "", "layers": {"a": [0, NaN]}}', "is no range"),
    ],
)
def test_files_that_hold_no_bounds(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bounds.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        LayerBounds.load(path)


def plan_of(*guards: Restrict | None, target: str = "activations") -> Plan:
    return Plan(cross(["native"], [parse_law("bitflip:1e-4")], guard=guards), 3, target=target)


def test_guarded_arms_meet_the_same_faults_and_lose_less(tmp_path: Path) -> None:
    subject = Subject.open(data="digits", target="activations", limit=40)
    plan = plan_of(None, Restrict("clip"), Restrict("zero"))
    with closing(Store.open(tmp_path / "run.sqlite")) as store:
        found = run_campaign(plan, subject, store=store)
    bare, clip, zero = found.arms
    for arm in (clip, zero):
        assert [r.flips for r in arm.records] == [r.flips for r in bare.records]
        assert sum(r.outcome.correct1 or 0 for r in arm.records) > sum(r.outcome.correct1 or 0 for r in bare.records)
        assert all(r.outcome.due == 0 for r in arm.records)
        gain = found.gain_over_none(arm)
        assert gain is not None
        assert gain.mean > 0
    assert clip.arm.hardening == "none + outputs:clip"
    with closing(Store.read(tmp_path / "run.sqlite")) as store:
        kept = result_of(store)
    assert trials_jsonl(kept) == trials_jsonl(found)
    assert [arm.arm.guard for arm in kept.arms] == [None, GuardId("clip"), GuardId("zero")]


def test_weights_are_guarded_as_well() -> None:
    subject = Subject.open(data="digits", limit=40)
    bare, clip = run_campaign(plan_of(None, Restrict("clip"), target="weights"), subject).arms
    assert [r.flips for r in bare.records] == [r.flips for r in clip.records]
    assert [r.outcome.loss for r in bare.records] != [r.outcome.loss for r in clip.records]
    assert clip.overhead_bits_per_weight == pytest.approx(4 * 64 / subject.memory().weights)


def test_the_python_door(tmp_path: Path) -> None:
    model, inputs = small_net(), torch.randn(20, 4)
    subject = faultcli.Subject.of(model, (inputs, torch.zeros(20, dtype=torch.int64)), target="activations")
    result = faultcli.run_campaign(
        subject, "bitflip:1e-2", protect=["none"], trials=2, guard_activations=["none", "zero"]
    )
    assert [arm.arm.texts["guard_activations"] for arm in result.arms] == [None, "outputs:zero"]
    assert all(record.flips for arm in result.arms for record in arm.records)


def test_guards_are_told_apart() -> None:
    of_file = Restrict.parse("clip", LayerBounds({"a": (0.0, 1.0)}))
    arms = plan_of(None, Restrict.parse("clip"), Restrict.parse("zero"), of_file).arms
    assert len({json.dumps(arm.identity) for arm in arms}) == 4
    assert "guard_activations" not in arms[0].identity
    assert [read_arm(arm.identity).guard for arm in arms[:3]] == [None, GuardId("clip"), GuardId("zero")]
    assert Restrict.parse("none") is None
    with pytest.raises(UsageError, match="--guard-activations clamp: is not clip, zero or none"):
        Restrict.parse("clamp")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bounds.json"
    assert run(["evaluate", "--limit", "20", "--save-bounds", str(file), "-q"]) == 0
    assert list(LayerBounds.load(file).layers) == ["conv1", "conv2", "fc1", "fc2"]
    assert run(["evaluate", "--limit", "20", "--save-bounds", str(file), "-q"]) == 2
    capsys.readouterr()
    words = ["campaign", "--target", "activations", "--ber", "1e-4", "--trials", "2", "--limit", "20", "-q", "--json"]
    guarded = ["--guard-activations", "none", "--guard-activations", "clip", "--guard-bounds", str(file)]
    assert run([*words, *guarded]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    sha256 = LayerBounds.load(file).sha256
    assert [arm["guard_activations"] for arm in arms] == [None, f"outputs:clip@{sha256[:8]}"]
    assert run([*words, "--guard-bounds", str(file)]) == 2
    assert "nothing is guarded by them" in capsys.readouterr().err
