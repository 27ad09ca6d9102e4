"""What a pickle checkpoint or a file of arrays holds, read without running anything that the file names.

Pickles are read by torch with `weights_only`: tensors, numbers, texts and containers of these. Objects of any other
class are refused, a whole pickled model with them, because making one runs code that the file chooses.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faultcli.checkpoint.other_formats import ARRAYS, START, OtherFormat, other_format, quoted
from faultcli.checkpoint.reader import opened
from faultcli.errors import CheckpointError

_NAMED = re.compile(r"(?:GLOBAL|global:?|class) (?:GLOBAL )?([A-Za-z_][\w.]*\w)")
_DAMAGED = "download or export it again"
_SCALARS = ("numpy._core.multiarray", "numpy.core.multiarray")


def read_tree(path: Path) -> Any:
    """Return what a file holds: a container of tensors (on the CPU, as a rule mapped from the file) and other values.

    Raises:
        CheckpointError: it is missing, damaged, of another kind (safetensors, too), or holds what only code can make.
    """
    with opened(path) as file:
        kind = other_format(path, file.read(START))
        if kind is None and _is_safetensors(file):
            raise CheckpointError(
                f"{path}: is safetensors already", f"use it as it is: faultcli inspect {quoted(path)}"
            )
    if kind is None:
        raise CheckpointError(f"{path}: is no pickle checkpoint and no file of numpy arrays", _DAMAGED)
    if not kind.convertible:
        raise CheckpointError(f"{path}: is {kind.what}", kind.remedy_for(path))
    return _read_arrays(path) if kind.what == ARRAYS.what else _read_pickle(path, kind)


def _is_safetensors(file: FileIO) -> bool:
    file.seek(8)
    return file.read(1) == b"{"


def _read_arrays(path: Path) -> dict[str, Tensor]:
    tensors = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                tensors[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except TypeError as error:
        raise CheckpointError(f"{path}: array {name!r} holds no numbers: {error}", "leave it out of the file") from None
    except (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}", _DAMAGED) from None
    return tensors


def _read_pickle(path: Path, kind: OtherFormat) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")
            zipped = zipfile.is_zipfile(path)  # as torch tells them; older files cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnpicklingError as error:
        raise _refused(path, kind, str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle fails anywhere, with anything
        problem = f"{path}: cannot be read: {_first_line(error)}"
        raise CheckpointError(problem, "download it again, or save it anew with torch.save") from None


def _refused(path: Path, kind: OtherFormat, said: str) -> CheckpointError:
    """Explain what torch will not load."""
    found = _NAMED.search(said)
    if found is None:
        problem = f"{path}: is {kind.what}, and cannot be read: it is damaged, or was not written by torch"
        return CheckpointError(problem, _DAMAGED)
    problem = f"{path}: holds an object of {found[1]}, not only tensors, and making one runs code that the file names"
    if "is blocked" in said:  # os, sys and their like
        return CheckpointError(
            problem, "do not load it anywhere: no checkpoint needs that; get it from its author again"
        )
    return CheckpointError(
        problem,
        "if you trust the file, save the weights alone, where the model's own code is: "
        'python -c "import sys, torch; '
        "m = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
        "torch.save(m.state_dict(), 'weights.pt')\" "
        f"{quoted(path)}; then: faultcli convert weights.pt",
    )


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What training scripts keep beside the weights, and is made without running anything: numbers and arrays of numpy,
    options of a command line, paths."""
    kinds: list[Callable[..., Any]] = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    core: Any = np._core.multiarray  # type: ignore[attr-defined]
    parts = [(getattr(core, name), f"{module}.{name}") for module in _SCALARS for name in ("scalar", "_reconstruct")]
    paths: list[Any] = [pathlib.PosixPath, (pathlib.PosixPath, "pathlib._local.PosixPath")]
    plain = [list, dict, int, float, argparse.Namespace, collections.defaultdict]
    return [np.dtype, np.ndarray, *kinds, *parts, *paths, *plain]


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
