"""The front door: every public name works as its documentation says, and loads nothing before it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import faultcli as fc
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.runner import run_campaign
from faultcli.faults.laws import parse_law
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain
from faultcli.workload.demo import demo_checkpoint_path

FORMATS = ["native", "fp16", "q2.5", "int8-channel"]


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(), nn.Flatten(), nn.Linear(216, 5))


def images(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def bits_of(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.cpu().contiguous().numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_the_import_is_light() -> None:
    code = "import sys, faultcli; sys.exit([m for m in ('torch', 'numpy', 'scipy') if m in sys.modules] or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    for name in fc.__all__:
        if name != "__version__":
            assert getattr(fc, name).__doc__, name
    assert set(fc.__all__) - {"__version__"} == set(fc._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fc.nonsense  # noqa: B018


def test_the_commands_submodules_do_not_hide_a_name() -> None:
    """`import faultcli.X` puts X into the package's namespace; no public name may be the name of a module."""
    package = Path(fc.__file__).parent
    modules = {path.stem for path in package.iterdir()} - {"__init__", "__main__"}
    assert not modules & (set(fc.__all__) - {"extend"})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("protect", ["none", "secded=64", "scale=max"])
def test_faulty_is_the_patch_and_leaves_no_trace(format: str, protect: str) -> None:
    model = net()
    before = bits_of(model)
    with fc.faulty(model, "bitflip:1e-2", format=format, protect=protect, seed=3, trial=5) as hit:
        found = {name: model.state_dict()[name].clone() for name in ("0.weight", "4.weight")}
    assert bits_of(model) == before
    tensors = {name: model.state_dict()[name] for name in ("0.weight", "4.weight")}
    image = MemoryImage(tensors, format, parse_chain(protect))
    faults = image.draw(parse_law("bitflip:1e-2"), seed=3, trial=5)
    expected = {name: values.clone() for name, values in image.values()}
    for name, touched in image.patch(faults).elements.items():
        expected[name].view(-1)[touched.index] = touched.values
    assert hit.flips == faults.flips > 0
    for name, values in expected.items():
        assert torch.equal(found[name].view(torch.int32), values.float().view(torch.int32)), name


def test_a_model_that_is_not_contiguous() -> None:
    plain, strided = net(), net().to(memory_format=torch.channels_last)
    assert not strided.state_dict()["0.weight"].is_contiguous()
    before = bits_of(strided)
    with fc.faulty(plain, "bitflip:1e-2"), fc.faulty(strided, "bitflip:1e-2"):
        for name, tensor in plain.state_dict().items():
            assert torch.equal(tensor.nan_to_num(), strided.state_dict()[name].nan_to_num())
    assert bits_of(strided) == before


def test_an_exception_takes_the_faults_back() -> None:
    model = net()
    before = bits_of(model)
    with pytest.raises(RuntimeError, match="of the user"), fc.faulty(model, "bitflip:1e-2", format="q2.5"):
        raise RuntimeError("of the user")
    assert bits_of(model) == before


def test_tied_weights_are_stored_once() -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    model[1].weight = model[0].weight
    memory = fc.MemoryImage.of(model)
    assert list(memory.tensors) == ["0.weight"]
    assert memory.bits == 50 * 8 * 32


def test_within_as_stored_a_trial_touches_flips_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    before = bits_of(model)
    memory = fc.MemoryImage.of(model, format="q2.5")
    copies: list[str] = []
    original = MemoryImage._copy_in
    monkeypatch.setattr(MemoryImage, "_copy_in", lambda self, values: (copies.append("all"), original(self, values))[1])
    with memory.as_stored():
        stored = bits_of(model)
        assert stored != before
        for trial in range(5):
            with memory.faulty("flips:2", trial=trial) as hit:
                assert hit.flips == 2
            assert bits_of(model) == stored
        assert copies == ["all"]
    assert bits_of(model) == before
    assert copies == ["all", "all"]


def test_a_memory_of_tensors_has_no_model() -> None:
    with pytest.raises(fc.FaultcliError, match="not made of a model"), MemoryImage({"w": torch.ones(2, 2)}).as_stored():
        pass


@pytest.mark.parametrize("data", ["loader", "pair", "arrays", "batches"])
def test_a_subject_of_a_module(data: str) -> None:
    model = net().train()
    x = images()
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.train()
    model[1].eval()  # a module of its own mode
    given = {
        "loader": DataLoader(TensorDataset(x, y), batch_size=7),
        "pair": (x, y),
        "arrays": (x.numpy(), y.numpy().astype(np.uint16)),
        "batches": [(x[:10], y[:10]), (x[10:], y[10:])],
    }[data]
    before = bits_of(model)
    subject = fc.Subject.of(model, given)
    result = fc.run_campaign(subject, ["bitflip:1e-3"], formats=["fp16", "q2.5"], trials=3)
    assert bits_of(model) == before
    assert [module.training for module in model] == [True, False, True, True, True]
    assert result.original.top1 == 1.0
    assert result.inputs == 40
    assert len(result.arms) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (3, "is a int"),
        ([], "there are no batches"),
        ([torch.ones(3)], "no pair of tensors"),
        ((torch.ones(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])), "go to the model as they are"),
    ],
)
def test_data_that_are_none(data: object, said: str) -> None:
    with pytest.raises(fc.FaultcliError, match=said):
        fc.Subject.of(net(), data)


def test_a_campaign_is_that_of_the_plan(tmp_path: Path) -> None:
    subject = fc.Subject.open(demo_checkpoint_path(), "digits", limit=60)
    ours = fc.run_campaign(subject, ["bitflip:1e-3"], formats=["q2.5"], protect=["none", "scale=max"], trials=4, seed=2)
    plan = Plan(
        cross(["q2.5"], [parse_law("bitflip:1e-3")], [parse_chain("none"), parse_chain("scale=max")]), 4, seed=2
    )
    theirs = run_campaign(plan, subject)
    assert ours.plan_hash == theirs.plan_hash
    outcomes = [[record.outcome for record in arm.records] for arm in ours.arms]
    assert outcomes == [[record.outcome for record in arm.records] for arm in theirs.arms]


def test_gates_stores_reports_and_frames(tmp_path: Path) -> None:
    subject = fc.Subject.open(limit=40)
    store = tmp_path / "run.sqlite"
    result = fc.run_campaign(subject, "bitflip:1e-2", formats=["q2.5"], gates={"max-drop": 0.1}, store=store)
    assert result.verdict == "fail"
    assert fc.read_result(store).verdict == "fail"
    page, summary = tmp_path / "report.html", tmp_path / "summary.md"
    fc.write_report(result, page, summary)
    assert page.stat().st_size > 10_000
    assert "Fail" in summary.read_text()
    frame = result.to_frame()
    assert list(frame["format"]) == ["q2.5"]
    assert len(result.to_frame("trials")) == len(result.arms[0].records)
    assert "<table>" in result._repr_html_()
    with pytest.raises(fc.FaultcliError, match="is no kind of report"):
        fc.write_report(result, tmp_path / "report.docx")


def test_a_scaled_checkpoint_is_the_model_it_is(tmp_path: Path) -> None:
    """The trap of building a workload by hand: the scaled words are no weights."""
    from faultcli.cli import run

    scaled = tmp_path / "scaled.safetensors"
    assert run(["scale", str(demo_checkpoint_path()), "--factor", "0.25", "-o", str(scaled), "--quiet"]) == 0
    plain, found = (fc.Subject.open(path, "digits") for path in (demo_checkpoint_path(), scaled))
    assert found.workload.outcome().top1 == plain.workload.outcome().top1 > 0.97


def test_inject_and_replay(tmp_path: Path) -> None:
    out, faults, back = (tmp_path / name for name in ("out.safetensors", "map.safetensors", "back.safetensors"))
    done = fc.inject(demo_checkpoint_path(), "bitflip:1e-4", out, save_faults=faults, trial=2, include=["conv*"])
    assert done.faults.trial == 2
    assert all(name.startswith("conv") for name in done.faults.layout)
    fc.replay(out, faults, back)
    assert back.read_bytes() == demo_checkpoint_path().read_bytes()


QUICK = {"maps": 2, "report_maps": 2, "window": 250}


def test_a_corrector_is_that_of_the_command(tmp_path: Path) -> None:
    from faultcli.cli import run

    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    subject = fc.Subject.open(demo_checkpoint_path(), "digits")
    before = bits_of(subject.workload.model)
    perceptron = {"method": "edmn", "hidden": [16], "epochs": 2, "gamma": 0.5}
    memory = {"format": "q2.5", "protect": "scale=max,guard"}
    trained = fc.train_corrector(subject, "gaussian:0.1", ours, **memory, **perceptron, **QUICK)
    assert bits_of(subject.workload.model) == before
    command = ["train-corrector", str(demo_checkpoint_path()), "--data", "digits", "--fault", "gaussian:0.1"]
    command += ["--format", "q2.5", "--protect", "scale=max,guard", "--method", "edmn", "--hidden", "16"]
    command += ["--epochs", "2", "--gamma", "0.5", "--maps", "2", "--report-maps", "2", "--window", "250", "--quiet"]
    assert run([*command, "-o", str(theirs), "--json", str(tmp_path / "found.json")]) == 0
    assert ours.read_bytes() == theirs.read_bytes()
    said = json.loads((tmp_path / "found.json").read_text())["levels"]
    for level, written in zip(trained.levels, said, strict=True):
        assert (level.fault, len(level.maps)) == (written["fault"], written["maps"])
        assert level.mean("corrected") == written["corrected"]["mean"]
    with pytest.raises(fc.FaultcliError, match="exists"):
        fc.train_corrector(subject, "gaussian:0.1", ours)


def test_a_corrector_for_the_damage_that_is_there(tmp_path: Path) -> None:
    faults = tmp_path / "map.safetensors"
    fc.inject(demo_checkpoint_path(), "gaussian:0.1", tmp_path / "out.safetensors", save_faults=faults)
    subject = fc.Subject.open(demo_checkpoint_path(), "digits")
    trained = fc.train_corrector(subject, fc.FaultMap.load(faults), **QUICK)
    (level,) = trained.levels
    assert trained.corrector.card.setting == "known damage"
    assert level.mean("corrected") > level.mean("corrupted") + 0.02


def test_a_corrector_for_a_model_in_memory() -> None:
    """Data in memory have no training split: one half trains, the other one judges."""
    demo = fc.Subject.open(demo_checkpoint_path(), "digits,split=train").workload
    inputs = demo.prepare(demo.dataset).first
    subject = fc.Subject.of(demo.model, (inputs, demo.labels))
    before = bits_of(demo.model)
    trained = fc.train_corrector(subject, "gaussian:0.1", method="align", **QUICK | {"window": 100})
    assert bits_of(demo.model) == before
    assert trained.inputs == len(inputs) - len(inputs) // 2
    healthy, damaged = trained.levels
    assert healthy.mean("corrupted") > 0.95
    assert damaged.mean("corrected") > damaged.mean("corrupted")
    with pytest.raises(fc.FaultcliError, match="has no training split to look at"):
        subject.looking_at()


def test_mistakes_are_explained() -> None:
    with pytest.raises(fc.FaultcliError, match="unknown fault law"), fc.faulty(net(), "bitflop:1e-4"):
        pass
    with pytest.raises(fc.FaultcliError, match="unknown gate"):
        fc.run_campaign(fc.Subject.open(limit=10), "flips:1", gates={"max-drip": 0.1})
