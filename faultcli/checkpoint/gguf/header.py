"""The header of a GGUF file, read with the rules of the format checked (docs/gguf.md of ggml-org/ggml).

Magic, version, counts; metadata of typed values; of every tensor its name, dimensions (the fastest first), type and
offset; then, from a multiple of the alignment on, the tensors' bytes, padded to that alignment.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NoReturn

from faultcli.checkpoint.gguf.types import TYPES, GgmlType
from faultcli.checkpoint.header import BlockField, Header, TensorInfo
from faultcli.errors import CheckpointError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # of one structure; 3 added files for machines that begin words with the highest byte
_DAMAGED = "the file is damaged: download or export it again"
_ALIGNMENT, _DEFAULT_ALIGNMENT = "general.alignment", 32
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))  # as struct has them
_MOST_DIMENSIONS, _MOST_NESTED = 8, 8  # the format has 4 dimensions; more say that it is damaged
_CHUNK = 1 << 20


def read_gguf_header(file: BinaryIO, path: Path, file_bytes: int) -> Header:
    """Read and check the header of an open GGUF file of `file_bytes` bytes.

    Metadata that are no text are said as text, arrays by their length. Tensors of blocks become one for each field. A
    tensor of a type that is not read is one of its bytes, and says so (`TensorInfo.unread`).

    Raises:
        CheckpointError: the file is damaged or truncated, or of another version.
    """
    cursor = _Cursor(file, path, file_bytes)
    cursor.take(len(MAGIC))
    version = cursor.number("I")
    if version not in _VERSIONS:
        swapped = version & 0xFFFF == 0 and version != 0
        what = "for machines of the other byte order" if swapped else f"of version {version}"
        remedy = "convert it again for this machine" if swapped else "convert it again with a llama.cpp of today"
        raise CheckpointError(
            f"{path}: is a GGUF file {what}; versions {' and '.join(map(str, _VERSIONS))} are read",
            f"{remedy}, or take the safetensors that it was made from",
        )
    tensors, entries = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, str] = {}
    for _ in range(entries):
        key = cursor.text()
        if key in metadata:
            cursor.damaged(f"its metadata have {key!r} twice")
        metadata[key] = cursor.value(cursor.number("I"))
    found = [_tensor(cursor) for _ in range(tensors)]
    alignment = metadata.get(_ALIGNMENT, str(_DEFAULT_ALIGNMENT))
    if not re.fullmatch(r"0*[1-9][0-9]{0,18}", alignment):
        cursor.damaged(f"its {_ALIGNMENT} is {alignment:.40}")
    start = cursor.at + -cursor.at % int(alignment)
    found = sorted(
        ((replace(one, offset=start + one.offset), type) for one, type in found), key=lambda one: one[0].span
    )
    ends = [*(info.offset for info, _ in found[1:]), max(start, file_bytes)]
    placed = [  # what is of no known length ends where the next one begins
        (info if type.nbytes else replace(info, nbytes=max(0, end - info.offset)), type)
        for (info, type), end in zip(found, ends, strict=False)
    ]
    _check_places(cursor, [info for info, _ in placed], file_bytes)
    opened = [part for info, type in placed for part in _parts(info, type)]
    names = [*(info.name for info, _ in placed), *(part.name for part in opened if part.field is not None)]
    if len(set(names)) < len(names):
        cursor.damaged(f"two tensors are called {next(name for name in names if names.count(name) > 1)!r}")
    return Header(tuple(opened), metadata, min(start, file_bytes), gapless=False)


def _tensor(cursor: _Cursor) -> tuple[TensorInfo, GgmlType]:
    """Return a tensor of bytes as its entry says, with an offset from where the tensors begin, and its type."""
    name = cursor.text()
    dimensions = cursor.number("I")
    if dimensions > _MOST_DIMENSIONS:
        cursor.damaged(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))
    number, offset = cursor.number("I"), cursor.number("Q")
    elements, columns = math.prod(shape), shape[-1] if shape else 1
    type = TYPES.get(number, GgmlType(f"type {number}", 1, 0))  # of which nothing is known, not even how long it is
    if elements >= 1 << 63 or columns % type.weights:
        cursor.damaged(f"tensor {name!r} of shape {list(shape)} cannot be {type.name}, blocks of {type.weights}")
    return TensorInfo(name, "U8", shape, cursor.path, offset, elements // type.weights * type.nbytes), type


def _check_places(cursor: _Cursor, placed: list[TensorInfo], file_bytes: int) -> None:
    end, before = 0, None
    for info in placed:
        if info.end > file_bytes:
            problem = f"tensor {info.name!r} ends at byte {info.end}, the file at {file_bytes}"
            raise CheckpointError(f"{cursor.path}: is truncated: {problem}", _DAMAGED)
        if info.offset < end:
            cursor.damaged(f"tensors {before!r} and {info.name!r} overlap")
        end, before = info.end, info.name


def _parts(info: TensorInfo, type: GgmlType) -> Iterator[TensorInfo]:
    """Yield a tensor of values as it is, one of blocks as its fields."""
    if type.dtype is not None:
        yield replace(info, dtype=type.dtype)
    elif not type.is_read:
        yield replace(info, shape=(info.nbytes,), unread=type.name)
    first = 0
    for field in type.fields:
        place = BlockField(info.name, type.name, info.shape, info.offset, type.nbytes, first, field.nbytes)
        shape = (*info.shape[:-1], info.shape[-1] // type.weights * field.numbers)
        name, nbytes = f"{info.name}:{field.name}", info.nbytes // type.nbytes * field.nbytes
        yield TensorInfo(name, field.dtype, shape, info.file, info.offset + first, nbytes, place)
        first += field.nbytes


class _Cursor:
    """The bytes of a header, read as far as they are looked at."""

    def __init__(self, file: BinaryIO, path: Path, file_bytes: int) -> None:
        self.path, self.at = path, 0
        self._file, self._end = file, file_bytes
        self._data = bytearray()

    def damaged(self, problem: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: is a damaged GGUF file: {problem}", _DAMAGED)

    def take(self, nbytes: int) -> int:
        """Go past bytes that are there, and return where they begin."""
        begin, self.at = self.at, self.at + nbytes
        if self.at > self._end:
            problem = f"its header goes on behind byte {begin}, the file ends at {self._end}"
            raise CheckpointError(f"{self.path}: is truncated: {problem}", _DAMAGED)
        while len(self._data) < self.at:
            read = self._file.read(max(_CHUNK, self.at - len(self._data)))
            if not read:
                raise CheckpointError(f"{self.path}: ended early; it changed while it was read", "run it again")
            self._data += read
        return begin

    def number(self, kind: str) -> int:
        """Read a whole number of a kind that struct knows."""
        found: int = struct.unpack_from(f"<{kind}", self._data, self.take(struct.calcsize(f"<{kind}")))[0]
        return found

    def text(self) -> str:
        length = self.number("Q")
        begin = self.take(length)
        try:
            return self._data[begin : self.at].decode()
        except UnicodeDecodeError:
            self.damaged(f"the text at byte {begin} is no UTF-8")

    def value(self, kind: int, depth: int = 0) -> str:
        """Read a value of the metadata and return it as text, of an array how many it has."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(depth)
        if kind not in _SCALARS:
            self.damaged(f"a value of its metadata is of a type that there is not, {kind}")
        found = struct.unpack_from(f"<{_SCALARS[kind]}", self._data, self.take(struct.calcsize(f"<{_SCALARS[kind]}")))[
            0
        ]
        return str(found).lower() if kind == _BOOL else f"{found:.9g}" if isinstance(found, float) else str(found)

    def _array(self, depth: int) -> str:
        kind, count = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            self.take(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        elif kind == _STRING:
            for _ in range(count):
                self.take(self.number("Q"))
        elif kind == _ARRAY and depth < _MOST_NESTED:
            for _ in range(count):
                self._array(depth + 1)
        else:
            self.damaged(f"an array of its metadata is of a type that there is not, {kind}")
        return f"[{count} values]"
