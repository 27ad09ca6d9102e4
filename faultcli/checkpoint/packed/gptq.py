"""GPTQ as AutoGPTQ and GPTQModel write it (GPTQModel 7.7.0, nn_modules/qlinear and utils/planar_packing.py).

`qweight` [⌈in·b/32⌉, out]: codes along the inputs; `qzeros` [groups, ⌈out·b/32⌉]: zero points along the outputs;
`scales` [groups, out]; `g_idx` [in]: the group of every input. w = scale·(code − zero) in the scales' dtype. Format
`gptq` stores zero − 1 and adds it to whole words on loading, so that a zero point of all ones runs over into the next
one (3 bits: each alone); `gptq_v2` and `gptq_p` store zero itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from faultcli.checkpoint.packed.arrays import CODES, INDICES, SCALES, ZEROS
from faultcli.checkpoint.packed.bits import BitPacking, dense, planar
from faultcli.checkpoint.packed.files import WORDS, Files, elementwise
from faultcli.checkpoint.packed.spread import ByColumn
from faultcli.checkpoint.packed.weight import Computed, Operand, PackedWeight

_FORMATS = ("gptq", "gptq_v2", "gptq_p")
_DENSE = (2, 3, 4, 8)


def find(files: Files) -> Iterator[PackedWeight]:
    """Yield the weights of a GPTQ checkpoint."""
    version = str(files.config.get("checkpoint_format") or files.config.get("format") or "gptq").lower()
    if version not in _FORMATS:
        files.unknown(f"GPTQ in checkpoint_format {version!r}, a kernel's own order; read are {', '.join(_FORMATS)}")
    for module in files.ending(".qweight"):
        yield _weight(files, module, version)


def _weight(files: Files, module: str, version: str) -> PackedWeight:
    name, codes, scales = f"{module}.weight", f"{module}.qweight", f"{module}.scales"
    index = files.need(f"{module}.g_idx", name)
    held, scaled = files.need(codes, name), files.need(scales, name)
    files.need(f"{module}.qzeros", name)
    if len(held.shape) != 2 or held.dtype not in ("I8", "I16", "I32") or len(scaled.shape) != 2 or not index.shape:
        files.wrong(codes, f"is {held.dtype} {list(held.shape)}; GPTQ packs into matrices of I8, I16 or I32")
    (words, outputs), inputs, groups = held.shape, index.shape[0], scaled.shape[0]
    word_bits = WORDS[held.dtype]
    packing = _packing(files, codes, inputs, words, word_bits, version)
    first = version == "gptq" and packing.bits in _DENSE
    plain = packing.bits != 3
    files.check_group(name, inputs, groups, files.number("group_size"), exact=False)
    stored = files.codes(f"{module}.qzeros", ZEROS, groups, outputs, packing)
    groups_of = files.array(index.name, name, INDICES, [inputs])
    if groups_of.dtype not in (torch.int32, torch.int64):
        files.wrong(index.name, f"is {index.dtype}; groups are whole numbers")
    spread = ByColumn(outputs, groups, groups_of)
    grid = Computed(
        outputs,
        inputs,
        {
            "code": Operand(
                files.codes(codes, CODES, inputs, outputs, packing, down=True),
                elementwise(outputs, inputs, across=True),
            ),
            "zero": Operand(replace(stored, added=_ones(packing, word_bits)) if first and plain else stored, spread),
            "scale": Operand(files.floats(scales, name, SCALES, [groups, outputs]), spread),
        },
        _one_more if first and not plain else _formula,
        torch.float16,
    )
    return PackedWeight(name, (outputs, inputs), grid)


def _packing(files: Files, name: str, inputs: int, words: int, word_bits: int, version: str) -> BitPacking:
    """Return the packing of the bits that make so many words of the inputs: those that the configuration says, if they
    do."""
    said = files.number("bits")
    fitting = [bits for bits in range(2, 9) if -(-inputs * bits // word_bits) == words]
    if said is not None and files.uniform and said not in fitting:
        files.wrong(name, f"has {words} words for {inputs} inputs; {said} bits make {-(-inputs * said // word_bits)}")
    if not fitting:
        files.wrong(name, f"has {words} words for {inputs} inputs, which no 2 to 8 bits make")
    bits = said if said in fitting else fitting[0]
    whole_planes = bits not in _DENSE or (bits == 3 and version == "gptq_p")
    if (whole_planes or bits == 3) and word_bits != 32:
        files.wrong(name, f"has words of {word_bits} bits; {bits}-bit codes lie in words of 32")
    return planar(bits) if whole_planes else dense(bits, word_bits)


def _ones(packing: BitPacking, word_bits: int) -> int:
    return sum(1 << at for at in range(0, word_bits, packing.bits))


def _formula(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return met["scale"] * (met["code"].to(torch.int16) - met["zero"].to(torch.int16))


def _one_more(met: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    return _formula({**met, "zero": met["zero"] + 1 & 7}, dtype)
