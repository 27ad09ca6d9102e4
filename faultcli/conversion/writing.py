"""A model's tensors as safetensors: each once, in its own dtype, row-major."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faultcli.checkpoint.companions import companions_of
from faultcli.checkpoint.header import DTYPES
from faultcli.checkpoint.locate import weight_map_of
from faultcli.checkpoint.writer import write_safetensors
from faultcli.conversion.choosing import StateDict, choose, left_out
from faultcli.conversion.reading import read_tree
from faultcli.errors import CheckpointError
from faultcli.files import atomic_directory

TIES = "faultcli.tied"  # metadata key: JSON, the names of tensors that were the very same memory as another one
_INDEX_SUFFIX = ".bin.index.json"
_USUAL = ("pytorch_model.bin.index.json", "pytorch_model.bin")
_DAMAGED = "download or export it again"


@dataclass
class Conversion:
    """What was written.

    Attributes:
        output: the file or directory.
        key: of the dict that was taken; empty: the file itself.
        tensors: how many.
        nbytes: of tensors.
        tied: names that are not in the output, each with the one that is and was the same memory.
        left_out: what else the input holds, with what it is.
        beside: what of a directory is not copied, as a note; None: nothing is left.
    """

    output: Path
    key: str = ""
    tensors: int = 0
    nbytes: int = 0
    tied: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    beside: str | None = None


def convert(path: Path, output: Path, *, key: str | None = None, force: bool = False) -> Conversion:
    """Write the weights of a pickle checkpoint, or of a file of arrays, as safetensors.

    Tensors that are the very same memory are written once, under the first of their names; the others are kept in the
    metadata. One tensor at a time is in memory, where the file can be mapped.

    Args:
        path: a file; an index of pickle shards, or a directory that holds `pytorch_model.bin` or its index, becomes a
            directory of safetensors with all that lies beside them.
        output: the file or directory to write.
        key: which dict of tensors to take, see `choose`.
        force: replace an existing output.

    Raises:
        CheckpointError: the input is missing, damaged, no such file, or holds a tensor that safetensors has no dtype
            for.
        UsageError: there are several models in it.
        OutputError: the output exists, is the input or cannot be written.
    """
    if is_directory(path):
        return _convert_directory(path, output, force)
    done = Conversion(output)
    _convert_file(path, output, key, force, done)
    return done


def is_directory(path: Path) -> bool:
    """Whether `convert` makes a directory of it."""
    return path.is_dir() or path.name.endswith(_INDEX_SUFFIX)


def _convert_file(path: Path, output: Path, key: str | None, force: bool, done: Conversion) -> list[str]:
    """Convert a file, add what was done to `done`, and return the names of the tensors that were written."""
    tree = read_tree(path)
    chosen = choose(tree, key, path)
    kept, tied = _once(chosen, path)
    metadata = {"format": "pt"} | ({TIES: json.dumps(tied, sort_keys=True)} if tied else {})
    write_safetensors(output, kept, metadata, force=force, inputs=[path])
    done.key = chosen.key
    done.tensors += len(kept)
    done.nbytes += sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    done.tied |= tied
    done.left_out |= left_out(tree, chosen)
    return list(kept)


def _once(chosen: StateDict, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors without those that are the very same memory as an earlier one, and the names of these."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in chosen.tensors.items():
        _check(name, tensor, path)
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else name
        same = first.setdefault(place, name)
        if same == name:
            kept[name] = tensor
        else:
            tied[name] = same
    return kept, tied


def _check(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse a tensor that safetensors cannot hold as it is."""
    kind = str(tensor.dtype).removeprefix("torch.")
    problem = None
    if tensor.layout != torch.strided:
        problem = f"is {str(tensor.layout).removeprefix('torch.')}, which safetensors has not"
    elif tensor.is_quantized:
        problem = f"is quantised by torch ({kind}), which safetensors has not"
    elif tensor.is_meta:
        problem = "has no values"
    elif all(known != kind for _, known in DTYPES.values()):
        problem = f"is {kind}, which safetensors has not"
    elif name == "__metadata__":
        problem = "has a name that safetensors keeps for itself"
    if problem is not None:
        raise CheckpointError(
            f"{path}: tensor {name!r} {problem}", "save it as a plain tensor of a usual dtype, or leave it out"
        )


def _convert_directory(path: Path, output: Path, force: bool) -> Conversion:
    """Convert the shards of an index, or the only file of a directory, into a directory."""
    directory = path if path.is_dir() else path.parent
    source = path if not path.is_dir() else next((path / name for name in _USUAL if (path / name).is_file()), None)
    if source is None:
        raise CheckpointError(
            f"{path}: holds no {' and no '.join(reversed(_USUAL))}",
            "name the file to convert, e.g. faultcli convert FILE.pt",
        )
    weight_map = weight_map_of(source) if source.name.endswith(_INDEX_SUFFIX) else None
    inputs = [source] if weight_map is None else _found_shards(source, weight_map)
    shards = [str(file.relative_to(directory)) for file in inputs]
    nbytes = sum(file.stat().st_size for file in inputs)
    beside = companions_of(directory, [*shards, source.name], nbytes, output)
    done = Conversion(output, beside=beside.left_out)
    with atomic_directory(output, force=force, inputs=[directory, *inputs], brings=set(beside.names)) as partial:
        written: dict[str, str] = {}
        for shard in shards:
            name = _renamed(shard)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            names = _convert_file(directory / shard, partial / name, None, False, done)
            written |= dict.fromkeys(names, name)
        if weight_map is not None:
            _check_index(source, weight_map, written, done.tied)
            index = {"metadata": {"total_size": done.nbytes}, "weight_map": dict(sorted(written.items()))}
            (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        beside.copy(partial)
    return done


def _found_shards(index: Path, weight_map: Mapping[str, str]) -> list[Path]:
    """Return the shards of an index, which all lie beside it."""
    shards = [index.parent / shard for shard in sorted(set(weight_map.values()))]
    missing = [str(shard.relative_to(index.parent)) for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(f"{index}: missing {', '.join(missing)}", "download the rest into the same directory")
    return shards


def _check_index(index: Path, named: Mapping[str, str], written: Mapping[str, str], tied: Mapping[str, str]) -> None:
    absent = [name for name in named if name not in written and name not in tied]
    if absent:
        raise CheckpointError(f"{index}: tensor {absent[0]!r} is in none of the files that it names", _DAMAGED)


def _renamed(shard: str) -> str:
    """Return what a shard is called as safetensors, as transformers calls it."""
    return re.sub(r"^pytorch_model", "model", shard.removesuffix(".bin")) + ".safetensors"
