"""What blocks of GGUF stand for (ggml 0.19, ggml-quants.c and gguf-py), in float32 as they are dequantised there.

The fields of blocks are in `checkpoint.gguf.types`. What each weight has of its own is a code; what several share is a
scale: of blocks and of their parts, and the minima that are added or subtracted. In K blocks the bits of both lie in
the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from faultcli.checkpoint.header import BlockField, TensorInfo, torch_dtype
from faultcli.checkpoint.packed.arrays import CODES, SCALES, StoredNumbers
from faultcli.checkpoint.packed.bits import BitPacking, Piece, dense, folded
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


def _code(met: Mapping[str, Tensor]) -> Tensor:
    """Return codes, put together where their bits above the lowest four lie apart."""
    return (met["code"] | met["high"] << 4 if "high" in met else met["code"]).float()


def _scaled(zero: int, met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """d·(code − zero)"""
    return met["d"].float() * (_code(met) - zero)


def _scaled_and_moved(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """d·code + m"""
    return met["d"].float() * _code(met) + met["m"].float()


def _scaled_by_parts(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """d·scale·(code − 32)"""
    return met["d"].float() * met["scale"].float() * (_code(met) - 32)


def _less_minima(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """d·scale·code − dmin·min"""
    scale, least = met["d"].float() * met["scale"].float(), met["dmin"].float() * met["min"].float()
    return scale * _code(met) - least


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

_OF_32 = {"d": Number("d", 32), "code": Number("qs", 1, folded(4, 32))}
_OF_K = {
    "d": Number("d", 256),
    "dmin": Number("dmin", 256),
    "scale": Number("scales", 32, _K_SCALES),
    "min": Number("scales", 32, _K_MINIMA),
    "code": Number("qs", 1, folded(4, 64)),
}
_M, _FIFTH_BIT = {"m": Number("m", 32)}, {"high": Number("qh", 1, dense(1, 8))}

# By the names of `checkpoint.gguf.types`: all of its types that have fields.
BLOCKS: dict[str, BlockValues] = {
    "Q4_0": BlockValues(_OF_32, partial(_scaled, 8)),
    "Q4_1": BlockValues(_OF_32 | _M, _scaled_and_moved),
    "Q5_0": BlockValues(_OF_32 | _FIFTH_BIT, partial(_scaled, 16)),
    "Q5_1": BlockValues(_OF_32 | _M | _FIFTH_BIT, _scaled_and_moved),
    "Q8_0": BlockValues({"d": Number("d", 32), "code": Number("qs", 1)}, partial(_scaled, 0)),
    "Q4_K": BlockValues(_OF_K, _less_minima),
    "Q5_K": BlockValues(_OF_K | {"high": Number("qh", 1, folded(1, 256))}, _less_minima),
    "Q6_K": BlockValues(
        {
            "d": Number("d", 256),
            "scale": Number("scales", 16),
            "code": Number("ql", 1, folded(4, 128)),
            "high": Number("qh", 1, folded(2, 128)),
        },
        _scaled_by_parts,
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
