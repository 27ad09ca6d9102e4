"""Scaled checkpoints: undone to the last byte, read by everything else as the model they are."""

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from faultcli.checkpoint import Checkpoint
from faultcli.errors import CheckpointError
from faultcli.scaling import METADATA_KEY, SCHEMA, Scaling, read_state
from faultcli.workload.demo import demo_checkpoint_path

OTHER_DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
FACTORS = ["0.25", "3.7", "1", "1e-30", "0.1", "max", "auto"]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def odd_weights(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Ordinary weights, and everything that rounds, underflows or is no number."""
    generator = torch.Generator().manual_seed(0)
    w = (torch.randn(16, 40, generator=generator) * 0.1).to(dtype)
    flat = w.view(-1)
    flat[:8] = torch.tensor([0.0, -0.0, 1e-40, -3e-39, 5e-7, 1.5, -1.5, 6e-8]).to(dtype)
    return {"w": w, "v": torch.randn(4, 4, generator=generator).to(dtype), "bias": torch.ones(16).to(dtype)}


@pytest.mark.parametrize(
    ("factor", "dtype"),
    [
        *((factor, torch.float32) for factor in FACTORS),
        *((factor, dtype) for factor in ("3.7", "1e-30", "max") for dtype in OTHER_DTYPES),
    ],
)
def test_undo_gives_every_byte_back(
    factor: str, dtype: torch.dtype, tmp_path: Path, faultcli: Callable[..., Any]
) -> None:
    model, scaled, back = (tmp_path / f"{name}.safetensors" for name in ("model", "scaled", "back"))
    save_torch(odd_weights(dtype), model, metadata={"note": "kept"})
    done = faultcli("scale", model, "--factor", factor, "--format", "q2.5", "-o", scaled)
    assert done.code == 0, done.err
    assert faultcli("scale", scaled, "--undo", "-o", back).code == 0
    assert sha(back) == sha(model)
    state, factors, _ = read_state(Checkpoint.open(scaled))
    assert factors is not None
    for name, original in odd_weights(dtype).items():
        assert state[name].view(torch.uint8).tolist() == original.view(torch.uint8).tolist()


@pytest.mark.parametrize("granularity", ["model", "tensor", "channel"])
def test_granularities(granularity: str, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    scaled = tmp_path / "scaled.safetensors"
    done = faultcli(
        *("scale", demo_checkpoint_path(), "--factor", "max", "--granularity", granularity),
        *("--format", "q2.5", "-o", scaled, "--json", "-"),
    )
    assert done.code == 0, done.err
    rows = json.loads(done.out)["tensors"]
    stored = load_file(scaled)
    for row in rows:
        factor = row["factor"]
        assert isinstance(factor, list) == (granularity == "channel")
        peak = float(np.abs(stored[row["name"]]).max())
        assert peak <= 3.96875
        if granularity == "tensor":
            assert peak > 3.9  # bfloat16 factors come within 1 % of the range
    if granularity == "model":
        assert len({row["factor"] for row in rows}) == 1
    assert faultcli("scale", scaled, "--undo", "-o", tmp_path / "back.safetensors").code == 0
    assert sha(tmp_path / "back.safetensors") == sha(demo_checkpoint_path())


def test_a_scaled_file_is_read_as_the_model_it_is(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    scaled = tmp_path / "scaled.safetensors"
    assert faultcli("scale", demo_checkpoint_path(), "--factor", "3.7", "-o", scaled).code == 0
    plain = json.loads(faultcli("evaluate", "--json").out)
    again = json.loads(faultcli("evaluate", scaled, "--json").out)
    assert again["original"] == plain["original"]
    campaign = ("--ber", "1e-3", "--format", "q2.5", "--trials", "5", "--json", "-")
    from_file = json.loads(faultcli("campaign", scaled, *campaign).out)["arms"][0]
    by_chain = json.loads(faultcli("campaign", *campaign, "--protect", "scale=3.7").out)["arms"][0]
    assert from_file["accuracy"] == by_chain["accuracy"]  # the same words lie in the memory


def test_a_factor_that_overflows_is_refused_with_one_that_works(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    save_torch({"w": torch.tensor([[1.0, 1000.0, -3.0]]).half()}, model)
    done = faultcli("scale", model, "--factor", "100")
    assert done.code == 2
    assert "1 values overflow F16" in done.err
    assert "largest power of two that works is 64" in done.err
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--factor", "0"], "positive and finite"),
        (["--factor", "-2"], "positive and finite"),
        (["--factor", "nan"], "positive and finite"),
        (["--factor", "big"], "a number, max or auto"),
        (["--factor", "2", "--granularity", "row"], "unknown granularity"),
        (["--factor", "2", "--ber", "2"], "between 0 and 1"),
        ([], "no --factor"),
        (["--undo"], "is not scaled"),
        (["--undo", "--factor", "2"], "takes no --factor"),
    ],
)
def test_bad_requests(arguments: list[str], complaint: str, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(demo_checkpoint_path().read_bytes())
    done = faultcli("scale", model, *arguments)
    assert done.code == 2
    assert complaint in done.err
    assert list(tmp_path.iterdir()) == [model]


def test_a_scaled_file_that_was_changed_is_not_undone(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    scaled, back = tmp_path / "scaled.safetensors", tmp_path / "back.safetensors"
    assert faultcli("scale", demo_checkpoint_path(), "--factor", "2", "-o", scaled).code == 0
    content = bytearray(scaled.read_bytes())
    content[-1] ^= 0x40
    scaled.write_bytes(content)
    done = faultcli("scale", scaled, "--undo", "-o", back)
    assert done.code == 2
    assert "was changed after it was scaled" in done.err
    assert not back.exists()


def record(factor: str, corrections: str = "{}") -> str:
    factors = f'"factors": {{"w": {factor}}}'
    return f'{{"schema": "{SCHEMA}", {factors}, "corrections": {corrections}, "original_sha256": "0"}}'


@pytest.mark.parametrize(
    "record",
    [
        *("nonsense", "{}", "[" * 100_000, '{"schema": "faultcli.scale/1", "factors": {"x": 1}}'),
        *map(record, ("0", "-1", "NaN", "Infinity", "[]", "[1, 2, 3]", "[[2.0]]", '"x"', "1" + "0" * 400)),
    ],
    ids=range(13),
)
def test_a_damaged_record_is_refused(record: str, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    save_file({"w": np.ones((2, 2), np.float32)}, model, metadata={METADATA_KEY: record})
    done = faultcli("evaluate", model)
    assert done.code == 2
    assert "record of its scaling is damaged" in done.err


@pytest.mark.parametrize("packed", [b"int8:x", b"int8:" + zlib.compress(bytes(10**7)), b"float128", b"U9:"])
def test_damaged_corrections_are_refused(packed: bytes, tmp_path: Path) -> None:
    """Also those that would unpack to more than a tensor's worth."""
    model = tmp_path / "model.safetensors"
    corrections = json.dumps({"w": base64.b64encode(packed).decode()})
    save_file({"w": np.ones((2, 2), np.float32)}, model, metadata={METADATA_KEY: record("2.0", corrections)})
    with pytest.raises(CheckpointError, match="tensor 'w': the record of its scaling is damaged"):
        read_state(Checkpoint.open(model))


@pytest.mark.parametrize("factor", ["3.7", "max", "max:channel"])
def test_work_in_tiles_changes_nothing(
    factor: str, tmp_path: Path, faultcli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, whole, tiled, back = (tmp_path / f"{name}.safetensors" for name in ("model", "whole", "tiled", "back"))
    save_torch(odd_weights(torch.float32), model)
    number, _, granularity = factor.partition(":")
    options = ["--factor", number, "--granularity", granularity or "tensor", "--format", "q2.5"]
    assert faultcli("scale", model, *options, "-o", whole).code == 0
    monkeypatch.setattr("faultcli.formats.values.TILE", 7)
    monkeypatch.setattr("faultcli.scaling.writing.TILE", 7)
    assert faultcli("scale", model, *options, "-o", tiled).code == 0
    assert sha(tiled) == sha(whole)
    assert faultcli("scale", tiled, "--undo", "-o", back).code == 0
    assert sha(back) == sha(model)


def test_tensors_that_cannot_be_scaled(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    save_torch({"w": torch.ones(4, 4), "none": torch.empty(0, 4), "steps": torch.ones(2, 2).long()}, model)
    done = faultcli("scale", model, "--factor", "2", "--target", "any")
    assert done.code == 2
    assert "tensor 'steps' has dtype I64, which cannot be scaled" in done.err
    for factor in ("3", "auto", "max"):
        for granularity in ("model", "tensor", "channel"):
            done = faultcli(
                *("scale", model, "--factor", factor, "--granularity", granularity, "--format", "q2.5"),
                *("-o", tmp_path / "scaled.safetensors", "--force", "--json", "-"),
            )
            assert [row["name"] for row in json.loads(done.out)["tensors"]] == ["w"]
    save_torch({"w": torch.full((4, 4), 1e200, dtype=torch.float64)}, model)
    done = faultcli("scale", model, "--factor", "2")
    assert done.code == 2
    assert "tensor 'w' holds NaN, infinite or huge values" in done.err


def test_another_version_is_named(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    save_file({"w": np.ones((2, 2), np.float32)}, model, metadata={METADATA_KEY: '{"schema": "faultcli.scale/9"}'})
    assert "is faultcli.scale/9, this faultcli reads" in faultcli("evaluate", model).err


def test_scaling_says_when_it_makes_things_worse(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(demo_checkpoint_path().read_bytes())
    done = faultcli("scale", model, "--factor", "0.25", "--format", "q2.5")
    assert "make faults WORSE" in " ".join(done.out.split())
    rows = json.loads(faultcli("scale", model, "--factor", "0.25", "--format", "q2.5", "--force", "--json").out)[
        "tensors"
    ]
    for row in rows:
        error = row["predicted_error"]
        assert error["asked"] == pytest.approx(16 * error["one"], rel=0.1)  # flips weigh 1/c², rounding comes on top
        assert error["best"] < error["one"]


def test_a_python_caller_sees_the_factors(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    scaled = tmp_path / "scaled.safetensors"
    faultcli("scale", demo_checkpoint_path(), "--factor", "8", "-o", scaled)
    scaling = Scaling.of(Checkpoint.open(scaled))
    assert scaling is not None
    assert {float(f) for f in scaling.factors.values()} == {8.0}
    assert scaling.original_sha256 == sha(demo_checkpoint_path())
    assert Scaling.of(Checkpoint.open(demo_checkpoint_path())) is None


@pytest.mark.parametrize("factor", ["1e-300", "1e-46", "1e300", "1e-38"])
def test_a_factor_that_float32_does_not_hold_is_refused(
    factor: str, tmp_path: Path, faultcli: Callable[..., Any]
) -> None:
    model = tmp_path / "model.safetensors"
    save_torch({"w": torch.ones(2, 2)}, model)
    done = faultcli("scale", model, "--factor", factor)
    assert done.code == 2
    assert "factors are kept in float32" in done.err
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("factor", ["max", "auto", "4", "3.7"])
def test_tiny_weights_and_scalars(factor: str, granularity: str, tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model, scaled, back = (tmp_path / f"{name}.safetensors" for name in ("model", "scaled", "back"))
    w = torch.ones(4, 8)
    w[1] = 1e-40
    state = {"w": w, "one": torch.tensor(3.0), "tiny": torch.full((2, 2), 1e-300, dtype=torch.float64)}
    save_torch(state, model)
    words = ("--factor", factor, "--granularity", granularity, "--format", "q2.5", "--target", "all")
    done = faultcli("scale", model, *words, "-o", scaled)
    assert done.code == 0, done.err
    assert "inf" not in done.out
    assert faultcli("scale", scaled, "--undo", "-o", back).code == 0
    assert sha(back) == sha(model)


def test_huge_weights_that_no_factor_makes_fit(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    save_torch({"w": torch.full((2, 2), 1e46, dtype=torch.float64)}, model)
    done = faultcli("scale", model, "--factor", "max", "--format", "q2.5")
    assert done.code == 2
    assert "holds values up to 1e+46" in done.err
    assert list(tmp_path.iterdir()) == [model]


def test_the_remedy_works_for_all_tensors(tmp_path: Path, faultcli: Callable[..., Any]) -> None:
    model = tmp_path / "model.safetensors"
    save_torch({"a": torch.full((2, 2), 1e30), "b": torch.full((2, 2), 1e38)}, model)
    done = faultcli("scale", model, "--factor", "1e10")
    assert "tensor 'a'" in done.err
    assert "largest power of two that works is 2" in done.err
    assert faultcli("scale", model, "--factor", "2", "-o", tmp_path / "out").code == 0


def test_many_weights_get_powers_of_two(
    tmp_path: Path, faultcli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from faultcli.scaling import writing as scaling

    monkeypatch.setattr(scaling, "_MOST_ROUNDED", 100)
    scaled = tmp_path / "scaled.safetensors"
    done = faultcli("scale", demo_checkpoint_path(), "--factor", "max", "--format", "q2.5", "-o", scaled, "--json")
    assert done.code == 0, done.err
    for tensor in json.loads(done.out)["tensors"]:
        assert math.frexp(tensor["factor"])[0] == 0.5
        assert tensor["corrections"] == 0
    refused = faultcli("scale", demo_checkpoint_path(), "--factor", "3.7", "-o", tmp_path / "no")
    assert refused.code == 2
    assert "--factor 4" in refused.err


def test_an_output_that_cannot_be_undone_does_not_appear(
    tmp_path: Path, faultcli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from faultcli.scaling import writing as scaling

    monkeypatch.setattr(scaling, "_corrections", lambda *given: (None, 0))  # as if nothing were lost
    done = faultcli("scale", demo_checkpoint_path(), "--factor", "3.7", "-o", tmp_path / "out")
    assert done.code == 2
    assert "cannot be undone" in done.err
    assert not list(tmp_path.iterdir())
