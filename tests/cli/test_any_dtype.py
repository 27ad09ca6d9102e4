"""`native` flips the bits of every dtype that safetensors holds, and gives every byte back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faultcli.checkpoint import DTYPES, Checkpoint, TensorSource, write_safetensors
from faultcli.checkpoint.header import tensor_bytes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One tensor of every dtype, and scalars."""
    draw = np.random.default_rng(0)

    def source(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSource:
        count = tensor_bytes(dtype, shape)
        assert count is not None
        data = draw.integers(0, 2 if dtype == "BOOL" else 60, count).astype(np.uint8)
        return TensorSource(name, dtype, shape, lambda: data)

    several = [source(f"{dtype}.weight", dtype, (12, 32)) for dtype in DTYPES]
    scalars = [source(f"{dtype}.scalar", dtype, ()) for dtype in ("BOOL", "C64", "F8_E8M0", "F32")]
    path = tmp_path / "every.safetensors"
    write_safetensors(path, [*several, *scalars], {"format": "pt"})
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str, model: Path, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    some = ("--target", "any", "--include", f"{dtype}.*")
    faulty, back, faults = (tmp_path / name for name in ("f.safetensors", "b.safetensors", "map.safetensors"))
    done = faultcli("inject", model, *some, "--ber", "0.2", "-o", faulty, "--save-faults", faults, "--json")
    assert done.code == 0, done.err
    info = [one for one in Checkpoint.open(model).tensors.values() if one.name.startswith(f"{dtype}.")]
    assert f'"bits": {8 * sum(one.nbytes for one in info)}' in done.out
    before, after = (np.frombuffer(path.read_bytes(), np.uint8) for path in (model, faulty))
    flipped = np.bitwise_count(before ^ after)
    assert f'"flips": {int(flipped.sum())}' in done.out
    inside = np.zeros(len(before), dtype=bool)
    for one in info:
        inside[one.offset : one.end] = True
    assert flipped[inside].sum() > 0
    assert not flipped[~inside].any()
    assert faultcli("inject", faulty, "--replay", faults, "-o", back).code == 0
    assert back.read_bytes() == model.read_bytes()
    looked = faultcli("inspect", model, *some, "--ber", "1e-3")
    if dtype.startswith(("I", "U")):
        return  # errors are predicted for weights
    assert looked.code == 0, looked.err
    assert f"{8 * info[0].nbytes:,}" in looked.out


def test_what_needs_numbers_refuses_others(model: Path, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    for command in (
        ("scale", "--factor", "2"),
        ("harden", "--protect", "secded=64"),
        ("inject", "--ber", "1e-2", "--format", "fp16"),
    ):
        done = faultcli(command[0], model, *command[1:], "--include", "F4.*", "-o", tmp_path / "out")
        assert done.code == 2
        assert "tensor 'F4.weight' has dtype F4, which no number format stores" in done.err
        assert "--exclude" in done.err
