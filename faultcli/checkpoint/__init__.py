"""Checkpoints: safetensors in and out, streamed, atomic, byte for byte."""

from faultcli.checkpoint.header import DTYPES, TensorInfo, torch_dtype
from faultcli.checkpoint.reader import Checkpoint, ContentHash
from faultcli.checkpoint.writer import TensorData, TensorSource, edit, rewrite, write_safetensors

__all__ = [
    "DTYPES",
    "Checkpoint",
    "ContentHash",
    "TensorData",
    "TensorInfo",
    "TensorSource",
    "edit",
    "rewrite",
    "torch_dtype",
    "write_safetensors",
]
