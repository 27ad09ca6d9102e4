"""Faults in the words of quantised checkpoints: hit by role, written and taken back byte for byte, and run: a trial is
the model of the corrupted file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from quantised_models import small_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import faultcli
from faultcli.campaign.plan import Arm
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.packed import HitWords, Packed
from faultcli.cli import run
from faultcli.errors import CheckpointError, UsageError, WorkloadError
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import Selection
from faultcli.quantised import FileAtRisk, Quantised

GOLDEN = Path(__file__).parent / "golden" / "packed"
CASES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("quantised"))


@pytest.fixture
def subject(model: Path) -> Callable[..., Subject]:
    def opened(directory: Path = model, **selecting: str) -> Subject:
        return Subject.open(directory, str(model.parent / "tokens.safetensors"), arch="hf", device="cpu", **selecting)

    return opened


def words_of(tensor: Tensor) -> list[int]:
    return tensor.contiguous().view(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("name", CASES)
def test_every_byte_comes_back(name: str, tmp_path: Path) -> None:
    source = GOLDEN / name
    made = tmp_path / "faulty"
    done = faultcli.inject(source, "bitflip:3e-3", made, save_faults=tmp_path / "map.safetensors", seed=5)
    assert done.faults.flips
    assert (made / "model.safetensors").read_bytes() != (source / "model.safetensors").read_bytes()
    back = faultcli.replay(made, tmp_path / "map.safetensors", tmp_path / "back")
    assert back.restored
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    before, after = Packed.of(Checkpoint.open(source)), Packed.of(Checkpoint.open(made))
    assert before is not None
    assert after is not None
    (weight,) = before.weights
    changed = [a != b for a, b in zip(words_of(before.decode(weight)), words_of(after.decode(weight)), strict=True)]
    width = before.decode(weight).element_size()
    values = sum(any(changed[at : at + width]) for at in range(0, len(changed), width))
    own = [part for part in done.faults.faults if part in before.roles]
    assert done.values_changed == values + sum(
        len(done.faults.faults[p].words) for p in done.faults.faults if p not in own
    )


@pytest.mark.parametrize("target", ["weights", "codes", "scales", "zeros", "indices", "all-parts", "all"])
def test_a_trial_is_the_corrupted_file(
    target: str, subject: Callable[..., Subject], model: Path, tmp_path: Path
) -> None:
    """The same bits are hit; the model then holds what the file, opened anew, reads as."""
    ran = subject(target=target)
    image = ran.memory()
    faults = image.draw(parse_law("bitflip:1e-3"), seed=3, trial=2)
    done = faultcli.inject(model, "bitflip:1e-3", tmp_path / "faulty", target=target, seed=3, trial=2)
    assert faults.sha256() == done.faults.sha256()
    patch = image.patch(faults)
    assert patch.values_changed == done.values_changed
    with patch.applied(ran.workload.parameters):
        held = {name: words_of(tensor) for name, tensor in ran.workload.parameters.items()}
        answers = ran.workload.outcome()
    corrupted = subject(tmp_path / "faulty")
    assert held == {name: words_of(tensor) for name, tensor in corrupted.workload.parameters.items()}
    assert answers == corrupted.workload.outcome()
    assert {name: words_of(t) for name, t in ran.workload.parameters.items()} == {
        name: words_of(t) for name, t in subject().workload.parameters.items()
    }


def test_targets_are_parts(model: Path) -> None:
    def names(target: str) -> set[str]:
        quantised = Quantised.of(Checkpoint.open(model), Selection(target=target))
        assert quantised is not None
        return {name.rpartition(".")[2] for name in quantised.names}

    parts = {"codes": "qweight", "scales": "scales", "zeros": "qzeros", "indices": "g_idx"}
    assert {role: names(role) for role in parts} == {role: {end} for role, end in parts.items()}
    assert names("all-parts") == set(parts.values())
    assert names("weights") == {*parts.values(), "weight"}  # the embedding lies there as well
    norms = Quantised.of(Checkpoint.open(model), Selection(target="all"))
    assert norms is not None
    assert "model.norm.weight" in norms.names
    assert "model.norm.weight" not in Quantised.of(Checkpoint.open(model), Selection()).names  # type: ignore[union-attr]


def test_a_flip_costs_what_it_touches() -> None:
    """A code's word has 8 codes; a scale has a row's share of a group; the formula is asked for no more, twice: before
    and after."""
    packed = Packed.of(Checkpoint.open(GOLDEN / "gptq-4-act-order"))
    assert packed is not None
    (weight,) = packed.weights.values()
    asked: list[int] = []

    def counting(met: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        asked.append(met["code"].numel())
        return weight.grid.formula(met, dtype)

    counted = replace(weight, grid=replace(weight.grid, formula=counting))
    held = packed.held(weight.name)
    for part, most in (("qweight", 8), ("scales", 16), ("qzeros", 2 * 16), ("g_idx", 16)):
        asked.clear()
        counted.touched(HitWords(held, {f"layer.{part}": (np.array([3]), np.array([1], dtype=np.uint64))}))
        assert max(asked) <= most, part


def test_a_campaign_runs_on_the_words_of_the_file(subject: Callable[..., Subject]) -> None:
    result = faultcli.run_campaign(subject(target="codes"), ["bitflip:1e-3"], trials=3)
    assert result.arms[0].arm.format == "native"
    again = faultcli.run_campaign(subject(target="codes"), ["bitflip:1e-3"], trials=3)
    assert [r.outcome for r in result.arms[0].records] == [r.outcome for r in again.arms[0].records]


def test_the_weights_are_in_the_dtype_of_the_configuration(
    model: Path, subject: Callable[..., Subject], tmp_path: Path
) -> None:
    (tmp_path / "half").mkdir()
    said = json.loads((model / "config.json").read_text())
    (tmp_path / "half" / "config.json").write_text(json.dumps(said | {"dtype": "bfloat16"}))
    save_file(load_file(model / "model.safetensors"), tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in subject(tmp_path / "half").workload.parameters.values()} == {torch.bfloat16}
    assert {t.dtype for t in subject().workload.parameters.values()} == {torch.float32}


def test_what_makes_no_sense_is_refused(model: Path, subject: Callable[..., Subject], tmp_path: Path) -> None:
    ran = subject()
    with pytest.raises(UsageError, match=r"is quantised .GPTQ.: its memory is the words of its file"):
        ran.memory("int8")
    with pytest.raises(UsageError, match="guard: works on numbers"):
        ran.memory(protect="guard")
    with pytest.raises(UsageError, match="is quantised"):
        FileAtRisk.of(Checkpoint.open(model), Selection(), "fp16")
    for law in ("zero:0.1", "gaussian:0.1"):
        with pytest.raises(UsageError, match="changes values"):
            faultcli.inject(model, law, tmp_path / "out")
        with pytest.raises(UsageError, match="changes values"):
            ran.image(Arm("native", parse_law(law)))
    with pytest.raises(UsageError, match=r"--target codes: no tensor is left .the packed codes of quantised weights"):
        faultcli.inject(model.parent / "plain", "bitflip:1e-3", tmp_path / "out", target="codes")
    assert not (tmp_path / "out").exists()


def test_what_says_how_weights_are_stored_is_no_weight(tmp_path: Path) -> None:
    """`inject` may hit it, as any byte; a campaign cannot say what comes of it."""
    quantised = Quantised.of(Checkpoint.open(GOLDEN / "nf4"), Selection(target="any"))
    assert quantised is not None
    with pytest.raises(CheckpointError, match="says how others are stored"):
        _ = quantised.weights
    assert faultcli.inject(GOLDEN / "nf4", "flips:40", tmp_path / "out", target="any").faults.flips == 40


def test_a_library_that_is_not_known_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    said = json.loads((model / "config.json").read_text())
    said["quantization_config"]["quant_method"] = "aqlm"
    (tmp_path / "other" / "config.json").write_text(json.dumps(said))
    save_file(load_file(model / "model.safetensors"), tmp_path / "other" / "model.safetensors")
    with pytest.raises(WorkloadError, match="quantised by a library whose layout is not read"):
        Subject.open(tmp_path / "other", str(model.parent / "tokens.safetensors"), arch="hf", device="cpu")


def test_inspect_counts_bits_by_part(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(model), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    held = load_file(model / "model.safetensors")
    ends = {"codes": "qweight", "scales": "scales", "zeros": "qzeros", "indices": "g_idx"}
    bits = {role: sum(8 * t.nbytes for n, t in held.items() if n.endswith(end)) for role, end in ends.items()}
    assert found["bits_by_role"] == bits | {"other tensors": 8 * held["model.embed_tokens.weight"].nbytes}
    assert found["bits"] == sum(found["bits_by_role"].values())
    roles = {tensor["name"].rpartition(".")[2]: tensor["role"] for tensor in found["tensors"]}
    assert {roles[end] for end in ends.values()} == set(ends)
    assert run(["inspect", str(model), "--target", "scales"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{bits['scales']:,} bits in native; scales {bits['scales']:,}" in text
