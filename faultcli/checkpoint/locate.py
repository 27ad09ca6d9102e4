"""Which files a checkpoint consists of: one file, the shards of an index, or what a directory holds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faultcli.checkpoint.header import MAX_HEADER_BYTES, load_json
from faultcli.checkpoint.other_formats import PICKLE_SUFFIXES, how_to_convert
from faultcli.errors import CheckpointError
from faultcli.foreign import ForeignError, read_small

Kind = Literal["file", "index", "directory"]
INDEX_SUFFIX = ".safetensors.index.json"


def _instead(path: Path) -> str:
    """Say what a name may have meant that no file has."""
    try:
        float(path.name)
    except ValueError:
        return "check the path; without a checkpoint of your own: faultcli demo -o demo"
    return "a number without an option is taken for MODEL; lists have commas and no spaces: --ber 1e-5,1e-4"


@dataclass(frozen=True)
class Location:
    """The files of a checkpoint: shards sorted by name; `weight_map` is the index's, tensor to shard."""

    kind: Kind
    files: tuple[Path, ...]
    index: Path | None = None
    weight_map: dict[str, str] | None = None


def locate(path: Path) -> Location:
    """Find the files of the checkpoint at `path`.

    A directory's only index counts before its files; a `model.safetensors` that the index does not name, or several
    files without an index, are ambiguous, because loaders differ in which one they take.

    Raises:
        CheckpointError: nothing there, no checkpoint in the directory, an ambiguous one, or a damaged index.
    """
    try:
        if path.is_dir():
            return _locate_in(path)
        if not path.exists():
            raise CheckpointError(f"{path}: no such file or directory", _instead(path))
    except OSError as error:
        raise unreadable(path, error) from error
    if path.suffix == ".json":
        return _locate_shards("index", path)
    return Location("file", (path,))


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Build the error for a file or directory that the system does not let us read."""
    return CheckpointError(f"{path}: cannot be read: {error.strerror or error}", "check the path and its permissions")


def _locate_in(directory: Path) -> Location:
    names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith(".") and not entry.is_dir())
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(".safetensors")]
    if len(indexes) == 1:
        location = _locate_shards("directory", directory / indexes[0])
        if "model.safetensors" in files and directory / "model.safetensors" not in location.files:
            raise _ambiguous(directory, ["model.safetensors", indexes[0]])
        return location
    if indexes:
        raise _ambiguous(directory, indexes)
    if len(files) == 1:
        return Location("directory", (directory / files[0],))
    if files:
        raise _ambiguous(directory, files)
    remedy = f"name a .safetensors file, a *{INDEX_SUFFIX}, or a directory with either"
    pickles = [name for name in names if Path(name).suffix in PICKLE_SUFFIXES]
    if pickles:
        remedy = how_to_convert(directory, pickles)
    raise CheckpointError(f"{directory}: holds no safetensors checkpoint", remedy)


def _locate_shards(kind: Kind, index: Path) -> Location:
    """Read an index: {"weight_map": {tensor: shard}}, the shards beside it."""
    damaged = "the index is damaged: download or export it again"
    try:
        content = load_json(read_small(index, MAX_HEADER_BYTES).decode())
    except ForeignError as error:
        raise CheckpointError(f"{index}: {error}", "check the path and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: is no valid JSON: {error}", damaged) from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        message = f"{index}: is not the index of a checkpoint: it has no weight_map"
        raise CheckpointError(message, f"name a .safetensors file, a *{INDEX_SUFFIX}, or a directory with either")
    if not weight_map:
        raise CheckpointError(f"{index}: its weight_map is empty", damaged)
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _plain(shard):
            problem = f"tensor {name!r} lies in {shard!r}, which is not the name of a file beside it"
            raise CheckpointError(f"{index}: {problem}", damaged)
    files = tuple(index.parent / shard for shard in sorted(set(weight_map.values())))
    missing = [file.name for file in files if not os.path.exists(file)]  # a name too long for a file is no file
    if missing:
        message = f"{index}: missing {'shard' if len(missing) == 1 else 'shards'} {some(missing)}"
        raise CheckpointError(message, "download the rest of the checkpoint into the same directory")
    return Location(kind, files, index, weight_map)


def _plain(name: str) -> bool:
    """Whether a shard's name stays in its directory, on every system. A link there may point anywhere (HF caches)."""
    return name not in ("", ".", "..") and not any(letter in name for letter in "/\\:\0")


def _ambiguous(directory: Path, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{directory}: which checkpoint is meant? It holds {some(names)}", f"name one: {directory / names[0]}"
    )


def some(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a message, the first few of them."""
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
