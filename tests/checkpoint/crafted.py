"""Safetensors files made byte by byte, without the code under test."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

F32_2 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def craft(path: Path, header: object, data: bytes = b"", padding: bytes = b"") -> Path:
    """Write a file with this header (JSON-able, or text, or raw bytes), padding and data."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text) + len(padding)) + text + padding + data)
    return path


def layout(*tensors: tuple[str, str, list[int], int], metadata: dict[str, str] | None = None) -> dict[str, Any]:
    """Build a header of tensors (name, dtype, shape, bytes) that follow one another."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, dtype, shape, nbytes in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    return header


def odd_file(path: Path) -> Path:
    """A valid file that is hard to reproduce: spaces, odd lengths, order, foreign keys, metadata last."""
    header = (
        '{ "z" :{"shape":[3],"dtype":"U8","data_offsets":[5,8],"note":"kept"},\n'
        '"\\u00e9":{"dtype":"F32","shape":[],"data_offsets":[1,5]},'
        '"é2":{"dtype":"F4","shape":[2],"data_offsets":[0,1]},'
        '"empty":{"dtype":"F16","shape":[0,4],"data_offsets":[5,5]},'
        '"six":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[8,11]},'
        '"__metadata__":{"b":"\\u0041 \\"x\\"","a":""}}'
    )
    return craft(path, header, bytes(range(1, 12)), padding=b" " * 3)


def sharded(directory: Path, **extra: str) -> Path:
    """A directory with two shards, their index and two other files."""
    directory.mkdir()
    one = layout(("b", "F32", [2], 8), ("a", "BF16", [2, 2], 8), metadata={"format": "pt"})
    two = layout(("c", "I64", [1], 8), metadata={"format": "pt", "part": "two"})
    craft(directory / "model-00001-of-00002.safetensors", one, bytes(range(16)), b" " * 5)
    craft(directory / "model-00002-of-00002.safetensors", two, bytes(range(16, 24)))
    weight_map = {"c": "model-00002-of-00002.safetensors", "a": "model-00001-of-00002.safetensors"}
    weight_map["b"] = weight_map["a"]
    index = {"metadata": {"total_size": 24}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (directory / "config.json").write_text('{"model_type": "test"}')
    (directory / "tokenizer.model").write_bytes(b"\x00tokens")
    for name, text in extra.items():
        (directory / name).write_text(text)
    return directory


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir() if entry.is_file()}
