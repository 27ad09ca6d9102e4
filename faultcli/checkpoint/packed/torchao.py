"""torchao as it is flattened into safetensors (torchao 0.18.0, prototype/safetensors and quantization/quantize_).

The metadata say the type of every weight, whose parts are `{module}._weight_qdata`, `_scale` and `_zero_point`.
IntxUnpackedToInt8Tensor and Int8Tensor: I8, w = (code − zero)·scale with code and zero in the tensor's dtype;
Float8Tensor: F8, w = code·scale in float32; Int4Tensor: two signed codes in a byte, the even one in the low nibble,
scale and zero point [in/g, out], w = code·scale + zero in float32. All are rounded to the tensor's dtype.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faultcli.checkpoint.packed.arrays import CODES, SCALES, ZEROS
from faultcli.checkpoint.packed.bits import dense
from faultcli.checkpoint.packed.files import Files, elementwise
from faultcli.checkpoint.packed.formulas import in_float32, in_model_dtype
from faultcli.checkpoint.packed.spread import Blocks
from faultcli.checkpoint.packed.weight import Computed, Formula, Operand, PackedWeight

_TYPES = ("IntxUnpackedToInt8Tensor", "Int8Tensor", "Float8Tensor", "Int4Tensor")
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def find(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of a torchao checkpoint."""
    for name, text in files.checkpoint.metadata.items():
        said = _record(text)
        if said is None or said["_type"] in ("torch.Tensor", "Tensor"):
            continue
        if said["_type"] not in _TYPES:
            files.unknown(f"{name!r} is torchao's {said['_type']}, a kernel's own order; read are {', '.join(_TYPES)}")
        module, _, own = name.rpartition(".")
        prefix = f"{module}._{own}_" if module else f"_{own}_"
        if f"{prefix}act_pre_scale" in files.infos:
            files.unknown(f"torchao with {prefix}act_pre_scale, by which the model multiplies its activations")
        yield _int4(files, name, prefix) if said["_type"] == "Int4Tensor" else _plain(files, name, prefix, said)


def _record(text: str) -> dict[str, Any] | None:
    """Read what the metadata say of a tensor; None if they are about something else."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("_type"), str) else None


def _plain(files: Files, name: str, prefix: str, said: Mapping[str, Any]) -> PackedWeight:
    held = files.need(f"{prefix}qdata", name)
    if len(held.shape) < 2:
        files.wrong(held.name, f"is {list(held.shape)}; quantised are matrices")
    files.check_dtype(held.name, name, ("F8_E4M3", "F8_E5M2") if said["_type"] == "Float8Tensor" else ("I8",))
    rows, cols = math.prod(held.shape[:-1]), held.shape[-1]
    code = replace(files.array(held.name, name, CODES, held.shape), bits=_bits(said))
    operands = {
        "code": Operand(code, elementwise(rows, cols)),
        "scale": files.scales(f"{prefix}scale", name, (rows, cols)),
    }
    if f"{prefix}zero_point" in files.infos:
        operands["zero"] = files.zeros(f"{prefix}zero_point", name, (rows, cols))
    own = _dtype(files, name, said)
    formula = in_float32 if said["_type"] == "Float8Tensor" else in_model_dtype
    return PackedWeight(name, held.shape, Computed(rows, cols, operands, partial(_in_own, formula, own), own))


def _dtype(files: Files, name: str, said: Mapping[str, Any]) -> torch.dtype:
    data = said.get("_data")
    dtype = data.get("dtype") if isinstance(data, dict) else None
    found = _DTYPES.get(str(dtype.get("_data"))) if isinstance(dtype, dict) else None
    return found or files.unknown(f"torchao's {name!r} does not say its dtype")


def _bits(said: Mapping[str, Any]) -> int:
    """Return how many bits of a byte a code takes: those that the record says, or all."""
    data = said.get("_data")
    target = data.get("target_dtype") if isinstance(data, dict) else None
    named = str(target.get("_data")).removeprefix("int") if isinstance(target, dict) else ""
    return int(named) if named in ("1", "2", "3", "4", "5", "6", "7") else 8


def _int4(files: Files, name: str, prefix: str) -> PackedWeight:
    held = files.need(f"{prefix}qdata", name)
    shape: Sequence[int] = files.need(f"{prefix}scale", name).shape
    if len(held.shape) != 2 or held.dtype not in ("I8", "U8") or len(shape) != 2:
        files.wrong(held.name, f"is {held.dtype} {list(held.shape)}; Int4Tensor packs matrices into bytes")
    rows, cols, groups = held.shape[0], held.shape[1] * 2, shape[0]
    if groups < 1 or cols % groups:
        files.wrong(name, f"has {cols} columns, which {groups} groups do not divide")
    spread = Blocks(rows, cols, 1, cols // groups, across=True)
    scales = files.floats(f"{prefix}scale", name, SCALES, [groups, rows])
    operands = {
        "code": Operand(files.codes(held.name, CODES, rows, cols, dense(4, 8)), elementwise(rows, cols)),
        "scale": Operand(scales, spread),
        "zero": Operand(files.floats(f"{prefix}zero_point", name, ZEROS, [groups, rows]), spread),
    }
    return PackedWeight(name, (rows, cols), Computed(rows, cols, operands, _int4_formula, scales.dtype))


def _in_own(formula: Formula, own: torch.dtype, met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return formula(met, own)


def _int4_formula(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    code = (met["code"].to(torch.int16) ^ 8) - 8
    return (code.float() * met["scale"].float() + met["zero"].float()).to(met["scale"].dtype)
