"""What ggml stores tensors as: the one table of its types (ggml.h), and the fields of blocks (ggml-common.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from faultcli.checkpoint.header import DTYPES


class Field(NamedTuple):
    """A field of a block: so many numbers of a safetensors dtype."""

    name: str
    dtype: str
    numbers: int

    @property
    def nbytes(self) -> int:
        return self.numbers * DTYPES[self.dtype][0] // 8


@dataclass(frozen=True)
class GgmlType:
    """A way to store a tensor.

    `weights`: in a block; rows consist of whole blocks. `nbytes`: of a block. `dtype`: of values that lie side by side;
    None: of blocks. `fields`: of a block, in its order; none: blocks that are not read.
    """

    name: str
    weights: int
    nbytes: int
    dtype: str | None = None
    fields: tuple[Field, ...] = ()

    @property
    def is_read(self) -> bool:
        """Whether the values are known that its bytes stand for."""
        return self.dtype is not None or bool(self.fields)


def _values(dtype: str) -> GgmlType:
    return GgmlType(dtype, 1, DTYPES[dtype][0] // 8, dtype)


def _blocks(name: str, weights: int, *fields: Field) -> GgmlType:
    return GgmlType(name, weights, sum(field.nbytes for field in fields), None, fields)


# The scale of a block, its minimum, and the scale of the minima of its parts.
_D, _M, _DMIN = Field("d", "F16", 1), Field("m", "F16", 1), Field("dmin", "F16", 1)

# By the number that a file has for it. Those without fields are passed through.
TYPES: dict[int, GgmlType] = {
    0: _values("F32"),
    1: _values("F16"),
    2: _blocks("Q4_0", 32, _D, Field("qs", "U8", 16)),
    3: _blocks("Q4_1", 32, _D, _M, Field("qs", "U8", 16)),
    6: _blocks("Q5_0", 32, _D, Field("qh", "U8", 4), Field("qs", "U8", 16)),
    7: _blocks("Q5_1", 32, _D, _M, Field("qh", "U8", 4), Field("qs", "U8", 16)),
    8: _blocks("Q8_0", 32, _D, Field("qs", "I8", 32)),
    9: GgmlType("Q8_1", 32, 40),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: _blocks("Q4_K", 256, _D, _DMIN, Field("scales", "U8", 12), Field("qs", "U8", 128)),
    13: _blocks("Q5_K", 256, _D, _DMIN, Field("scales", "U8", 12), Field("qh", "U8", 32), Field("qs", "U8", 128)),
    14: _blocks("Q6_K", 256, Field("ql", "U8", 128), Field("qh", "U8", 64), Field("scales", "I8", 16), _D),
    15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: _values("I8"),
    25: _values("I16"),
    26: _values("I32"),
    27: _values("I64"),
    28: _values("F64"),
    29: GgmlType("IQ1_M", 256, 56),
    30: _values("BF16"),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
}
