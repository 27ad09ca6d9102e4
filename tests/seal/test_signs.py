"""Signs of damage without a seal: every kind is found, and no sound checkpoint has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import corrupt

from faultcli.checkpoint import Checkpoint
from faultcli.seal.signs import Sign, find_signs
from faultcli.workload.demo import demo_checkpoint_path


def signs(tmp_path: Path, **tensors: torch.Tensor) -> list[Sign]:
    path = tmp_path / "model.safetensors"
    save_file({name.replace("__", "."): value.contiguous() for name, value in tensors.items()}, path)
    return find_signs(Checkpoint.open(path))


def weights(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (0.05 * torch.randn(40, 50, generator=torch.Generator().manual_seed(1))).to(dtype)


def sound_checkpoints(data_dir: Path) -> list[Path]:
    return [demo_checkpoint_path(), *sorted(data_dir.rglob("*.safetensors"))]


def test_no_false_alarm(data_dir: Path) -> None:
    paths = sound_checkpoints(data_dir)
    assert len(paths) > 5
    for path in paths:
        assert find_signs(Checkpoint.open(path)) == [], path


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_no_false_alarm_in_other_formats(data_dir: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    for path in sound_checkpoints(data_dir):
        state = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in Checkpoint.open(path).state().items()
        }
        if dtype is torch.float8_e4m3fn:  # a cast without scales makes zeros, and NaN of what is too large
            state = {name: value for name, value in state.items() if value.dtype != dtype or _fits(value)}
        save_file(state, tmp_path / "cast")
        assert find_signs(Checkpoint.open(tmp_path / "cast")) == [], path


def _fits(value: torch.Tensor) -> bool:
    wide = value.float()
    return bool(torch.isfinite(wide).all()) and (wide.numel() < 2 or float(wide.std()) > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "nan"), (float("inf"), "infinity")])
def test_values_that_are_no_numbers(tmp_path: Path, dtype: torch.dtype, value: float, kind: str) -> None:
    wide = weights().float()
    wide[3, 4] = wide[7, 7] = -value
    assert [(one.tensor, one.kind, one.count, one.first) for one in signs(tmp_path, w=wide.to(dtype))] == [
        ("w", kind, 2, 3 * 50 + 4)
    ]


@pytest.mark.parametrize(
    ("dtype", "word", "bit"),
    [(torch.float32, torch.int32, 30), (torch.bfloat16, torch.int16, 14), (torch.float16, torch.int16, 14)],
)
def test_a_flip_of_the_highest_bit_of_an_exponent(
    tmp_path: Path, dtype: torch.dtype, word: torch.dtype, bit: int
) -> None:
    for element in (0, 77, 1999):
        values = weights(dtype)
        values.view(word).reshape(-1)[element] ^= 1 << bit
        (sign,) = signs(tmp_path, w=values)
        assert (sign.kind, sign.count, sign.first) == ("outlier", 1, element)


def test_what_training_leaves_is_no_outlier(tmp_path: Path) -> None:
    tiny = weights()
    tiny[3] *= 1e-30
    tailed = torch.full((64,), 1e-12)
    tailed[::9] = 3.0
    large = weights() * 1.5
    large[0, 0] = 11.0
    few = torch.tensor([1e-5, 1e5, 1e30])
    assert signs(tmp_path, tiny=tiny, bn__running_var=tailed, large=large, few=few) == []


def test_matrices_of_one_value(tmp_path: Path) -> None:
    found = signs(tmp_path, zero=torch.zeros(8, 8), one=torch.full((4, 4), 0.5), sound=weights())
    assert [(one.tensor, one.kind, one.detail) for one in found] == [
        ("one", "constant", "all 0.5"),
        ("zero", "constant", "all zero"),
    ]
    assert (
        signs(tmp_path, bias=torch.zeros(64), ids=torch.zeros(8, 8, dtype=torch.int64), small=torch.zeros(2, 2)) == []
    )


def test_scales_of_quantised_formats(tmp_path: Path) -> None:
    scales = torch.rand(16, 4) + 0.5
    scales[2, 1] = 0
    bad = torch.rand(16) + 0.5
    bad[5] = float("nan")
    exponents = torch.full((16, 2), 120, dtype=torch.uint8)
    exponents[1] = 121
    exponents[9, 1] = 255
    absmax = torch.arange(256, dtype=torch.uint8)  # 8-bit codes of scales, not exponents
    found = signs(
        tmp_path, a__scales=scales, b__weight_scale=bad, c__weight_scale=exponents, d__absmax=absmax,
        norm__scale=torch.zeros(16),
    )  # fmt: skip
    assert [(one.tensor, one.kind, one.first) for one in sorted(found, key=lambda one: one.tensor)] == [
        ("a.scales", "scale", 9),
        ("b.weight_scale", "scale", 5),
        ("c.weight_scale", "scale", 19),
    ]


def test_masks_are_infinite_on_purpose(tmp_path: Path) -> None:
    mask = torch.full((8, 8), float("-inf")).triu(1)
    assert signs(tmp_path, attn__mask=mask) == []
    assert [one.kind for one in signs(tmp_path, attn__other=mask)] == ["infinity"]


def test_tensors_without_elements_and_scalars(tmp_path: Path) -> None:
    empty, scalar = torch.zeros(0, 4), torch.tensor(3.0)
    assert signs(tmp_path, empty=empty, scalar=scalar, nothing=torch.zeros(4, 0, dtype=torch.float8_e5m2)) == []
    assert [one.kind for one in signs(tmp_path, scalar=torch.tensor(float("nan")))] == ["nan"]


def test_random_flips_in_a_real_checkpoint_are_seen(data_dir: Path, tmp_path: Path) -> None:
    for seed in range(5):
        output = tmp_path / f"faulty-{seed}.safetensors"
        corrupt(data_dir / "cifar10" / "resnet20.safetensors", "bitflip:1e-4", output, seed=seed)
        assert find_signs(Checkpoint.open(output))


def test_tied_copies_that_differ(tmp_path: Path) -> None:
    weights = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    other = weights.clone()
    path = tmp_path / "m.safetensors"
    save_file({"embed": weights, "head": other, "trained": weights + 0.01, "ones": torch.ones(64, 32)}, path)
    assert [sign.kind for sign in find_signs(Checkpoint.open(path))] == ["constant"]
    other[3, 5] += 1
    other[9, 1] = -other[9, 1]
    save_file({"embed": weights, "head": other, "trained": weights + 0.01}, path)
    (sign,) = find_signs(Checkpoint.open(path))
    assert (sign.tensor, sign.kind, sign.count, sign.first) == ("head", "copy", 2, 3 * 32 + 5)
    assert "embed" in sign.detail
