"""compressed-tensors, the format of llm-compressor (compressed-tensors 0.20.0, compressors/).

`weight_packed` I32 [out, ⌈in·b/32⌉]: codes of 1 to 8 bits without gaps, plus 2^(b−1); `weight_scale`; `weight_shape`;
`weight_zero_point` packed down the outputs; `weight_g_idx` (until 0.19). `weight` I8 or F8: the codes as they are.
w = (code − zero)·scale in the scales' dtype. NVFP4: `weight_packed` U8, the even value in the low nibble,
scale = F8/`weight_global_scale`, rounded to bfloat16. MXFP4, MXFP6, MXFP8: scales are E8M0, and all is in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from faultcli.checkpoint.packed.arrays import CODES, INDICES, ZEROS, StoredNumbers
from faultcli.checkpoint.packed.bits import dense
from faultcli.checkpoint.packed.files import REALS, Files, elementwise
from faultcli.checkpoint.packed.formulas import E2M1, E2M3, from_table, in_scales_dtype, powers_of_two, signed
from faultcli.checkpoint.packed.spread import ByColumn
from faultcli.checkpoint.packed.weight import Computed, Operand, PackedWeight

_FORMATS = (
    *("dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized"),
    *("mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized", "mixed-precision"),
)
_PLAIN = ("I8", "F8_E4M3")


def find(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of a compressed-tensors checkpoint."""
    schemes = _schemes(files)
    for named in (files.config.get("format"), *(group.get("format") for group in schemes)):
        if named is not None and named not in _FORMATS:
            files.unknown(f"compressed-tensors in format {named!r}; read are {', '.join(_FORMATS)}")
    if files.config.get("transform_config"):
        files.unknown("compressed-tensors with transform_config: the model turns its activations, which is not read")
    block = _block(schemes)
    for module in files.ending(".weight_packed"):
        words = files.infos[f"{module}.weight_packed"]
        yield _integers(files, module) if words.dtype == "I32" else _floats(files, module)
    for module in files.ending(".weight_scale"):
        named = f"{module}.weight" in files.infos and files.infos[f"{module}.weight"].dtype in _PLAIN
        if f"{module}.weight_packed" not in files.infos and (named or files.config):
            yield _as_they_are(files, module, block)


def _schemes(files: Files) -> list[dict[str, object]]:
    groups = files.config.get("config_groups")
    return [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []


def _block(schemes: list[dict[str, object]]) -> tuple[int, ...]:
    for scheme in schemes:
        weights = scheme.get("weights")
        block = weights.get("block_structure") if isinstance(weights, dict) else None
        if isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block):
            return tuple(block)
    return ()


def _integers(files: Files, module: str) -> PackedWeight:
    packed, name = f"{module}.weight_packed", f"{module}.weight"
    held = files.need(packed, name)
    files.array(f"{module}.weight_shape", name, CODES, [2])
    files.check_dtype(f"{module}.weight_shape", name, ("I64", "I32"))
    said = files.checkpoint.read(f"{module}.weight_shape").tolist()
    rows, cols = (int(size) for size in said)
    if len(held.shape) != 2 or held.shape[0] != rows or cols < 1:
        files.wrong(packed, f"is {list(held.shape)}, its weight_shape says {said}")
    fitting = [bits for bits in range(1, 9) if -(-cols * bits // 32) == held.shape[1]]
    if not fitting:
        files.wrong(packed, f"has {held.shape[1]} words for {cols} inputs, which no 1 to 8 bits make")
    bits = next((bits for bits in _said(files) if bits in fitting), fitting[-1])
    packing = dense(bits, 32)
    scale = files.scales(f"{module}.weight_scale", name, (rows, cols))
    groups = files.infos[f"{module}.weight_scale"].shape[-1]
    spread = scale.spread
    if f"{module}.weight_g_idx" in files.infos:
        index = files.array(f"{module}.weight_g_idx", name, INDICES, [cols])
        if int(np.min(files.checkpoint.read(index.tensor).numpy(), initial=0)) < 0:
            files.wrong(index.tensor, "holds negative groups: the order of the groups is not in the file")
        spread = ByColumn(rows, groups, index, across=False)
    operands = {
        "code": Operand(files.codes(packed, CODES, rows, cols, packing), elementwise(rows, cols)),
        "scale": Operand(scale.array, spread),
    }
    if (zeros := f"{module}.weight_zero_point") in files.infos:
        packed_zeros = files.need(zeros, name).dtype == "I32"
        stored = files.codes(zeros, ZEROS, rows, groups, packing, down=True) if packed_zeros else None
        operands["zero"] = files.zeros(zeros, name, (rows, cols)) if stored is None else Operand(stored, spread)
    return PackedWeight(name, (rows, cols), Computed(rows, cols, operands, partial(_centred, 1 << bits - 1)))


def _said(files: Files) -> list[int]:
    """Return the numbers of bits that the configuration speaks of."""
    weights = [scheme.get("weights") for scheme in _schemes(files)]
    return [one["num_bits"] for one in weights if isinstance(one, dict) and type(one.get("num_bits")) is int]


def _floats(files: Files, module: str) -> PackedWeight:
    packed, name = f"{module}.weight_packed", f"{module}.weight"
    held, scaled = files.need(packed, name), files.need(f"{module}.weight_scale", name)
    if len(held.shape) != 2 or held.dtype != "U8":
        files.wrong(packed, f"is {held.dtype} {list(held.shape)}; packed are matrices of I32 or U8")
    rows, bytes_ = held.shape
    groups = scaled.shape[-1] if len(scaled.shape) == 2 else 0
    if scaled.dtype == "U8" and groups * 32 * 6 == bytes_ * 8:
        bits, table = 6, E2M3
    else:
        bits, table = 4, E2M1
    cols = bytes_ * 8 // bits
    scale = files.scales(scaled.name, name, (rows, cols), ("F8_E4M3", "U8"))
    group = 32 if scaled.dtype == "U8" else 16
    if list(scaled.shape) != [rows, cols // group] or cols % group:
        files.wrong(scaled.name, f"is {list(scaled.shape)}; groups of {group} make {[rows, cols / group]}")
    operands = {
        "code": Operand(files.codes(packed, CODES, rows, cols, dense(bits, 8)), elementwise(rows, cols)),
        "scale": scale,
    }
    if scaled.dtype != "U8":
        files.need(f"{module}.weight_global_scale", name)
        operands["global"] = files.scales(f"{module}.weight_global_scale", name, (rows, cols))
    grid = Computed(rows, cols, operands, partial(_microscaled, signed(table)), torch.bfloat16)
    return PackedWeight(name, (rows, cols), grid)


def _as_they_are(files: Files, module: str, block: tuple[int, ...]) -> PackedWeight:
    name = f"{module}.weight"
    held = files.need(name, name)
    if held.dtype not in _PLAIN or len(held.shape) < 2:
        files.wrong(name, f"is {held.dtype} {list(held.shape)} and has scales; codes are matrices of I8 or F8_E4M3")
    rows, cols = int(np.prod(held.shape[:-1])), held.shape[-1]
    scale = files.scales(f"{module}.weight_scale", name, (rows, cols), (*REALS, "U8"), block=block)
    code = replace(files.array(name, name, CODES, held.shape), bits=max(_said(files), default=8))
    operands = {"code": Operand(code, elementwise(rows, cols)), "scale": scale}
    if (zeros := f"{module}.weight_zero_point") in files.infos:
        operands["zero"] = files.zeros(zeros, name, (rows, cols), block=block)
    assert isinstance(scale.array, StoredNumbers)
    exponents = scale.array.dtype == torch.uint8
    formula = _exponent_scaled if exponents else in_scales_dtype
    return PackedWeight(name, held.shape, Computed(rows, cols, operands, formula))


def _centred(half: int, met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    packed = [name for name in ("code", "zero") if name in met and met[name].dtype == torch.uint8]
    codes = {name: met[name].to(torch.int16) - half for name in packed}
    return in_scales_dtype({**met, **codes}, dtype)


def _exponent_scaled(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    scale = from_table(powers_of_two(), met["scale"]).to(torch.bfloat16)
    return in_scales_dtype({**met, "scale": scale}, dtype)


def _microscaled(table: Tensor, met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    values, scale = from_table(table, met["code"]), met["scale"]
    if scale.dtype == torch.uint8:
        return values.to(torch.bfloat16) * from_table(powers_of_two(), scale).to(torch.bfloat16)
    return (values * (scale.float() / met["global"])).to(torch.bfloat16)
