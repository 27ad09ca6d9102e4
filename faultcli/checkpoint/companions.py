"""What lies beside a checkpoint: what a rewritten one takes along, and what is left where it is.

A loader may need any of it, in folders too (`1_Pooling/`, `tokenizer/`, code). What it must not find are the weights as
they were, in another form or as an adapter: some loaders would take those.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from faultcli.checkpoint import adapters
from faultcli.checkpoint.contents import is_weights, other_modules
from faultcli.checkpoint.locate import some, unreadable
from faultcli.errors import CheckpointError
from faultcli.files import copy_range, is_temporary

_CACHES = {"__pycache__", "node_modules"}  # and hidden folders
_LEAST_LIMIT, _MOST_FILES = 64 << 20, 10_000  # what a folder may hold beside a small checkpoint: bytes, files


@dataclass
class Companions:
    """What lies beside a checkpoint, by its path in the checkpoint's directory.

    Attributes:
        directory: of the checkpoint.
        files: what is copied; links are followed.
        folders: those that are made, from the top down.
        weights: left out: weights that are not the checkpoint's own, and folders with such; folders end with `/`.
        others: left out for another reason, which is said.
    """

    directory: Path
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All that is copied, and the folders that are made."""
        return [*self.folders, *self.files]

    @property
    def left_out(self) -> str | None:
        """Say what is not copied; None if nothing is left out."""
        parts = []
        if self.weights:
            parts.append(f"weights that stay as they were: {some(self.weights, 10)}")
        if self.others:
            parts.append(some(self.others, 10))
        return f"{self.directory}: not copied: {'; '.join(parts)}" if parts else None

    def copy(self, target: Path) -> None:
        """Copy to an existing folder, in the kernel where it can."""
        for folder in self.folders:
            (target / folder).mkdir(exist_ok=True)
        for file in self.files:
            copy_file(self.directory / file, target / file)


def companions_of(directory: Path, own: Collection[str], nbytes: int, output: Path | None = None) -> Companions:
    """Look through a checkpoint's directory.

    Args:
        directory: of the checkpoint.
        own: the files of the checkpoint itself and its index, by their paths in the directory.
        nbytes: how large the checkpoint is: a folder that is larger is no companion of it.
        output: what is written may lie in the directory itself.

    Raises:
        CheckpointError: the directory cannot be read.
    """
    adapted = any(name.startswith("adapter_") or adapters.is_adapter(directory / name) for name in own)
    limit = max(nbytes, _LEAST_LIMIT)
    found = Companions(directory)
    for name in _entries(directory):
        path = directory / name
        if name in own or is_temporary(name) or (output is not None and _same(path, output)):
            continue
        if path.is_file():
            leave = is_weights(name) or (name == adapters.CONFIG and not adapted)
            (found.weights if leave else found.files).append(name)
        elif not path.is_dir() or _is_cache(name):
            found.others.append(_odd(path, name))
        else:
            _take_folder(found, name, own, limit)
    return found


def _take_folder(found: Companions, top: str, own: Collection[str], limit: int) -> None:
    """Take a folder along, unless it holds other weights or is too large; those of another part of the model are
    its own."""
    taken = Companions(found.directory)
    whole = top in other_modules(found.directory)
    holds_shards = any(name.startswith(f"{top}/") for name in own)
    seen, nbytes, waiting = {os.path.realpath(found.directory)}, 0, [top]
    while waiting:
        folder = waiting.pop(0)
        real = os.path.realpath(found.directory / folder)
        if any(one == real or one.startswith(f"{real}{os.sep}") for one in seen):
            taken.others.append(f"{folder}/ (a link in a circle)")
            continue
        seen.add(real)
        try:
            entries = _entries(found.directory / folder)
        except CheckpointError:
            taken.others.append(f"{folder}/ (cannot be read)")
            continue
        taken.folders.append(folder)
        for entry in entries:
            name, path = f"{folder}/{entry}", found.directory / folder / entry
            if name in own or is_temporary(entry):
                continue
            if path.is_file():
                leave = is_weights(entry) and not whole
                if leave and not holds_shards:
                    found.weights.append(f"{top}/")
                    return
                (taken.weights if leave else taken.files).append(name)
                nbytes += path.stat().st_size
            elif path.is_dir() and not _is_cache(entry):
                waiting.append(name)
            else:
                taken.others.append(_odd(path, name))
        if nbytes > limit or len(taken.files) + len(waiting) > _MOST_FILES:
            size = f"{_MOST_FILES:,} files" if nbytes <= limit else f"{limit:,} bytes"
            found.others.append(f"{top}/ (more than {size})")
            return
    found.files += taken.files
    found.folders += taken.folders
    found.weights += taken.weights
    found.others += taken.others


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise unreadable(folder, error) from error


def _is_cache(name: str) -> bool:
    return name.startswith(".") or name in _CACHES


def _odd(path: Path, name: str) -> str:
    if path.is_dir():
        return f"{name}/"
    return f"{name} (a link to nothing)" if not path.exists() else f"{name} (no file)"


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def folders_of(names: Iterable[str]) -> list[str]:
    """Return the folders that files of these paths lie in, from the top down."""
    parents = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    return sorted(parents - {"."})


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, in the kernel where it can.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        file = source.open("rb", buffering=0)
    except OSError as error:
        raise unreadable(source, error) from error
    with file, target.open("wb", buffering=0) as output:
        copy_range(file, 0, source.stat().st_size, output)
