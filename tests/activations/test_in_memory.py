"""`faultcli.faulty` with outputs of layers at risk: what the same trial of a campaign does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import faultcli as fc

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH = 8
WHICH: dict[str, Any] = {"seed": 4, "trial": 2}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout()
        self.relu, self.last = nn.ReLU(), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(self.drop(self.relu(self.norm(self.first(x)))))
        return answer


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return Net()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(BATCH, 6, generator=generator), torch.arange(BATCH) % 5) for _ in range(3)]


@pytest.mark.parametrize("format", ["native", "fp16", "int8"])
@pytest.mark.parametrize("target", ["activations", "activations:*l*", "weights,activations"])
def test_numbers_are_those_of_the_trial_of_a_campaign(model: nn.Module, target: str, format: str) -> None:
    data = batches()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    result = fc.run_campaign(
        fc.Subject.of(model, data, target=target), "bitflip:2e-3", formats=[format], trials=3, seed=WHICH["seed"]
    )
    record = result.arms[0].records[WHICH["trial"]]
    every = torch.cat([given for given, _ in data])
    model.train()
    asked = {"format": format, "target": target, "inputs": every, **WHICH}
    with fc.faulty(model, "bitflip:2e-3", **asked) as hit:
        assert model.training
        assert bool(hit.flips) == target.startswith("weights")  # outputs are not there yet
        model.eval()
        with torch.no_grad():
            answers = torch.cat([model(given) for given, _ in data])
    assert (hit.flips, hit.values_changed) == (record.flips, record.values_changed)
    assert hit.flips > 0
    right = (answers.argmax(1) == torch.cat([labels for _, labels in data])) & answers.isfinite().all(1)
    assert int(right.sum()) == record.outcome.correct1
    assert all(torch.equal(one, other) for one, other in zip(before, model.state_dict().values(), strict=True))
    with torch.no_grad():
        assert not torch.equal(torch.cat([model(given) for given, _ in data]), answers)  # no hook is left


def test_inputs_may_be_arguments(model: nn.Module) -> None:
    given = batches()[0][0]
    model.eval()
    found = []
    for inputs in (given, (given,), {"x": given}):
        with fc.faulty(model, "bitflip:1e-2", target="activations", inputs=inputs, **WHICH) as hit:
            model(given)
        found.append(hit.flips)
    assert found[0] > 0
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "nothing to run it on"),
        ({"target": "activations:other*"}, "matches no layer"),
        ({"protect": "secded=64"}, "has none at risk"),
        ({"format": "int8-channel"}, "takes formats with one scale per layer"),
        ({"fault": "flips:1"}, "take bit flips at a rate"),
    ],
)
def test_what_makes_no_sense_is_told(model: nn.Module, given: dict[str, Any], problem: str) -> None:
    asked = {"fault": "bitflip:1e-3", "target": "activations", **given}
    asked |= {"inputs": batches()[0][0]} if given else {}
    with pytest.raises(fc.FaultcliError, match=problem), fc.faulty(model, **asked):
        pass


def test_inputs_that_do_not_fit_are_told(model: nn.Module) -> None:
    images, labels = batches()[0]
    empty, pair = ("activations", images[:0]), ("activations", (images, labels))
    told = {empty: "without inputs", pair: "does not run on them", ("weights", images): "need no inputs"}
    for (target, inputs), problem in told.items():
        asked: dict[str, Any] = {"target": target, "inputs": inputs}
        with pytest.raises(fc.FaultcliError, match=problem), fc.faulty(model, "bitflip:1e-3", **asked):
            pass


def test_one_law_for_one_hit(model: nn.Module) -> None:
    with pytest.raises(fc.FaultcliError, match="is no law"), fc.faulty(model, ["flips:1", "bitflip:0.5"]):  # type: ignore[arg-type]
        pass


def test_tensors_by_name_have_no_layers(model: nn.Module) -> None:
    with (
        pytest.raises(fc.FaultcliError, match="have no layers"),
        fc.faulty(model.state_dict(), "bitflip:1e-3", target="activations", inputs=batches()[0][0]),
    ):
        pass
