"""What a hardened file says of itself: which format, which protections, and the constants that reading needs.

The record stands in the metadata three times, each copy with its SHA-256. Flips in one copy, or in two, change nothing;
of three damaged ones the majority of every character is taken, if that is whole.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faultcli.checkpoint.header import DTYPES
from faultcli.checkpoint.packed import ROLES
from faultcli.errors import CheckpointError
from faultcli.foreign import ForeignError, parse_json
from faultcli.formats import Channels
from faultcli.protect.base import Constants
from faultcli.version import __version__

SCHEMA = "faultcli.hardened/1"
SCHEMA_BY_ROWS = "faultcli.hardened/2"  # a tensor lies in another order than it has
SCHEMA_BY_TENSOR = "faultcli.hardened/3"  # protections are not the same for all tensors
SCHEMA_QUANTISED = "faultcli.hardened/4"  # the words of a quantised checkpoint, in the tensors that they are
SCHEMA_QUANTISED_IN_PLACE = "faultcli.hardened/5"  # and check bits in some of them
_QUANTISED = (SCHEMA_QUANTISED, SCHEMA_QUANTISED_IN_PLACE)
_SCHEMAS = (SCHEMA, SCHEMA_BY_ROWS, SCHEMA_BY_TENSOR, *_QUANTISED)
COPIES = ("faultcli.hardened", "faultcli.hardened.2", "faultcli.hardened.3")  # metadata keys
_LISTED = 4  # constants that are written as numbers; more are packed
_KINDS: dict[str, np.dtype[Any]] = {"f4": np.dtype("<f4"), "i1": np.dtype("<i1")}


@dataclass(frozen=True)
class TensorRecord:
    """One tensor: as it was, and the constants of its format and its protections.

    `dtype`: of safetensors. `scales`: float32 [groups], of formats whose scales lie beside the memory. `links`: one per
    link of the chain. `channels`: as the rows of which it lies in the memory; None: as it is. `role`: of a part of a
    quantised weight.
    """

    dtype: str
    shape: tuple[int, ...]
    links: tuple[Constants, ...]
    scales: Tensor | None = None
    channels: Channels | None = None
    role: str | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that its words lie in."""
        return self.shape if self.channels is None else self.channels.shape


@dataclass(frozen=True)
class MemoryRecord:
    """How a checkpoint lies in its memory.

    `format`, `protect`: as on the command line; of chains by tensor their content. `ber`: what the memory was designed
    for, if anybody said. `tensors`: those at risk, in the order of the checkpoint. `quantised`: the layout of a
    quantised checkpoint, whose tensors keep their dtypes and their bytes; None: words take the place of numbers.
    """

    format: str
    protect: str
    ber: float | None
    tensors: Mapping[str, TensorRecord]
    quantised: str | None = None

    @property
    def schema(self) -> str:
        """The first version that can say all of this."""
        if self.quantised is not None:
            return SCHEMA_QUANTISED_IN_PLACE if "inplace" in self.protect else SCHEMA_QUANTISED
        if self.protect.startswith("{"):
            return SCHEMA_BY_TENSOR
        return SCHEMA_BY_ROWS if any(tensor.channels for tensor in self.tensors.values()) else SCHEMA

    def metadata(self) -> dict[str, str]:
        """Return the copies, by metadata key."""
        text = json.dumps(self._document(), sort_keys=True, separators=(",", ":"))
        return dict.fromkeys(COPIES, f"{hashlib.sha256(text.encode()).hexdigest()} {text}")

    def _document(self) -> dict[str, Any]:
        tensors = {}
        for name, tensor in self.tensors.items():
            tensors[name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "links": [{key: _packed(constant) for key, constant in link.items()} for link in tensor.links],
            }
            if tensor.scales is not None:
                tensors[name]["scales"] = _packed(tensor.scales)
            if tensor.channels is not None:
                tensors[name]["channels"] = list(tensor.channels.numbers)
            if tensor.role is not None:
                tensors[name]["role"] = tensor.role
        layout = {} if self.quantised is None else {"quantised": self.quantised}
        return layout | {
            "schema": self.schema,
            "version": __version__,
            "format": self.format,
            "protect": self.protect,
            "ber": self.ber,
            "order": list(tensors),
            "tensors": tensors,
        }

    @classmethod
    def of(cls, metadata: Mapping[str, str], path: Path) -> MemoryRecord | None:
        """Return the record in the metadata of a file; None if it is not hardened.

        Raises:
            CheckpointError: no copy can be read, or it is of another version.
        """
        if not any(key in metadata for key in COPIES):
            return None
        copy = intact_copy(metadata)
        if copy is None:
            raise _damaged(path)
        text = copy.partition(" ")[2]
        try:
            document = parse_json(text)
            schema = document["schema"]
            if schema not in _SCHEMAS:
                problem = f"is a hardened file of another version ({schema}), this faultcli reads {_SCHEMAS[-1]}"
                raise CheckpointError(f"{path}: {problem}", "use the faultcli that wrote it, or a newer one")
            order, tensors = document["order"], document["tensors"]
            if not order or sorted(order) != sorted(tensors):
                raise ValueError("order")
            return cls(
                str(document["format"]),
                str(document["protect"]),
                None if document["ber"] is None else float(document["ber"]),
                {name: _tensor(tensors[name]) for name in order},
                str(document["quantised"]) if schema in _QUANTISED else None,
            )
        except (ForeignError, KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error) as error:
            problem = f"{path}: the record of its memory contradicts itself ({error})"
            raise CheckpointError(problem, "harden the original again") from None


def intact_copy(metadata: Mapping[str, str]) -> str | None:
    """Return a copy of the record as it was written, if there is one or the copies together give one."""
    copies = [metadata[key] for key in COPIES if key in metadata]
    return next((copy for copy in [*copies, *_majority(copies)] if _is_whole(copy)), None)


def _is_whole(copy: str) -> bool:
    checksum, _, text = copy.partition(" ")
    return hashlib.sha256(text.encode()).hexdigest() == checksum


def _majority(copies: Sequence[str]) -> list[str]:
    """Return the copy that most copies agree on, character by character, if there are three of one length."""
    if len(copies) < len(COPIES) or len({len(copy) for copy in copies}) > 1:
        return []
    return ["".join(Counter(characters).most_common(1)[0][0] for characters in zip(*copies, strict=True))]


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: all three copies of the record of its memory are damaged",
        "bring it back from a seal (faultcli repair --seal), or harden the original again",
    )


def _tensor(document: Mapping[str, Any]) -> TensorRecord:
    shape = tuple(document["shape"])
    if document["dtype"] not in DTYPES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("dtype or shape")
    links = tuple({key: _unpacked(text) for key, text in link.items()} for link in document["links"])
    scales, numbers = document.get("scales"), document.get("channels")
    channels = None if numbers is None else Channels(*numbers)
    if channels is not None and not (
        all(type(size) is int and size > 0 for size in channels.numbers) and channels.elements == math.prod(shape)
    ):
        raise ValueError("channels")
    own_scales = None if scales is None else torch.as_tensor(_unpacked(scales)).reshape(-1)
    role = document.get("role")
    if role is not None and role not in ROLES:
        raise ValueError("role")
    return TensorRecord(document["dtype"], shape, links, own_scales, channels, role)


def _packed(constant: float | Tensor) -> Any:
    """Return a constant for JSON: a number, a few of them as a list, many as packed bytes."""
    if not isinstance(constant, Tensor):
        return constant
    if len(constant) <= _LISTED:
        return constant.tolist()
    kind = "f4" if constant.is_floating_point() else "i1"
    return f"{kind}:{base64.b64encode(constant.numpy().astype(_KINDS[kind]).tobytes()).decode()}"


def _unpacked(value: Any) -> float | Tensor:
    if isinstance(value, str):
        kind, _, text = value.partition(":")
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype=_KINDS[kind])
        return torch.from_numpy(values.astype(np.float32 if kind == "f4" else np.int32))
    if isinstance(value, list):
        whole = all(type(one) is int for one in value)
        return torch.tensor(value, dtype=torch.int32 if whole else torch.float32)
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is no constant")
    number: float = value
    return number
