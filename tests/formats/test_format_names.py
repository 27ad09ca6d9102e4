"""The table of formats: names, patterns, native dtypes, rows, and what holds for every format."""

from __future__ import annotations

import pickle
import re

import pytest
import torch

from faultcli.errors import FormatError, UsageError
from faultcli.formats import FAMILIES, NAMED, NATIVE, describe_formats, format_for, parse_format, word_format
from faultcli.formats.base import container_dtype

NAMES = [*NAMED, *(example for family in FAMILIES for example in family.examples), "q0.1", "q31.0", "int2", "int16"]
each_name = pytest.mark.parametrize("name", NAMES)


@each_name
def test_a_format_is_called_what_it_was_asked_for(name: str) -> None:
    fmt = parse_format(name)
    assert fmt.name == name
    assert fmt == parse_format(name)
    assert hash(fmt) == hash(parse_format(name))
    assert pickle.loads(pickle.dumps(fmt)) == fmt


@each_name
def test_the_contract_that_every_format_keeps(name: str) -> None:
    values = torch.linspace(-0.9, 0.9, 12, dtype=torch.float64).reshape(3, 4)
    fmt = parse_format(name).fitted(values)
    codes = fmt.encode(values)
    assert codes.dtype == container_dtype(fmt.bits)
    assert codes.shape == values.shape
    if fmt.bits < codes.dtype.itemsize * 8:
        assert int(codes.max()) < 1 << fmt.bits
    assert int(codes.min()) >= 0 or fmt.bits == codes.dtype.itemsize * 8
    decoded = fmt.decode(codes)
    assert decoded.dtype == fmt.value_dtype
    assert torch.equal(fmt.encode(decoded), codes)
    index = torch.tensor([5, 0, 11])
    assert torch.equal(fmt.decode(codes.flatten()[index], index), decoded.flatten()[index])
    assert sorted(bit for bits in fmt.fields.values() for bit in bits) == list(range(fmt.bits))


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("q40.2", r"^number format q40\.2: I \+ F is 42$", r"must be 1 to 31, e\.g\. q2\.5"),
        ("q0.0", r"^number format q0\.0: I \+ F is 0$", "must be 1 to 31"),
        ("int1", "^number format int1: N is 1$", "must be 2 to 16"),
        ("int99-channel", "^number format int99: N is 99$", "must be 2 to 16"),
        ("q25", "^unknown number format 'q25'$", r"did you mean 'q2\.5'\?"),
        ("q02.5", "^unknown number format", r"did you mean 'q2\.5'\?"),
        ("q2.5 ", "^unknown number format", r"did you mean 'q2\.5'\?"),
        ("q2.٥", "^unknown number format", r"did you mean 'q2\.5'\?"),  # a digit, but not ours
        ("float16", "^unknown number format", r"did you mean 'fp16'\?"),
        ("int8_channel", "^unknown number format", r"did you mean 'int8-channel'\?"),
        ("int" + "9" * 5000, "^unknown number format", "known: "),
        ("", "^unknown number format ''$", "^known: bf16, fp16"),
    ],
)
def test_names_that_do_not_parse(name: str, message: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        parse_format(name)
    assert error.value.remedy is not None
    assert re.search(remedy, error.value.remedy)


def test_native_formats() -> None:
    for dtype, fmt in NATIVE.items():
        assert word_format(dtype) is fmt
    with pytest.raises(
        FormatError, match=r"^has dtype BOOL, whose truth values lie as they are and in no other format$"
    ):
        format_for("q2.5", "BOOL")


def test_every_row_is_filled_and_every_name_is_shown_once() -> None:
    rows = describe_formats()
    assert all(all(row) for row in rows)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {*NAMED, *(family.row.name for family in FAMILIES), "native"} <= set(names)
    assert all(all(fmt.describe()) for fmt in NATIVE.values())
    (row,) = [row for row in rows if row.name == "q2.5"]
    assert row == ("q2.5", "8", "[-4, 3.96875]", "0.03125", "neither NaN nor infinities")
