"""Sending a test bench to other processes without copying what is large in it.

A parcel is a small pickle and the buffers of all arrays and tensors, kept apart. In a file the buffers can be mapped
into memory: every process of a machine then reads the same pages, and what a process writes (the patch of a trial)
stays its own, page by page (copy on write). Tensors that share their memory before they are packed share it afterwards.

A parcel is only ever read by processes that this campaign has started: it is no file format.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import mmap
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faultcli.errors import UsageError
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.hf_config import transformers_for

_ALIGNMENT = 64  # bytes; also what vector instructions like


@dataclass(frozen=True)
class Parcel:
    """`head`: the pickle. `buffers`: flat bytes, in the order in which the pickle asks for them."""

    head: bytes
    buffers: tuple[NDArray[np.uint8], ...]

    def places(self, tensors: Iterable[Tensor]) -> frozenset[int]:
        """Return which of the buffers hold these tensors."""
        addresses = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        return frozenset(place for place, buffer in enumerate(self.buffers) if buffer.ctypes.data in addresses)

    def save(self, file: BinaryIO) -> None:
        """Write a file for `load_mapped`."""
        offsets, end = [], 0
        for buffer in self.buffers:
            offsets.append(end)
            end += -(-len(buffer) // _ALIGNMENT) * _ALIGNMENT
        index = pickle.dumps((self.head, [(o, len(b)) for o, b in zip(offsets, self.buffers, strict=True)]))
        start = -(-(8 + len(index)) // _ALIGNMENT) * _ALIGNMENT
        file.write(len(index).to_bytes(8, "little") + index)
        for offset, buffer in zip(offsets, self.buffers, strict=True):
            file.seek(start + offset)
            file.write(buffer.data)
        file.truncate(start + end + _ALIGNMENT)
        file.flush()


def pack(item: object) -> Parcel:
    """Pack a bench, or anything that can be pickled.

    Raises:
        UsageError: a part of it cannot be sent to another process, such as a model class defined inside a function.
    """
    buffers: list[NDArray[np.uint8]] = []
    stream = io.BytesIO()

    def keep(buffer: pickle.PickleBuffer) -> None:
        buffers.append(np.frombuffer(buffer.raw(), dtype=np.uint8))

    try:
        _Pickler(stream, keep).dump(item)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"the model cannot be sent to worker processes: {error}",
            "run it in this process: leave out --workers, --ray",
        ) from error
    return Parcel(stream.getvalue(), tuple(buffers))


def unpack(head: bytes, buffers: Iterable[Any]) -> Any:
    """Return what was packed, on these buffers. They have to be writable, and written to by nobody else."""
    return pickle.loads(head, buffers=buffers)


def load_mapped(path: Path) -> Any:
    """Return what a saved parcel holds, on pages that are shared with everybody else who maps the file."""
    with path.open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    length = int.from_bytes(mapped[:8], "little")
    head, places = pickle.loads(mapped[8 : 8 + length])
    start = -(-(8 + length) // _ALIGNMENT) * _ALIGNMENT
    return unpack(head, [mapped[start + offset : start + offset + size] for offset, size in places])


class _Pickler(pickle.Pickler):
    """Keeps the memory of arrays and tensors out of the pickle; leaves out what only builds models."""

    def __init__(self, stream: io.BytesIO, keep: Callable[[pickle.PickleBuffer], None]) -> None:
        super().__init__(stream, protocol=5, buffer_callback=keep)
        self._storages: dict[int, NDArray[np.uint8]] = {}  # by address: two views of one storage are sent as such

    def reducer_override(self, item: object) -> Any:
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            memory = self._storages.setdefault(storage.data_ptr(), _bytes_of(item))
            place = (item.dtype, item.storage_offset(), tuple(item.shape), item.stride())
            return _tensor, (memory, *place, isinstance(item, nn.Parameter))
        if isinstance(item, Architecture):
            fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
            return _architecture, (fields | {"build": nn.Identity, "older": None, "load": None},)
        if isinstance(item, type) and item.__module__.startswith("transformers."):
            return _class_of_transformers, (item.__module__, item.__qualname__)
        return NotImplemented


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return np.asarray(flat.numpy())


def _tensor(
    memory: NDArray[np.uint8],
    dtype: torch.dtype,
    offset: int,
    shape: Sequence[int],
    stride: Sequence[int],
    parameter: bool,
) -> Tensor:
    if not len(memory):
        tensor = torch.empty(shape, dtype=dtype)
    else:
        whole = len(memory) // dtype.itemsize * dtype.itemsize
        tensor = torch.from_numpy(memory)[:whole].view(dtype).as_strided(shape, stride, offset)
    return nn.Parameter(tensor, requires_grad=False) if parameter else tensor


def _class_of_transformers(module: str, name: str) -> Any:
    """Return a class of transformers, which is imported here as it was where the bench was made."""
    transformers_for("a worker process")
    return attrgetter(name)(importlib.import_module(module))


def _architecture(fields: dict[str, Any]) -> Architecture:
    return Architecture(**fields)
