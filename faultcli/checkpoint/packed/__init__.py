"""Quantised checkpoints as they are shipped: which tensors make which weights, and how these read.

The one table of layouts. A new one is a function that finds its weights, and one line in the table. What a weight is
made of is said with few words: arrays of numbers that tensors hold (`StoredNumbers`), which of them meets which element
(`Blocks`, `ByColumn`), and the formula that makes a value of what meets (`Computed`). From these come the whole weight,
and the elements that a hit word touches. No library of those that write the layouts is needed.

bits                where the bits of codes lie in words
arrays              numbers that the words of a tensor hold
spread              which number belongs to which element
weight              one weight: decoded whole, or where it is hit
formulas            tables of values, powers of two, the arithmetic
files               what a layout looks at
gptq                GPTQ: AutoGPTQ, GPTQModel
awq                 AWQ: AutoAWQ
bitsandbytes        NF4, FP4 and LLM.int8
compressed_tensors  the formats of llm-compressor
block_floats        FP8 of transformers, MXFP4 of gpt-oss, ModelOpt
torchao             tensors of torchao, flattened
gguf                blocks of GGUF files
table               the layouts by name, and which one a checkpoint is in
numbers             what words hold that have bits to spare
opened              a checkpoint with such weights
"""

from faultcli.checkpoint.packed.arrays import CODES, INDICES, ROLES, SCALES, ZEROS, HeldWords, HitWords
from faultcli.checkpoint.packed.numbers import Numbers
from faultcli.checkpoint.packed.opened import Packed, refuse_quantised
from faultcli.checkpoint.packed.table import LAYOUTS, configuration, known, method_of
from faultcli.checkpoint.packed.weight import PackedWeight

__all__ = [
    "CODES",
    "INDICES",
    "LAYOUTS",
    "ROLES",
    "SCALES",
    "ZEROS",
    "HeldWords",
    "HitWords",
    "Numbers",
    "Packed",
    "PackedWeight",
    "configuration",
    "known",
    "method_of",
    "refuse_quantised",
]
