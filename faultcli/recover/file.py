"""Correctors as files: safetensors with everything that is no array as JSON in the metadata. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint, write_safetensors
from faultcli.errors import UsageError
from faultcli.foreign import ForeignError, parse_json
from faultcli.recover.base import Corrector, CorrectorError
from faultcli.recover.methods import kind_of
from faultcli.recover.parts import check_numbers, read_card

SCHEMA = "faultcli.corrector-file/5"
_KEY, _CHECKSUM = "faultcli.corrector", "faultcli.checksum"


def save_corrector(corrector: Corrector, path: Path, *, force: bool = False) -> None:
    """Write a corrector; the file appears whole or not at all, and the same corrector gives the same bytes.

    Raises:
        OutputError: it exists and `force` is not given, or cannot be written.
        CorrectorError: it holds numbers that `load_corrector` would refuse.
    """
    arrays, values = corrector.parts()
    try:
        check_numbers(arrays)
    except ValueError as error:
        raise CorrectorError(f"{path}: the corrector cannot be written ({error})", "train it on other logits") from None
    header = {"schema": SCHEMA, "method": corrector.name, "card": asdict(corrector.card), "values": values}
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(header, sort_keys=True)
    write_safetensors(path, tensors, {_KEY: text, _CHECKSUM: checksum(text, tensors)}, force=force)


def load_corrector(path: str | Path) -> Corrector:
    """Read a corrector.

    Raises:
        CheckpointError: the file is no safetensors file.
        CorrectorError: there is none; or it is one, but holds no corrector, one of another version, or a damaged one: a
            single bit that flipped in it is found.
    """
    if not Path(path).exists():
        raise CorrectorError(f"{path}: no such file", "check the path; `train-corrector -o FILE` writes correctors")
    file = Checkpoint.open(path)
    try:
        header = parse_json(file.metadata[_KEY])
        schema = header["schema"]
    except (KeyError, TypeError, ForeignError):
        raise CorrectorError(f"{path}: is not a corrector", "correctors come from `train-corrector`") from None
    if schema != SCHEMA:
        found = schema if isinstance(schema, str) else "something else"
        raise CorrectorError(f"{path}: is {found}, this faultcli reads {SCHEMA}", "train the corrector again")
    try:
        card = read_card(header["card"])
        kind = kind_of(header["method"], card.setting)
        arrays: dict[str, NDArray[Any]] = {name: file.read(name).numpy() for name in file.tensors}
        check_numbers(arrays)
        corrector = kind.from_parts(card, arrays, header["values"])
        _try_out(corrector)
        if file.metadata.get(_CHECKSUM) != checksum(file.metadata[_KEY], arrays):
            raise ValueError("its numbers are not those of its checksum")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, UsageError) as error:
        raise CorrectorError(f"{path}: the corrector is damaged ({error})", "train the corrector again") from None
    except CorrectorError as error:
        raise CorrectorError(f"{path}: {error.message}", error.remedy) from None
    return corrector


def checksum(header: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of a corrector's header and arrays, in the order of their names."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        found = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {found.dtype} {found.shape}\n".encode())
        digest.update(found.tobytes())
    return digest.hexdigest()


def _try_out(corrector: Corrector) -> None:
    """Run what needs no window once, so that shapes that contradict each other show."""
    classes = corrector.card.classes
    reference = getattr(corrector, "reference", None)
    if reference is not None and reference.classes != classes:
        raise ValueError(f"its statistics are of {reference.classes} classes, not {classes}")
    if not corrector.needs_window:
        answer = corrector.adapt(np.empty((0, classes))).apply(np.zeros((2, classes)))
        if answer.shape != (2, classes):
            raise ValueError(f"it answers {list(answer.shape)} to 2 rows of {classes} logits")
