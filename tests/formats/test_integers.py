"""Scaled integers against exact rational arithmetic; integer tensors against their own bytes."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faultcli.errors import FormatError, UsageError
from faultcli.formats import parse_format, word_format
from faultcli.formats.base import container_dtype
from faultcli.formats.integers import NativeIntegerFormat, SignedInteger
from faultcli.formats.scaled import ScaledFormat

WIDTHS = [2, 3, 4, 7, 8, 9, 12, 16]


def reference(values: list[float], scale: float, bits: int) -> list[int]:
    """Codes of one row, as integers: exact quotient, half to even, clamped to the symmetric range."""
    most = 2 ** (bits - 1) - 1
    return [max(-most, min(most, round(Fraction(v) / Fraction(scale)))) for v in values]


def integers(codes: torch.Tensor, bits: int) -> list[int]:
    plain = [code & ((1 << bits) - 1) for code in codes.flatten().tolist()]
    return [code - (1 << bits) if code >> (bits - 1) else code for code in plain]


def fitted(name: str, values: torch.Tensor) -> ScaledFormat:
    fmt = parse_format(name).fitted(values)
    assert isinstance(fmt, ScaledFormat)
    assert fmt.scales is not None
    return fmt


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_code_decodes_and_comes_back(bits: int) -> None:
    fmt = fitted(f"int{bits}", torch.tensor([0.37, -0.02]))
    codes = torch.arange(1 << bits).to(container_dtype(bits))
    scale = fmt.scales[0].item()
    fmt = dataclasses.replace(fmt, row_words=1 << bits)
    values = fmt.decode(codes)
    exact = torch.tensor(integers(codes, bits), dtype=torch.float64) * scale
    assert torch.equal(values, exact.float())
    lowest = 1 << (bits - 1)  # only a flip makes it; written again it saturates to its neighbour
    kept = torch.arange(1 << bits) != lowest
    again = fmt.encode(values)
    assert torch.equal(again[kept], codes[kept])
    assert integers(again[~kept], bits) == [-(2 ** (bits - 1) - 1)]


@settings(max_examples=100, deadline=None)
@given(
    bits=st.integers(2, 16),
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
)
def test_per_tensor_is_nearest(bits: int, values: list[float]) -> None:
    tensor = torch.tensor(values)
    fmt = fitted(f"int{bits}", tensor)
    scale = fmt.scales[0].item()
    codes = fmt.encode(tensor)
    assert integers(codes, bits) == reference(values, scale, bits)
    assert fmt.decode(codes).isfinite().all()
    largest = max(map(abs, values))
    if largest == 0:
        assert scale == 1
    elif 1e-30 < largest < 1e38:
        assert scale == torch.tensor(largest / (2 ** (bits - 1) - 1)).item()
        assert max(map(abs, integers(codes, bits))) == 2 ** (bits - 1) - 1


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 2), (1, 7), (6, 1)])
def test_per_channel_is_one_tensor_per_channel(bits: int, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * torch.logspace(-3, 3, shape[0]).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    values[-1] = 0
    fmt = fitted(f"int{bits}-channel", values)
    assert fmt.side_bits == 32 * shape[0]
    codes = fmt.encode(values)
    decoded = fmt.decode(codes)
    for channel in range(shape[0]):
        alone = fitted(f"int{bits}", values[channel])
        assert fmt.scales[channel] == alone.scales[0]
        assert torch.equal(codes[channel], alone.encode(values[channel]))
        assert torch.equal(decoded[channel], alone.decode(codes[channel]))
    assert fmt.scales[-1] == 1


@pytest.mark.parametrize("name", ["int8", "int4", "int8-channel", "int12-channel"])
@pytest.mark.parametrize("shape", [(4, 3, 2), (24,)])
def test_sparse_decode_equals_whole_decode(name: str, shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    fmt = fitted(name, values)
    codes = fmt.encode(values)
    index = torch.tensor([23, 0, 7, 7, 12])
    assert torch.equal(fmt.decode(codes.flatten()[index], index), fmt.decode(codes).flatten()[index])
    assert fmt.decode(codes.flatten()[:0], index[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["int8", "int8-channel"])
@pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 3), (3, 0)])
def test_less_than_two_dimensions_or_no_values_have_one_scale(name: str, shape: tuple[int, ...]) -> None:
    values = torch.full(shape, -2.0)
    fmt = fitted(name, values)
    assert fmt.side_bits == 32
    assert torch.equal(fmt.decode(fmt.encode(values)), values)


@pytest.mark.parametrize("bits", [8, 16])
def test_near_ties_are_told_from_ties(bits: int) -> None:
    """The float32 nearest to (k + 1/2) x scale is rarely a tie, but its quotient in float32 often is."""
    scale = torch.tensor([0.0123])
    values = ((torch.arange(2 ** (bits - 1) - 1)[-500:] + 0.5).double() * scale.double()).float()
    fmt = dataclasses.replace(fitted(f"int{bits}", values), scales=scale)
    assert integers(fmt.encode(values), bits) == reference(values.tolist(), scale.item(), bits)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(5, 9, generator=torch.Generator().manual_seed(5))
    names = ["int8", "int8-channel"]
    whole = [fitted(name, values).encode(values) for name in names]
    for tile in (4, 20):
        monkeypatch.setattr("faultcli.formats.values.TILE", tile)
        assert all(torch.equal(fitted(name, values).encode(values), w) for name, w in zip(names, whole, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_taken_exactly(dtype: torch.dtype) -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(6)).to(dtype)
    fmt = fitted("int8", values)
    assert integers(fmt.encode(values), 8) == reference(values.double().tolist(), fmt.scales[0].item(), 8)


def test_extremes_stay_finite() -> None:
    for values in (torch.tensor([1e300, -1.0], dtype=torch.float64), torch.tensor([torch.finfo(torch.float32).max])):
        fmt = fitted("int8", values)
        assert integers(fmt.encode(values), 8)[0] == 127
        assert fmt.decode(torch.tensor([0x80], dtype=torch.uint8)).isfinite().all()
    tiny = torch.tensor([2.0**-149, 0.0])
    assert torch.equal(fitted("int8", tiny).decode(fitted("int8", tiny).encode(tiny)), tiny)


def test_errors() -> None:
    unfitted = parse_format("int8-channel")
    assert unfitted.side_bits == 0
    with pytest.raises(FormatError, match=r"^int8-channel has no scale yet$") as error:
        unfitted.encode(torch.ones(2))
    assert error.value.remedy == "call fitted(values) with the tensor first"
    with pytest.raises(FormatError, match="no scale yet"):
        unfitted.decode(torch.ones(2, dtype=torch.uint8))
    fmt = unfitted.fitted(torch.ones(3, 4))
    with pytest.raises(FormatError, match="5 values do not fit int8-channel scales that were fitted to 12"):
        fmt.encode(torch.ones(5))
    with pytest.raises(FormatError, match="5 values do not fit"):
        fmt.decode(torch.ones(5, dtype=torch.uint8))
    for refusing in (parse_format("int8").fitted, parse_format("int8").fitted(torch.ones(3)).encode):
        with pytest.raises(FormatError, match=r"^holds 1 NaN and 1 infinite values; int8 cannot store them$"):
            refusing(torch.tensor([math.nan, 1.0, math.inf]))
    for bits in (1, 17):
        with pytest.raises(UsageError, match=f"number format int{bits}: N is {bits}"):
            SignedInteger(bits)


@pytest.mark.parametrize("bits", WIDTHS)
def test_fields_partition_the_word(bits: int) -> None:
    assert parse_format(f"int{bits}").fields == {"sign": (bits - 1,), "magnitude": tuple(range(bits - 1))}


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
)
def test_native_integers_are_kept_bit_for_bit(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    name = ("U" if info.min == 0 else "I") + str(info.bits)
    fmt = word_format(name)
    assert isinstance(fmt, NativeIntegerFormat)
    assert (fmt.name, fmt.bits, fmt.native, fmt.value_dtype) == (name, info.bits, dtype, dtype)
    values = torch.tensor([info.min, info.max, 0, 1], dtype=dtype).reshape(2, 2)
    codes = fmt.encode(values)
    assert codes.dtype == container_dtype(info.bits)
    decoded = fmt.decode(codes)
    assert decoded.dtype == dtype
    assert decoded.tolist() == values.tolist()
    assert ("sign" in fmt.fields) == (info.min < 0)
    assert sorted(bit for positions in fmt.fields.values() for bit in positions) == list(range(info.bits))
    top_bit_flipped = fmt.decode(codes ^ torch.tensor(1).bitwise_left_shift(info.bits - 1).to(codes.dtype))
    assert int(top_bit_flipped[1, 0].item()) == (info.min if info.min else 1 << (info.bits - 1))


def test_native_integers_take_no_other_dtype() -> None:
    with pytest.raises(FormatError, match="holds float32 values; native I8 stores only its own dtype"):
        word_format("I8").encode(torch.ones(1))
