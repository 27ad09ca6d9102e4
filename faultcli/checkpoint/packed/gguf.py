"""What blocks of GGUF stand for (ggml 0.19, ggml-quants.c and gguf-py), in float32 as they are dequantised there.

The fields of blocks are in `checkpoint.gguf.types`. What each weight has of its own is a code; what several share is a
scale: of blocks and of their parts, and of Q4_K the minima that are subtracted, whose bits lie among those of the
scales.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from faultcli.checkpoint.header import BlockField, TensorInfo, torch_dtype
from faultcli.checkpoint.packed.arrays import CODES, SCALES, StoredNumbers
from faultcli.checkpoint.packed.bits import BitPacking, Piece, folded
from faultcli.checkpoint.packed.files import Files
from faultcli.checkpoint.packed.spread import Blocks
from faultcli.checkpoint.packed.weight import Computed, Formula, Operand, PackedWeight


class Number(NamedTuple):
    """What a formula is given: numbers of a field, each for so many `weights` that lie side by side; `packing`: codes
    of a few bits in place of the field's own dtype."""

    field: str
    weights: int
    packing: BitPacking | None = None


class BlockValues(NamedTuple):
    """What the blocks of a type stand for."""

    numbers: Mapping[str, Number]
    formula: Formula


def _q4_0(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return met["d"].float() * (met["code"].float() - 8)


def _q8_0(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return met["d"].float() * met["code"].float()


def _q4_k(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    scale, least = met["d"].float() * met["scale"].float(), met["dmin"].float() * met["min"].float()
    return scale * met["code"].float() - least


def _q6_k(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    code = (met["low"] | met["high"] << 4).float() - 32
    return met["d"].float() * met["scale"].float() * code


# The 6-bit scales and minima of the 8 parts of a K block, in 12 bytes: of the first four parts in the low bits of a
# byte each, of the others 4 bits in the last bytes, and 2 bits at the top of those before.
_K_SCALES, _K_MINIMA = (
    BitPacking(
        8,
        6,
        (
            *((Piece(first + part, 0, 6, 0),) for part in range(4)),
            *((Piece(8 + part, first, 4, 0), Piece(first + part, 6, 2, 4)) for part in range(4)),
        ),
    )
    for first in (0, 4)  # bytes of the first parts, and bits in those of the others
)

# By the names of `checkpoint.gguf.types`: all of its types that have fields.
BLOCKS: dict[str, BlockValues] = {
    "Q4_0": BlockValues({"d": Number("d", 32), "code": Number("qs", 1, folded(4, 32))}, _q4_0),
    "Q8_0": BlockValues({"d": Number("d", 32), "code": Number("qs", 1)}, _q8_0),
    "Q4_K": BlockValues(
        {
            "d": Number("d", 256),
            "dmin": Number("dmin", 256),
            "scale": Number("scales", 32, _K_SCALES),
            "min": Number("scales", 32, _K_MINIMA),
            "code": Number("qs", 1, folded(4, 64)),
        },
        _q4_k,
    ),
    "Q6_K": BlockValues(
        {
            "d": Number("d", 256),
            "scale": Number("scales", 16),
            "low": Number("ql", 1, folded(4, 128)),
            "high": Number("qh", 1, folded(2, 128)),
        },
        _q6_k,
    ),
}


def find(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of a GGUF file that are stored as blocks."""
    found: dict[str, BlockField] = {}
    for info in files.infos.values():
        if info.field is not None:
            found.setdefault(info.field.weight, info.field)
    for name, field in found.items():
        yield _weight(name, field, files.infos)


def _weight(name: str, field: BlockField, infos: Mapping[str, TensorInfo]) -> PackedWeight:
    values, rows, cols = BLOCKS[field.block], math.prod(field.shape[:-1]), field.shape[-1]

    def operand(number: Number) -> Operand:
        info = infos[f"{name}:{number.field}"]
        dtype = torch.uint8 if number.packing is not None else torch_dtype(info.dtype)
        assert dtype is not None
        spread = Blocks(rows, cols, 1, number.weights)
        role = CODES if number.weights == 1 else SCALES
        return Operand(StoredNumbers(info.name, role, *spread.shape, dtype, number.packing), spread)

    operands = {key: operand(number) for key, number in values.numbers.items()}
    return PackedWeight(name, field.shape, Computed(rows, cols, operands, values.formula))
