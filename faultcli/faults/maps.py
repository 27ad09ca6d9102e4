"""Fault maps: which stored bits differ, sparse and sorted; saved to a file, replayed, their own inverse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint, write_safetensors
from faultcli.errors import FaultError
from faultcli.foreign import ForeignError, parse_json

SCHEMA = "faultcli.faults/1"
_ELSEWHERE = "replay the map on the checkpoint that it was drawn for"


class WordFaults(NamedTuple):
    """Faulty words of one region.

    `words`: int64 [n], ascending, no repeats: positions of the words. `masks`: uint64 [n], never 0: the bits that flip
    there (bit 0 is the least significant).
    """

    words: NDArray[np.int64]
    masks: NDArray[np.uint64]


class Layout(NamedTuple):
    """How much memory a region is: `words` words of `bits` bits."""

    words: int
    bits: int


NO_FAULTS = WordFaults(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64))


def combine(words: NDArray[np.int64], masks: NDArray[np.uint64]) -> WordFaults:
    """Join faults that fall in one word by XOR; `words` ascending, repeats allowed. Words left without a fault go."""
    if len(words) == 0:
        return NO_FAULTS
    starts = np.flatnonzero(np.diff(words, prepend=-1))
    joined = np.bitwise_xor.reduceat(masks, starts)
    kept = joined != 0
    return WordFaults(words[starts][kept], joined[kept])


@dataclass(frozen=True)
class FaultMap:
    """The faults of one trial, bound to the memory they were drawn for.

    XOR with the same mask undoes itself, so applying a map twice is doing nothing.
    """

    faults: Mapping[str, WordFaults]  # by region name; regions without a fault are absent
    layout: Mapping[str, Layout]  # of every region the map was drawn over
    format: str = "native"
    fault: str = ""  # the law it was drawn from, as on the command line
    seed: int = 0
    trial: int = 0
    before: str | None = None  # SHA-256 of the checkpoint without and with the faults
    after: str | None = None
    on_values: bool = False  # masks are of words as they leave error correction (`FaultLaw.on_values`)

    @property
    def flips(self) -> int:
        """Number of stored bits that differ."""
        return sum(int(np.bitwise_count(f.masks).sum()) for f in self.faults.values())

    @property
    def bits(self) -> int:
        """Number of stored bits that were at risk."""
        return sum(words * bits for words, bits in self.layout.values())

    def sha256(self) -> str:
        """Return the SHA-256 of faults and layout: the same for maps that hit the same bits of the same memory."""
        digest = hashlib.sha256()
        for name, layout in sorted(self.layout.items()):
            words, masks = self.faults.get(name, NO_FAULTS)
            digest.update(f"{len(name)}:{name}{layout.words}x{layout.bits}:{len(words)}".encode())
            digest.update(words.astype("<i8").tobytes())
            digest.update(masks.astype("<u8").tobytes())
        return digest.hexdigest()

    def bound(self, before: str, after: str) -> FaultMap:
        """Return the map with the checksums of the checkpoint before and after it was applied."""
        return replace(self, before=before, after=after)

    def check_layout(self, layout: Mapping[str, Layout], source: str) -> None:
        """Refuse a memory that is laid out otherwise than the one the map was drawn over.

        Raises:
            FaultError: names the first region that is missing or has another size.
        """
        for name, drawn in self.layout.items():
            here = layout.get(name)
            if here is None:
                problem = f"has no selected tensor {name!r}, which the fault map covers"
                raise FaultError(f"{source}: {problem}", _ELSEWHERE)
            if here != drawn:
                raise FaultError(
                    f"{source}: tensor {name!r} is {here.words} words of {here.bits} bits; "
                    f"the fault map was drawn over {drawn.words} words of {drawn.bits}",
                    _ELSEWHERE,
                )

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write the map as a safetensors file: per region `NAME:words` (int64) and `NAME:masks` (uint64)."""
        arrays: dict[str, NDArray[np.int64] | NDArray[np.uint64]] = {}
        for name, faults in sorted(self.faults.items()):
            arrays[f"{name}:words"] = faults.words
            arrays[f"{name}:masks"] = faults.masks
        header = {
            "schema": SCHEMA,
            "format": self.format,
            "fault": self.fault,
            "seed": self.seed,
            "trial": self.trial,
            "before": self.before,
            "after": self.after,
            "layout": {name: list(layout) for name, layout in sorted(self.layout.items())},
        }
        write_safetensors(path, arrays, metadata={"faultcli": json.dumps(header, sort_keys=True)}, force=force)

    @classmethod
    def load(cls, path: Path) -> FaultMap:
        """Read a map back.

        Raises:
            CheckpointError: the file is no safetensors file.
            FaultError: there is none; or it holds no fault map, one of another version, or one that contradicts itself.
        """
        if not path.exists():
            raise FaultError(f"{path}: no such file", "check the path; `inject --save-faults FILE` writes fault maps")
        file = Checkpoint.open(path)
        try:
            header = parse_json(file.metadata["faultcli"])
            schema = header["schema"]
        except (KeyError, TypeError, ForeignError):
            raise FaultError(f"{path}: is not a fault map", "fault maps come from `inject --save-faults`") from None
        if schema != SCHEMA:
            found = schema if isinstance(schema, str) else "something else"
            raise FaultError(f"{path}: is {found}, this faultcli reads {SCHEMA}", "draw the map again")
        try:
            layout = {name: Layout(int(words), int(bits)) for name, (words, bits) in header["layout"].items()}
            faults: dict[str, WordFaults] = {}
            for key in file.tensors:
                name, _, part = key.rpartition(":")
                if part == "words":
                    masks = f"{name}:masks"
                    if masks not in file.tensors:
                        raise KeyError(masks)
                    faults[name] = WordFaults(
                        file.read_bytes(key).view(np.int64), file.read_bytes(masks).view(np.uint64)
                    )
            loaded = cls(
                faults,
                layout,
                format=str(header["format"]),
                fault=str(header["fault"]),
                seed=int(header["seed"]),
                trial=int(header["trial"]),
                before=header["before"],
                after=header["after"],
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            raise FaultError(f"{path}: the fault map is damaged ({error})", "draw the map again") from None
        loaded._check(path)
        return loaded

    def _check(self, path: Path) -> None:
        if {type(self.before), type(self.after)} not in ({str}, {type(None)}):
            raise FaultError(f"{path}: the fault map is damaged: it lacks a checksum", "draw the map again")
        for name, (size, bits) in self.layout.items():
            if not (0 <= size < 1 << 63 and 1 <= bits <= 64):
                problem = f"{name!r} cannot be {size} words of {bits} bits"
                raise FaultError(f"{path}: the fault map is damaged: {problem}", "draw the map again")
        for name, (words, masks) in self.faults.items():
            layout = self.layout.get(name)
            if layout is None or len(words) != len(masks) or len(words) == 0:
                raise FaultError(f"{path}: the fault map is damaged at {name!r}", "draw the map again")
            ascending = bool((np.diff(words) > 0).all())
            inside = words[0] >= 0 and words[-1] < layout.words
            fitting = bool((masks != 0).all()) and (layout.bits == 64 or int(masks.max()) < 1 << layout.bits)
            if not (ascending and inside and fitting):
                raise FaultError(f"{path}: the faults of {name!r} do not fit its layout", "draw the map again")
