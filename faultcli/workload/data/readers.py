"""Readers of the files that data sets come in: IDX (MNIST), CIFAR-10's binary version, npz and safetensors."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.workload.data.archives import MOST_PER_BYTE, read_exactly, read_named
from faultcli.workload.demo import demo_data_path
from faultcli.workload.preprocess import Layout

ARRAY_SUFFIXES = (".npz", ".safetensors")
INPUTS = "inputs"
_INPUT_KEYS = (INPUTS, "images")
# What processors and tokenizers of transformers make; by these names, but to whatever takes them.
_PROCESSED_KEYS = ("input_ids", "input_values", "input_features", "pixel_values")
LABELS = ("labels", "label")
_CLASS_NAMES = "class_names"

# Order of the labels in the CIFAR-10 of Krizhevsky, 2009 (its batches.meta.txt).
_CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes

# An IDX file starts with 0, 0, the element type (8: unsigned byte) and the number of dimensions; the dimensions
# follow as big-endian 32-bit integers (LeCun, Cortes and Burges, the MNIST web page).
_IDX_UINT8 = 0x0800


@dataclass(frozen=True)
class Arrays:
    """What a reader found: unchecked, the layout None where the file does not settle it."""

    inputs: NDArray[Any] | Tensor
    labels: NDArray[Any] | Tensor
    class_names: tuple[str, ...] | None = None
    layout: Layout | None = None
    input_name: str = INPUTS
    others: Mapping[str, NDArray[Any] | Tensor] = field(default_factory=dict)  # further inputs, by name
    notes: tuple[str, ...] = ()  # what was found, or not read, that a user may not expect, a line each
    widths: Mapping[str, Tensor] = field(default_factory=dict)  # see `Dataset.widths`


def read_digits(split: str) -> Arrays:
    """Read the embedded digits: uint8 [N, 8, 8], values 0 to 16."""
    with np.load(demo_data_path(), allow_pickle=False) as archive:
        chosen = archive["is_test"] == (split == "test")
        return Arrays(archive["images"][chosen], archive["labels"][chosen], layout="NHW")


def read_mnist(directory: Path, split: str, limit: int | None = None) -> Arrays:
    """Read the first `limit` of the IDX pair `t10k-…` or `train-…`, gzipped or not: uint8 [N, H, W].

    Raises:
        WorkloadError: a file is missing, is no IDX file of the right kind, or is shorter or longer than it says (with a
            limit, a packed one is not looked at that far), or the two are of different lengths.
    """
    stem = "t10k" if split == "test" else "train"
    images, count = _read_idx(_find_idx(directory, f"{stem}-images", 3), 3, limit)
    labels, others = _read_idx(_find_idx(directory, f"{stem}-labels", 1), 1, limit)
    if count != others:
        raise WorkloadError(f"mnist:{directory}: {count} inputs but {others} labels", "fetch them again")
    return Arrays(images, labels, layout="NHW")


def _find_idx(directory: Path, stem: str, dimensions: int) -> Path:
    names = [f"{stem}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise WorkloadError(f"{directory}: has no {names[0]}", f"it may also end in .gz; MNIST's {stem} file is needed")


def _read_idx(path: Path, dimensions: int, limit: int | None) -> tuple[NDArray[np.uint8], int]:
    """Return the first `limit` items, and how many the file has."""
    header, packed = 4 + 4 * dimensions, path.suffix == ".gz"
    with _damage(path), gzip.open(path) if packed else path.open("rb") as file:
        raw = file.read(header)
        if len(raw) < header or int.from_bytes(raw[:4], "big") != _IDX_UINT8 + dimensions:
            raise WorkloadError(
                f"{path}: starts with {raw[:4].hex() or 'nothing'} and not {_IDX_UINT8 + dimensions:08x}",
                f"an IDX file of unsigned bytes with {dimensions} dimensions is needed",
            )
        shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4)]
        promised, size = header + prod(shape), path.stat().st_size
        if not packed and size != promised:
            raise WorkloadError(f"{path}: has {size} bytes where its header promises {promised}", "fetch it again")
        if packed and promised > MOST_PER_BYTE * size:
            problem = f"its header promises {promised} bytes, more than {size} packed ones can hold"
            raise WorkloadError(f"{path}: is damaged: {problem}", "fetch it again")
        kept = [shape[0] if limit is None else min(limit, shape[0]), *shape[1:]]
        items = read_exactly(file, prod(kept)).reshape(kept)
        if kept == shape and file.read(1):
            raise WorkloadError(
                f"{path}: goes on after the {promised} bytes that its header promises", "fetch it again"
            )
    return items, shape[0]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WorkloadError(f"{path}: is damaged: {error}", "fetch it again") from error
    except MemoryError:
        raise WorkloadError(f"{path}: does not fit into memory", "read less of it: --limit N") from None
    except OSError as error:
        raise WorkloadError(
            f"{path}: cannot be read: {error.strerror or error}", "check the path and its permissions"
        ) from error


def read_cifar10(directory: Path, split: str, limit: int | None = None) -> Arrays:
    """Read the first `limit` images of CIFAR-10 from its binary version, else from an npz.

    The binary version lies in `directory` or its `cifar-10-batches-bin`; the npz is the only one in `directory` whose
    name contains the split. The pickled Python version is refused.

    Raises:
        WorkloadError: no such files, several npz, a batch is missing or is no whole number of records.
    """
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{number}.bin" for number in range(1, 6)]
    for folder in (directory, directory / "cifar-10-batches-bin"):
        found = [name for name in names if (folder / name).is_file()]
        if found:
            missing = [name for name in names if name not in found]
            if missing:
                raise WorkloadError(f"{folder}: has {found[0]} but no {', '.join(missing)}", "fetch it again")
            return _read_cifar10_binary([folder / name for name in names], limit)
    archives = sorted(path for path in directory.glob("*.npz") if split in path.stem)
    if len(archives) > 1:
        raise WorkloadError(
            f"{directory}: has several archives for {split}: {', '.join(path.name for path in archives)}",
            "pass one of them as --data FILE.npz",
        )
    if archives:
        return read_arrays(archives[0], limit)
    pickle = names[0].removesuffix(".bin")
    if any((folder / pickle).is_file() for folder in (directory, directory / "cifar-10-batches-py")):
        raise WorkloadError(
            f"{directory}: holds the Python version of CIFAR-10, whose pickles could run code when they are read",
            "fetch the binary version, cifar-10-binary.tar.gz",
        )
    raise WorkloadError(
        f"{directory}: has neither {names[0]} nor an npz for {split}",
        "unpack cifar-10-binary.tar.gz there, or name the folder that has its files",
    )


def _read_cifar10_binary(paths: list[Path], limit: int | None) -> Arrays:
    batches: list[NDArray[np.uint8]] = []
    for path in paths:
        with _damage(path), path.open("rb") as file:
            size = path.stat().st_size
            if not size or size % _CIFAR10_RECORD:
                raise WorkloadError(
                    f"{path}: has {size} bytes, which is no whole number of {_CIFAR10_RECORD}-byte records",
                    "fetch it again",
                )
            count = size // _CIFAR10_RECORD
            if limit is not None:
                count = min(count, limit - sum(map(len, batches)))
            batches.append(read_exactly(file, count * _CIFAR10_RECORD).reshape(-1, _CIFAR10_RECORD))
    records = np.concatenate(batches)
    return Arrays(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], _CIFAR10_CLASSES, "NCHW")


def read_arrays(path: Path, limit: int | None = None, takes: Sequence[str] = ()) -> Arrays:
    """Read the first `limit` of the inputs and of `labels`, from an npz or safetensors file.

    Inputs are `inputs` or `images`, or what a processor of transformers makes (`input_ids`, ...), and whatever else
    the network takes by name. Of an npz that has them also `class_names`.

    Args:
        path: the file.
        limit: None: all.
        takes: the names of the network's inputs.

    Raises:
        WorkloadError: the file is missing or damaged, an array is missing, both `inputs` and `images` are there, they
            have not a row for every label, or an array holds Python objects (which would have to be unpickled).
    """
    named = [name for name in takes if name not in (*LABELS, _CLASS_NAMES)]
    keys = dict.fromkeys((*_INPUT_KEYS, *_PROCESSED_KEYS, *named))
    found = read_named(path, (*keys, *LABELS), (_CLASS_NAMES,), limit)
    labels = next((name for name in LABELS if name in found), None)
    images = [name for name in _INPUT_KEYS if name in found]
    if len(images) > 1 and not (images := [name for name in images if name in named]):
        raise WorkloadError(f"{path}: has both 'inputs' and 'images'", "leave one of them out")
    first = next((name for name in (*images, *keys) if name in found), None)
    if first is None or labels is None:
        missing = "neither 'inputs' nor 'images'" if first is None else "no 'labels'"
        own = f" (or {', '.join(map(repr, named))}, as the network does)" if named else ""
        raise WorkloadError(
            f"{path}: has {missing}; it has {', '.join(map(repr, sorted(found))) or 'no arrays'}",
            f"name the arrays 'inputs' or 'images'{own}, and 'labels'",
        )
    names = found.get(_CLASS_NAMES)
    if isinstance(names, np.ndarray) and names.ndim != 1:
        raise WorkloadError(f"{path}: class_names are of shape {list(names.shape)}", "a list of names is needed")
    class_names = tuple(str(name) for name in names) if isinstance(names, np.ndarray) else None
    further = {name: found[name] for name in named if name in found and name != first}
    left = sorted(found.keys() - {first, labels, _CLASS_NAMES, *further})
    taken = f"; it takes {', '.join(named)}" if named else ""
    notes = (f"{path}: {', '.join(map(repr, left))}: not given to the network{taken}",) if left else ()
    return Arrays(found[first], found[labels], class_names, None, first, further, notes)
