"""Writing: an opened checkpoint with some tensors replaced, or new tensors as safetensors."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint.companions import companions_of, copy_file, folders_of
from faultcli.checkpoint.header import (
    DTYPES,
    HEADER_RECORD,
    MAX_HEADER_BYTES,
    Header,
    TensorInfo,
    build_header,
    header_entries,
    parse_header,
    tensor_bytes,
)
from faultcli.checkpoint.reader import Checkpoint, ContentHash, ShardFile, field_of, read_run
from faultcli.errors import CheckpointError
from faultcli.files import atomic_directory, atomic_output, copy_range, reserve, write_all

TensorData: TypeAlias = bytes | bytearray | memoryview | NDArray[Any] | Tensor
Progress: TypeAlias = Callable[[int], None]


@dataclass(frozen=True)
class TensorSource:
    """A tensor to write: `load` is called when its turn has come, so that one tensor at a time is in memory."""

    name: str
    dtype: str  # of safetensors, e.g. "F32"
    shape: tuple[int, ...]
    load: Callable[[], TensorData]


@dataclass(frozen=True)
class HeaderPlan:
    """What happens to the headers in a rewrite; by default they are kept byte for byte."""

    metadata: Mapping[str, str] | None = None
    restore: bool = False

    def __post_init__(self) -> None:
        if self.metadata is not None and self.restore:
            raise ValueError("a restored header brings its own metadata")
        if self.metadata is not None:
            _check_metadata(self.metadata)

    def header(self, file: FileIO, shard: ShardFile) -> bytes:
        """Return the first bytes of the new file, up to its tensors. Reads them from the old one."""
        file.seek(0)
        raw = file.read(shard.header.nbytes)
        old = shard.header.metadata
        if self.restore:
            return _restored(old[HEADER_RECORD], shard) if HEADER_RECORD in old else raw
        visible = {key: value for key, value in old.items() if key != HEADER_RECORD}
        if self.metadata is None or dict(self.metadata) == visible:
            return raw
        metadata = {**self.metadata, HEADER_RECORD: header_record(raw)}
        return build_header(header_entries(raw, shard.path), metadata)


class Rewriting(TypedDict, total=False):
    """How a checkpoint is rewritten.

    `force`: replace an existing target. `metadata`: the new metadata, of every shard; None keeps each header byte for
    byte. Where a header changes, the old one is kept in the new one's metadata, which `Checkpoint.metadata` hides, for
    `restore_header`: write the headers as they were before `metadata` was last given. `progress`: called with the
    tensor bytes written since its last call; they add up to `Checkpoint.nbytes`. `check`: called with what was written,
    under its temporary name; what it raises keeps it from appearing.
    """

    force: bool
    metadata: Mapping[str, str] | None
    restore_header: bool
    progress: Progress | None
    check: Callable[[Path], None] | None


def rewrite(
    checkpoint: Checkpoint,
    target: str | Path,
    replace: Callable[[TensorInfo], TensorData | None],
    **how: Unpack[Rewriting],
) -> None:
    """Write the checkpoint to `target` with the bytes of some tensors replaced and all else byte for byte.

    A file becomes a file. Shards and directories become a directory with the same names in it, together with what
    lies beside them (config.json, the tokenizer), except for weights that are not part of this checkpoint: they would
    be the unchanged ones (see `companions`). The target appears whole or not at all, see `faultcli.files`.

    Args:
        checkpoint: what is rewritten; its files are never changed.
        target: the file or directory to write; never an input.
        replace: called for each tensor in file order; returns its new bytes (dtype and length stay) or None to
            keep the old ones. What it returns is written before the next call, so that it may use one buffer.
        how: see `Rewriting`.

    Raises:
        OutputError: the target exists, is an input or cannot be written.
        CheckpointError: a file cannot be read, has changed, or has no header to restore.
        ValueError: a replacement has not the length of its tensor.
    """
    plan = HeaderPlan(how.get("metadata"), how.get("restore_header", False))
    force, progress, check = how.get("force", False), how.get("progress"), how.get("check")
    if plan.restore and not any(HEADER_RECORD in shard.header.metadata for shard in checkpoint.shards):
        message = f"{checkpoint.path}: does not say what its header was; it was not written by faultcli"
        raise CheckpointError(message, "use the original checkpoint")
    rebuild(
        checkpoint,
        target,
        lambda shard, temporary: _rewrite_shard(shard, temporary, replace, plan, progress),
        force=force,
        check=check,
    )


def rebuild(
    checkpoint: Checkpoint,
    target: str | Path,
    write_shard: Callable[[ShardFile, Path], None],
    *,
    force: bool = False,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint with a file in place of each of its own, which `write_shard` writes; of a directory, with all
    that lies beside them. Raises as `rewrite`, of which this is the frame.

    Args:
        checkpoint, target, force: as `rewrite`.
        write_shard: called with each file and where to write the one that takes its place.
        check: called with what was written, under its temporary name; what it raises keeps it from appearing.
    """
    if checkpoint.kind == "file":
        with atomic_output(target, force=force, inputs=checkpoint.files) as temporary:
            write_shard(checkpoint.shards[0], temporary)
            if check is not None:
                check(temporary)
        return
    beside = companions_of(checkpoint.directory, checkpoint.names, checkpoint.nbytes, Path(target))
    own = [*checkpoint.files, *([checkpoint.index] if checkpoint.index else [])]
    brings = {*checkpoint.names, *folders_of(checkpoint.names), *beside.names}
    inputs = [checkpoint.directory, *own]
    with atomic_directory(target, force=force, inputs=inputs, brings=brings) as temporary:
        for folder in folders_of(checkpoint.names):
            (temporary / folder).mkdir()
        for shard in checkpoint.shards:
            write_shard(shard, temporary / shard.name)
        if checkpoint.index is not None:
            copy_file(checkpoint.index, temporary / checkpoint.index.name)
        beside.copy(temporary)
        if check is not None:
            check(temporary)


def edit(
    checkpoint: Checkpoint,
    target: str | Path,
    change: Callable[[TensorInfo, NDArray[np.uint8]], None],
    names: Collection[str] | None = None,
    content: ContentHash | None = None,
    **how: Unpack[Rewriting],
) -> None:
    """`rewrite` with each tensor's bytes changed in place: the fast way, in the memory of the largest tensor.

    Args:
        checkpoint, target: as `rewrite`.
        change: called with a tensor and a writable uint8 array of its bytes, valid until it returns; not for
            tensors without elements.
        names: the tensors to change; None means all. The others are copied in the kernel.
        content: is told all bytes before they are changed, where it has to be; then nothing is copied in the kernel.
        how: see `Rewriting`.
    """
    infos = checkpoint.tensors.values() if names is None else map(checkpoint.info, names)
    chosen = {info.name: info for info in infos}
    looked_at = dict(chosen)
    if content is not None:
        looked_at |= {name: info for name, info in checkpoint.tensors.items() if content.is_told(info.file)}
    buffer = np.empty(max((info.nbytes for info in looked_at.values()), default=0), np.uint8)

    def replace(info: TensorInfo) -> NDArray[np.uint8] | None:
        if info.name not in looked_at or not info.nbytes:
            return None
        data = checkpoint.read_bytes(info.name, buffer)
        if content is not None:
            content.update(info.file, data)
        if info.name in chosen:
            change(info, data)
        return data

    rewrite(checkpoint, target, replace, **how)


def write_safetensors(
    target: str | Path,
    tensors: Mapping[str, Tensor | NDArray[Any]] | Iterable[TensorSource],
    metadata: Mapping[str, str] | None = None,
    *,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> None:
    """Write a new safetensors file, with the layout of the safetensors library: by dtype, widest first, then by name.

    Args:
        target: the file; it appears whole or not at all.
        tensors: names and tensors (any device, any strides) or arrays; or sources, loaded and written one by one.
        metadata: strings by name.
        force: replace an existing file.
        inputs: files that must not be replaced.

    Raises:
        OutputError: the target exists, is an input or cannot be written.
        ValueError: a dtype that safetensors lacks, a name twice, data that does not fit its dtype and shape.
    """
    if isinstance(tensors, Mapping):
        sources = [_source(name, tensor) for name, tensor in tensors.items()]
    else:
        sources = list(tensors)
    rank = {dtype: number for number, dtype in enumerate(DTYPES)}
    sources.sort(key=lambda source: (-rank[source.dtype], source.name))
    entries: dict[str, Any] = {}
    sizes: list[int] = []
    for source in sources:
        size = tensor_bytes(source.dtype, source.shape)
        if size is None:
            raise ValueError(f"tensor {source.name!r}: {source.dtype} of shape {source.shape} ends inside a byte")
        if source.name in entries or source.name == "__metadata__":
            raise ValueError(f"tensor name {source.name!r} is taken")
        begin = sum(sizes)
        entries[source.name] = {
            "dtype": source.dtype,
            "shape": list(source.shape),
            "data_offsets": [begin, begin + size],
        }
        sizes.append(size)
    header = build_header(entries, _check_metadata(metadata or {}))
    with atomic_output(target, force=force, inputs=inputs) as temporary, temporary.open("wb", buffering=0) as file:
        reserve(file, len(header) + sum(sizes))
        write_all(file, memoryview(header))
        for source, size in zip(sources, sizes, strict=True):
            write_all(file, _flat(source.load(), source.name, size))


def _rewrite_shard(
    shard: ShardFile,
    target: Path,
    replace: Callable[[TensorInfo], TensorData | None],
    plan: HeaderPlan,
    progress: Progress | None,
) -> None:
    """Write one file. Neighbours that are kept are copied in one go."""
    with shard.open() as source, target.open("wb", buffering=0) as output:
        header = plan.header(source, shard)
        reserve(output, len(header) + shard.stamp[1] - shard.header.nbytes)
        write_all(output, memoryview(header))
        kept = done = shard.header.nbytes  # bytes [kept, done) of the source are to be copied

        def copy_kept() -> None:
            try:
                copy_range(source, kept, done - kept, output, progress)
            except EOFError as error:
                raise CheckpointError(f"{shard.path}: became shorter while it was read", "run it again") from error

        for (begin, end), tensors in groupby(shard.header.tensors, lambda info: info.span):
            done = begin
            flat = _replaced(source, list(tensors), replace)
            if flat is not None:
                copy_kept()
                write_all(output, flat)
                kept = end
                if progress is not None:
                    progress(end - begin)
        done = shard.stamp[1]
        copy_kept()


def _replaced(
    source: FileIO, tensors: Sequence[TensorInfo], replace: Callable[[TensorInfo], TensorData | None]
) -> memoryview | None:
    """Return the bytes that take the place of a tensor, or of blocks whose fields are these tensors; None: nothing of
    it is replaced."""
    whole: NDArray[np.uint8] | None = None
    for info in tensors:
        data = replace(info)
        if data is None:
            continue
        flat = _flat(data, info.name, info.nbytes)
        if info.field is None:  # or several without elements
            whole = np.asarray(flat)
            continue
        if whole is None:
            begin, end = info.span
            whole = read_run(source, info.span, info, np.empty(end - begin, np.uint8))
        found = field_of(whole, info.field)
        found[:] = np.asarray(flat).reshape(found.shape)
    return None if whole is None else whole.data


def header_record(raw: bytes) -> str:
    """Return a header as a record of it in the metadata of another one."""
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def recorded_header(record: str, path: Path) -> bytes:
    """Return the header that a record holds, unchecked; CheckpointError if the record is damaged."""
    try:
        return zlib.decompressobj().decompress(base64.b64decode(record, validate=True), MAX_HEADER_BYTES + 8)
    except (binascii.Error, ValueError, zlib.error):
        raise _damaged_record(path) from None


def _damaged_record(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: the record of its old header is damaged", "use the original checkpoint")


def _restored(record: str, shard: ShardFile) -> bytes:
    """Return the header that a record holds, if it is one of the very same tensors."""
    raw, damaged = recorded_header(record, shard.path), _damaged_record(shard.path)
    data_bytes = sum(info.nbytes for info in shard.header.tensors)
    try:
        header = parse_header(raw, shard.path, len(raw) + data_bytes)
    except CheckpointError:
        raise damaged from None
    if len(raw) < 8 or int.from_bytes(raw[:8], "little") != len(raw) - 8 or _layout(header) != _layout(shard.header):
        raise damaged
    return raw


def _layout(header: Header) -> list[tuple[str, str, tuple[int, ...], int]]:
    return [(info.name, info.dtype, info.shape, info.offset - header.nbytes) for info in header.tensors]


def _check_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata {key!r}: safetensors holds strings only, not {type(value).__name__}")
    if HEADER_RECORD in metadata:
        raise ValueError(f"metadata {HEADER_RECORD!r} is written by faultcli itself")
    return metadata


def _source(name: str, tensor: Tensor | NDArray[Any]) -> TensorSource:
    kind = str(tensor.dtype).removeprefix("torch.")  # numpy and ml_dtypes use the same names
    dtype = next((dtype for dtype, (_, known) in DTYPES.items() if known == kind), None)
    if dtype is None:
        raise ValueError(f"tensor {name!r}: safetensors has no dtype for {kind}")
    shape = tuple(tensor.shape)
    if dtype == "F4":  # torch counts bytes, safetensors elements
        shape = (*shape[:-1], 2 * shape[-1])
    return TensorSource(name, dtype, shape, lambda: tensor)


def _flat(data: TensorData, name: str, nbytes: int) -> memoryview:
    """Return the bytes of `data`, row-major, copied only if they lie differently; ValueError if not `nbytes`."""
    if isinstance(data, Tensor):
        data = data.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    flat = memoryview(data).cast("B")
    if len(flat) != nbytes:
        raise ValueError(f"tensor {name!r}: {len(flat)} bytes are given, it has {nbytes}")
    return flat
