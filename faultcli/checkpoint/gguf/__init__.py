"""GGUF files, as llama.cpp and its kin run them: tensors of whole numbers and reals, and of blocks with several fields.

A tensor of blocks is opened as one tensor for each field, `NAME:FIELD`, so that each can be at risk by itself: the
scale of every block, its codes. What fields mean is said where quantised weights are (`packed`).

types   what ggml stores tensors as: the table of types, and the fields of blocks
header  a file's header, read and checked
"""

from faultcli.checkpoint.gguf.header import MAGIC, read_gguf_header
from faultcli.checkpoint.gguf.types import TYPES, GgmlType

__all__ = ["MAGIC", "TYPES", "GgmlType", "read_gguf_header"]
