"""Arrays out of npz and safetensors files: their headers first, then as many rows as are asked for, and no byte more.

What a file says of itself is not believed: an array's header has to agree with the archive's, and neither may promise
more than the bytes that are there can hold.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from struct import error as StructError
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from faultcli.errors import WorkloadError

MOST_PER_BYTE = 1032  # what a byte of deflate can stand for (zlib's technical notes)
_SLACK = 1024  # bytes of a small file, for which that is not exact
_CHUNK = 1 << 20
_MAGIC = b"\x93NUMPY"
_PLAIN = "biufcUS"  # kinds of dtype without Python objects, fields or dates
_SMALL = 16 << 20  # bytes of an array that is not cut, such as names of classes
# What zipfile raises for damaged, encrypted and unknown contents.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, StructError, EOFError, OSError),
    *(ValueError, RuntimeError, KeyError, OverflowError),
)


@dataclass(frozen=True)
class Stored:
    """An array that lies in a file. `read(n)` gives its first `n` rows; None: all of it."""

    shape: tuple[int, ...]
    read: Callable[[int | None], NDArray[Any] | Tensor]


class ByteSource(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


def read_named(
    path: Path, rows: Collection[str], whole: Collection[str] = (), limit: int | None = None
) -> dict[str, Any]:
    """Read the wanted arrays of an npz or safetensors file; of the others it has, only the names mean anything.

    Args:
        path: the file.
        rows: arrays with a row for every input, of which the first `limit` are read.
        whole: small arrays that are read as they are.
        limit: None: all rows.

    Raises:
        WorkloadError: the file is missing or damaged, an array holds Python objects, arrays of `rows` have different
            numbers of rows, or one of `whole` is large.
    """
    try:
        if not path.is_file():
            raise WorkloadError(f"{path}: there is no such file", "check the path")
        with _opened_safetensors(path) if path.suffix == ".safetensors" else _opened_npz(path) as stored:
            return _read(path, stored, rows, whole, limit)
    except MemoryError:
        raise WorkloadError(f"{path}: does not fit into memory", "read less of it: --limit N") from None


def _read(
    path: Path,
    stored: Mapping[str, Callable[[], Stored]],
    rows: Collection[str],
    whole: Collection[str],
    limit: int | None,
) -> dict[str, Any]:
    headers = {key: stored[key]() for key in (*rows, *whole) if key in stored}
    lengths = {key: headers[key].shape[0] for key in rows if key in headers and headers[key].shape}
    if len(set(lengths.values())) > 1:
        counts = " but ".join(f"{count} {key}" for key, count in lengths.items())
        raise WorkloadError(f"{path}: {counts}", "a row for every input is needed in each")
    large = [key for key in whole if key in headers and prod(headers[key].shape) > _SMALL // 8]
    if large:
        raise WorkloadError(
            f"{path}: array {large[0]!r} is of shape {list(headers[large[0]].shape)}, which is too much",
            "store what is not counted by input as a short array",
        )
    return {key: headers[key].read(limit if key in rows else None) if key in headers else None for key in stored}


def read_exactly(file: ByteSource, nbytes: int) -> NDArray[np.uint8]:
    """Read so many bytes, holding no more than them. Raises EOFError, with how many there were, if there are fewer."""
    out = np.empty(nbytes, np.uint8)
    rest = out.data
    while rest:
        chunk = file.read(min(len(rest), _CHUNK))
        if not chunk:
            raise EOFError(f"it ends after {nbytes - len(rest)} of {nbytes} bytes")
        rest[: len(chunk)] = chunk
        rest = rest[len(chunk) :]
    return out


@contextmanager
def _opened_npz(path: Path) -> Iterator[dict[str, Callable[[], Stored]]]:
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise WorkloadError(
            f"{path}: is no readable npz archive: {error}", "write it with numpy.savez(file, inputs=..., labels=...)"
        ) from error
    with archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        size = path.stat().st_size

        def open_member(key: str) -> Callable[[], Stored]:
            return lambda: _npz_array(path, archive, key, members[key], size)

        yield {key: open_member(key) for key in members}


def _npz_array(path: Path, archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo, size: int) -> Stored:
    name = f"{path}: array {key!r}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WorkloadError(f"{name} is packed in a way that numpy does not", "write it with np.savez_compressed")
    with _damage(name), archive.open(info) as file:
        shape, fortran, dtype, start = _numpy_header(file)
    if dtype.kind not in _PLAIN:
        what = "Python objects" if dtype.hasobject else f"{dtype}"
        raise WorkloadError(f"{name} holds {what}", "store plain numbers; nothing is unpickled")
    nbytes = prod(shape) * dtype.itemsize
    if start + nbytes != info.file_size:
        raise WorkloadError(
            f"{name} is damaged: it has {info.file_size} bytes and its header promises {start + nbytes}",
            "save or fetch the file again",
        )
    if info.file_size > MOST_PER_BYTE * min(info.compress_size, size) + _SLACK:
        raise WorkloadError(
            f"{name} is damaged: it cannot have {info.file_size} bytes in a file of {size}",
            "save or fetch the file again",
        )

    def read(rows: int | None) -> NDArray[Any]:
        kept = shape if rows is None or not shape or fortran else (min(rows, shape[0]), *shape[1:])
        with _damage(name), archive.open(info) as file:
            read_exactly(file, start)
            raw = read_exactly(file, prod(kept) * dtype.itemsize)
            found: NDArray[Any] = np.ndarray(kept, dtype, raw.data, order="F" if fortran else "C")
        return found if not shape else found[:rows]

    return Stored(shape, read)


def _numpy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read the header of a .npy file: shape, whether it is in Fortran's order, dtype, and how many bytes it took.

    Raises ValueError if it is none.
    """
    raw = file.read(12)
    version = raw[6:8]
    if not raw.startswith(_MAGIC) or version not in (b"\1\0", b"\2\0"):
        raise ValueError("it is no numpy array of plain numbers")
    length, start = (raw[8:10], 10) if version == b"\1\0" else (raw[8:12], 12)
    end = start + int.from_bytes(length, "little")
    if end > 1 << 16:
        raise ValueError(f"its header is {end} bytes long")
    text = BytesIO((raw + file.read(max(0, end - 12)))[8:end])
    parse = np.lib.format.read_array_header_1_0 if version == b"\1\0" else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = parse(text)
    except Exception as error:  # it evaluates a Python literal: tokenizer, parser and dtype have errors of their own
        raise ValueError(f"its header is unreadable: {error}") from None
    if not all(type(size) is int and size >= 0 for size in shape) or prod(filter(None, shape)) >= 1 << 62:
        raise ValueError(f"{list(shape)} is no shape")
    return shape, fortran, dtype, end


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise WorkloadError(f"{name} is damaged: {error}", "save or fetch the file again") from error


@contextmanager
def _opened_safetensors(path: Path) -> Iterator[dict[str, Callable[[], Stored]]]:
    def open_tensor(key: str) -> Callable[[], Stored]:
        def header() -> Stored:
            part = file.get_slice(key)
            shape = tuple(part.get_shape())
            return Stored(shape, lambda rows: part[:rows] if shape and rows is not None else file.get_tensor(key))

        return header

    try:
        with safe_open(path, framework="pt") as file:
            yield {key: open_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WorkloadError(
            f"{path}: is no readable safetensors file: {error}",
            "write it with safetensors.torch.save_file({'inputs': ..., 'labels': ...}, file)",
        ) from error
