"""Batch-norm recalibration on a small network whose statistics are known."""

from pathlib import Path

import pytest
import torch
from torch import nn

from faultcli.checkpoint import Checkpoint
from faultcli.errors import UsageError, WorkloadError
from faultcli.recover.batchnorm import BatchNormRecalibration, Recalibrate, parse_recalibration
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import Dataset, make_dataset
from faultcli.workload.models.architectures import Architecture


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(x.mean((2, 3)))


def images(seed: int, n: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    return make_dataset(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % 4, "noise")


def workload() -> Workload:
    torch.manual_seed(0)
    model = Net().train()
    for seed in range(30):
        model(images(seed, 100).inputs)
    return Workload(Architecture("net", Net, num_classes=4), model.eval().requires_grad_(False), images(99, 200))


def statistics(w: Workload) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in w.parameters.items() if "running" in name}


def test_a_healthy_model_stays_as_it_was() -> None:
    w = workload()
    before, logits = statistics(w), w.logits()
    recalibration = BatchNormRecalibration(w, images(50, 400), Recalibrate(200))
    with recalibration.applied():
        again = w.logits()
    assert float((again - logits).abs().max()) < 0.15 * float(logits.std())
    assert float((again.argmax(1) == logits.argmax(1)).float().mean()) >= 0.97
    assert all(torch.equal(after, before[name]) for name, after in statistics(w).items())


def test_a_healthy_resnet_loses_nothing(data_dir: Path) -> None:
    cifar = data_dir / "cifar10"
    checkpoint = Checkpoint.open(cifar / "resnet20.safetensors")
    w = build_workload(
        checkpoint.state(), checkpoint.metadata, WorkloadSpec(data=str(cifar / "cifar10_test1000.npz"), limit=200)
    )
    answers = w.logits().argmax(1)
    recalibration = BatchNormRecalibration(w, load_data(str(cifar / "cifar10_train5000.npz"), 600), Recalibrate(300))
    with recalibration.applied():
        again = w.logits().argmax(1)
    assert torch.equal(again, answers)


def test_shifted_and_stretched_weights_are_compensated() -> None:
    w = workload()
    clean, before = w.logits(), statistics(w)
    recalibration = BatchNormRecalibration(w, images(50, 400), Recalibrate(200))
    for name in ("conv1.weight", "conv2.weight"):
        w.parameters[name].mul_(1.7).add_(0.02)
    damaged = (w.logits() - clean).square().mean()
    with recalibration.applied():
        recovered = (w.logits() - clean).square().mean()
    assert recovered < damaged / 5
    assert all(torch.equal(after, before[name]) for name, after in statistics(w).items())


def test_statistics_come_back_after_an_exception_and_non_finite_activations() -> None:
    w = workload()
    before = statistics(w)
    recalibration = BatchNormRecalibration(w, images(50, 60), Recalibrate(30))
    w.parameters["conv1.weight"][0] = float("nan")
    with recalibration.applied():
        assert bool(w.parameters["bn1.running_mean"].isfinite().all())
    with pytest.raises(ZeroDivisionError), recalibration.applied():
        raise ZeroDivisionError
    assert all(torch.equal(after, before[name]) for name, after in statistics(w).items())


def test_windows_do_not_overlap_where_there_are_enough_inputs() -> None:
    recalibration = BatchNormRecalibration(workload(), images(50, 61), Recalibrate(30))
    assert torch.equal(recalibration._window.first, images(50, 61).inputs[30:60])


@pytest.mark.parametrize("text", ["bn", "bn:50", "none"])
def test_options(text: str) -> None:
    parsed = parse_recalibration(text)
    assert (parsed is None) == (text == "none")
    assert parsed is None or parsed.text in ("bn:1000", "bn:50")


@pytest.mark.parametrize("text", ["bn:", "bn:x", "bn:3", "batchnorm", "bn:-4"])
def test_bad_options(text: str) -> None:
    with pytest.raises(UsageError):
        parse_recalibration(text)


def test_a_model_without_batch_norm_and_too_few_inputs_are_refused() -> None:
    with pytest.raises(WorkloadError, match="holds 20 inputs, recalibration wants 30"):
        BatchNormRecalibration(workload(), images(1, 20), Recalibrate(30))
    plain = Workload(
        Architecture("plain", nn.Module, num_classes=4), nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), images(1, 8)
    )
    with pytest.raises(WorkloadError, match="has no batch-norm statistics"):
        BatchNormRecalibration(plain, images(1, 40), Recalibrate(10))
