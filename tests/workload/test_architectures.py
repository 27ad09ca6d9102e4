"""Which architecture a checkpoint has, and what may and may not decide it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.architectures import ARCHITECTURES, Architecture, _shapes
from faultcli.workload.models.loading import load_model

Shapes = dict[str, tuple[int, ...]]


def shapes_of(name: str) -> Shapes:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in ARCHITECTURES[name].build().state_dict().items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_built_in_is_recognised_and_does_what_its_record_says(name: str) -> None:
    architecture = ARCHITECTURES[name]
    shapes = shapes_of(name)
    assert resolve_architecture(None, shapes, {}) is architecture
    counted = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert resolve_architecture(None, counted) is architecture
    assert resolve_architecture(name, {}) is architecture
    assert architecture.input_shape is not None
    with torch.device("meta"):
        logits = architecture.build().eval()(torch.empty(2, *architecture.input_shape))
    assert logits.shape == (2, architecture.num_classes)
    assert "\n" not in architecture.description
    assert architecture.source
    assert architecture.tensors == len(counted)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_last_layer_for_other_classes_is_recognised_all_the_same(name: str) -> None:
    architecture = ARCHITECTURES[name]
    ending = f"{architecture.head}."
    anew = {key: (7, *shape[1:]) if key.startswith(ending) else shape for key, shape in shapes_of(name).items()}
    found = resolve_architecture(None, anew)
    assert (found.name, found.num_classes) == (f"{name} (7 classes)", 7)
    for spec, metadata in ((name, {}), (None, {"faultcli.arch": name})):
        assert resolve_architecture(spec, anew, metadata).num_classes == 7
    with torch.device("meta"):
        state = found.build().state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == anew
    assert found.preprocess == architecture.preprocess
    assert found.data == ("images:DIR" if architecture.geometry else "FILE.npz")
    other = next(key for key in anew if not key.startswith(ending))
    with pytest.raises(WorkloadError, match=f"tensor names of {name}, but '{other}' is "):
        resolve_architecture(None, anew | {other: (5, 5, 5, 5)})
    with pytest.raises(WorkloadError, match=f"tensor names of {name}, but '{ending}weight' is "):
        resolve_architecture(None, {key: (0,) if key.startswith(ending) else shape for key, shape in anew.items()})


def test_only_what_may_fit_is_built() -> None:
    """To build them all takes longer than to start the program."""
    foreign = {"classifier.weight": (3, 768), "classifier.bias": (3,)} | {f"layer.{n}": (768,) for n in range(300)}
    assert len(foreign) not in {architecture.tensors for architecture in ARCHITECTURES.values()}
    built = _shapes.cache_info().currsize
    with pytest.raises(WorkloadError, match="the checkpoint's 302 tensors are not those of any built-in"):
        resolve_architecture(None, foreign)
    assert _shapes.cache_info().currsize == built


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mnist/lenet", "lenet"),
        ("cifar10/resnet20", "cifar-resnet20"),
        ("cifar10/resnet56", "cifar-resnet56"),
        ("imagenet/squeezenet1_1", "squeezenet1_1"),
    ],
)
def test_real_checkpoints_are_recognised_by_their_tensors(data_dir: Path, file: str, name: str) -> None:
    with safe_open(data_dir / f"{file}.safetensors", "pt") as opened:
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        assert resolve_architecture(None, shapes, opened.metadata()).name == name


def test_metadata_may_name_a_built_in() -> None:
    with safe_open(demo_checkpoint_path(), "pt") as opened:
        assert opened.metadata() == {"faultcli.arch": "digits-cnn"}
    assert resolve_architecture(None, {}, {"faultcli.arch": "mnist-cnn"}).name == "mnist-cnn"


@pytest.mark.parametrize("evil", ["os:system", "workload_trap:make", "torchvision:resnet18"])
def test_nothing_that_metadata_names_is_imported(evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "workload_trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkloadError, match=f"metadata names the architecture '{evil}', which is not built in") as info:
        resolve_architecture(None, {"w": (1,)}, {"faultcli.arch": evil})
    assert "pass --arch" in (info.value.remedy or "")
    assert "workload_trap" not in sys.modules
    # Where the tensors say what it is, a strange name does no harm.
    assert resolve_architecture(None, shapes_of("lenet"), {"faultcli.arch": evil}).name == "lenet"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown architecture 'lenett'") as info:
        resolve_architecture("lenett", {})
    assert "did you mean 'lenet'?" in (info.value.remedy or "")


def test_what_is_not_recognised_says_why() -> None:
    with pytest.raises(WorkloadError, match="the checkpoint's 1 tensors are not those of any built-in") as info:
        resolve_architecture(None, {"weight": (3, 4)})
    assert "pass --arch: hf, torchvision:NAME, timm:NAME" in (info.value.remedy or "")
    other = shapes_of("lenet") | {"fc1.weight": (500, 784)}
    with pytest.raises(WorkloadError, match=r"of lenet, but 'fc1.weight' is \[500, 784\] and not \[500, 800\]"):
        resolve_architecture(None, other)


FACTORIES = """
import torch
from torch import nn
from faultcli.workload.models.architectures import Architecture
def net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def record(): return Architecture("mine", net, num_classes=10)
def number(): return 3
def breaks(): raise KeyError("lost")
def leaves(): raise SystemExit(0)
model = net()
constant = 3
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight
    def forward(self, x): return self.b(self.a(x))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, named after the test's own directory so that none is imported twice."""
    name = f"factories_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_broken.py").write_text("import not_there_at_all\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_makes_a_module_or_a_record(factories: str) -> None:
    made = resolve_architecture(f"{factories}:net", {})
    assert (made.name, made.input_shape, made.num_classes) == (f"{factories}:net", None, None)
    first, second = made.build(), made.build()
    assert isinstance(first, nn.Module)
    assert first is not second
    assert resolve_architecture(f"{factories}:record", {}).name == "mine"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}:number", "the factory returned a int"),
        ("{}:breaks", "calling it failed: KeyError: 'lost'"),
        ("{}:leaves", "calling it failed: SystemExit: 0"),
        ("{}:absent", "has no 'absent'"),
        ("{}:model", "'model' is a Sequential and not a factory"),
        ("{}:constant", "'constant' is a int and not a factory"),
        ("{}_broken:net", "failed: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("{}_none:net", "failed: ModuleNotFoundError"),
        ("nets/{}.py:net", "names a file; a module has no .py"),
        (":net", "does not read as package.module:factory"),
    ],
)
def test_factories_that_fail(factories: str, spec: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        resolve_architecture(spec.format(factories), {})


def lenet_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes_of("lenet").items()}


def test_a_loaded_model_owns_its_tensors_and_leaves_the_generator_alone() -> None:
    state = lenet_state()
    state["fc1.weight"] = state["fc1.weight"].t().contiguous().t()
    state["fc2.bias"] = state["fc2.bias"].to(torch.bfloat16)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = load_model(ARCHITECTURES["lenet"], state)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name].float())
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert tensor.data_ptr() != state[name].data_ptr()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_batch_counters_may_be_missing_or_left_over() -> None:
    architecture = ARCHITECTURES["cifar-resnet20"]
    state = architecture.build().state_dict()
    bare = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(bare) < len(state)
    load_model(architecture, bare)
    load_model(architecture, bare | {"linear.num_batches_tracked": torch.tensor(3)})


def test_a_misfit_lists_what_does_not_fit() -> None:
    state = lenet_state()
    del state["conv1.bias"], state["conv1.weight"], state["conv2.bias"], state["conv2.weight"]
    state |= {"fc1.bias": torch.zeros(3), "extra": torch.zeros(()), "fc2.bias": torch.zeros(10, dtype=torch.int8)}
    with pytest.raises(WorkloadError) as info:
        load_model(ARCHITECTURES["lenet"], state)
    assert info.value.message == (
        "the checkpoint does not fit the architecture lenet: tensors 4 missing (conv1.weight, conv1.bias,"
        " conv2.weight, …); 1 unexpected (extra); 1 of another shape (fc1.bias [3] instead of [500]);"
        " 1 not real numbers (fc2.bias torch.int8)"
    )
    assert info.value.remedy == "pass the --arch that the checkpoint was trained with"


def test_tied_parameters_need_one_name_and_are_two_if_both_are_stored(factories: str) -> None:
    tied: Architecture = resolve_architecture(f"{factories}:Tied", {})
    weight, x = torch.arange(4.0).view(2, 2), torch.tensor([[1.0, 2.0]])
    model = load_model(tied, {"a.weight": weight})
    assert torch.equal(model.state_dict()["b.weight"], weight)
    assert model.state_dict()["a.weight"].data_ptr() == model.state_dict()["b.weight"].data_ptr()
    for other in (weight.clone(), weight + 1):
        model = load_model(tied, {"a.weight": weight, "b.weight": other})
        own = model.state_dict()
        assert torch.equal(own["a.weight"], weight)
        assert torch.equal(own["b.weight"], other)
        assert own["a.weight"].data_ptr() != own["b.weight"].data_ptr()
        assert torch.equal(model(x), x @ weight.T @ other.T)
