"""Correctors as files: what comes back, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic import CLASSES, labelled

from faultcli.errors import CheckpointError, OutputError
from faultcli.recover.base import Card, Corrector, CorrectorError
from faultcli.recover.edmn import EdmnOptions
from faultcli.recover.file import checksum, load_corrector, save_corrector
from faultcli.recover.methods import METHODS, TrainingOptions, train_corrector

DATA = labelled(1000, 2)
FAST = TrainingOptions(window=300, edmn=EdmnOptions(hidden=(16,), epochs=2))
CARD = Card(CLASSES, model="ab" * 32, faults=("zero:0.1",), seed=3)


def write(tensors: dict[str, torch.Tensor], header: str, path: Path) -> None:
    """Write a corrector's file with the checksum that belongs to it, whatever it holds."""
    kept = {name: tensor for name, tensor in tensors.items() if tensor.dtype != torch.complex64}
    arrays = {name: tensor.numpy() for name, tensor in kept.items()}
    save_file(tensors, path, {"faultcli.corrector": header, "faultcli.checksum": checksum(header, arrays)})


def train(method: str) -> Corrector:
    if method == "adaptive-known":
        single = replace(DATA, copies=DATA.copies[-1:])
        return train_corrector("adaptive", single, Card(CLASSES, "known damage"), FAST)
    return train_corrector(method, DATA, CARD, FAST)


@pytest.mark.parametrize("method", [*METHODS, "adaptive-known"])
def test_it_comes_back_as_it_was(method: str, tmp_path: Path) -> None:
    corrector = train(method)
    save_corrector(corrector, tmp_path / "c.safetensors")
    loaded = load_corrector(tmp_path / "c.safetensors")
    assert loaded.card == corrector.card
    assert type(loaded) is type(corrector)
    logits = DATA.copies[-1].logits
    first, second = corrector.observe(logits[:400]), loaded.observe(logits[:400])
    assert first.decision == second.decision
    assert torch.equal(first(logits), second(logits))
    save_corrector(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    with pytest.raises(OutputError, match="exists"):
        save_corrector(loaded, tmp_path / "c.safetensors")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_corrector(train("adaptive"), path)
    with safe_open(path, framework="pt") as file:
        tensors, header = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    content = json.loads(header["faultcli.corrector"])

    def rewritten(tensors: dict[str, torch.Tensor], content: object) -> Path:
        write(tensors, json.dumps(content), tmp_path / "bad.safetensors")
        return tmp_path / "bad.safetensors"

    cases = [
        (
            tensors,
            {**content, "schema": "faultcli.corrector-file/9"},
            "is faultcli.corrector-file/9, this faultcli reads",
        ),
        (tensors, {**content, "method": "magic"}, "damaged .unknown correction method"),
        (tensors, {**content, "card": {"classes": 6}}, "damaged"),
        (tensors, [], "is not a corrector"),
        ({k: v for k, v in tensors.items() if k != "policy.heats"}, content, "damaged .'policy.heats'"),
        ({**tensors, "policy.blends": tensors["policy.blends"][:, :2].contiguous()}, content, "damaged"),
        ({**tensors, "reference.mean": tensors["reference.mean"] * torch.nan}, content, "not finite"),
        (tensors, {**content, "values": {**content["values"], "trust_enough": 1}}, "neither true nor false"),
        (tensors, {**content, "values": {"intact_below": 1.0}}, "damaged .'trust_maps'"),
        (tensors, {**content, "card": {**content["card"], "classes": 7}}, "statistics are of 6 classes, not 7"),
    ]
    for bad_tensors, bad_content, message in cases:
        with pytest.raises(CorrectorError, match=message):
            load_corrector(rewritten(bad_tensors, bad_content))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError):
        load_corrector(path)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CorrectorError, match="is not a corrector"):
        load_corrector(tmp_path / "other.safetensors")


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """A corrector lies in a memory like the model's: one that would answer other than what was trained is refused."""
    path, random = tmp_path / "c.safetensors", np.random.default_rng(0)
    save_corrector(train("adaptive"), path)
    whole = path.read_bytes()
    places = [*range(8), *range(8, len(whole), 97), len(whole) - 1]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        with pytest.raises((CorrectorError, CheckpointError)):
            load_corrector(path)
    path.write_bytes(whole)
    load_corrector(path)


def test_a_network_for_other_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_corrector(train("edmn"), path)
    with safe_open(path, framework="pt") as file:
        tensors, header = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    content = json.loads(header["faultcli.corrector"])
    content["card"]["classes"] = 5
    write(tensors, json.dumps(content), path)
    with pytest.raises(CorrectorError, match="not one of 5 classes"):
        load_corrector(path)


ABSURD = (1e300, -1e300, 1e31, float("inf"), float("nan"), 0.0)


@pytest.mark.parametrize("method", [*METHODS, "adaptive-known"])
def test_parts_that_are_missing_mixed_or_absurd(method: str, tmp_path: Path) -> None:
    """Each is refused when it is read, or gives a correction: nothing hangs, and nothing else is raised."""
    path = tmp_path / "c.safetensors"
    save_corrector(train(method), path)
    with safe_open(path, framework="pt") as file:
        tensors, header = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118

    def read(changed: dict[str, torch.Tensor], text: str | None = None) -> bool:
        write(changed, text or header["faultcli.corrector"], path)
        try:
            corrector = load_corrector(path)
        except CorrectorError:
            return False
        corrector.observe(DATA.copies[-1].logits[:300])(DATA.copies[-1].logits[:9])
        return True

    assert read(tensors)
    for place, (name, tensor) in enumerate(tensors.items()):
        assert not read({key: value for key, value in tensors.items() if key != name})
        assert not read({**tensors, name: tensor.reshape(-1, 1, 1, 1)})
        assert not read({**tensors, name: torch.zeros(tensor.shape, dtype=torch.complex64)})
        assert not read({**tensors, name: tensor.half()})
        for number in ABSURD:
            changed = tensor.clone()
            if tensor.dtype == torch.float32 and 3e38 < abs(number) < float("inf"):
                continue
            changed.view(-1)[0] = number
            fine = read({**tensors, name: changed})
            assert not fine or number == 0 or name == "policy.upper", (name, number)
        for other in ([*tensors.values()] * 2)[place + 1 : place + 4]:  # those behind it
            read({**tensors, name: other.clone()})
    content = json.loads(header["faultcli.corrector"])
    for section in ("card", "values"):
        for key in content[section]:
            for value in (None, [], "x", -1, 1e300, 10**30, {"a": 1}, float("nan")):
                read(tensors, json.dumps({**content, section: {**content[section], key: value}}))
    for value in (None, [], "x", 1, {"a": 1}):
        for key in ("card", "method", "schema"):
            assert not read(tensors, json.dumps({**content, key: value}))
    assert not read(tensors, "[" * 100_000)


def test_what_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    corrector = train("align")
    absurd = replace(corrector, reference=replace(corrector.reference, mean=corrector.reference.mean * 1e40))
    with pytest.raises(CorrectorError, match="cannot be written"):
        save_corrector(absurd, tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()
