"""A checkpoint as it lies on the disk: checked when it is opened, read one tensor at a time."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import FileIO
from pathlib import Path
from stat import S_ISREG

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint.gguf import MAGIC, read_gguf_header
from faultcli.checkpoint.header import HEADER_RECORD, BlockField, Header, TensorInfo, read_header, torch_dtype
from faultcli.checkpoint.locate import Kind, Location, locate, some, unreadable
from faultcli.errors import CheckpointError
from faultcli.formats import ChannelsOf

_CHUNK = 1 << 20  # bytes read at a time for a checksum


@dataclass(frozen=True)
class ShardFile:
    """One file of a checkpoint; `stamp` tells whether it is still the file whose header was read. `name`: in the
    checkpoint's directory, as an index names it."""

    path: Path
    name: str
    header: Header
    stamp: tuple[int, int, int]  # inode, bytes, modification time in ns

    @contextmanager
    def open(self) -> Iterator[FileIO]:
        """Open the file for reading, unbuffered. CheckpointError if it is not the file that was opened before."""
        with opened(self.path) as file:
            if stamp_of(file) != self.stamp:
                raise CheckpointError(f"{self.path}: changed while it was in use", "run the command again")
            yield file

    def raw_header(self) -> bytes:
        """Read the bytes before the tensors."""
        with self.open() as file:
            try:
                return file.read(self.header.nbytes)
            except OSError as error:
                raise unreadable(self.path, error) from error

    def sha256(self, progress: Callable[[int], None] | None = None) -> str:
        """Return the SHA-256 of the whole file in hexadecimal, streamed; `progress` gets the bytes read."""
        digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
        with self.open() as file:
            try:
                while count := file.readinto(chunk):
                    digest.update(chunk[:count])
                    if progress is not None:
                        progress(count)
            except OSError as error:
                raise unreadable(self.path, error) from error
        return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint: a safetensors file, the shards of an index, a directory with either, or a GGUF file.

    Made by `open`, which reads and checks every header and no tensor. The files are never changed; one that somebody
    else replaces in the meantime is noticed at the next read.
    """

    path: Path
    kind: Kind
    files: tuple[Path, ...]  # sorted by name
    tensors: dict[str, TensorInfo]  # in the order of the files and of the bytes in each
    metadata: dict[str, str]  # of the file; of shards, merged, the first shard that has a key wins
    index: Path | None = None
    shards: tuple[ShardFile, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()  # what a user may not expect of what was opened, a line each
    channels: ChannelsOf = field(default_factory=dict, repr=False)  # of tensors, as `read_as` was told

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Open `FILE.safetensors`, `FILE.safetensors.index.json`, a directory with either, or `FILE.gguf`.

        Tensors that lie in a shard without being in the index belong to the checkpoint, as loaders read whole shards.

        Raises:
            CheckpointError: missing, unreadable, ambiguous, of another format, or damaged; says what and where.
        """
        path = Path(path)
        location = locate(path)
        shards = tuple(map(_read_shard, location.files, location.names))
        tensors: dict[str, TensorInfo] = {}
        for shard in shards:
            for tensor in shard.header.tensors:
                other = tensors.setdefault(tensor.name, tensor)
                if other is not tensor:
                    problem = f"tensor {tensor.name!r} lies in two shards, {other.file.name} and {tensor.file.name}"
                    raise CheckpointError(f"{path}: {problem}", "delete the shard that does not belong to it")
        notes = (*location.notes, *_index_against(location, tensors, shards))
        metadata: dict[str, str] = {}
        for shard in reversed(shards):
            metadata |= shard.header.metadata
        metadata.pop(HEADER_RECORD, None)
        return cls(path, location.kind, location.files, tensors, metadata, location.index, shards, notes)

    def read_as(self, channels: ChannelsOf) -> Checkpoint:
        """Return the checkpoint as that of a network with these output channels, where they are no slices of a tensor's
        first dimension: what is stored per channel in a memory belongs to them."""
        return replace(self, channels=channels)

    @property
    def directory(self) -> Path:
        """The directory that the checkpoint lies in; shards may lie in folders of it."""
        return (self.index or self.files[0]).parent

    @property
    def names(self) -> tuple[str, ...]:
        """The files, and the index if there is one, as they are called in that directory."""
        index = () if self.index is None else (self.index.name,)
        return (*(shard.name for shard in self.shards), *index)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together, and of what pads them; what `progress` of a rewrite adds up to."""
        return sum(shard.stamp[1] - shard.header.nbytes for shard in self.shards)

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file."""
        return not all(shard.header.gapless for shard in self.shards)

    def refuse_gguf(self, command: str) -> None:
        """Refuse a GGUF file for a command that takes safetensors alone; CheckpointError."""
        if self.is_gguf:
            raise CheckpointError(
                f"{self.path}: is a GGUF file; {command} takes safetensors", "take the one that it was converted from"
            )

    def info(self, name: str) -> TensorInfo:
        """Return what is known of a tensor. CheckpointError with the nearest name if there is none."""
        if name not in self.tensors:
            near = difflib.get_close_matches(name, self.tensors, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"it holds {some(self.tensors)}"
            raise CheckpointError(f"{self.path}: no tensor is named {name!r}", remedy)
        return self.tensors[name]

    def read_bytes(self, name: str, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read a tensor's bytes as stored (little-endian, row-major) into a new uint8 array, or into `out`.

        Args:
            name: the tensor.
            out: a contiguous writable uint8 array of at least the tensor's bytes, used from its start.

        Returns:
            The array of exactly the tensor's bytes; a view of `out` if that is given. A field's bytes are those of
            all blocks, joined.
        """
        info = self.info(name)
        with self._shard(info).open() as file:
            return read_tensor(file, info, np.empty(info.nbytes, np.uint8) if out is None else out[: info.nbytes])

    def read(self, name: str) -> Tensor:
        """Read a tensor into memory of its own, on the CPU, in the stored dtype and shape.

        F4 has two elements in one byte: as in the safetensors library, its last dimension is halved.

        Raises:
            CheckpointError: no such tensor, the file cannot be read or has changed, torch has no such dtype, or nobody
                here knows what its bytes stand for.
        """
        info = self.info(name)
        if info.unread is not None:
            raise CheckpointError(
                f"{info.file}: tensor {name!r} is {info.unread}, which is not read", "convert the model to another type"
            )
        dtype = torch_dtype(info.dtype)
        shape = list(info.shape)
        if info.dtype == "F4" and shape:
            shape[-1] //= 2
        if dtype is None or (info.dtype == "F4" and not (info.shape and info.shape[-1] % 2 == 0)):
            message = f"{info.file}: tensor {name!r}: torch {torch.__version__} cannot hold {info.dtype}"
            raise CheckpointError(f"{message} of shape {list(info.shape)}", f"leave it out: --exclude {name!r}")
        data = torch.empty(info.nbytes, dtype=torch.uint8)
        self.read_bytes(name, data.numpy())
        return data.view(dtype).reshape(shape)

    def state(self) -> dict[str, Tensor]:
        """Read all tensors, in the order of `tensors`."""
        return {name: self.read(name) for name in self.tensors}

    def state_and_sha256(self) -> tuple[dict[str, Tensor], str]:
        """Return `state` and `sha256` from one read of the files."""
        state: dict[str, Tensor] = {}
        content = ContentHash(self)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for shard in self.shards:  # one is hashed while the next is read
                own = [(info, self.read(info.name)) for info in shard.header.tensors]
                state |= {info.name: tensor for info, tensor in own}
                pool.submit(content.update_all, own)
        return state, content.hexdigest()

    def sha256(self, progress: Callable[[int], None] | None = None) -> str:
        """Return the SHA-256 of the content in hexadecimal: the file's own, so that `sha256sum` confirms it.

        Of several shards: the SHA-256 over a line "NAME SHA256" each, sorted by name. Other files do not count.
        `progress` is called, from several threads, with the bytes read since its last call.
        """
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # hashlib lets go of the interpreter's lock
            return _joined(self.shards, list(pool.map(lambda shard: shard.sha256(progress), self.shards)))

    def _shard(self, info: TensorInfo) -> ShardFile:
        return self._by_file[info.file]

    @cached_property
    def _by_file(self) -> dict[Path, ShardFile]:
        return {shard.path: shard for shard in self.shards}


@dataclass(frozen=True)
class LazyTensors(Mapping[str, Tensor]):
    """Tensors of a checkpoint by name, each read when it is looked at."""

    checkpoint: Checkpoint
    names: Sequence[str]

    def __getitem__(self, name: str) -> Tensor:
        return self.checkpoint.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class ContentHash:
    """`Checkpoint.sha256`, of bytes that are read for another purpose: every tensor once, in the order of `tensors`;
    different files may be told at the same time. A file that is more than its tensors is read once more instead."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        told = [shard for shard in checkpoint.shards if shard.header.gapless]
        self._digests = {shard.path: hashlib.sha256(shard.raw_header()) for shard in told}
        self._rest = {shard.path: shard.stamp[1] - shard.header.nbytes for shard in told}

    def is_told(self, file: Path) -> bool:
        """Whether all bytes of a file have to be told."""
        return file in self._digests

    def update(self, file: Path, data: NDArray[np.uint8]) -> None:
        """Take the next bytes of a file."""
        if self.is_told(file):
            self._digests[file].update(data.data)
            self._rest[file] -= len(data)

    def update_all(self, tensors: Iterable[tuple[TensorInfo, Tensor]]) -> None:
        """Take the next tensors, as `Checkpoint.read` gives them."""
        for info, tensor in tensors:
            self.update(info.file, tensor.reshape(-1).view(torch.uint8).numpy())

    def hexdigest(self) -> str:
        """Return the hash; ValueError if not all bytes were told."""
        if any(self._rest.values()):
            raise ValueError("some tensors were not hashed")
        digests = {path: digest.hexdigest() for path, digest in self._digests.items()}
        shards = self._checkpoint.shards
        return _joined(shards, [digests.get(shard.path) or shard.sha256() for shard in shards])


def _joined(shards: Sequence[ShardFile], digests: Sequence[str]) -> str:
    """Return the hash of a checkpoint of the hashes of its files."""
    if len(digests) == 1:
        return digests[0]
    lines = (f"{shard.name} {digest}\n" for shard, digest in zip(shards, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[FileIO]:
    """Open a file unbuffered; the system's refusal is a CheckpointError, an OSError of the block is not touched."""
    try:
        if not S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise CheckpointError(f"{path}: is not a regular file", "name a .safetensors file")
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        yield file


def stamp_of(file: FileIO) -> tuple[int, int, int]:
    """Return what tells whether a file is still the same one: inode, bytes, modification time in ns."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_shard(path: Path, name: str) -> ShardFile:
    with opened(path) as file:
        stamp = stamp_of(file)
        try:
            read = read_gguf_header if file.read(len(MAGIC)) == MAGIC else read_header
            file.seek(0)
            return ShardFile(path, name, read(file, path, stamp[1]), stamp)
        except OSError as error:
            raise unreadable(path, error) from error


def read_tensor(file: FileIO, info: TensorInfo, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read a tensor's bytes into `out`, of exactly its length; those of a field from block to block.

    Raises:
        CheckpointError: the file ends early or cannot be read.
    """
    if info.field is None:
        return read_run(file, info.span, info, out)
    begin, end = info.span
    step = max(1, _CHUNK // info.field.block_bytes) * info.field.block_bytes
    done = 0
    for at in range(begin, end, step):
        run = at, min(at + step, end)
        found = field_of(read_run(file, run, info, np.empty(run[1] - at, np.uint8)), info.field)
        out[done : done + found.size].reshape(found.shape)[:] = found
        done += found.size
    return out


def field_of(blocks: NDArray[np.uint8], field: BlockField) -> NDArray[np.uint8]:
    """Return a field of whole blocks, uint8 [blocks, bytes of the field], as a view of them."""
    return blocks.reshape(-1, field.block_bytes)[:, field.first : field.first + field.nbytes]


def read_run(file: FileIO, run: tuple[int, int], info: TensorInfo, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read the bytes of a file from one offset to another, which `info` is in, into `out`; raises as `read_tensor`."""
    rest = out.data
    try:
        file.seek(run[0])
        while rest:  # one call reads 2 GiB at most
            count = file.readinto(rest)
            if not count:
                raise CheckpointError(f"{info.file}: tensor {info.name!r} ends early", "run the command again")
            rest = rest[count:]
    except OSError as error:
        raise unreadable(info.file, error) from error
    return out


def _index_against(location: Location, tensors: Mapping[str, TensorInfo], shards: Sequence[ShardFile]) -> Iterator[str]:
    """Say where an index and its shards do not agree. What the shards hold is the checkpoint."""
    names = {shard.path: shard.name for shard in shards}
    index = location.weight_map or {}
    absent = [name for name in index if name not in tensors]
    elsewhere = [name for name, shard in index.items() if name in tensors and names[tensors[name].file] != shard]
    for wrong, what in ((absent, "that no shard holds"), (elsewhere, "that lie in other shards than it says")):
        if wrong:
            yield f"{location.index}: names {len(wrong)} of {len(index)} tensors {what}: {some(wrong)}"
