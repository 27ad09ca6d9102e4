"""A checkpoint against its seal: which blocks are damaged, what lies in them, and whether parity covers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from faultcli.checkpoint.reader import opened
from faultcli.errors import CheckpointError
from faultcli.seal.blocks import Bytes, Progress, digest, hash_blocks, read_at
from faultcli.seal.naming import Part, parts_of
from faultcli.seal.record import Seal, SealedFile, files_of

_ALIKE = 0.5  # of the bytes of a header that are as sealed, if it is that header
_OTHER = "name the seal that was made of this file: --seal SEAL; if it is this one, fetch the file again"


@dataclass(frozen=True)
class DamagedBlock:
    """A block that is not as it was sealed; `begin` and `end` (exclusive) in bytes of its file. `recoverable`: whether
    the seal's parity, or its copy of the header, brings it back."""

    number: int
    begin: int
    end: int
    parts: tuple[Part, ...]
    recoverable: bool


@dataclass(frozen=True)
class CheckedFile:
    """A file against its seal; `found_bytes` None: it is missing. What it has behind its sealed length is damage, too,
    though no block is."""

    path: Path
    sealed: SealedFile
    found_bytes: int | None
    damaged: tuple[DamagedBlock, ...]

    @property
    def whole(self) -> bool:
        """Whether every byte is as sealed."""
        return not self.damaged and self.found_bytes == self.sealed.grid.nbytes


@dataclass(frozen=True)
class Verification:
    """What came out; `parity_damaged`: parity blocks of the seal itself that cannot be used."""

    model: Path
    seal: Seal
    files: tuple[CheckedFile, ...]
    parity_damaged: int

    @property
    def whole(self) -> bool:
        """Whether every byte of every file is as sealed."""
        return all(one.whole for one in self.files)

    @property
    def damaged_blocks(self) -> int:
        """How many there are in all files."""
        return sum(len(one.damaged) for one in self.files)

    @property
    def throughout(self) -> bool:
        """Whether no block with something of a tensor is as sealed."""
        for one in self.files:
            first = len(one.sealed.header or b"") // one.sealed.grid.block
            if sum(block.number >= first for block in one.damaged) < one.sealed.grid.blocks - first:
                return False
        return True

    @property
    def recoverable_blocks(self) -> int:
        """How many of them parity covers."""
        return sum(block.recoverable for one in self.files for block in one.damaged)


def verify_with_seal(path: str | Path, seal: Seal, *, progress: Progress | None = None) -> Verification:
    """Compare a checkpoint with its seal; its header need not be readable.

    Args:
        path: the checkpoint: a file, an index or a folder.
        seal: opened.
        progress: called with the bytes read since its last call.

    Raises:
        CheckpointError: nothing is there, a file cannot be read, or the seal is of another checkpoint.
    """
    model = Path(path)
    files = files_of(model, seal)
    checked = tuple(_check(file, seal, number, progress) for number, file in enumerate(files))
    return Verification(model, seal, checked, seal.damaged_parity_blocks())


def _check(path: Path, seal: Seal, number: int, progress: Progress | None) -> CheckedFile:
    found_bytes, bad = damaged_numbers(path, seal, number, progress)
    one = seal.files[number]
    headers: set[int] = set()
    if found_bytes is not None and one.header is not None:
        of_the_header = [block for block in bad if one.grid.begin(block) < len(one.header)]
        with opened(path) as file:
            headers = {block for block in of_the_header if with_sealed_header(file, one, block) is not None}
    covered = _covered_groups(seal, number, [block for block in bad if block not in headers])
    blocks = tuple(
        describe(one, block, recoverable=block in headers or block % one.grid.groups in covered) for block in bad
    )
    return CheckedFile(path, one, found_bytes, blocks)


def damaged_numbers(
    path: Path, seal: Seal, number: int, progress: Progress | None = None
) -> tuple[int | None, list[int]]:
    """Return a file's length in bytes, None if it is missing, and the numbers of its blocks that are not as sealed.

    Raises:
        CheckpointError: it cannot be read, or is another file than the one that was sealed.
    """
    one = seal.files[number]
    if not path.exists():
        return None, list(range(one.grid.blocks))
    with opened(path) as file:
        found_bytes = path.stat().st_size
        hashes = hash_blocks(file, one.grid, progress=progress)
        bad = np.flatnonzero((hashes != one.hashes).any(axis=1)).tolist()
        if len(seal.files) == 1 and bad and _is_another(file, one, bad, found_bytes):
            there = min(one.grid.blocks, -(-found_bytes // one.grid.block))
            problem = f"not one of its {there:,} blocks is as {seal.path} says, nor is its header: it is another file"
            raise CheckpointError(f"{path}: {problem}", _OTHER)
    return found_bytes, bad


def _covered_groups(seal: Seal, number: int, damaged: Sequence[int]) -> set[int]:
    """Return the groups of a file whose damaged blocks are no more than the parity blocks that are intact."""
    count = Counter(block % seal.files[number].grid.groups for block in damaged)
    return {
        group
        for group, blocks in count.items()
        if blocks <= seal.parity and blocks <= len(seal.intact_parity(number, group))
    }


def with_sealed_header(file: FileIO, one: SealedFile, block: int) -> Bytes | None:
    """Return a block with the seal's copy of the header in it, if that makes it whole; flat uint8."""
    header, begin = one.header or b"", one.grid.begin(block)
    if begin >= len(header):
        return None
    data: Bytes = np.zeros(one.grid.end(block) - begin, np.uint8)
    read_at(file, begin, data)
    known = np.frombuffer(header, np.uint8)[begin : begin + len(data)]
    data[: len(known)] = known
    return data if digest(data) == one.hashes[block].tobytes() else None


def describe(one: SealedFile, block: int, *, recoverable: bool) -> DamagedBlock:
    """Return a damaged block with what lies in it."""
    begin, end = one.grid.begin(block), one.grid.end(block)
    return DamagedBlock(block, begin, end, tuple(parts_of(one, begin, end)), recoverable)


def _is_another(file: FileIO, one: SealedFile, bad: list[int], found_bytes: int) -> bool:
    """Whether a file is another one than was sealed, and not that one with damage: no block of its tensors fits, and
    the bytes before them do not look alike."""
    grid, header = one.grid, one.header or b""
    first = len(header) // grid.block  # the first block with something of a tensor
    wrong = set(bad)
    if any(block not in wrong for block in range(first, grid.blocks)):
        return False
    seen: Bytes = np.zeros(min(len(header), found_bytes), np.uint8)
    if not len(seen):
        return False
    read_at(file, 0, seen)
    return bool(np.mean(seen == np.frombuffer(header, np.uint8)[: len(seen)]) < _ALIKE)
