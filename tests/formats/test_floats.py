"""Floats against two independent libraries and an exhaustive table of nearest codes.

Where the oracles differ from our policy, saturation on write:
- ml_dtypes overflows to infinity (fp16, bf16, e5m2) or NaN (e4m3), so it is asked about values up to the largest only;
- ml_dtypes converts float64 to the small formats by way of float32 and rounds twice, so it is asked about float32 only;
- gfloat with sat=True also saturates infinities, which we keep or refuse, so it is asked about finite values only.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faultcli.errors import FormatError
from faultcli.formats import NAMED, word_format
from faultcli.formats.base import container_dtype
from faultcli.formats.floats import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, FP64, FloatFormat, Specials

FLOATS = [fmt for fmt in NAMED.values() if isinstance(fmt, FloatFormat)]
SMALL = [fmt for fmt in FLOATS if fmt.bits <= 16]
ML_DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
    "fp6-e3m2": ml_dtypes.float6_e3m2fn,
    "fp6-e2m3": ml_dtypes.float6_e2m3fn,
    "fp4-e2m1": ml_dtypes.float4_e2m1fn,
}
GFLOAT = {
    "fp16": gfloat.formats.format_info_binary16,
    "bf16": gfloat.formats.format_info_bfloat16,
    "fp8-e4m3": gfloat.formats.format_info_ocp_e4m3,
    "fp8-e5m2": gfloat.formats.format_info_ocp_e5m2,
    "fp6-e3m2": gfloat.formats.format_info_ocp_e3m2,
    "fp6-e2m3": gfloat.formats.format_info_ocp_e2m3,
    "fp4-e2m1": gfloat.formats.format_info_ocp_e2m1,
}

each_float = pytest.mark.parametrize("fmt", FLOATS, ids=lambda fmt: fmt.name)
each_small = pytest.mark.parametrize("fmt", SMALL, ids=lambda fmt: fmt.name)


def all_codes(fmt: FloatFormat) -> torch.Tensor:
    return torch.arange(1 << fmt.bits).to(container_dtype(fmt.bits))


def plain(codes: torch.Tensor, fmt: FloatFormat) -> np.ndarray:
    """Codes as non-negative int64, whatever the container's sign."""
    return codes.to(torch.int64).numpy() & ((1 << fmt.bits) - 1)


@functools.cache
def positives(fmt: FloatFormat) -> np.ndarray:
    """Values, float64, of the codes 0 to max_code: ascending, by the format's definition in plain Python."""
    return np.array([fmt.value_of(code) for code in range(fmt.max_code + 1)])


def nearest_codes(values: np.ndarray, fmt: FloatFormat) -> np.ndarray:
    """The slow reference: look every magnitude up between neighbouring values; midpoints are exact in float64."""
    table = positives(fmt)
    magnitude = np.abs(values)
    above = np.searchsorted(table, magnitude).clip(1, fmt.max_code)
    middle = (table[above - 1] + table[above]) / 2
    to_even = above - (above % 2)
    code = np.where(magnitude < middle, above - 1, np.where(magnitude > middle, above, to_even))
    return code | (np.signbit(values).astype(np.int64) << (fmt.bits - 1))


def neighbourhoods(fmt: FloatFormat, dtype: type[np.floating]) -> np.ndarray:
    """Every finite value, every midpoint, one step of `dtype` to either side of both, and values beyond the largest."""
    table = positives(fmt)
    top_step = table[-1] - table[-2]
    beyond = np.array([table[-1] + top_step / 4, table[-1] + top_step / 2, table[-1] + top_step, np.finfo(dtype).max])
    with np.errstate(over="ignore"):
        points = np.concatenate([table, (table[:-1] + table[1:]) / 2, beyond]).astype(dtype)
        points = np.concatenate([points, np.nextafter(points, dtype(np.inf)), np.nextafter(points, dtype(0))])
    points = points[np.isfinite(points)]
    return np.concatenate([points, -points])


@each_float
def test_fields_are_the_bits_from_the_top_down(fmt: FloatFormat) -> None:
    assert list(fmt.fields) == ["sign", "exponent", "mantissa"]
    assert sorted(bit for bits in fmt.fields.values() for bit in bits) == list(range(fmt.bits))
    one = int(fmt.encode(torch.ones(1)).item())
    assert [bit for bit in range(fmt.bits) if one >> bit & 1] == [
        bit for bit in fmt.fields["exponent"] if fmt.bias << fmt.mantissa_bits >> bit & 1
    ]


@pytest.mark.parametrize(
    ("name", "bits", "largest", "smallest"),
    [
        ("fp16", 16, 65504.0, 2.0**-24),  # IEEE 754-2019, table 3.5
        ("bf16", 16, 255 * 2.0**120, 2.0**-133),
        ("fp8-e4m3", 8, 448.0, 2.0**-9),  # OCP OFP8 1.0, table 2
        ("fp8-e5m2", 8, 57344.0, 2.0**-16),
        ("fp6-e3m2", 6, 28.0, 2.0**-4),  # OCP MX 1.0, tables 3 to 5
        ("fp6-e2m3", 6, 7.5, 2.0**-3),
        ("fp4-e2m1", 4, 6.0, 0.5),
    ],
)
def test_ranges_are_those_of_the_standards(name: str, bits: int, largest: float, smallest: float) -> None:
    fmt = NAMED[name]
    assert isinstance(fmt, FloatFormat)
    assert (fmt.bits, fmt.largest, fmt.smallest) == (bits, largest, smallest)


@pytest.mark.parametrize("fmt", [FP16, BF16, FP32, FP64, FP8_E5M2, FP8_E4M3], ids=lambda fmt: fmt.name)
def test_range_agrees_with_torch(fmt: FloatFormat) -> None:
    assert fmt.native is not None
    info = torch.finfo(fmt.native)
    assert fmt.largest == info.max
    assert fmt.smallest == info.tiny * 2.0**-fmt.mantissa_bits


@each_small
def test_decode_of_every_code(fmt: FloatFormat) -> None:
    decoded = fmt.decode(all_codes(fmt))
    assert decoded.dtype == fmt.value_dtype
    ours = decoded.to(torch.float64).numpy()
    codes = np.arange(1 << fmt.bits)
    word = np.uint8 if fmt.bits <= 8 else np.uint16
    with np.errstate(invalid="ignore"):  # signalling NaNs
        by_ml_dtypes = codes.astype(word).view(ML_DTYPES[fmt.name]).astype(np.float64)
    by_gfloat = gfloat.decode_ndarray(GFLOAT[fmt.name], codes)
    by_definition = np.array([fmt.value_of(code) for code in range(1 << fmt.bits)])
    for oracle in (by_ml_dtypes, by_gfloat, by_definition):
        np.testing.assert_array_equal(ours, oracle)  # NaN equals NaN
        np.testing.assert_array_equal(np.signbit(ours)[~np.isnan(ours)], np.signbit(oracle)[~np.isnan(oracle)])


@each_small
def test_round_trip_of_every_code(fmt: FloatFormat) -> None:
    codes = all_codes(fmt)
    decoded = fmt.decode(codes)
    number = ~decoded.isnan()
    assert torch.equal(fmt.encode(decoded[number]), codes[number])
    assert torch.equal(fmt.encode(decoded[number].double()), codes[number])


@each_small
@pytest.mark.parametrize("native", [True, False], ids=["cast", "generic"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_encode_around_every_code(fmt: FloatFormat, native: bool, dtype: type[np.floating]) -> None:
    """`generic` takes the native dtype away from the format, so that the slow path is held to the same oracles."""
    values = neighbourhoods(fmt, dtype)
    ours = plain((fmt if native else dataclasses.replace(fmt, native=None)).encode(torch.from_numpy(values)), fmt)
    np.testing.assert_array_equal(ours, nearest_codes(values, fmt))
    with np.errstate(over="ignore"):  # gfloat scales by the subnormal's exponent first
        rounded = gfloat.round_ndarray(GFLOAT[fmt.name], values.astype(np.float64), sat=True)
    np.testing.assert_array_equal(np.copysign(positives(fmt)[ours & ((1 << fmt.bits - 1) - 1)], values), rounded)
    if dtype is np.float32:
        inside = values[np.abs(values) <= fmt.largest]
        word = np.uint8 if fmt.bits <= 8 else np.uint16
        by_ml_dtypes = inside.astype(ML_DTYPES[fmt.name]).view(word)
        np.testing.assert_array_equal(ours[np.abs(values) <= fmt.largest], by_ml_dtypes)


@pytest.mark.parametrize("fmt", [FP32, FP16, BF16, FP8_E4M3, FP8_E5M2], ids=lambda fmt: fmt.name)
def test_generic_path_equals_cast_on_random_words(fmt: FloatFormat) -> None:
    words = torch.randint(-(2**63), 2**63 - 1, (100_000,), generator=torch.Generator().manual_seed(1))
    generic = dataclasses.replace(fmt, native=None)
    for values in (words.view(torch.float64), words.to(torch.int32).view(torch.float32)):
        numbers = values[values.isfinite()]
        if numbers.dtype != fmt.native:
            assert torch.equal(generic.encode(numbers), fmt.encode(numbers))


def test_fp32_from_float64_is_the_hardware_rounding_saturated() -> None:
    points = [1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-50, 2.0**-150, 1.5 * 2.0**-149, 1e300, -1e300, 3.4028235677973366e38]
    values = torch.tensor(points, dtype=torch.float64)
    expected = torch.from_numpy(np.clip(values.numpy(), -FP32.largest, FP32.largest).astype(np.float32))
    assert torch.equal(FP32.decode(FP32.encode(values)), expected)
    assert torch.equal(dataclasses.replace(FP32, native=None).encode(values).to(torch.int32), FP32.encode(values))


@pytest.mark.parametrize(
    ("fmt", "value", "expected"),
    [
        # Above a midpoint by less than float32 can tell: by way of float32 it lands on the midpoint and rounds down.
        (FP16, 1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-10),
        (BF16, 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-7),
        (FP8_E4M3, 1 + 2.0**-4 + 2.0**-40, 1.125),
        (FP8_E5M2, 1 + 2.0**-3 + 2.0**-40, 1.25),
        # Just below: the trap rounds up to even.
        (FP16, 1 + 3 * 2.0**-11 - 2.0**-40, 1 + 2.0**-10),
        (BF16, -(1 + 3 * 2.0**-8 - 2.0**-40), -(1 + 2.0**-7)),
        # Half of the smallest subnormal, and a hair more; float64 subnormals.
        (FP16, 2.0**-25, 0.0),
        (FP16, 2.0**-25 * (1 + 2.0**-40), 2.0**-24),
        (BF16, 5e-324, 0.0),
    ],
)
def test_float64_is_rounded_once(fmt: FloatFormat, value: float, expected: float) -> None:
    assert fmt.decode(fmt.encode(torch.tensor([value], dtype=torch.float64))).item() == expected


@each_small
def test_saturation_keeps_the_sign(fmt: FloatFormat) -> None:
    values = torch.tensor([fmt.largest * 1.5, -fmt.largest * 1.5, 1e300, -1e300], dtype=torch.float64)
    assert fmt.decode(fmt.encode(values)).tolist() == [fmt.largest, -fmt.largest] * 2


@each_float
def test_negative_zero_and_underflow_keep_the_sign(fmt: FloatFormat) -> None:
    decoded = fmt.decode(fmt.encode(torch.tensor([0.0, -0.0, 1e-320, -1e-320], dtype=torch.float64)))
    assert decoded.signbit().tolist() == [False, True, False, True]
    if fmt is not FP64:
        assert decoded.tolist() == [0.0] * 4


@each_float
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_infinity_is_kept_or_refused(fmt: FloatFormat, dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, math.inf, -math.inf]).to(dtype)
    if dtype == torch.float8_e5m2:
        values = torch.tensor([0x3C, 0x7C, 0xFC], dtype=torch.uint8).view(dtype)
    if fmt.specials is Specials.IEEE:
        assert fmt.decode(fmt.encode(values)).tolist() == [1.0, math.inf, -math.inf]
    else:
        with pytest.raises(FormatError, match=rf"^holds 2 infinite values; {fmt.name} cannot store them$"):
            fmt.encode(values)


@each_float
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.float8_e4m3fn])
def test_nan_is_kept_or_refused(fmt: FloatFormat, dtype: torch.dtype) -> None:
    values = torch.tensor([math.nan, -1.0]).to(dtype)
    if fmt.specials is Specials.NONE:
        with pytest.raises(FormatError, match=rf"^holds 1 NaN value; {fmt.name} cannot store it$"):
            fmt.encode(values)
    else:
        codes = fmt.encode(values)
        assert fmt.decode(codes).isnan().tolist() == [True, False]
        assert fmt.decode(codes)[1] == -1
        if dtype != fmt.native:
            assert codes[0].item() == fmt.nan_code


def test_specials_do_not_disturb_their_neighbours() -> None:
    values = torch.tensor([1.5, math.nan, 1e9, -math.inf, -1e9, -0.0])
    assert str(FP16.decode(FP16.encode(values)).tolist()) == "[1.5, nan, 65504.0, -inf, -65504.0, -0.0]"
    with pytest.raises(FormatError, match=r"^holds 3 NaN and 1 infinite values; fp6-e3m2 cannot store them$"):
        NAMED["fp6-e3m2"].encode(torch.tensor([math.nan, 1.0, math.nan, math.inf, math.nan]))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_native_words_are_kept_bit_for_bit(dtype: str) -> None:
    fmt = word_format(dtype)
    assert isinstance(fmt, FloatFormat)
    assert fmt.native is not None
    words = torch.randint(-(2**63), 2**63 - 1, (1 << 16,), generator=torch.Generator().manual_seed(2))
    words[:4] = torch.tensor(
        [-1, 1, 0, 0x7FF0_0000_0000_0001]
    )  # a NaN with every bit set, a subnormal, 0, a signalling NaN
    codes = words.to(container_dtype(fmt.bits)) if fmt.bits > 16 else all_codes(fmt)
    values = codes.view(fmt.native)
    assert torch.equal(fmt.encode(values), codes)
    decoded = fmt.decode(codes)
    assert torch.equal(decoded.isnan(), values.to(fmt.value_dtype).isnan())
    assert torch.equal(decoded[~decoded.isnan()], values.to(fmt.value_dtype)[~decoded.isnan()])


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
@each_small
def test_narrow_inputs_encode_as_their_exact_values(fmt: FloatFormat, narrow: torch.dtype) -> None:
    values = torch.arange(1 << narrow.itemsize * 8).to(container_dtype(narrow.itemsize * 8)).view(narrow)
    values = values[values.float().isfinite()]
    assert torch.equal(fmt.encode(values), fmt.encode(values.double()))


@each_float
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 4)])
def test_shapes(fmt: FloatFormat, shape: tuple[int, ...]) -> None:
    codes = fmt.encode(torch.ones(shape))
    assert codes.shape == fmt.decode(codes).shape == shape
    assert codes.dtype == container_dtype(fmt.bits)
    assert fmt.side_bits == 0
    assert fmt.fitted(torch.ones(shape)) is fmt


def test_transposed_input_and_more_than_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.linspace(-3, 3, 60).reshape(6, 10)
    expected = FP16.encode(values).T
    monkeypatch.setattr("faultcli.formats.values.TILE", 7)
    assert torch.equal(FP16.encode(values.T), expected)
    assert torch.equal(dataclasses.replace(FP16, native=None).encode(values.T), expected)


def test_integers_and_parameters() -> None:
    with pytest.raises(FormatError, match="holds int64 values; fp16 stores floating-point values"):
        FP16.encode(torch.ones(2, dtype=torch.int64))
    assert not FP16.encode(torch.nn.Parameter(torch.ones(2))).requires_grad
    assert not FP32.encode(torch.nn.Parameter(torch.ones(2))).requires_grad


@settings(max_examples=60, deadline=None)
@given(
    fmt=st.sampled_from(SMALL),
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20),
    exponent=st.integers(-20, 10),
)
def test_encode_is_nearest_and_monotone(fmt: FloatFormat, values: list[float], exponent: int) -> None:
    """Any float64, and the same drawn near the format's range."""
    near = [math.ldexp(math.frexp(v)[0], exponent) for v in values]
    inputs = np.sort(np.array([*values, *near]))
    codes = fmt.encode(torch.from_numpy(inputs))
    np.testing.assert_array_equal(plain(codes, fmt), nearest_codes(inputs, fmt))
    assert (fmt.decode(codes).diff() >= 0).all()
