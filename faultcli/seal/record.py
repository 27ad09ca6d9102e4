"""The seal as a file: a safetensors file with a record in its metadata, and which of it can be trusted.

Of every sealed file n: `n.header`, its first bytes as they are, which say where each tensor lies; `n.blocks`, a
checksum per block; `n.parity.I`, parity blocks; `n.parity_blocks`, a checksum per parity block and, as its last row,
one of these checksums. The record holds the checksums of the first two, and the metadata the record's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.contents import plain
from faultcli.checkpoint.header import Header, parse_header
from faultcli.checkpoint.locate import locate
from faultcli.checkpoint.reader import opened
from faultcli.errors import CheckpointError
from faultcli.foreign import ForeignError, parse_json
from faultcli.seal.blocks import DIGEST, BlockGrid, Bytes, digest, read_at

SCHEMA = "faultcli.seal/1"
RECORD, RECORD_CHECKSUM = "faultcli.seal", "faultcli.seal.blake3"  # metadata keys
_FAMILY = "faultcli.seal/"
_AGAIN = "make a new one of an intact copy: faultcli seal MODEL"
_PIECE_BYTES = 16 << 20  # of parity in one tensor


@dataclass(frozen=True)
class SealedFile:
    """One file as it was sealed.

    `blake3`: of the whole file, in hexadecimal, as `b3sum` prints it. `hashes`: [blocks, 32] uint8. `header`: the raw
    bytes before the tensors; None of an index, which has no tensors.
    """

    name: str
    grid: BlockGrid
    blake3: str
    hashes: Bytes = field(repr=False)
    header: bytes | None = field(repr=False)

    @cached_property
    def layout(self) -> Header | None:
        """Where each tensor lies."""
        return None if self.header is None else parse_header(self.header, Path(self.name), self.grid.nbytes)

    def document(self) -> dict[str, Any]:
        """Return what the record says of it."""
        return {
            "name": self.name,
            "bytes": self.grid.nbytes,
            "block": self.grid.block,
            "blocks": self.grid.blocks,
            "groups": self.grid.groups,
            "blake3": self.blake3,
            "blocks_blake3": digest(self.hashes).hex(),
            "header_blake3": None if self.header is None else digest(self.header).hex(),
        }


@dataclass(frozen=True)
class Seal:
    """The seal of a checkpoint, its record and its checksums proven; `parity`: blocks per group."""

    path: Path
    parity: int
    files: tuple[SealedFile, ...]
    stored: Checkpoint = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Seal:
        """Open a seal and prove it, but for its parity blocks, which `parity_block` proves one by one.

        Raises:
            CheckpointError: it is missing, damaged, no seal, or of a newer version of faultcli.
        """
        path = Path(path)
        if not path.exists():
            raise CheckpointError(f"{path}: no such file", "make it of an intact copy: faultcli seal MODEL")
        if path.is_dir() or path.suffix == ".json":
            raise CheckpointError(f"{path}: is not a seal", "name what `faultcli seal` has written")
        try:
            stored = Checkpoint.open(path)
        except CheckpointError as error:
            problem = error.message.removeprefix(f"{path}: ")
            raise CheckpointError(f"{path}: is no seal, or a damaged one: {problem}", _AGAIN) from None
        record = _record(path, stored.metadata)
        try:
            parity = int(record["parity"])
            entries = enumerate(record["files"])
            files = tuple(_sealed_file(stored, number, entry, parity) for number, entry in entries)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise _damaged(path, "its record and its checksums do not fit") from None
        if not files:
            raise _damaged(path, "it seals no file")
        return cls(path, parity, files, stored)

    def parity_block(self, number: int, group: int, row: int) -> Bytes | None:
        """Return parity block `row` of a group of file `number`; None if it is damaged."""
        proofs = self._proofs[number]
        grid = self.files[number].grid
        per_piece = groups_per_piece(grid)
        info = self.stored.tensors.get(piece_name(number, group // per_piece))
        if proofs is None or info is None:
            return None
        out: Bytes = np.zeros(grid.block, np.uint8)
        with opened(self.path) as file:
            read_at(file, info.offset + ((group % per_piece) * grid.parity + row) * grid.block, out)
        return out if digest(out) == proofs[group * grid.parity + row].tobytes() else None

    def intact_parity(self, number: int, group: int) -> list[int]:
        """Return which parity blocks of a group can be used."""
        return [row for row in range(self.parity) if self.parity_block(number, group, row) is not None]

    @cached_property
    def parity_blocks(self) -> int:
        """How many the seal has."""
        return sum(one.grid.groups * self.parity for one in self.files)

    def damaged_parity_blocks(self) -> int:
        """Read all parity blocks and return how many of them are damaged."""
        return sum(
            self.parity - len(self.intact_parity(number, group))
            for number, one in enumerate(self.files)
            for group in range(one.grid.groups if self.parity else 0)
        )

    @cached_property
    def _proofs(self) -> list[Bytes | None]:
        """The checksums of parity blocks, by file; None where there are none. A damaged one leaves its block out."""
        found: list[Bytes | None] = []
        for number, one in enumerate(self.files):
            raw = _tensor(self.stored, f"{number}.parity_blocks", one.grid.groups * self.parity)
            found.append(raw)
        return found


def default_seal(model: Path) -> Path:
    """Return where the seal of a checkpoint lies if nobody says otherwise: `model.safetensors.seal`, `dir.seal`.

    Not with the ending of a checkpoint: a folder with two of those would be ambiguous to every loader.
    """
    model = model if model.name not in ("", "..") else model.resolve()
    return model.with_name(f"{model.name}.seal")


def files_of(path: Path, seal: Seal) -> list[Path]:
    """Return the files that a seal is about, in its order, for the checkpoint at `path`; some may be missing.

    Raises:
        CheckpointError: nothing is there, or the seal is of several files and `path` is one of them.
    """
    if not path.exists():
        locate(path)  # says what is wrong
    if path.is_dir() or (path.suffix == ".json" and len(seal.files) > 1):
        folder = path if path.is_dir() else path.parent
        files = [folder / one.name for one in seal.files]
        if not any(file.exists() for file in files):
            problem = f"holds none of the files that {seal.path} seals, such as {seal.files[0].name}"
            raise CheckpointError(f"{folder}: {problem}", "name the seal of this checkpoint: --seal SEAL")
        return files
    if len(seal.files) > 1:
        problem = f"is one file, and {seal.path} seals {len(seal.files)}"
        raise CheckpointError(f"{path}: {problem}", "name their folder, or their index, or a seal of this file")
    return [path]


def groups_per_piece(grid: BlockGrid) -> int:
    """Return the groups whose parity lies in one tensor: they are computed together, and so are their data read."""
    group = grid.block * max(1, grid.parity, grid.rows(0))
    return max(1, min(grid.groups, _PIECE_BYTES // group))


def piece_name(number: int, piece: int) -> str:
    """Return the name of a tensor of parity: in the order of names, which is the order in the file."""
    return f"{number}.parity.{piece:08d}"


def _record(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if RECORD not in metadata or RECORD_CHECKSUM not in metadata:
        raise CheckpointError(f"{path}: is not a seal", "name what `faultcli seal` has written")
    text = metadata[RECORD]
    if digest(text.encode()).hex() != metadata[RECORD_CHECKSUM]:
        raise _damaged(path, "its record does not fit its checksum")
    try:
        record = parse_json(text)
    except ForeignError as error:
        raise _damaged(path, str(error)) from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema == SCHEMA:
        return dict(record)
    if isinstance(schema, str) and schema.startswith(_FAMILY):
        problem = f"is of another version: its schema is {schema}, this faultcli reads {SCHEMA}"
        raise CheckpointError(f"{path}: {problem}", "use the faultcli that made it, or make a new seal with this one")
    raise _damaged(path, "its record is of no known schema")


def _sealed_file(stored: Checkpoint, number: int, entry: Mapping[str, Any], parity: int) -> SealedFile:
    """Build one file of the record. Raises KeyError, TypeError, ValueError where it is inconsistent."""
    grid = BlockGrid(int(entry["bytes"]), int(entry["block"]), parity, int(entry["groups"]))
    name, whole = entry["name"], entry["blake3"]
    if not isinstance(name, str) or not plain(name) or not grid.consistent:
        raise ValueError("not of this program")
    if entry["blocks"] != grid.blocks or len(bytes.fromhex(whole)) != DIGEST:
        raise ValueError("not of this program")
    hashes = _tensor(stored, f"{number}.blocks", grid.blocks)
    if hashes is None or digest(hashes).hex() != entry["blocks_blake3"]:
        raise _damaged(stored.path, f"the checksums of {name} are")
    header = None
    if entry["header_blake3"] is not None:
        header = stored.read_bytes(f"{number}.header").tobytes() if f"{number}.header" in stored.tensors else b""
        if digest(header).hex() != entry["header_blake3"]:
            raise _damaged(stored.path, f"its copy of the header of {name} is")
    return SealedFile(name, grid, whole, hashes, header)


def _tensor(stored: Checkpoint, name: str, rows: int) -> Bytes | None:
    """Read checksums, [rows, 32] uint8; None where there are not as many."""
    info = stored.tensors.get(name)
    if info is None or info.nbytes != rows * DIGEST:
        return None
    return stored.read_bytes(name).reshape(rows, DIGEST)


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: the seal itself is damaged: {problem}", _AGAIN)


def record_metadata(parity: int, files: tuple[SealedFile, ...], version: str) -> dict[str, str]:
    """Return the record with its checksum, as metadata."""
    record = {"schema": SCHEMA, "version": version, "parity": parity, "files": [one.document() for one in files]}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return {RECORD: text, RECORD_CHECKSUM: digest(text.encode()).hex()}
