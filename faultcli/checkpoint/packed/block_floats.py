"""Blocks with one scale each: FP8 of transformers, MXFP4 of gpt-oss, and what NVIDIA's ModelOpt exports.

FP8 (transformers 5.24, integrations/finegrained_fp8.py): `weight` F8 and `weight_scale_inv` of every 128×128 block,
real numbers or E8M0; w = code·scale in float32, rounded to the model's dtype. gpt-oss (integrations/mxfp4.py):
`*_blocks` U8 [experts, out, groups, 16], the even value in the low nibble, `*_scales` E8M0; the model has each expert's
matrix as [in, out]. ModelOpt (at 5a4242f, torch/quantization/qtensor): NVFP4 has `weight` U8, the even value in the low
nibble, and scale = `weight_scale`·`weight_scale_2` in float32; FP8 and I8 are code·`weight_scale` in the model's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeGuard

import torch
from torch import Tensor

from faultcli.checkpoint.packed.arrays import CODES, SCALES
from faultcli.checkpoint.packed.bits import dense
from faultcli.checkpoint.packed.files import REALS, Files, elementwise
from faultcli.checkpoint.packed.formulas import E2M1, both_in_model_dtype, from_table, in_float32, signed
from faultcli.checkpoint.packed.weight import Computed, Operand, PackedWeight

_ALGORITHMS = ("NVFP4", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "INT8_SQ", "INT8_WO", "W8A8_SQ_PER_CHANNEL")


def find_fp8(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of a checkpoint in FP8 of transformers."""
    said = files.config.get("weight_block_size")
    block = tuple(said) if _pair(said) else ()
    for module in files.ending(".weight_scale_inv"):
        name = f"{module}.weight"
        held = files.need(name, name)
        if held.dtype not in ("F8_E4M3", "F8_E5M2") or len(held.shape) != 2:
            files.wrong(name, f"is {held.dtype} {list(held.shape)}; its scales are for a matrix of F8")
        rows, cols = held.shape
        scale = files.scales(f"{name}_scale_inv", name, (rows, cols), (*REALS, "U8", "F8_E8M0"), block=block)
        code = Operand(files.array(name, name, CODES, held.shape), elementwise(rows, cols))
        yield PackedWeight(name, held.shape, Computed(rows, cols, {"code": code, "scale": scale}, in_float32))


def find_gpt_oss(files: Files) -> Iterator[PackedWeight]:
    """Yield the experts' weights of a gpt-oss checkpoint."""
    for name in files.ending("_blocks"):
        held = files.infos[f"{name}_blocks"]
        if held.dtype != "U8" and not files.config:
            continue  # a name that says nothing
        if files.need(held.name, name).dtype != "U8" or len(held.shape) != 4:
            files.wrong(held.name, f"is {held.dtype} {list(held.shape)}; gpt-oss has U8 [experts, out, groups, 16]")
        experts, outputs, groups, width = held.shape
        rows, cols = experts * outputs, groups * width * 2
        scales = files.array(f"{name}_scales", name, SCALES, [experts, outputs, groups])
        if scales.dtype != torch.uint8:
            files.wrong(scales.tensor, f"is {files.infos[scales.tensor].dtype}; gpt-oss has E8M0 in U8")
        operands = {
            "code": Operand(files.codes(held.name, CODES, rows, cols, dense(4, 8)), elementwise(rows, cols)),
            "scale": files.scales(scales.tensor, name, (rows, cols), ("U8",)),
        }
        grid = Computed(rows, cols, operands, _fp4, torch.bfloat16)
        yield PackedWeight(name, (experts, cols, outputs), grid, turned=True)


def find_modelopt(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of a checkpoint that ModelOpt exported."""
    algorithm = files.config.get("quant_algo")
    if algorithm is not None and algorithm not in _ALGORITHMS:
        files.unknown(f"ModelOpt with quant_algo {algorithm!r}; read are {', '.join(_ALGORITHMS)}")
    for module in files.ending(".pre_quant_scale"):
        files.unknown(f"ModelOpt with {module}.pre_quant_scale, by which the model multiplies its activations")
    for module in files.ending(".weight_scale"):
        name = f"{module}.weight"
        held = files.need(name, name)
        rows, cols = math.prod(held.shape[:-1]), held.shape[-1] if held.shape else 0
        if held.dtype not in ("U8", "F8_E4M3", "I8") or len(held.shape) != 2:
            files.wrong(name, f"is {held.dtype} {list(held.shape)}; ModelOpt stores matrices of U8, F8_E4M3 or I8")
        if held.dtype != "U8":
            code = Operand(files.array(name, name, CODES, held.shape), elementwise(rows, cols))
            scale = files.scales(f"{module}.weight_scale", name, (rows, cols))
            operands, formula = {"code": code, "scale": scale}, both_in_model_dtype
        else:
            cols *= 2
            files.need(f"{module}.weight_scale_2", name)
            operands = {
                "code": Operand(files.codes(name, CODES, rows, cols, dense(4, 8)), elementwise(rows, cols)),
                "scale": files.scales(f"{module}.weight_scale", name, (rows, cols), ("F8_E4M3",)),
                "global": files.scales(f"{module}.weight_scale_2", name, (rows, cols)),
            }
            formula = _nvfp4
        yield PackedWeight(name, (rows, cols), Computed(rows, cols, operands, formula, torch.bfloat16))


def _pair(block: object) -> TypeGuard[list[int]]:
    return isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)


def _fp4(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return in_float32({"code": from_table(signed(E2M1), met["code"]), "scale": met["scale"]}, dtype)


def _nvfp4(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    values = from_table(signed(E2M1), met["code"]) + 0.0  # the library's table has no −0
    return in_float32({"code": values, "scale": met["scale"].float() * met["global"]}, dtype)
