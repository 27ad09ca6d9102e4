"""AWQ as AutoAWQ's GEMM version writes it (AutoAWQ 0.2.9, awq/modules/linear/gemm.py).

`qweight` [in, out/8] and `qzeros` [groups, out/8]: 4-bit codes along the outputs, those of eight columns in the order
0, 2, 4, 6, 1, 3, 5, 7; `scales` [groups, out]. w = (code − zero)·scale in the scales' dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from faultcli.checkpoint.packed.arrays import CODES, SCALES, ZEROS
from faultcli.checkpoint.packed.bits import dense
from faultcli.checkpoint.packed.files import Files, elementwise
from faultcli.checkpoint.packed.spread import Blocks
from faultcli.checkpoint.packed.weight import Computed, Operand, PackedWeight

_PACKING = dense(4, 32, (0, 2, 4, 6, 1, 3, 5, 7))


def find(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of an AWQ checkpoint."""
    version = str(files.config.get("version") or files.config.get("format") or "gemm").lower()
    bits = files.number("bits", "w_bit")
    if version != "gemm":
        files.unknown(f"AWQ in version {version!r}, whose order is its kernel's; read is gemm")
    if bits not in (None, 4):
        files.unknown(f"AWQ with {bits} bits; version gemm packs 4")
    for module in files.ending(".qweight"):
        name, codes, zeros, scales = (f"{module}.{part}" for part in ("weight", "qweight", "qzeros", "scales"))
        held, scaled = files.need(codes, name), files.need(scales, name)
        files.need(zeros, name)
        if len(held.shape) != 2 or held.dtype != "I32" or len(scaled.shape) != 2:
            files.wrong(codes, f"is {held.dtype} {list(held.shape)}; AWQ packs into matrices of I32")
        inputs, (groups, outputs) = held.shape[0], scaled.shape
        files.check_group(name, inputs, groups, files.number("group_size", "q_group_size"))
        if groups < 1 or inputs % groups:
            files.wrong(name, f"has {inputs} columns, which {groups} groups do not divide")
        spread = Blocks(outputs, inputs, 1, inputs // groups, across=True)
        stored = files.codes(codes, CODES, inputs, outputs, _PACKING)
        grid = Computed(
            outputs,
            inputs,
            {
                "code": Operand(stored, elementwise(outputs, inputs, across=True)),
                "zero": Operand(files.codes(zeros, ZEROS, groups, outputs, _PACKING), spread),
                "scale": Operand(files.floats(scales, name, SCALES, [groups, outputs]), spread),
            },
            _formula,
            torch.float16,
        )
        yield PackedWeight(name, (outputs, inputs), grid)


def _formula(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return (met["code"].to(torch.int16) - met["zero"].to(torch.int16)) * met["scale"]
