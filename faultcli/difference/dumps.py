"""What a memory dump can be: a checkpoint, bytes without a header, or one array."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint, TensorInfo
from faultcli.errors import CheckpointError, UsageError
from faultcli.faults.selection import Selection, escaped
from faultcli.formats import word_format

ARRAY_SUFFIX = ".npy"


@dataclass(frozen=True)
class RawPlace:
    """Where in a dump without a header the model lies: from byte `base`, `length` bytes (None: to the end)."""

    base: int = 0
    length: int | None = None


class Dump(ABC):
    """Where the bytes of tensors, as they were found, come from."""

    @abstractmethod
    def read(self, info: TensorInfo, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Read the bytes of a golden tensor as they were found, into the beginning of `out`, and return them."""

    @abstractmethod
    def address(self, info: TensorInfo) -> int:
        """Return where a golden tensor begins in the memory array, in bytes."""


def open_dump(
    golden: Checkpoint, path: Path, selection: Selection, *, raw: RawPlace | None = None, tensor: str | None = None
) -> tuple[Dump, list[str]]:
    """Open a dump of a checkpoint's tensors, and say which of them are to be compared.

    Args:
        golden: what the dump should hold.
        path: a checkpoint; an array (`.npy`) of one tensor; with `raw`, bytes: the golden file, or its tensors without
            its header, which is told by how many there are; with `tensor`, the bytes of that one.
        selection: which tensors to compare.
        raw: the dump has no header of its own.
        tensor: the dump holds this tensor alone.

    Raises:
        CheckpointError: the dump is missing, damaged, or no dump of these tensors; or they lie in a GGUF file.
        UsageError: which tensor an array holds is not said.
    """
    golden.refuse_gguf("diff")
    if tensor is not None:
        selection = Selection("any", [escaped(tensor)])
        golden.info(tensor)
    if raw is not None:
        names = selection.names(golden.tensors.values())
        return _raw(golden, path, raw, tensor), names
    if path.suffix == ARRAY_SUFFIX:
        names = selection.names(golden.tensors.values())
        if len(names) != 1:
            problem = f"{path}: is one array, and {golden.path} has {len(names)} tensors that it may be"
            raise UsageError(problem, f"name it: --tensor {names[0]!r}")
        return ArrayDump.open(path, golden.info(names[0])), names
    _refuse_bytes(path)
    other = Checkpoint.open(path)
    both = [*golden.tensors.values(), *(t for name, t in other.tensors.items() if name not in golden.tensors)]
    names = selection.names(both)
    _check_alike(golden, other, names)
    return CheckpointDump(other, _starts(golden)), names


@dataclass(frozen=True)
class CheckpointDump(Dump):
    """A checkpoint with the same tensors. `starts`: where each begins behind the first."""

    checkpoint: Checkpoint
    starts: Mapping[str, int]

    def read(self, info: TensorInfo, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self.checkpoint.read_bytes(info.name, out)

    def address(self, info: TensorInfo) -> int:
        return self.starts[info.name]


@dataclass(frozen=True)
class RawDump(Dump):
    """A file of bytes as the memory holds them. `starts`: where each tensor begins in it; `nbytes`: its size."""

    path: Path
    starts: Mapping[str, int]
    nbytes: int

    def read(self, info: TensorInfo, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        data = out[: info.nbytes]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.starts[info.name])
                _fill(file, data, self.path)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return data

    def address(self, info: TensorInfo) -> int:
        return self.starts[info.name]


@dataclass(frozen=True)
class ArrayDump(Dump):
    """The words of one tensor, flat, little-endian, as bytes."""

    content: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path, info: TensorInfo) -> ArrayDump:
        """Read a `.npy` file as the words of a tensor.

        Raises:
            CheckpointError: it is missing or damaged, or has another shape or other elements.
        """
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise _unreadable(path, error) from error
        except (ValueError, EOFError, SyntaxError) as error:
            first = str(error).splitlines()[0] if str(error) else "it ends early"
            raise CheckpointError(f"{path}: is no .npy file of numbers: {first}", "write it with numpy.save") from None
        shape, width = _array_of(info)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype.itemsize != width:
            found = f"{array.dtype} of shape {list(getattr(array, 'shape', ()))}"
            problem = f"holds {found}; tensor {info.name!r} is {info.dtype} of shape {list(info.shape)}"
            raise CheckpointError(f"{path}: {problem}", "name the tensor that the array holds: --tensor NAME")
        if array.dtype.kind not in _kinds(info.dtype):
            problem = f"holds {array.dtype}, and tensor {info.name!r} is {info.dtype}: other words for the same values"
            raise CheckpointError(f"{path}: {problem}", f"save its words as they are: array.view('u{width}')")
        little = array if array.dtype.kind == "V" else array.astype(array.dtype.newbyteorder("<"), copy=False)
        return cls(np.ascontiguousarray(little).reshape(-1).view(np.uint8))

    def read(self, info: TensorInfo, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        out[: info.nbytes] = self.content
        return out[: info.nbytes]

    def address(self, info: TensorInfo) -> int:
        return 0


def _array_of(info: TensorInfo) -> tuple[tuple[int, ...], int]:
    """Return the shape and the bytes per element that an array of a tensor has; of packed ones, its bytes."""
    elements = max(1, info.elements)
    if info.nbytes % elements == 0:
        return info.shape, info.nbytes // elements or word_format(info.dtype).bits // 8
    rest = info.elements // info.shape[-1]
    return ((*info.shape[:-1], info.nbytes // rest) if info.nbytes % rest == 0 else (info.nbytes,)), 1


def _kinds(dtype: str) -> str:
    """Return the kinds of numpy dtypes whose elements are such words: unsigned or nameless ones always."""
    own = {"I": "i", "C": "c", "BOOL": "b"}.get(dtype if dtype == "BOOL" else dtype[0], "")
    return "uV" + own + ("f" if dtype in ("F16", "F32", "F64") else "")


def _raw(golden: Checkpoint, path: Path, raw: RawPlace, tensor: str | None) -> RawDump:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file", "check the path")
    if not path.is_file():
        raise CheckpointError(f"{path}: is not a regular file", "copy the memory into a file first")
    size = path.stat().st_size
    here = size - raw.base if raw.length is None else raw.length
    if raw.base < 0 or here < 0 or raw.base + here > size:
        until = "" if raw.length is None else f" to {raw.base + here}"
        raise CheckpointError(
            f"{path}: has {size} bytes, and none from {raw.base}{until}", "--base and --length lie within the dump"
        )
    if tensor is not None:
        info = golden.info(tensor)
        wanted = {info.nbytes: ({tensor: raw.base}, f"tensor {tensor!r}")}
    elif len(golden.files) > 1:
        problem = f"{golden.path}: is {len(golden.files)} files, and a dump of bytes is compared with one"
        raise UsageError(problem, f"name one: {golden.files[0]}; or one tensor: --tensor NAME")
    else:
        header = golden.shards[0].header.nbytes
        starts = {name: raw.base + info.offset for name, info in golden.tensors.items()}
        bare = {name: start - header for name, start in starts.items()}
        wanted = {golden.nbytes: (bare, "its tensors"), golden.nbytes + header: (starts, "the file with its header")}
    if here not in wanted:
        sizes = " or ".join(f"{nbytes} ({what})" for nbytes, (_, what) in wanted.items())
        length = min((n for n in wanted if n <= size - raw.base), default=None)
        remedy = f"say where the model lies: --base OFFSET --length {length if length is not None else 'BYTES'}"
        raise CheckpointError(f"{path}: {here} bytes from {raw.base}; of {golden.path} it would be {sizes}", remedy)
    return RawDump(path, wanted[here][0], size)


def _fill(file: FileIO, data: NDArray[np.uint8], path: Path) -> None:
    rest = data.data
    while rest:
        count = file.readinto(rest)
        if not count:
            raise CheckpointError(f"{path}: ended early; it changed while it was in use", "run the command again")
        rest = rest[count:]


def _starts(golden: Checkpoint) -> dict[str, int]:
    """Return where each tensor begins behind the first, the tensors of several files one behind the other."""
    starts, before = {}, 0
    for shard in golden.shards:
        for info in shard.header.tensors:
            starts[info.name] = before + info.offset - shard.header.nbytes
        before += sum(info.nbytes for info in shard.header.tensors)
    return starts


def _check_alike(golden: Checkpoint, other: Checkpoint, names: Sequence[str]) -> None:
    for name in names:
        if name not in other.tensors:
            problem = f"{other.path}: has no tensor {name!r}, which {golden.path} has"
            raise CheckpointError(problem, f"leave it out: --exclude {escaped(name)!r}")
        if name not in golden.tensors:
            problem = f"{other.path}: has a tensor {name!r}, which {golden.path} has not"
            raise CheckpointError(problem, f"leave it out: --exclude {escaped(name)!r}")
        one, two = golden.info(name), other.info(name)
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            raise CheckpointError(
                f"{other.path}: tensor {name!r} is {two.dtype} of shape {list(two.shape)}; in {golden.path} it is "
                f"{one.dtype} of shape {list(one.shape)}",
                f"compare checkpoints of one layout, or leave it out: --exclude {escaped(name)!r}",
            )


def _refuse_bytes(path: Path) -> None:
    """Say of a file that is no checkpoint what it may be instead: memory as it is."""
    if path.suffix == ".json" or not path.is_file():
        return
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(9)
    except OSError as error:
        raise _unreadable(path, error) from error
    if start[8:] != b"{":
        problem = f"{path}: is neither a safetensors nor a .npy file"
        raise CheckpointError(problem, "memory as it is, without a header or with a damaged one: --raw")


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read: {error.strerror or error}", "check the path and its permissions")
