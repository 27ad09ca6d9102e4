"""Readers of the files that data sets come in: IDX (MNIST), CIFAR-10's binary version, npz and safetensors."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.workload.demo import demo_data_path
from faultcli.workload.preprocess import Layout

ARRAY_SUFFIXES = (".npz", ".safetensors")
_INPUT_KEYS = ("inputs", "images")

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


def read_digits(split: str) -> Arrays:
    """Read the embedded digits: uint8 [N, 8, 8], values 0 to 16."""
    with np.load(demo_data_path(), allow_pickle=False) as archive:
        chosen = archive["is_test"] == (split == "test")
        return Arrays(archive["images"][chosen], archive["labels"][chosen], layout="NHW")


def read_mnist(directory: Path, split: str) -> Arrays:
    """Read the IDX pair `t10k-…` or `train-…`, gzipped or not: uint8 [N, H, W].

    Raises:
        WorkloadError: a file is missing, is no IDX file of the right kind, or is shorter or longer than it says.
    """
    stem = "t10k" if split == "test" else "train"
    images = _read_idx(_find_idx(directory, f"{stem}-images", 3), 3)
    return Arrays(images, _read_idx(_find_idx(directory, f"{stem}-labels", 1), 1), layout="NHW")


def _find_idx(directory: Path, stem: str, dimensions: int) -> Path:
    names = [f"{stem}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise WorkloadError(f"{directory}: has no {names[0]}", f"it may also end in .gz; MNIST's {stem} file is needed")


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    raw = _read_bytes(path)
    header = 4 + 4 * dimensions
    magic = int.from_bytes(raw[:4], "big")
    if len(raw) < header or magic != _IDX_UINT8 + dimensions:
        raise WorkloadError(
            f"{path}: starts with {raw[:4].hex() or 'nothing'} and not {_IDX_UINT8 + dimensions:08x}",
            f"an IDX file of unsigned bytes with {dimensions} dimensions is needed",
        )
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4)]
    expected = header + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise WorkloadError(f"{path}: has {len(raw)} bytes where its header promises {expected}", "fetch it again")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WorkloadError(f"{path}: is damaged: {error}", "fetch it again") from error
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_cifar10(directory: Path, split: str) -> Arrays:
    """Read CIFAR-10 from its binary version, in `directory` or its `cifar-10-batches-bin`, else from an npz.

    The npz is the only one in `directory` whose name contains the split. The pickled Python version is refused.

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
            return _read_cifar10_binary([folder / name for name in names])
    archives = sorted(path for path in directory.glob("*.npz") if split in path.stem)
    if len(archives) > 1:
        raise WorkloadError(
            f"{directory}: has several archives for {split}: {', '.join(path.name for path in archives)}",
            "pass one of them as --data FILE.npz",
        )
    if archives:
        return read_arrays(archives[0])
    pickle = names[0].removesuffix(".bin")
    if any((folder / pickle).is_file() for folder in (directory, directory / "cifar-10-batches-py")):
        raise WorkloadError(
            f"{directory}: holds the Python version of CIFAR-10, whose pickles could run code when they are read",
            "fetch the binary version, cifar-10-binary.tar.gz",
        )
    raise WorkloadError(f"{directory}: has neither {names[0]} nor an npz for {split}")


def _read_cifar10_binary(paths: list[Path]) -> Arrays:
    batches = []
    for path in paths:
        raw = _read_bytes(path)
        if not raw or len(raw) % _CIFAR10_RECORD:
            raise WorkloadError(
                f"{path}: has {len(raw)} bytes, which is no whole number of {_CIFAR10_RECORD}-byte records",
                "fetch it again",
            )
        batches.append(np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR10_RECORD))
    records = np.concatenate(batches)
    return Arrays(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], _CIFAR10_CLASSES, "NCHW")


def read_arrays(path: Path) -> Arrays:
    """Read `inputs` or `images`, and `labels`, and if it is there `class_names`, from an npz or safetensors file.

    Raises:
        WorkloadError: the file is missing or damaged, an array is missing, both `inputs` and `images` are there, or
            an array holds Python objects (which would have to be unpickled).
    """
    found = read_named(path, (*_INPUT_KEYS, "labels", "class_names"))
    keys = [key for key in _INPUT_KEYS if key in found]
    if len(keys) == 1 and "labels" in found:
        names = found.get("class_names")
        class_names = tuple(str(name) for name in names) if isinstance(names, np.ndarray) else None
        return Arrays(found[keys[0]], found["labels"], class_names)
    if len(keys) > 1:
        raise WorkloadError(f"{path}: has both 'inputs' and 'images'", "leave one of them out")
    missing = "'labels'" if keys else "neither 'inputs' nor 'images'"
    raise WorkloadError(
        f"{path}: has {'no ' if keys else ''}{missing}; it has {', '.join(map(repr, sorted(found))) or 'no arrays'}",
        "name the arrays 'inputs' or 'images', and 'labels'",
    )


def read_named(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """Read the wanted arrays of an npz or safetensors file; of the others it has, only the names mean anything.

    Raises:
        WorkloadError: the file is missing or damaged, or an array holds Python objects.
    """
    if not path.is_file():
        raise WorkloadError(f"{path}: there is no such file")
    return _read_safetensors(path, wanted) if path.suffix == ".safetensors" else _read_npz(path, wanted)


def _read_npz(path: Path, wanted: Collection[str]) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path):  # np.load takes other kinds of file, too
            archive = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise WorkloadError(f"{path}: is no readable npz archive: {error}") from error
    with archive:
        found = {}
        for key in archive.files:
            try:
                found[key] = archive[key] if key in wanted else np.empty(0)
            except ValueError as error:
                raise WorkloadError(
                    f"{path}: array {key!r} holds Python objects or is damaged: {error}",
                    "store plain numbers; nothing is unpickled",
                ) from error
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                raise WorkloadError(f"{path}: array {key!r} is damaged: {error}") from error
    return found


def _read_safetensors(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) if key in wanted else None for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WorkloadError(f"{path}: is no readable safetensors file: {error}") from error
