"""bitsandbytes as its 4-bit and 8-bit layers are saved (bitsandbytes 0.50.2, functional.py).

4 bits: `weight` holds the codes of all values row by row, the even one in the high nibble, in words of any dtype;
`weight.absmax` the scale of every 64 (`blocksize`) of them, or with nested statistics a code of it:
map[code]·nested[⌊i/256⌋] + offset. `weight.quant_state.bitsandbytes__nf4` is JSON. The map of the 4-bit codes is the
library's own; the copy in the file, `weight.quant_map`, is not read. w = map[code]·absmax in float32, rounded to the
dtype that the JSON names. 8 bits: `weight` I8 and `SCB` [out]; w = code·SCB/127 in float32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faultcli.checkpoint.packed.arrays import CODES, SCALES, StoredNumbers
from faultcli.checkpoint.packed.bits import dense
from faultcli.checkpoint.packed.files import WORDS, Files, elementwise
from faultcli.checkpoint.packed.formulas import from_table
from faultcli.checkpoint.packed.spread import Blocks, ByCode
from faultcli.checkpoint.packed.weight import Array, Computed, Operand, PackedWeight

# The quantiles of Dettmers et al. 2023 (QLoRA), appendix E, and the library's own floats of 4 bits.
_TABLES = {
    "nf4": torch.tensor(
        [
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
            *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
            *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023),
            1.0,
        ]
    ),
    "fp4": torch.tensor([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0])
    / 12.0,
}
_STATE = ".quant_state.bitsandbytes__"
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_PER_127 = 7.874015718698502e-3  # as the library writes 1/127


def find(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of a bitsandbytes checkpoint."""
    for name in files.infos:
        weight, found, kind = name.partition(_STATE)
        if found:
            yield _four_bits(files, weight, name, kind)
        elif name.endswith(".SCB"):
            yield _eight_bits(files, name)
        elif name.endswith(".absmax") and not any(f"{name[:-7]}{_STATE}{kind}" in files.infos for kind in _TABLES):
            files.need(f"{name[:-7]}{_STATE}nf4", name[:-7])


def _four_bits(files: Files, name: str, record: str, kind: str) -> PackedWeight:
    if kind not in _TABLES:
        files.unknown(f"{name!r} is bitsandbytes {kind!r}; read are {', '.join(_TABLES)}")
    held, scales = files.need(name, name), files.need(f"{name}.absmax", name)
    state = _state(files, record)
    shape, block, dtype = state["shape"], state["blocksize"], _DTYPES[state["dtype"]]
    count = math.prod(shape)
    if held.dtype not in WORDS:
        files.wrong(name, f"is {held.dtype}, which bitsandbytes packs no codes into")
    codes = files.codes(name, CODES, 1, count, dense(4, WORDS[held.dtype], (1, 0)))
    blocks = -(-count // block)
    absmax: Array = files.array(scales.name, name, SCALES, [blocks])
    if scales.dtype == "U8":
        absmax = _nested(files, name, blocks, state)
    elif scales.dtype != "F32":
        files.wrong(scales.name, f"is {scales.dtype}; bitsandbytes writes F32, or U8 with nested statistics")
    grid = Computed(
        1,
        count,
        {
            "code": Operand(codes, elementwise(1, count)),
            "scale": Operand(absmax, Blocks(1, count, 1, block)),
        },
        partial(_formula, _TABLES[kind], dtype),
        dtype,
    )
    return PackedWeight(name, tuple(shape), grid)


def _nested(files: Files, name: str, blocks: int, state: Mapping[str, Any]) -> Computed:
    table = files.array(f"{name}.nested_quant_map", name, SCALES, [256])
    outer = -(-blocks // state["nested_blocksize"])
    scales = files.array(f"{name}.nested_absmax", name, SCALES, [outer])
    code = StoredNumbers(f"{name}.absmax", SCALES, 1, blocks, torch.uint8)
    for array in (table, scales):
        if array.dtype != torch.float32:
            files.wrong(array.tensor, f"is {files.infos[array.tensor].dtype}; bitsandbytes writes F32")
    return Computed(
        1,
        blocks,
        {
            "value": Operand(table, ByCode(code, 256)),
            "scale": Operand(scales, Blocks(1, blocks, 1, state["nested_blocksize"])),
        },
        partial(_absmax, float(state["nested_offset"])),
    )


def _state(files: Files, record: str) -> dict[str, Any]:
    """Read what a record says, checked; what says nothing of nested statistics has none."""
    try:
        said = json.loads(bytes(files.checkpoint.read_bytes(record)))
        shape, block = said["shape"], said["blocksize"]
        numbers = [*shape, block, *([said["nested_blocksize"]] if "nested_blocksize" in said else [])]
        nested = files.infos.get(f"{record.partition(_STATE)[0]}.absmax")
        if nested is not None and nested.dtype == "U8" and not {"nested_blocksize", "nested_offset"} <= said.keys():
            raise ValueError
        if not shape or not all(type(number) is int and number > 0 for number in numbers):
            raise ValueError
        if said["dtype"] not in _DTYPES or not math.isfinite(float(said.get("nested_offset", 0))):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        files.wrong(record, "is damaged: it does not say what bitsandbytes packed")
    return dict(said)


def _eight_bits(files: Files, scales: str) -> PackedWeight:
    name = f"{scales.removesuffix('SCB')}weight"
    held = files.need(name, name)
    if held.dtype != "I8" or len(held.shape) != 2:
        files.wrong(name, f"is {held.dtype} {list(held.shape)}; bitsandbytes stores a matrix of I8")
    rows, cols = held.shape
    grid = Computed(
        rows,
        cols,
        {
            "code": Operand(files.array(name, name, CODES, held.shape), elementwise(rows, cols)),
            "scale": files.scales(scales, name, (rows, cols)),
        },
        _times_scb,
    )
    return PackedWeight(name, held.shape, grid)


def _formula(table: Tensor, own: torch.dtype, met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return (from_table(table, met["code"]) * met["scale"]).to(own)


def _times_scb(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return met["code"] * met["scale"] * _PER_127


def _absmax(offset: float, met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return met["value"] * met["scale"] + torch.tensor(offset)
