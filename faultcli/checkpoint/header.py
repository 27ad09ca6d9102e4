"""The header of a safetensors file: read with every rule of the format checked, and written.

The format (safetensors README): 8 bytes with the header's length N as an unsigned little-endian integer, N bytes of
JSON that map each tensor's name to its dtype, shape and byte range, then the tensors' bytes, without holes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from faultcli.checkpoint.other_formats import START, other_format
from faultcli.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # as the safetensors library; a larger one is an attack or a damaged length
HEADER_RECORD = "faultcli.header"  # metadata key under which a changed header keeps the one before it
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_DAMAGED = "the file is damaged: download or export it again"

# In the order of the library's `Dtype` enum, by which it sorts the tensors of a new file (last first).
# name: (bits per element, torch's name for it; None or absent from an older torch: passes through, cannot be read)
DTYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (8, "bool"),
    "F4": (4, "float4_e2m1fn_x2"),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "I16": (16, "int16"),
    "U16": (16, "uint16"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "I32": (32, "int32"),
    "U32": (32, "uint32"),
    "F32": (32, "float32"),
    "C64": (64, "complex64"),
    "F64": (64, "float64"),
    "I64": (64, "int64"),
    "U64": (64, "uint64"),
}


@dataclass(frozen=True, slots=True)
class BlockField:
    """A field of the blocks that a weight is stored as, one behind the other: where the bytes of a tensor lie that does
    not lie in one piece. Offsets and sizes are in bytes."""

    weight: str  # that the blocks hold, as the file calls it
    block: str  # the type of the blocks, e.g. "Q4_K"
    shape: tuple[int, ...]  # of the weight
    offset: int  # of the first block, from the start of the file
    block_bytes: int
    first: int  # of the field, from the start of its block
    nbytes: int  # of the field in each block


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor and where its bytes lie."""

    name: str
    dtype: str  # as the file says, e.g. "F32"; a key of DTYPES
    shape: tuple[int, ...]  # () is a scalar
    file: Path
    offset: int  # bytes from the start of the file
    nbytes: int
    field: BlockField | None = None  # of blocks that lie there; None: the tensor lies in one piece
    unread: str | None = None  # the type of a tensor that is not read, whose bytes these are; None: it is read

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar, 0 for an empty tensor."""
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """Byte offset in the file just behind the tensor, or the blocks that it is a field of."""
        return self.span[1]

    @property
    def span(self) -> tuple[int, int]:
        """Where the tensor begins and ends in the file; of a field, where all blocks do."""
        if self.field is None:
            return self.offset, self.offset + self.nbytes
        blocks = self.nbytes // self.field.nbytes
        return self.field.offset, self.field.offset + blocks * self.field.block_bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: `tensors` in the order of their bytes, `nbytes` up to where they begin. `gapless`: from there
    on the file is its tensors, each in one piece behind the one before; not in GGUF."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    nbytes: int
    gapless: bool = True


def torch_dtype(dtype: str) -> torch.dtype | None:
    """Return torch's dtype for a safetensors dtype, None if this torch has none."""
    name = DTYPES[dtype][1]
    return None if name is None else getattr(torch, name, None)


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int | None:
    """Return the bytes that a tensor takes, None if it does not end on a whole byte (F4 and F6)."""
    bits = math.prod(shape) * DTYPES[dtype][0]
    return bits // 8 if bits % 8 == 0 else None


def read_header(file: BinaryIO, path: Path, file_bytes: int) -> Header:
    """Read and check the header of an open safetensors file of `file_bytes` bytes.

    Stricter than the library where it matters: duplicate names are refused, since readers differ in which one wins.

    Raises:
        CheckpointError: the file is not safetensors, is damaged or truncated; says what it is if it is known.
    """
    raw = read_raw_header(file, path, file_bytes)
    return parse_header(raw, path, file_bytes)


def read_raw_header(file: BinaryIO, path: Path, file_bytes: int) -> bytes:
    """Return the first 8 + N bytes of a safetensors file, with nothing but the length N checked."""
    start = file.read(START)
    other = other_format(path, start)
    if other is not None:
        raise CheckpointError(f"{path}: is {other.what}", other.remedy_for(path))
    if len(start) < _LENGTH.size:
        raise CheckpointError(f"{path}: is not a safetensors file: it has {len(start)} bytes", _DAMAGED)
    (length,) = _LENGTH.unpack_from(start)
    if length > MAX_HEADER_BYTES:
        problem = f"its header would be {length} bytes long, the format allows {MAX_HEADER_BYTES}"
        raise CheckpointError(f"{path}: is not a safetensors file: {problem}", "name a .safetensors file")
    if length > file_bytes - _LENGTH.size:
        problem = f"its header ends at byte {_LENGTH.size + length}, the file at {file_bytes}"
        raise CheckpointError(f"{path}: is truncated, or not a safetensors file: {problem}", _DAMAGED)
    raw = start + file.read(max(0, _LENGTH.size + length - len(start)))
    return raw[: _LENGTH.size + length]


def parse_header(raw: bytes, path: Path, file_bytes: int) -> Header:
    """Check the first 8 + N bytes of a safetensors file of `file_bytes` bytes and return what they say."""
    entries = header_entries(raw, path)
    metadata = _metadata(entries.pop(_METADATA, None), path)
    tensors = [_tensor(name, entry, path, len(raw)) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.end))
    end, before = len(raw), None
    if tensors and max(tensor.end for tensor in tensors) > file_bytes:
        last = max(tensors, key=lambda tensor: tensor.end)
        problem = f"tensor {last.name!r} ends at byte {last.end}, the file at {file_bytes}"
        raise CheckpointError(f"{path}: is truncated: {problem}", _DAMAGED)
    for tensor in tensors:
        if tensor.offset < end:
            raise CheckpointError(f"{path}: tensors {before!r} and {tensor.name!r} overlap", _DAMAGED)
        if tensor.offset > end:
            problem = f"{tensor.offset - end} bytes before tensor {tensor.name!r} belong to no tensor"
            raise CheckpointError(f"{path}: {problem}", _DAMAGED)
        end, before = tensor.end, tensor.name
    if end != file_bytes:
        raise CheckpointError(f"{path}: {file_bytes - end} bytes at the end belong to no tensor", _DAMAGED)
    return Header(tuple(tensors), metadata, len(raw))


def header_entries(raw: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object of a header, in the file's order, its values not checked.

    Raises CheckpointError if it is not a JSON object, or if a name occurs twice.
    """
    try:
        entries = load_json(raw[_LENGTH.size :].decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is not a safetensors file: its header is no valid JSON: {error}", _DAMAGED
        ) from None
    if not isinstance(entries, dict):
        problem = f"its header is a JSON {type(entries).__name__}, not an object"
        raise CheckpointError(f"{path}: is not a safetensors file: {problem}", _DAMAGED)
    return entries


def build_header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """Return the 8 + N bytes of a header: the metadata, if any, then `entries` in their order.

    Compact JSON, padded with spaces so that the tensors start at a multiple of 8 bytes: what the library writes.
    Raises ValueError if it is longer than MAX_HEADER_BYTES.
    """
    members = {_METADATA: dict(metadata)} if metadata else {}
    members |= {name: entry for name, entry in entries.items() if name != _METADATA}
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes is larger than the format allows")
    return _LENGTH.pack(len(text)) + text


def load_json(text: str) -> Any:
    """Parse strict JSON: ValueError on NaN and infinities, on a name that occurs twice, on half a surrogate pair."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, value in pairs:
            for half in (name, value):
                if isinstance(half, str):
                    half.encode()
            if name in members:
                raise ValueError(f"{name!r} occurs twice")
            members[name] = value
        return members

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not allowed")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def _metadata(value: object, path: Path) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{path}: its {_METADATA} is not an object of strings", _DAMAGED)
    return value


def _tensor(name: str, entry: object, path: Path, data_start: int) -> TensorInfo:
    """Check one entry of the header by itself."""

    def damaged(problem: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name!r}: {problem}", _DAMAGED)

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise damaged("its header entry needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype == "" and offsets == [0, 0]:
        problem = "is a placeholder with neither dtype nor bytes, which safetensors does not have"
        raise CheckpointError(
            f"{path}: tensor {name!r}: {problem}",
            "leave it and its line in the index out, or fetch the checkpoint again",
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{path}: tensor {name!r}: unknown dtype {dtype!r}", f"known: {', '.join(DTYPES)}")
    if not _sizes(shape) or math.prod(size for size in shape if size) >= 1 << 63:
        raise damaged(f"{shape!r:.80} is not a shape")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged(f"{offsets!r:.80} are not data_offsets: begin and end, in bytes")
    expected, nbytes = tensor_bytes(dtype, shape), offsets[1] - offsets[0]
    if expected is None:
        raise damaged(f"{dtype} of shape {shape} does not end on a whole byte")
    if expected != nbytes:
        raise damaged(f"{dtype} of shape {shape} takes {expected} bytes, its data_offsets hold {nbytes}")
    return TensorInfo(name, dtype, tuple(shape), path, data_start + offsets[0], nbytes)


def _sizes(value: object) -> bool:
    """Whether a JSON value is a list of integers that fit 64 bits unsigned (true and 1.0 are no integers)."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 64 for size in value)
