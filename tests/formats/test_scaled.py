"""Formats with shared scales: MX against gfloat and ml_dtypes, NF4 against its construction, groups against loops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import gfloat
import gfloat.formats as oracle
import ml_dtypes
import numpy as np
import pytest
import torch

from faultcli.errors import FormatError, UsageError
from faultcli.formats import parse_format
from faultcli.formats.codebook import NF4_LEVELS
from faultcli.formats.exponent import E8M0
from faultcli.formats.scaled import ScaledFormat

MX = {
    "mxfp8-e4m3": oracle.format_info_mxfp8_e4m3,
    "mxfp8-e5m2": oracle.format_info_mxfp8_e5m2,
    "mxfp6-e3m2": oracle.format_info_mxfp6_e3m2,
    "mxfp6-e2m3": oracle.format_info_mxfp6_e2m3,
    "mxfp4": oracle.format_info_mxfp4_e2m1,
}
ML_DTYPES = {
    "mxfp8-e4m3": ml_dtypes.float8_e4m3fn,
    "mxfp8-e5m2": ml_dtypes.float8_e5m2,
    "mxfp6-e3m2": ml_dtypes.float6_e3m2fn,
    "mxfp6-e2m3": ml_dtypes.float6_e2m3fn,
    "mxfp4": ml_dtypes.float4_e2m1fn,
}
AT_RISK = [*MX, "nf4", "fp8-e4m3-tensor", "fp8-e5m2-tensor", "int4-g5", "int8-g128", "int4-g1"]
SHAPES = [(5, 3, 3, 3), (3, 70), (3, 64), (100,), (), (1, 1)]


def draw(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Weights whose magnitude differs from place to place."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.exp2(4 * torch.randn(shape, generator=generator))


def fitted(name: str, values: torch.Tensor) -> ScaledFormat:
    fmt = parse_format(name).fitted(values)
    assert isinstance(fmt, ScaledFormat)
    assert fmt.scales is not None
    return fmt


def groups(fmt: ScaledFormat, shape: tuple[int, ...]) -> Iterator[list[int]]:
    """The slow way: yield the flat positions of each group."""
    elements = math.prod(shape)
    row = elements // shape[0] if fmt.per_row and len(shape) >= 2 else elements
    for start in range(0, elements, row):
        for first in range(start, start + row, fmt.group or row):
            yield list(range(first, min(first + (fmt.group or row), start + row)))


def test_e8m0_is_that_of_ml_dtypes() -> None:
    codes = torch.arange(256).to(torch.uint8)
    expected = codes.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    values = E8M0.decode(codes)
    assert np.array_equal(values.numpy(), expected, equal_nan=True)
    assert torch.equal(E8M0.encode(values), codes)
    between = torch.rand(4000, generator=torch.Generator().manual_seed(1)) * 40
    between = torch.cat([between, torch.tensor([0.75, 1.5, 3, 6, 12])])
    assert np.array_equal(E8M0.encode(between).numpy(), between.numpy().astype(ml_dtypes.float8_e8m0fnu).view(np.uint8))
    assert E8M0.encode(torch.tensor([0.0, math.inf, math.nan])).tolist() == [0, 254, 255]
    with pytest.raises(FormatError, match="1 negative values"):
        E8M0.encode(torch.tensor([-1.0, 2.0]))


@pytest.mark.parametrize("name", MX)
def test_every_element_code_under_every_scale_word(name: str) -> None:
    info, bits = MX[name], parse_format(name).bits
    codes = torch.arange(1 << bits).to(torch.uint8)
    element = codes.numpy().view(ML_DTYPES[name]).astype(np.float64)
    words = torch.tensor([0, 1, 126, 127, 128, 200, 254, 255], dtype=torch.uint8)
    for word, scale in zip(words.tolist(), E8M0.decode(words), strict=True):
        fmt = dataclasses.replace(fitted(name, torch.ones(1, 1 << bits)), scales=scale.reshape(1), group=1 << bits)
        values = fmt.decode(codes)
        with np.errstate(all="ignore"):  # beyond float32's range is infinite
            assert np.array_equal(values.numpy(), (element * float(scale)).astype(np.float32), equal_nan=True)
            block = np.array(list(gfloat.decode_block(info, [word, *codes.tolist()]))).astype(np.float32)
        assert np.array_equal(values.numpy(), block, equal_nan=True)


@pytest.mark.parametrize("name", MX)
def test_blocks_are_those_of_gfloat(name: str) -> None:
    info = MX[name]
    rows = draw((12, 64))
    rows[3] = 0
    rows[4] *= 2.0**-140  # subnormal
    rows[5] *= 2.0**100
    rows[6, :32] = torch.arange(32) / 32  # ties
    rows[7] = rows[7].sign() * 6.9  # beyond the largest element once scaled
    fmt = fitted(name, rows)
    codes = fmt.encode(rows)
    assert fmt.scales is not None
    for number, block in enumerate(rows.double().view(-1, 32).numpy()):
        scale = gfloat.compute_scale_amax(info.etype.emax, block)
        assert float(fmt.scales[number]) == scale
        encoded = list(gfloat.encode_block(info, scale, block / scale))
        assert codes.view(-1, 32)[number].tolist() == encoded[1:]
        assert E8M0.encode(fmt.scales)[number].item() == encoded[0]


def test_what_is_written_stays_in_the_range_of_float32() -> None:
    values = torch.tensor([[1e300, -1e-300, 3.0], [torch.finfo(torch.float32).max, 0, 0]], dtype=torch.float64)
    for name in AT_RISK:
        fmt = fitted(name, values)
        assert fmt.decode(fmt.encode(values)).isfinite().all(), name


def test_nf4_levels_are_quantiles_of_a_normal_distribution() -> None:
    """As in QLoRA's code: 8 quantiles above 0, 7 below, 0 itself, and the largest made 1."""
    tail = 1 - (1 / 30 + 1 / 32) / 2
    above, below = (
        torch.special.ndtri(torch.linspace(tail, 0.5, count, dtype=torch.float64)[:-1]).tolist() for count in (9, 8)
    )
    levels = [level / above[0] for level in sorted([*above, 0.0, *(-level for level in below)])]
    assert pytest.approx(levels, abs=2e-7) == NF4_LEVELS
    assert all(float(np.float32(level)) == level for level in NF4_LEVELS)


def test_nf4_takes_the_nearest_level_of_each_block() -> None:
    values = draw((3, 50))  # blocks run across rows
    fmt = fitted("nf4", values)
    codes, flat = fmt.encode(values).flatten(), values.flatten().double()
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float64)
    for block in (slice(0, 64), slice(64, 128), slice(128, 150)):
        scaled = flat[block] / flat[block].abs().max()
        assert torch.equal(codes[block].long(), (scaled[:, None] - levels).abs().argmin(dim=1))
    assert fitted("nf4", torch.ones(2)).codec.encode(torch.tensor([-7.0, 0.0, 7.0])).tolist() == [0, 7, 15]


@pytest.mark.parametrize("name", AT_RISK)
@pytest.mark.parametrize("shape", SHAPES)
def test_groups_are_those_of_a_plain_loop(name: str, shape: tuple[int, ...]) -> None:
    values = draw(shape, seed=2)
    fmt = fitted(name, values)
    flat, codes, decoded = values.flatten(), fmt.encode(values).flatten(), fmt.decode(fmt.encode(values)).flatten()
    listed = list(groups(fmt, shape))
    assert fmt.scales is not None
    assert len(listed) == len(fmt.scales) == fmt.scale_words(shape)
    for number, members in enumerate(listed):
        index = torch.tensor(members)
        alone = fitted(name, flat[index])
        assert alone.scales is not None
        assert alone.scales[0] == fmt.scales[number]
        assert torch.equal(codes[index], alone.encode(flat[index]))
        assert torch.equal(decoded[index], alone.decode(codes[index]))
        assert fmt.group_of(index).unique().tolist() == [number]
        assert fmt.elements_of(torch.tensor([number])).tolist() == members
    every_other = torch.arange(0, len(listed), 2)
    assert fmt.elements_of(every_other).tolist() == [place for number in every_other for place in listed[number]]
    assert torch.equal(fmt.units(), fmt.scales[fmt.group_of(torch.arange(len(flat)))])


@pytest.mark.parametrize("name", [*AT_RISK, "int8", "int4-channel"])
def test_tiles_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = draw((6, 131), seed=3)
    fmt = fitted(name, values)
    codes = fmt.encode(values)
    decoded = fmt.decode(codes)
    for tile in (7, 300):
        monkeypatch.setattr("faultcli.formats.values.TILE", tile)
        assert torch.equal(fmt.encode(values), codes)
        assert torch.equal(fmt.decode(codes), decoded)


@pytest.mark.parametrize("name", ["int4-g128", "int8-g3", "fp8-e4m3-tensor", "nf4"])
def test_the_largest_magnitude_of_a_group_is_kept(name: str) -> None:
    values = draw((4, 256), seed=4).clamp(-4, 4)
    fmt = fitted(name, values)
    decoded = fmt.decode(fmt.encode(values)).flatten()
    precision = 2.0**-10 if "-g" in name else 2.0**-22  # that of the scale
    for members in groups(fmt, (4, 256)):
        peak = values.flatten()[members].abs().max()
        if peak > 1e-3:
            assert float(decoded[members].abs().max()) == pytest.approx(float(peak), rel=precision)


def test_where_scales_lie() -> None:
    values = torch.ones(3, 40)
    for name, words, bits in [
        ("int8", 0, None),
        ("int8-channel", 0, None),
        ("fp8-e4m3-tensor", 1, 32),
        ("mxfp4", 6, 8),
        ("nf4", 2, 32),
        ("int4-g16", 9, 16),
        ("int4-g999999999", 3, 16),
        ("fp16", 0, None),
    ]:
        fmt = parse_format(name)
        assert fmt.scale_words((3, 40)) == words
        assert (fmt.scale_format.bits if fmt.scale_format else None) == bits
        if isinstance(fmt, ScaledFormat):
            assert fmt.fitted(values).side_bits == {"int8": 32, "int8-channel": 96}.get(name, 0)


def test_a_group_of_zeros_has_the_smallest_scale() -> None:
    for name in AT_RISK:
        fmt = fitted(name, torch.zeros(2, 3))
        assert float(fmt.scales[0]) == fmt.store.smallest  # type: ignore[index]


def test_errors() -> None:
    for name, message in [
        ("int4-g0", "int4-g0: a group has 1 value or more"),
        ("int1-g8", "int1: N is 1"),
        ("int17-g8", "int17: N is 17"),
        ("int4-group", "unknown number format 'int4-group'"),
        ("mxfp4-e2m1", "unknown number format 'mxfp4-e2m1'"),
    ]:
        with pytest.raises(UsageError, match=message):
            parse_format(name)
    for name in AT_RISK:
        with pytest.raises(FormatError, match=f"holds 1 NaN and 1 infinite values; {name} cannot store them"):
            parse_format(name).fitted(torch.tensor([math.nan, 1.0, math.inf]))
    with pytest.raises(FormatError, match="99 values do not fit mxfp4 scales that were fitted to 66"):
        fitted("mxfp4", torch.ones(2, 33)).encode(torch.ones(99))
    with pytest.raises(FormatError, match="no scale yet"):
        parse_format("nf4").decode(torch.ones(2, dtype=torch.uint8))
