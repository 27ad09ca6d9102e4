"""How often a command reads its MODEL: once, or as often as the result needs it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from faultcli.checkpoint import Checkpoint, ContentHash, edit, reader
from faultcli.workload.demo import demo_checkpoint_path

Times = Callable[[Path], float]
Cli = Callable[..., Any]


class Counted(FileIO):
    """A file that counts what is read of it."""

    read_bytes: ClassVar[Counter[Path]] = Counter()

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.read_bytes[Path(str(self.name))] += count or 0
        return count


@pytest.fixture
def times_read(monkeypatch: pytest.MonkeyPatch) -> Times:
    """Says how many times the tensors of a file were read since the last time; copies in the kernel are none here."""
    opened = reader.opened

    @contextmanager
    def counted(path: Path) -> Iterator[FileIO]:
        with opened(path), Counted(path, "rb") as file:
            yield file

    monkeypatch.setattr(reader, "opened", counted)
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    Counted.read_bytes.clear()
    return lambda path: Counted.read_bytes.pop(path) / Checkpoint.open(path).nbytes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    weights = {f"layer{i}.weight": torch.randn(256, 512, generator=generator) * 0.1 for i in range(5)}
    save_file({**weights, "mean": torch.randn(100_000, generator=generator)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("command", "times"),
    [
        ("inspect", 1),
        ("inspect --ber 1e-5 --format q2.5", 1),
        ("inject --ber 1e-5 -o {out}", 1),
        ("inject --ber 1e-5 --format q2.5 --include layer1* -o {out}", 1),
        ("inject --ber 1e-5 -o {out} --save-faults {out}.map", 1),
        ("inject --ber 1e-5 -o {out} --include layer1* --save-faults {out}.map", 1),
        # Factors, and what they round, lie in front of the weights, which are written when they are known.
        ("scale --factor 4 -o {out}", 2),
        ("scale --factor auto --format q2.5 -o {out}", 2),
        ("scale --factor auto --format q2.5 --granularity channel --include layer1* -o {out}", 2),
        # A factor of all tensors is known when all were looked at.
        ("scale --factor max --format q2.5 --granularity model -o {out}", 3),
        ("scale --factor auto --format q2.5 --granularity model -o {out}", 3),
    ],
)
def test_commands_on_files(
    command: str, times: int, model: Path, tmp_path: Path, times_read: Times, faultcli: Cli
) -> None:
    name, *options = command.format(out=tmp_path / "out.safetensors").split()
    assert faultcli(name, model, *options).code == 0
    assert times - 0.2 < times_read(model) < times + 0.01  # not always those that are not selected


def test_what_undoes_a_command(model: Path, tmp_path: Path, times_read: Times, faultcli: Cli) -> None:
    faulty, scaled, faults = tmp_path / "faulty", tmp_path / "scaled", tmp_path / "faults"
    assert faultcli("inject", model, "--ber", "1e-5", "-o", faulty, "--save-faults", faults).code == 0
    assert faultcli("scale", model, "--factor", "max", "-o", scaled).code == 0
    assert faultcli("inject", faulty, "--replay", faults, "-o", tmp_path / "back").code == 0
    assert faultcli("scale", scaled, "--undo", "-o", tmp_path / "undone").code == 0
    assert times_read(faulty) == pytest.approx(1, abs=0.01)
    assert times_read(scaled) == pytest.approx(1, abs=0.01)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "undone").read_bytes() == model.read_bytes()


def test_commands_that_run_a_model(tmp_path: Path, times_read: Times, faultcli: Cli) -> None:
    model, scaled, corrector = demo_checkpoint_path(), tmp_path / "scaled.safetensors", tmp_path / "corrector"
    few = ("--maps", 1, "--report-maps", 1, "--train-limit", 300, "--window", 100, "--limit", 50)
    trained = ("train-corrector", "--method", "align", "--fault", "gaussian:0.1", *few, "-o", corrector)
    assert faultcli("scale", model, "--factor", "max", "-o", scaled).code == 0
    times_read(model)
    for command in (
        trained,
        ("evaluate", "--format", "q2.5", "--limit", 50),
        ("evaluate", "--corrector", corrector, "--window", 100, "--limit", 50),
        ("campaign", "--ber", "1e-3", "--trials", 1, "--limit", 50),
        ("campaign", "--corrector", corrector, "--window", 100, "--ber", "1e-3", "--trials", 1, "--limit", 50),
    ):
        done = faultcli(*command)
        assert done.code == 0, done.err
        assert times_read(model) == pytest.approx(1, abs=0.01), command
    assert faultcli("evaluate", scaled, "--format", "q2.5", "--limit", 50).code == 0
    assert times_read(scaled) == pytest.approx(1, abs=0.02)


def test_the_hash_of_what_is_read_is_that_of_the_files(model: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    odd = {"f8": torch.ones(3).to(torch.float8_e4m3fn), "b": torch.tensor(True), "none": torch.ones(0, 2)}
    names = {name: f"{number}.safetensors" for number, name in enumerate([*odd, "w"])}
    for name, tensor in {**odd, "w": torch.randn(3, 5)}.items():
        save_file({name: tensor}, tmp_path / "shards" / names[name])
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for path in (model, tmp_path / "shards"):
        opened = Checkpoint.open(path)
        state, sha256 = opened.state_and_sha256()
        assert sha256 == opened.sha256()
        assert list(state) == list(opened.tensors)
        content = ContentHash(opened)
        edit(opened, tmp_path / f"copy of {path.name}", lambda info, data: data.fill(0), list(state)[:1], content)
        assert content.hexdigest() == sha256
    with pytest.raises(ValueError, match="some tensors were not hashed"):
        ContentHash(opened).hexdigest()
