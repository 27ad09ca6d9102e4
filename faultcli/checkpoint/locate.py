"""Which files a checkpoint consists of: one file, the shards of an index, or what a directory holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from faultcli.checkpoint.adapters import FILE as ADAPTER_FILE
from faultcli.checkpoint.adapters import is_adapter
from faultcli.checkpoint.contents import (
    ADAPTER,
    GGUF,
    INDEX_SUFFIX,
    SUFFIX,
    Held,
    checkpoints_of,
    folders_with_checkpoints,
    holds_weights,
    is_index,
    is_weights,
    other_modules,
    pipeline_parts,
    plain,
    shard_of,
)
from faultcli.checkpoint.header import MAX_HEADER_BYTES, load_json, read_raw_header
from faultcli.checkpoint.other_formats import PICKLE_SUFFIXES, how_to_convert, quoted
from faultcli.errors import CheckpointError
from faultcli.foreign import ForeignError, read_small

Kind = Literal["file", "index", "directory"]


def _instead(path: Path) -> str:
    """Say what a name may have meant that no file has."""
    try:
        float(path.name)
    except ValueError:
        return "check the path; without a checkpoint of your own: faultcli demo -o demo"
    return "a number without an option is taken for MODEL; lists have commas and no spaces: --ber 1e-5,1e-4"


@dataclass(frozen=True)
class Location:
    """The files of a checkpoint: shards sorted by name; `weight_map` is the index's, tensor to shard.

    `names`: of the files, in their directory. `notes`: what a user may not expect of this choice, a line each.
    """

    kind: Kind
    files: tuple[Path, ...]
    index: Path | None = None
    weight_map: dict[str, str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """The directory that the checkpoint lies in; shards may lie in folders of it."""
        return (self.index or self.files[0]).parent

    @property
    def names(self) -> tuple[str, ...]:
        """The files as an index names them."""
        return tuple(file.relative_to(self.directory).as_posix() for file in self.files)


def locate(path: Path) -> Location:
    """Find the files of the checkpoint at `path`.

    A directory may hold several. Its only index counts before single files, a model before its variants (`model.fp16`),
    before what Mistral's own program reads (`consolidated*`) and before adapters; numbered shards without an index
    belong together. What is left out is in the notes. Where loaders differ in which one they take, it is ambiguous.

    Raises:
        CheckpointError: nothing there, no checkpoint in the directory, an ambiguous one, missing shards, or a damaged
            index.
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
    shards = shard_of(path.name)
    notes = () if shards is None else (f"{path}: is one of {shards} shards; the others are not read",)
    return Location("file", (path,), notes=notes)


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Build the error for a file or directory that the system does not let us read."""
    return CheckpointError(f"{path}: cannot be read: {error.strerror or error}", "check the path and its permissions")


def _locate_in(directory: Path) -> Location:
    names = _files_in(directory)
    held = _held(directory, names)
    if not held:
        raise _holds_none(directory, names)
    if len(held) > 1:
        held = [replace(one, rank=ADAPTER) if _adapts(directory, one) else one for one in held]
    meant = [one for one in held if one.rank == min(other.rank for other in held)]
    meant = [one for one in meant if one.files == (ADAPTER_FILE,)] or meant
    indexed = [one.index for one in meant if one.index is not None]
    if len(indexed) == 1 and not any(one.rivals(indexed[0]) for one in meant):
        meant = [one for one in meant if one.index is not None]
    parts = pipeline_parts(directory)
    if len(meant) > 1 or parts:
        raise _ambiguous(directory, meant, parts)
    (chosen,) = meant
    if chosen.missing and chosen.index is None:
        raise _missing(directory, chosen.missing, len(chosen.files) + len(chosen.missing))
    if chosen.index is not None:
        found = _locate_shards("directory", directory / chosen.index)
    else:
        found = Location("directory", tuple(directory / file for file in chosen.files))
    return replace(found, notes=tuple(_notes(directory, chosen, [one for one in held if one is not chosen])))


def _files_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith(".") and not entry.is_dir())


def _held(directory: Path, names: Sequence[str]) -> list[Held]:
    indexes: dict[str, set[str]] = {}
    for name in filter(is_index, names):
        try:
            indexes[name] = set(weight_map_of(directory / name).values())
        except CheckpointError:  # said when it is opened, if it is the one
            indexes[name] = set()
    absent = {
        index
        for index, files in indexes.items()
        if files and not any(map(os.path.exists, (directory / file for file in files)))
    }
    return checkpoints_of(names, indexes, absent)


def _adapts(directory: Path, held: Held) -> bool:
    return held.index is None and len(held.files) == 1 and is_adapter(directory / held.files[0])


def _notes(directory: Path, chosen: Held, others: Sequence[Held]) -> Iterator[str]:
    if chosen.numbered:
        yield f"{directory}: no index names its {len(chosen.files)} numbered shards, which are all there and are read"
    if others:
        unread = [f"{one} (an adapter)" if one.rank == ADAPTER else str(one) for one in others]
        yield f"{directory}: {chosen} is read, and not {some(unread)}"
    modules = [name for name in other_modules(directory) if holds_weights(directory / name)]
    if modules:
        yield f"{directory}: parts of the model with weights of their own, which stay as they are: {some(modules)}"


def _holds_none(directory: Path, names: Sequence[str]) -> CheckpointError:
    """Build the error for a directory without safetensors: what it holds instead, and what to do with that."""
    nothing = f"{directory}: holds no safetensors checkpoint"
    pickles = [name for name in names if Path(name).suffix in PICKLE_SUFFIXES and not _of_training(name)]
    if pickles:
        return CheckpointError(nothing, how_to_convert(directory, pickles))
    if any(name.endswith(".distcp") for name in names):
        merged = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {quoted(directory)} model.pt"
        return CheckpointError(
            f"{nothing}, but one of torch.distributed",
            f"make one file of it: {merged}; then: faultcli convert model.pt",
        )
    if ggufs := [name for name in names if name.endswith(GGUF)]:
        return CheckpointError(f"{nothing}, but {some(ggufs)}", f"name one: {quoted(directory / ggufs[0])}")
    others = [name for name in names if is_weights(name)]
    if others:
        refusal = _refusal(directory / others[0])
        message = f"{nothing}; {refusal.message}" if refusal else f"{nothing}, but {some(others)}"
        remedy = refusal.remedy if refusal else "save the weights as safetensors"
        return CheckpointError(message, remedy)
    folders = folders_with_checkpoints(directory)
    if folders:
        holds = "its folder does" if len(folders) == 1 else "its folders do"
        return CheckpointError(
            f"{nothing} itself, {holds}: {some(folders)}", f"name one: {quoted(directory / folders[0])}"
        )
    return CheckpointError(nothing, f"name a .safetensors file, a *{INDEX_SUFFIX}, or a directory with either")


def _refusal(path: Path) -> CheckpointError | None:
    """Return what is said of a file of weights that is known and no safetensors."""
    try:
        with path.open("rb") as file:
            read_raw_header(file, path, 0)
    except CheckpointError as error:
        return None if "not a safetensors file" in error.message else error
    except OSError:
        return None
    return None


def _of_training(name: str) -> bool:
    return name.startswith(("optimizer", "scheduler", "scaler", "rng_state", "training_args"))


def weight_map_of(index: Path) -> dict[str, str]:
    """Read an index: {"weight_map": {tensor: shard}}.

    Raises:
        CheckpointError: it cannot be read, or is no index of files that lie beside it.
    """
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
        raise CheckpointError(message, "name a file of weights, the index of its shards, or a directory with either")
    if not weight_map:
        raise CheckpointError(f"{index}: its weight_map is empty", damaged)
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not plain(shard):
            problem = f"tensor {name!r} lies in {shard!r}, which is not the name of a file beside it"
            raise CheckpointError(f"{index}: {problem}", damaged)
    return weight_map


def _locate_shards(kind: Kind, index: Path) -> Location:
    weight_map = weight_map_of(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not os.path.exists(index.parent / shard)]  # too long a name is no file
    if missing:
        raise _missing(index, missing, len(shards))
    return Location(kind, tuple(index.parent / shard for shard in shards), index, weight_map)


def _missing(path: Path, missing: Sequence[str], shards: int) -> CheckpointError:
    """Build the error for shards that are not there; `path` is their index, or the directory where they have none."""
    problem = f"{path}: missing {'shard' if len(missing) == 1 else 'shards'} {some(missing)}"
    if len(missing) > 1:
        problem += f" ({len(missing)} of {shards})"
    if not path.is_dir():
        names = _files_in(path.parent)
        others = [one for one in _held(path.parent, names) if one.numbered and not one.missing]
        if others:
            remedy = "fetch the index of these, or move this one away: a complete set of shards is read without one"
            return CheckpointError(f"{problem}; beside it lie {others[0]}", remedy)
    return CheckpointError(problem, "download the rest of the checkpoint into the same directory")


def _ambiguous(directory: Path, held: Sequence[Held], parts: Sequence[str]) -> CheckpointError:
    listed = [*map(str, held), *(f"{part}/" for part in parts)]
    usual = [f"model{SUFFIX}{ending}" for ending in (".index.json", "")]
    names = [one.name for one in held if one.name]
    names = [*(name for name in usual if name in names), *(name for name in names if name not in usual), *parts]
    if names:
        remedy = f"name one: {quoted(directory / names[0])}"
        if names[0].endswith(SUFFIX) and (directory / "config.json").is_file():
            remedy += "; to run it, with --arch hf"
    else:
        remedy = "leave the files of one of them in the directory, or fetch the index of the one that is meant"
    return CheckpointError(f"{directory}: which checkpoint is meant? It holds {some(listed)}", remedy)


def some(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a message, the first few of them."""
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
