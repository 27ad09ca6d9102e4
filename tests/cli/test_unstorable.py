"""What a format cannot store is named at once, with what leaves it out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from faultcli.cli import run
from faultcli.errors import FormatError
from faultcli.memory import MemoryImage

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    good = {f"layer.{n}.weight": torch.randn(3, 4) for n in range(3)}
    bad = {f"layer.{n}.mask": torch.tensor([[0.0, INF], [NAN, 1.0]]) for n in range(5)} | {
        "a*": torch.full((2, 2), INF)
    }
    save_file(good | bad, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


COMMANDS = {
    "inject": ["inject", "M", "--ber", "1e-3", "--format", "q2.5"],
    "harden": ["harden", "M", "--format", "int8-channel", "--protect", "secded=64"],
    "scale": ["scale", "M", "--factor", "max", "--format", "q2.5"],
    "harden, scaled": ["harden", "M", "--format", "q2.5", "--protect", "scale=max"],
    "inspect": ["inspect", "M", "--ber", "1e-3", "--format", "q2.5"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_all_are_named_and_the_remedy_works(
    command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(model) if word == "M" else word for word in COMMANDS[command]]
    line += [] if command == "inspect" else ["-o", str(tmp_path / "out.safetensors")]
    assert run(line) == 2
    told = capsys.readouterr().err
    assert "6 tensors hold values that are not finite: 'a*' (4 infinite), 'layer.0.mask' (1 NaN and 1 infinite)" in told
    assert " and 3 more; " in told
    assert str(model) in told
    assert "leave them out: --exclude 'a[*]' --exclude 'layer.*.mask'" in told
    assert run([*line, "--exclude", "a[*]", "--exclude", "layer.*.mask"]) == 0


def test_one_is_named_as_before(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["inject", str(model), "--ber", "1e-3", "--format", "q2.5", "-o", str(tmp_path / "out")]
    assert run([*line, "--include", "*1*"]) == 2
    told = capsys.readouterr().err
    assert "tensor 'layer.1.mask' holds 1 NaN and 1 infinite values; q2.5 cannot store them" in told
    assert "leave it out: --exclude 'layer.*.mask'" in told


def test_dtypes_are_named_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {f"flag.{n}": torch.ones(2, 2, dtype=torch.bool) for n in range(4)}
    save_file(flags | {"w": torch.ones(2, 2)}, tmp_path / "m.safetensors")
    line = ["inject", str(tmp_path / "m.safetensors"), "--target", "any", "--ber", "1e-3", "--format", "fp16"]
    assert run([*line, "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "tensor 'flag.0' has dtype BOOL" in told
    assert "nor can 'flag.1', 'flag.2' and 1 more be stored" in told
    assert "leave them out: --exclude 'flag.*'" in told
    line = ["scale", str(tmp_path / "m.safetensors"), "--target", "any", "--factor", "2", "--format", "fp16"]
    assert run([*line, "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count(f"{tmp_path / 'm.safetensors'}: ") == 1
    with pytest.raises(FormatError, match=r"nor can 'flag\.1', 'flag\.2' and 1 more be stored"):
        MemoryImage.of(flags, format="fp16", target="any")
