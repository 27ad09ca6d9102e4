"""What a directory holds of checkpoints: shards of an index, numbered shards, single files; and in its folders."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from faultcli.foreign import ForeignError, parse_json, read_text

SUFFIX, GGUF = ".safetensors", ".gguf"
INDEX_SUFFIX = f"{SUFFIX}.index.json"
PIPELINE, MODULES = "model_index.json", "modules.json"  # of diffusers, of sentence-transformers

_INDEX = re.compile(r"(.*)\.safetensors\.index(\.([^.]+))?\.json")
_NUMBERED = re.compile(r"(.*?)(\d+)-of-(\d+)(.*)\.safetensors")  # model-00001-of-00007.safetensors
_MOST_SHARDS = 10_000
_DEPTH, _MOST_FOLDERS = 3, 1000  # how far folders are looked into for checkpoints
# Weights under names that loaders look for: beside a rewritten checkpoint they would be the unchanged ones.
_WEIGHTS = re.compile(
    r".*\.(safetensors|(safetensors|bin)\.index(\.[^.]+)?\.json|pt2?|pth|ckpt.*|ot|gguf|ggml|h5|hdf5|keras|msgpack|tflite"
    r"|mlmodel|pb|pdparams|pdiparams|engine|distcp|seal|onnx([._]data.*)?)|(.*_)?model.*\.bin|openvino_(.*_)?model.*\.xml",
    re.IGNORECASE,
)
# How far a checkpoint is from being the one that is meant. OTHER_FORM: a variant (`model.fp16`) beside a plain one;
# `consolidated`, the model as Mistral's own program names its tensors. BROKEN: shards are missing, and loaders stop.
MODEL, OTHER_FORM, BROKEN, ADAPTER = range(4)


@dataclass(frozen=True)
class Held:
    """One of the checkpoints that a directory holds.

    Attributes:
        files: their names in the directory.
        index: the name of their index; None: a file, or shards without an index.
        missing: of an index none of whose shards is there, all; of shards without an index, those that would be needed.
        numbered: the files are named as shards.
        rank: `MODEL`, `OTHER_FORM`, `BROKEN` or `ADAPTER`; by their names.
    """

    files: tuple[str, ...]
    index: str | None = None
    missing: tuple[str, ...] = ()
    numbered: bool = False
    rank: int = MODEL

    @property
    def name(self) -> str | None:
        """What to name in order to mean it; None: shards without an index have no name of their own."""
        return self.index or (None if self.numbered else self.files[0])

    @property
    def stem(self) -> tuple[str, str]:
        """What it is called without what makes it a file, an index or shards: `model`, and the variant or nothing."""
        first = self.index or self.files[0]
        if (match := _INDEX.fullmatch(first)) is not None:
            whole = f"{match[1]}.{match[3]}" if match[3] else match[1]
        elif self.numbered and (match := _NUMBERED.fullmatch(first)) is not None:
            whole = match[1].rstrip("-_.") + match[4]
        else:
            whole = first.removesuffix(SUFFIX)
        name, _, variant = whole.partition(".")
        return name, variant

    def __str__(self) -> str:
        if self.index is not None:
            return f"{self.index} (its shards are not there)" if self.missing else self.index
        return f"{self.files[0]} … ({len(self.files)} shards without an index)" if self.numbered else self.files[0]

    def rivals(self, index: str) -> bool:
        """Whether some loaders would take this single file, and others the shards of `index`."""
        return self.files in ((index.removesuffix(".index.json"),), (f"model{SUFFIX}",)) and self.index is None


def is_index(name: str) -> bool:
    """Whether a file's name is that of an index: `model.safetensors.index.json`, and those of variants."""
    return _INDEX.fullmatch(name) is not None


def checkpoints_of(names: Iterable[str], indexes: Mapping[str, Iterable[str]], absent: Collection[str]) -> list[Held]:
    """Sort the files of a directory into checkpoints.

    Args:
        names: of its files.
        indexes: those that are indexes, each with the files that it names.
        absent: indexes none of whose files is there.
    """
    named = {index: tuple(sorted(files)) for index, files in indexes.items()}
    held = [Held(files, index, files if index in absent else ()) for index, files in named.items()]
    claimed = {file for files in named.values() for file in files}
    sets: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in sorted(names):
        if not name.endswith(SUFFIX) or name in claimed:
            continue
        match = _NUMBERED.fullmatch(name)
        if match is None or len(match[2]) > 9 or not 1 < int(match[3][:9]) <= _MOST_SHARDS:
            held.append(Held((name,)))
        else:
            sets.setdefault((match[1], match[3], match[4]), {})[int(match[2])] = name
    held += [_numbered(*key, files) for key, files in sets.items()]
    plain_ones = {one.stem[0] for one in held if not one.stem[1] and not one.missing}
    return [replace(one, rank=_rank(one, plain_ones)) for one in held]


def _rank(one: Held, plain_ones: Collection[str]) -> int:
    name, variant = one.stem
    if name.startswith("adapter_"):
        return ADAPTER
    if one.missing:
        return BROKEN
    return OTHER_FORM if name.startswith("consolidated") or (variant and name in plain_ones) else MODEL


def _numbered(before: str, total: str, after: str, files: Mapping[int, str]) -> Held:
    """Return a set of shards that no index names; they are counted from 1 or from 0."""
    start = 0 if 0 in files else 1
    width = len(next(iter(files.values()))) - len(f"{before}-of-{total}{after}{SUFFIX}")
    numbers = range(start, start + int(total))
    missing = tuple(f"{before}{number:0{width}}-of-{total}{after}{SUFFIX}" for number in numbers if number not in files)
    return Held(tuple(files[number] for number in sorted(files)), None, missing, numbered=True)


def shard_of(name: str) -> int | None:
    """Return of how many shards a file is one, by its name; None if its name says nothing of shards."""
    match = _NUMBERED.fullmatch(f"{name.removesuffix(GGUF)}{SUFFIX}" if name.endswith(GGUF) else name)
    return int(match[3]) if match is not None and len(match[3]) < 9 and int(match[3]) > 1 else None


def is_weights(name: str) -> bool:
    """Whether a file's name is that of weights, in whatever form."""
    return _WEIGHTS.fullmatch(name) is not None


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds weights, itself or in folders of it; links to folders are not followed."""
    return any(is_weights(name) for _, _, names in os.walk(folder) for name in names)


def pipeline_parts(directory: Path) -> list[str]:
    """Return the parts of a pipeline as diffusers saves it that are checkpoints, the largest first."""
    named = _json(directory / PIPELINE)
    if not isinstance(named, dict):
        return []
    return _largest_first(directory, [name for name in named if _is_checkpoint(directory, name)])


def other_modules(directory: Path) -> list[str]:
    """Return the folders that `modules.json` of sentence-transformers names as parts of the model."""
    listed = _json(directory / MODULES)
    paths = [one.get("path") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [path for path in paths if isinstance(path, str) and plain(path) and (directory / path).is_dir()]


def folders_with_checkpoints(directory: Path) -> list[str]:
    """Return the folders, at any depth within reason, that hold safetensors themselves, the largest first."""
    return _largest_first(directory, [name for name in _folders(directory) if _is_checkpoint(directory, name)])


def _folders(directory: Path) -> Iterator[str]:
    waiting = [""]
    for _ in range(_MOST_FOLDERS):
        if not waiting:
            return
        folder = waiting.pop(0)
        try:
            entries = sorted(entry.name for entry in os.scandir(directory / folder) if entry.is_dir())
        except OSError:
            continue
        for entry in entries:
            if entry.startswith("."):
                continue
            name = f"{folder}/{entry}" if folder else entry
            yield name
            if name.count("/") + 1 < _DEPTH:
                waiting.append(name)


def _is_checkpoint(directory: Path, name: str) -> bool:
    return plain(name) and bool(_bytes_of(directory / name))


def _largest_first(directory: Path, names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (-_bytes_of(directory / name), name))


def _bytes_of(folder: Path) -> int:
    """Return the bytes of the safetensors that lie in a folder; 0 where it has none."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(SUFFIX))
    except OSError:
        return 0


def _json(path: Path) -> object:
    """Return what a file holds that is there only to name folders; None where it is missing or damaged."""
    try:
        return parse_json(read_text(path)) if path.is_file() else None
    except (ForeignError, OSError):
        return None


def plain(name: str) -> bool:
    """Whether a name stays in its directory, on every system. A link there may point anywhere (HF caches)."""
    return all(
        part not in ("", ".", "..") and not any(letter in part for letter in "\\:\0") for part in name.split("/")
    )
