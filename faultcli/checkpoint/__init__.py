"""Checkpoints: safetensors and GGUF in and out, streamed, atomic, byte for byte.

header      a safetensors file's header, read with every rule of the format checked, and written
gguf        a GGUF file's header, and what ggml stores tensors as
adapters    adapters told from models
contents    what a directory holds of checkpoints
other_formats  files of other formats: what they are, and what to do
locate      which files a checkpoint consists of
reader      a checkpoint on the disk: opened, checked, read tensor by tensor
packed      quantised checkpoints as they are shipped: a table of layouts, and the weights that they hold
companions  what lies beside a checkpoint, and is taken along
writer      an opened checkpoint with some tensors replaced, or new tensors
"""

from faultcli.checkpoint.header import DTYPES, TensorInfo, torch_dtype
from faultcli.checkpoint.reader import Checkpoint, ContentHash, LazyTensors
from faultcli.checkpoint.writer import TensorData, TensorSource, edit, rewrite, write_safetensors

__all__ = [
    "DTYPES",
    "Checkpoint",
    "ContentHash",
    "LazyTensors",
    "TensorData",
    "TensorInfo",
    "TensorSource",
    "edit",
    "rewrite",
    "torch_dtype",
    "write_safetensors",
]
