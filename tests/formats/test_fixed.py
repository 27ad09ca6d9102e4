"""Fixed point against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faultcli.errors import FormatError, UsageError
from faultcli.formats import parse_format
from faultcli.formats.base import container_dtype
from faultcli.formats.fixed import FixedFormat

FORMATS = [(2, 5), (0, 7), (7, 0), (0, 1), (1, 0), (3, 4), (1, 3), (4, 8), (7, 8), (8, 7), (0, 15)]
each_format = pytest.mark.parametrize(("i", "f"), FORMATS)


def reference(value: float, i: int, f: int) -> int:
    """The code of one value: Python rounds a Fraction half to even."""
    integer = round(Fraction(value) * 2**f)
    return max(-(2 ** (i + f)), min(2 ** (i + f) - 1, integer)) & (2 ** (1 + i + f) - 1)


def plain(codes: torch.Tensor, fmt: FixedFormat) -> list[int]:
    return [code & ((1 << fmt.bits) - 1) for code in codes.tolist()]


@each_format
def test_every_code_decodes_exactly_and_comes_back(i: int, f: int) -> None:
    fmt = FixedFormat(i, f)
    codes = torch.arange(1 << fmt.bits).to(container_dtype(fmt.bits))
    half = 1 << (fmt.bits - 1)
    expected = [float(Fraction(code if code < half else code - 2 * half, 2**f)) for code in range(2 * half)]
    values = fmt.decode(codes)
    assert values.dtype == torch.float32
    assert values.tolist() == expected
    assert torch.equal(fmt.encode(values), codes)


@each_format
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_encode_around_every_code_and_midpoint(i: int, f: int, dtype: type[np.floating]) -> None:
    fmt = FixedFormat(i, f)
    steps = np.arange(-(2 ** (i + f)) - 2, 2 ** (i + f) + 2, max(1, 2 ** (i + f) // 2000))
    points = np.concatenate([steps, steps + 0.5]).astype(dtype) * dtype(2.0**-f)
    points = np.concatenate([points, np.nextafter(points, dtype(np.inf)), np.nextafter(points, dtype(-np.inf))])
    ours = plain(fmt.encode(torch.from_numpy(points)), fmt)
    assert ours == [reference(float(v), i, f) for v in points]


@settings(max_examples=100, deadline=None)
@given(
    i=st.integers(0, 31),
    f=st.integers(0, 31),
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=10),
    small=st.lists(st.floats(-4, 4), min_size=1, max_size=10),
    single=st.booleans(),
)
def test_any_format_any_value(i: int, f: int, values: list[float], small: list[float], single: bool) -> None:
    if not 1 <= i + f <= 31:
        i, f = min(i, 15), 1 + min(f, 15)
    fmt = FixedFormat(i, f)
    inputs = torch.tensor(values + small, dtype=torch.float64).sort().values
    if single:
        inputs = inputs.clamp(-3e38, 3e38).float()
    codes = fmt.encode(inputs)
    assert plain(codes, fmt) == [reference(v, i, f) for v in inputs.tolist()]
    decoded = fmt.decode(codes)
    assert (decoded.diff() >= 0).all()
    assert torch.equal(fmt.encode(decoded), codes)
    exact = inputs.double()
    inside = (exact >= -(2.0**i)) & (exact <= 2.0**i - 2.0**-f)
    assert ((decoded.double() - exact).abs()[inside] <= 2.0 ** -(f + 1)).all()


@pytest.mark.parametrize(("i", "f", "dtype"), [(0, 24, torch.float32), (24, 0, torch.float32), (0, 25, torch.float64)])
def test_value_dtype_is_the_narrowest_exact_one(i: int, f: int, dtype: torch.dtype) -> None:
    fmt = FixedFormat(i, f)
    extremes = torch.tensor([(1 << (i + f)) - 1, 1 << (i + f), 1, -1 & ((1 << fmt.bits) - 1)], dtype=torch.int32)
    values = fmt.decode(extremes)
    assert values.dtype == fmt.value_dtype == dtype
    assert values.tolist() == [2.0**i - 2.0**-f, -(2.0**i), 2.0**-f, -(2.0**-f)]


def test_32_bits_fill_the_container() -> None:
    fmt = FixedFormat(0, 31)
    codes = torch.tensor([-(2**31), 2**31 - 1, -1, 0], dtype=torch.int32)
    assert fmt.decode(codes).tolist() == [-1.0, 1 - 2.0**-31, -(2.0**-31), 0.0]
    assert torch.equal(fmt.encode(fmt.decode(codes)), codes)
    assert torch.equal(fmt.encode(torch.tensor([-9.0, 9.0])), codes[:2])


def test_q2_5_is_what_the_paper_tables_say() -> None:
    fmt = parse_format("q2.5")
    values = torch.tensor([1.0, -4.0, -9.0, 3.96875, 9.0, 1 / 64, 3 / 64, -1 / 64, -0.0, 3.4e38])
    assert fmt.encode(values).tolist() == [32, 0x80, 0x80, 0x7F, 0x7F, 0, 2, 0, 0, 0x7F]
    assert fmt.fields == {"sign": (7,), "integer": (5, 6), "fraction": (0, 1, 2, 3, 4)}


@each_format
def test_fields_partition_the_word(i: int, f: int) -> None:
    fmt = FixedFormat(i, f)
    assert sorted(bit for bits in fmt.fields.values() for bit in bits) == list(range(fmt.bits))
    assert all(fmt.fields.values())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    fmt = FixedFormat(2, 5)
    codes = fmt.encode(torch.ones(shape, dtype=torch.bfloat16))
    assert codes.shape == fmt.decode(codes).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_nan_and_infinity_are_counted_and_refused(dtype: torch.dtype) -> None:
    values = torch.tensor([math.nan, 1, math.nan, math.inf, math.nan]).to(dtype)
    with pytest.raises(FormatError, match=r"^holds 3 NaN and 1 infinite values; q2\.5 cannot store them$"):
        FixedFormat(2, 5).encode(values)
    with pytest.raises(FormatError, match=r"^holds 1 infinite value; q2\.5 cannot store it$"):
        FixedFormat(2, 5).encode(values[2:4].nan_to_num(posinf=math.inf))


@pytest.mark.parametrize(("i", "f"), [(0, 0), (40, 2), (16, 16), (-1, 8), (8, -1)])
def test_impossible_splits(i: int, f: int) -> None:
    with pytest.raises(UsageError, match=r"I \+ F is") as error:
        FixedFormat(i, f)
    assert error.value.remedy == "in qI.F, I + F must be 1 to 31, e.g. q2.5"
