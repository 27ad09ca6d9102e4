"""Number formats: how weights are stored as codes. The one table of their names.

A new format is a new file with a `NumberFormat` and one line here.

    base             what a number format is
    floats           binary floating point, from IEEE 754 to OCP 4 bits
    fixed            fixed point
    integers         integers, as words of scaled formats and as they are
    codebook         few values that follow no rule
    scaled           codes times a number that is stored once for a group
    exponent         a scale that is a power of two
    channels         which values are an output channel
    twos_complement  words of 1 to 32 bits in their containers
    bits             bit positions by name
    raw              tensors of other dtypes, as the words that they consist of
    values           what formats do with the values they are given
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from faultcli.errors import FormatError, unknown_name
from faultcli.formats import floats, scaled
from faultcli.formats.base import FormatRow, NumberFormat, container_dtype
from faultcli.formats.bits import bit_positions, scale_positions
from faultcli.formats.channels import ByRows, Channels, ChannelsOf
from faultcli.formats.fixed import FixedFormat
from faultcli.formats.integers import NativeIntegerFormat
from faultcli.formats.raw import as_words, from_words
from faultcli.formats.scaled import ScaledFormat

__all__ = [
    "FAMILIES",
    "NAMED",
    "NATIVE",
    "ByRows",
    "Channels",
    "ChannelsOf",
    "Family",
    "FormatRow",
    "NumberFormat",
    "ScaledFormat",
    "as_words",
    "bit_positions",
    "container_dtype",
    "describe_formats",
    "format_for",
    "from_words",
    "native_format",
    "parse_format",
    "scale_positions",
    "word_format",
]


@dataclass(frozen=True)
class Family:
    """Formats that share a pattern of names, such as `qI.F`."""

    row: FormatRow  # the family's row in the table; its name is the pattern as people write it
    pattern: str  # a regular expression for the whole name, one group per number
    build: Callable[..., NumberFormat]  # the format of the groups' integers
    examples: tuple[str, ...]  # names to show and to suggest


NAMED: dict[str, NumberFormat] = {
    "fp64": floats.FP64,
    "fp32": floats.FP32,
    "fp16": floats.FP16,
    "bf16": floats.BF16,
    "fp8-e4m3": floats.FP8_E4M3,
    "fp8-e5m2": floats.FP8_E5M2,
    "fp6-e3m2": floats.FP6_E3M2,
    "fp6-e2m3": floats.FP6_E2M3,
    "fp4-e2m1": floats.FP4_E2M1,
    "fp8-e4m3-tensor": scaled.per_tensor_float(floats.FP8_E4M3),
    "fp8-e5m2-tensor": scaled.per_tensor_float(floats.FP8_E5M2),
    "mxfp8-e4m3": scaled.microscaling("mxfp8-e4m3", floats.FP8_E4M3),
    "mxfp8-e5m2": scaled.microscaling("mxfp8-e5m2", floats.FP8_E5M2),
    "mxfp6-e3m2": scaled.microscaling("mxfp6-e3m2", floats.FP6_E3M2),
    "mxfp6-e2m3": scaled.microscaling("mxfp6-e2m3", floats.FP6_E2M3),
    "mxfp4": scaled.microscaling("mxfp4", floats.FP4_E2M1),
    "nf4": scaled.NF4,
}

_NUMBER = "(0|[1-9][0-9]{0,8})"  # no leading zeros, so that a format has one name
_FINITE = "neither NaN nor infinities"

FAMILIES: tuple[Family, ...] = (
    Family(
        FormatRow("qI.F", "1+I+F, 2 to 32", "[-2^I, 2^I - 2^-F]", "2^-F", _FINITE),
        rf"q{_NUMBER}\.{_NUMBER}",
        FixedFormat,
        ("q2.5",),
    ),
    Family(
        FormatRow("intN", "N, 2 to 16", "±max|w| of the tensor", "max|w| / (2^(N-1) - 1)", _FINITE),
        rf"int{_NUMBER}",
        scaled.per_tensor_integer,
        ("int8", "int4"),
    ),
    Family(
        FormatRow("intN-channel", "N, 2 to 16", "±max|w| of the channel", "max|w| / (2^(N-1) - 1)", _FINITE),
        rf"int{_NUMBER}-channel",
        scaled.per_channel_integer,
        ("int8-channel",),
    ),
    Family(
        FormatRow(
            "intN-gK",
            "N, 2 to 16, + 16 per K values",
            "±max|w| of K values",
            "max|w| / (2^(N-1) - 1)",
            scaled.BY_FLIPS_ONLY,
        ),
        rf"int{_NUMBER}-g{_NUMBER}",
        scaled.grouped_integer,
        ("int8-g128", "int4-g128"),
    ),
)

NATIVE: dict[str, NumberFormat] = {
    "F64": floats.FP64,
    "F32": floats.FP32,
    "F16": floats.FP16,
    "BF16": floats.BF16,
    "F8_E4M3": floats.FP8_E4M3,
    "F8_E5M2": floats.FP8_E5M2,
    "I8": NativeIntegerFormat(torch.int8),
    "I16": NativeIntegerFormat(torch.int16),
    "I32": NativeIntegerFormat(torch.int32),
    "I64": NativeIntegerFormat(torch.int64),
    "U8": NativeIntegerFormat(torch.uint8),
    "U16": NativeIntegerFormat(torch.uint16),
    "U32": NativeIntegerFormat(torch.uint32),
    "U64": NativeIntegerFormat(torch.uint64),
}


def parse_format(name: str) -> NumberFormat:
    """Return the number format called `name`, e.g. "fp16", "q2.5", "int8-channel".

    `native` is no format of its own: see `format_for`.

    Raises:
        UsageError: no format has this name, or its numbers are out of range (q40.2, int99).
    """
    if name in NAMED:
        return NAMED[name]
    for family in FAMILIES:
        if match := re.fullmatch(family.pattern, name):
            return family.build(*map(int, match.groups()))
    spellings = [spelling for family in FAMILIES for spelling in (family.row.name, *family.examples)]
    raise unknown_name("number format", name, [*NAMED, *spellings])


def native_format(dtype: str) -> NumberFormat:
    """Return the format that stores a tensor of safetensors dtype `dtype`, e.g. "BF16", bit for bit.

    Raises:
        FormatError: words of this dtype (booleans, packed 4-bit values, complex numbers) are not supported.
    """
    if dtype not in NATIVE:
        raise FormatError(
            f"has dtype {dtype}, which no number format stores",
            "leave it out with --exclude; with --format native its bits are flipped as they lie in the file",
        )
    return NATIVE[dtype]


def word_format(dtype: str) -> NumberFormat:
    """Return the format of the words that a tensor of safetensors dtype `dtype` consists of in a memory: its native
    format; the two fp32 words of a complex number; else bytes (booleans, packed 4- and 6-bit values, other 8-bit
    floats)."""
    return NATIVE.get(dtype) or NATIVE["F32" if dtype == "C64" else "U8"]


def format_for(format_name: str, dtype: str) -> NumberFormat:
    """Return the format of this name for a tensor of this safetensors dtype; `native` is the dtype itself.

    Raises:
        UsageError: no such format.
        FormatError: the dtype is none that can be read as numbers, one by one (booleans, packed values).
    """
    own = native_format(dtype)
    return own if format_name == "native" else parse_format(format_name)


def describe_formats() -> list[FormatRow]:
    """Return the table of formats in the order to print: named ones, patterns with examples, and `native` last."""
    rows = [fmt.describe() for fmt in NAMED.values()]
    for family in FAMILIES:
        rows += [family.row, *(parse_format(example).describe() for example in family.examples)]
    return [*rows, FormatRow("native", "as in the file", "as in the file", "as in the file", "kept, bit for bit")]
