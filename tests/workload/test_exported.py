"""Exported programs: only from the command line, filled with the checkpoint's tensors; and what cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from faultcli.errors import FaultcliError, UsageError, WorkloadError
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.loading import load_model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.second(self.first(x)).relu()))


def export(
    path: Path, device: str = "meta", dynamic: bool = True, model: nn.Module | None = None, inputs: int = 1
) -> str:
    with torch.device(device):
        net = (model or Net().to(device)).eval()
        example = tuple(torch.zeros(2, 4, device=device) for _ in range(inputs))
    shapes = tuple({0: torch.export.Dim("n")} for _ in range(inputs)) if dynamic else None
    torch.export.save(torch.export.export(net, example, dynamic_shapes=shapes), path)
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    torch.manual_seed(3)
    state = Net().state_dict()
    state["norm.running_mean"] = torch.randn(4)
    save_file(state, root / "net.safetensors")
    save_file({"inputs": torch.randn(6, 4), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}, root / "data.npz.safetensors")
    export(root / "net.pt2")
    return root


def build(place: Path, arch: str, **options: Any) -> Workload:
    made = build_workload(
        load_file(place / "net.safetensors"),
        spec=WorkloadSpec(arch=arch, data=str(place / "data.npz.safetensors"), device="cpu", **options),
    )
    assert isinstance(made, Workload)
    return made


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_it_answers_as_the_module_does(place: Path, tmp_path: Path, device: str) -> None:
    workload = build(place, export(tmp_path / "net.pt2", device))
    net = Net().eval()
    net.load_state_dict(load_file(place / "net.safetensors"))
    with torch.inference_mode():
        expected = net(load_file(place / "data.npz.safetensors")["inputs"])
    assert torch.equal(workload.logits(), expected)
    assert workload.architecture.input_shape == (4,)
    before = workload.logits()
    workload.parameters["first.weight"].mul_(2)
    assert not torch.equal(workload.logits(), before)


def test_tied_weights_need_one_name(place: Path, tmp_path: Path) -> None:
    net = Net()
    net.second.weight = net.first.weight
    state = load_file(place / "net.safetensors")
    del state["second.weight"]
    model = load_model(resolve_architecture(export(tmp_path / "tied.pt2", "cpu", model=net), {}), state)
    live = model.state_dict()
    assert live["first.weight"].data_ptr() == live["second.weight"].data_ptr()
    with pytest.raises(WorkloadError, match=r"tensors 1 missing \(second.weight\)"):  # meta does not know of ties
        load_model(resolve_architecture(str(place / "net.pt2"), {}), state)


def test_the_checkpoint_has_to_fit(place: Path) -> None:
    architecture = resolve_architecture(str(place / "net.pt2"), {})
    with pytest.raises(WorkloadError, match=r"fit the architecture .*net.pt2: tensors 1 unexpected \(extra\)"):
        load_model(architecture, load_file(place / "net.safetensors") | {"extra": torch.zeros(1)})


def test_a_fixed_batch_is_said(place: Path, tmp_path: Path) -> None:
    fixed = export(tmp_path / "fixed.pt2", dynamic=False)
    assert len(build(place, fixed).logits()) == 6  # 6 inputs are 3 batches of 2
    with pytest.raises(UsageError, match="exported for batches of exactly 2; there are 5 inputs in batches of 2"):
        build(place, fixed, limit=5)
    with pytest.raises(UsageError, match="in batches of 3") as info:
        build(place, fixed, batch_size=3)
    assert "pass --batch-size 2" in (info.value.remedy or "")


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


def test_programs_that_cannot_be_used(tmp_path: Path) -> None:
    text = tmp_path / "text.pt2"
    text.write_text("hello")
    with torch.device("meta"):
        constant = Constant()
    cases = {
        str(tmp_path / "none.pt2"): "there is no such file",
        str(text): "is no exported program that this torch",
        export(tmp_path / "two.pt2", model=TwoInputs(), inputs=2, dynamic=False): r"takes 2 inputs \(x, y\)",
        export(tmp_path / "constant.pt2", model=constant): "the constant 'shift' was exported without its values",
    }
    for spec, message in cases.items():
        with pytest.raises(WorkloadError, match=message):
            resolve_architecture(spec, {})


def test_metadata_never_loads_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(FaultcliError, match=r"metadata names the architecture '.*net.pt2', which is not built in"):
        resolve_architecture(None, {"w": (1,)}, {"faultcli.arch": str(place / "net.pt2")}, place, is_directory=True)


@pytest.mark.parametrize(
    ("weights", "program", "built_in"),
    [
        ("cifar10/resnet20", "cifar10/pt2/resnet20", "cifar-resnet20"),
        ("imagenet/squeezenet1_1", "imagenet/pt2/squeezenet1_1", "squeezenet1_1"),
    ],
)
def test_real_programs_are_the_built_in_networks(data_dir: Path, weights: str, program: str, built_in: str) -> None:
    state = load_file(data_dir / f"{weights}.safetensors")
    exported = resolve_architecture(str(data_dir / f"{program}.pt2"), {})
    own = resolve_architecture(built_in, {})
    assert exported.input_shape == own.input_shape is not None
    inputs = torch.randn(2, *own.input_shape, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        torch.testing.assert_close(load_model(exported, state)(inputs), load_model(own, state)(inputs))
