"""Weights that were saved from inside a wrapper, or beside a second copy of themselves; and names of older releases."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from faultcli.errors import WorkloadError
from faultcli.live import LiveTensor
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.models.arch_spellings import resolve_architecture
from faultcli.workload.models.architectures import ARCHITECTURES, Architecture
from faultcli.workload.models.binding import binding_of, live_tensors
from faultcli.workload.models.loading import load_model

State = dict[str, Tensor]
INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))


def wrapped(name: str) -> nn.Module:
    outer = nn.Module()
    outer.add_module(name, net())
    outer.forward = outer.get_submodule(name).forward  # type: ignore[method-assign]
    return outer


@pytest.fixture
def state() -> State:
    torch.manual_seed(3)
    return {name: torch.randn(tensor.shape).abs().to(tensor.dtype) for name, tensor in net().state_dict().items()}


def answers(state: State) -> Tensor:
    model = net().eval()
    model.load_state_dict(state)
    return model(INPUTS).detach()


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def notes(model: nn.Module) -> list[str]:
    binding = binding_of(model)
    assert binding is not None
    return list(binding.notes)


def is_live(live: LiveTensor, model: nn.Module) -> bool:
    before = model(INPUTS)
    assert isinstance(live, Tensor)
    kept = live.clone()
    live.add_(1)
    changed = not torch.equal(model(INPUTS), before)
    live.copy_(kept)
    return changed


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "a.b.c.d."])
def test_what_all_names_begin_with_is_taken_off(prefix: str, state: State) -> None:
    model = load_model(Architecture("net", net), under(prefix, state))
    assert torch.equal(model(INPUTS), answers(state))
    assert notes(model) == [f"the file's names begin with {prefix!r}, which is taken off"]
    live = live_tensors(model)
    assert live.keys() == under(prefix, state).keys()
    assert is_live(live[prefix + "0.weight"], model)


@pytest.mark.parametrize("inner", ["module", "backbone"])
def test_what_the_file_lacks_is_put_before(inner: str, state: State) -> None:
    model = load_model(Architecture("net", partial(wrapped, inner)), state)
    assert torch.equal(model(INPUTS), answers(state))
    assert notes(model) == [f"the network's names begin with '{inner}.', which the file's lack"]
    model = load_model(Architecture("net", partial(wrapped, inner)), under("model.", state))
    assert torch.equal(model(INPUTS), answers(state))
    assert notes(model) == [f"the file's names begin with 'model.' where the network's begin with '{inner}.'"]
    assert load_model(Architecture("net", partial(wrapped, inner)), under(f"{inner}.", state))


def test_what_wrappers_of_inner_modules_put_in_names_is_taken_out(state: State) -> None:
    file = {"model." + name.replace("0.", "0._orig_mod.module."): tensor for name, tensor in state.items()}
    model = load_model(Architecture("net", net), file)
    assert torch.equal(model(INPUTS), answers(state))
    assert live_tensors(model).keys() == file.keys()
    assert notes(model) == [
        "the file's names have _orig_mod. and module. in them, which is taken out",
        "the file's names begin with 'model.', which is taken off",
    ]


def shadow(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


BESIDE = {
    "ema": (
        "",
        lambda s: under("ema.", shadow(s)),
        "9 tensors under 'ema.', is not run and not at risk: those without",
    ),
    "ema of a wrapper": (
        "model.",
        lambda s: under("ema_model.module.", shadow(s)) | {"ema_model.n_averaged": torch.tensor(3)},
        "10 tensors under 'ema_model.', is not run and not at risk: those under 'model.' run",
    ),
    "Lightning's": (
        "model.",
        lambda s: (
            {"model_ema." + name.replace(".", ""): tensor + 1 for name, tensor in s.items() if "running" not in name}
            | {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
        ),
        "9 tensors under 'model_ema.', is not run",
    ),
    "teacher": ("student.", lambda s: under("teacher.", shadow(s)), "under 'teacher.', is not run"),
    "averaged": ("module.", lambda s: {"n_averaged": torch.tensor(7)}, "1 tensor beside 'module.' is not of the model"),
    "of a loss": ("model.", lambda s: {"criterion.weight": torch.ones(4)}, "not at risk: criterion.weight"),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_a_second_copy_is_left_out_and_said(kind: str, state: State) -> None:
    prefix, beside, said = BESIDE[kind]
    more = beside(state)
    for file in ({**more, **under(prefix, state)}, {**under(prefix, state), **more}):
        model = load_model(Architecture("net", net), file)
        assert torch.equal(model(INPUTS), answers(state))
        assert live_tensors(model).keys() == under(prefix, state).keys()
        told = [note for note in notes(model) if "taken off" not in note]
        assert len(told) == 1
        assert said in told[0]


def test_built_in_networks_are_recognised_in_a_wrapper() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in ARCHITECTURES["lenet"].build().state_dict().items()}
    for file in (
        {"module." + name: shape for name, shape in shapes.items()},
        shapes | {"ema." + name: shape for name, shape in shapes.items()},
    ):
        assert resolve_architecture(None, file) is ARCHITECTURES["lenet"]
    with pytest.raises(WorkloadError, match="not those of any built-in"):
        resolve_architecture(None, {"module." + name: shape for name, shape in list(shapes.items())[1:]})


def test_the_demo_in_a_wrapper_runs(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from faultcli.campaign.subject import Subject

    save_file(under("_orig_mod.", load_file(demo_checkpoint_path())), tmp_path / "m.safetensors")
    inside, plain = Subject.open(tmp_path / "m.safetensors", "digits", limit=50), Subject.open(None, limit=50)
    assert torch.equal(inside.classifier("").logits(), plain.classifier("").logits())
    assert set(inside.tensors) == {"_orig_mod." + name for name in plain.tensors}


def test_exported_programs_take_a_wrapper_too(state: State, tmp_path: Path) -> None:
    program = torch.export.export(net().eval(), (INPUTS,))
    torch.export.save(program, tmp_path / "net.pt2")
    model = load_model(resolve_architecture(str(tmp_path / "net.pt2"), {}), under("module.", state))
    torch.testing.assert_close(model(INPUTS), answers(state))


def test_what_does_not_fit_is_said_as_it_is_called(state: State) -> None:
    with pytest.raises(WorkloadError, match=r"tensors 1 missing \(3.bias\)$"):
        load_model(Architecture("net", net), under("module.", {k: t for k, t in state.items() if k != "3.bias"}))
    with pytest.raises(WorkloadError, match=r"tensors 1 unexpected \(extra\)"):
        load_model(Architecture("net", net), state | {"extra": torch.zeros(2)})


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3), dim=0), nn.Flatten(), nn.Linear(144, 4))


class Fused(nn.Module):
    """Its older releases had a query, a key and a value, which its loading puts together, and a gain of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.gain = nn.Linear(8, 24), nn.Parameter(torch.ones(8))

    def _load_from_state_dict(self, state_dict: State, prefix: str, *rest: object) -> None:
        for kind in ("weight", "bias"):
            parts = [state_dict.pop(f"{prefix}{part}.{kind}", None) for part in "qkv"]
            if all(part is not None for part in parts):
                state_dict[f"{prefix}qkv.{kind}"] = torch.cat(parts)  # type: ignore[arg-type]
        if f"{prefix}log_gain" in state_dict:
            state_dict[f"{prefix}gain"] = state_dict.pop(f"{prefix}log_gain").exp()
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x[:, 0, 0] * self.gain)  # type: ignore[no-any-return]


class Hidden(nn.Module):
    """A wrapper that gives the names of what it wraps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def state_dict(self, *args: object, **kwargs: object) -> State:  # type: ignore[override]
        return self.inner.state_dict(*args, **kwargs)  # type: ignore[arg-type,return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("hidden", [False, True])
def test_older_names_of_weight_normalisation_are_read(prefix: str, hidden: bool) -> None:
    torch.manual_seed(0)
    new = weight_normed().eval()
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor.clone()
        for name, tensor in new.state_dict().items()
    }
    build = (lambda: Hidden(weight_normed())) if hidden else weight_normed
    model = load_model(Architecture("net", build), under(prefix, old))
    assert torch.equal(model(INPUTS), new(INPUTS))
    live = live_tensors(model)
    assert live.keys() == under(prefix, old).keys()
    for name in ("0.weight_g", "0.weight_v"):
        assert is_live(live[prefix + name], model)


def test_what_a_network_puts_together_is_hit_in_parts_and_what_it_computes_is_refused() -> None:
    from faultcli.workload.score import ScoreTask, ScoreWorkload

    torch.manual_seed(0)
    state = {f"0.{part}.{kind}": torch.randn(8, 8)[: 8 if kind == "weight" else 1].squeeze(0) for part in "qkv"
             for kind in ("weight", "bias")} | {"0.log_gain": torch.randn(8)}  # fmt: skip
    model = load_model(Architecture("net", lambda: nn.Sequential(Fused())), state)
    plain = nn.Sequential(Fused()).eval()
    plain.load_state_dict(dict(state))
    assert torch.equal(model(INPUTS), plain(INPUTS))
    live = live_tensors(model)
    assert live.keys() == state.keys() - {"0.log_gain"}
    key = live["0.k.weight"]
    assert isinstance(key, Tensor)
    key[2, 3] = 5.0
    plain[0].qkv.weight.data[10, 3] = 5.0  # type: ignore[union-attr]
    assert torch.equal(model(INPUTS), plain(INPUTS))
    workload = ScoreWorkload(Architecture("net", net), model, ScoreTask(lambda m: 0.0, "nothing"))
    assert workload.read_by_model(["0.q.bias"]) == ["0.q.bias"]
    with pytest.raises(WorkloadError, match=r"net: computes with 0.log_gain on loading, so faults in the file cannot"):
        workload.read_by_model(["0.q.bias", "0.log_gain"])


def test_modules_that_stand_in_two_places_are_two_if_both_are_stored() -> None:
    def shared() -> nn.Module:
        layer = nn.Linear(4, 4)
        return nn.Sequential(layer, nn.ReLU(), layer)

    torch.manual_seed(0)
    state = {f"{i}.{kind}": torch.randn(4, 4)[: 4 if kind == "weight" else 1].squeeze(0) for i in (0, 2)
             for kind in ("weight", "bias")}  # fmt: skip
    model = load_model(Architecture("net", shared), state)
    x = torch.randn(3, 4)
    apart = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    apart.load_state_dict(state)
    assert torch.equal(model(x), apart(x))
    assert "the network ties 0.weight and 2.weight; the file has both, and they differ: they run as two" in notes(model)
    once = load_model(Architecture("net", shared), {k: t for k, t in state.items() if k.startswith("0")})
    assert once[0] is once[2]  # type: ignore[index]
    assert notes(once) == []
