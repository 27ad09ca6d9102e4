"""Bit positions by name."""

from __future__ import annotations

import pytest

from faultcli.errors import FaultError
from faultcli.formats import bit_positions, parse_format, scale_positions, word_format
from faultcli.formats.exponent import E8M0


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("fp32", "sign", [31]),
        ("fp32", "exponent", range(23, 31)),
        ("fp32", "mantissa", range(23)),
        ("fp32", "sign+exponent", range(23, 32)),
        ("fp32", "0-7+31", [*range(8), 31]),
        ("fp32", "31 + 0-7", [*range(8), 31]),
        ("fp32", "3+3+2-4", [2, 3, 4]),
        ("q2.5", "integer", [5, 6]),
        ("q2.5", "fraction+msb", [0, 1, 2, 3, 4, 7]),
        ("int8", "magnitude", range(7)),
        ("fp4-e2m1", "msb", [3]),
        ("fp4-e2m1", "lsb", [0]),
        ("fp4-e2m1", "msb:4", range(4)),
        ("fp16", "msb:2", [14, 15]),
        ("fp16", "lsb:3", [0, 1, 2]),
        ("fp16", "15-15", [15]),
        ("mxfp6-e3m2", "exponent", [2, 3, 4]),
        ("mxfp6-e3m2", "scale", []),
        ("mxfp6-e3m2", "scale:msb + sign", [5]),
        ("nf4", "level", range(4)),
    ],
)
def test_selections(name: str, spec: str, expected: list[int]) -> None:
    assert bit_positions(parse_format(name), spec) == tuple(expected)


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("mxfp4", "scale", range(8)),
        ("mxfp4", "sign+scale:msb", [7]),
        ("mxfp4", "exponent", []),
        ("int4-g64", "scale:sign+scale:mantissa", [*range(10), 15]),
        ("nf4", " scale : 23-30", range(23, 31)),
    ],
)
def test_selections_of_scales(name: str, spec: str, expected: list[int]) -> None:
    store = parse_format(name).scale_format
    assert store is not None
    assert scale_positions(store, spec) == tuple(expected)


@pytest.mark.parametrize(
    ("name", "spec", "problem"),
    [
        ("q2.5", "exponent", "there are no bits 'exponent'"),
        ("q2.5", "scale", "there are no bits 'scale'"),
        ("mxfp4", "scales", "there are no bits 'scales'"),
        ("q0.7", "integer", "there are no bits 'integer'"),
        ("q2.5", "", "a part is empty"),
        ("q2.5", "sign+", "a part is empty"),
        ("q2.5", "8", "bit 8 is outside the word of 8 bits"),
        ("q2.5", "4-8", "bit 8 is outside the word of 8 bits"),
        ("q2.5", "5-3", "range 5-3 is empty"),
        ("q2.5", "msb:0", "msb:0 selects 0 bits of a word of 8"),
        ("q2.5", "lsb:9", "lsb:9 selects 9 bits of a word of 8"),
        ("q2.5", "-1", "there are no bits '-1'"),
        ("q2.5", "1-", "there are no bits '1-'"),
        ("q2.5", "Sign", "there are no bits 'Sign'"),
    ],
)
def test_refusals_say_what_the_format_has(name: str, spec: str, problem: str) -> None:
    with pytest.raises(FaultError) as error:
        bit_positions(parse_format(name), spec)
    assert error.value.message == f"bits {spec!r} in {name}: {problem}"
    assert error.value.remedy is not None
    assert error.value.remedy.startswith(f"{name} has sign (")


def test_the_remedy_lists_groups_as_runs() -> None:
    with pytest.raises(FaultError) as error:
        bit_positions(parse_format("fp32"), "fraction")
    assert error.value.remedy == (
        "fp32 has sign (31), exponent (23-30), mantissa (0-22); "
        "also N, A-B, msb, lsb, msb:K, lsb:K, and any of these joined by +"
    )


def test_the_remedy_lists_scales() -> None:
    with pytest.raises(FaultError) as error:
        bit_positions(parse_format("mxfp4"), "level")
    assert error.value.remedy is not None
    assert error.value.remedy.startswith("mxfp4 has sign (3), exponent (1-2), mantissa (0), scale and scale:PART; also")
    with pytest.raises(FaultError, match=r"^bits 'scale:8' in e8m0: bit 8 is outside the word of 8 bits$"):
        scale_positions(E8M0, "scale:8")


def test_native_integers_have_groups_too() -> None:
    assert bit_positions(word_format("I64"), "sign") == (63,)
    assert bit_positions(word_format("U64"), "magnitude") == tuple(range(64))
