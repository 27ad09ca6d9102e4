"""How a file is cut into blocks, blocks into groups that share parity; and how blocks are read and hashed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint.locate import unreadable

DIGEST = 32  # bytes of a BLAKE3 checksum
SMALLEST_BLOCK, LARGEST_BLOCK = 64, 1 << 20  # bytes
MOST_PARITY = 128  # blocks per group
_CODE_WORDS = 256  # data and parity blocks of a group, together: what bytes can tell apart
_GROUP_BYTES = 64 << 20  # of a group's data: it is in memory as a whole
_USUAL_BLOCKS = 1 << 16  # that a file has where nobody says how large they are
_CHUNK = 4 << 20  # bytes hashed between two reads
_THREADS = min(4, os.cpu_count() or 1)

Progress: TypeAlias = Callable[[int], None]
Bytes: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of a file, in bytes, and their groups. Block i belongs to group i mod `groups`, at row i div `groups`:
    a burst hits different groups. Of a group's blocks, `parity` more are computed; the last block counts as if it
    ended in zeros.
    """

    nbytes: int
    block: int
    parity: int
    groups: int

    @classmethod
    def of(cls, nbytes: int, block: int | None, parity: int) -> BlockGrid:
        """Cut a file of `nbytes` bytes; `block` None: 4 KiB to 64 KiB by the length of the file."""
        if block is None:
            block = 4096
            while block < 1 << 16 and nbytes > block * _USUAL_BLOCKS:
                block *= 2
        blocks = -(-nbytes // block)
        rows = max(1, min(_CODE_WORDS - parity, _GROUP_BYTES // block))
        return cls(nbytes, block, parity, max(1, -(-blocks // rows)))

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-self.nbytes // self.block)

    @property
    def consistent(self) -> bool:
        """Whether it can be one that `of` made; numbers out of a file may be any."""
        return (
            0 <= self.parity <= MOST_PARITY
            and 0 < self.block <= LARGEST_BLOCK
            and 0 <= self.nbytes < 1 << 63
            and 0 < self.groups <= max(1, self.blocks)
            and self.rows(0) + self.parity <= _CODE_WORDS
        )

    def rows(self, group: int) -> int:
        """How many data blocks a group has."""
        return max(0, -(-(self.blocks - group) // self.groups))

    def members(self, group: int) -> range:
        """The blocks of a group, by row."""
        return range(group, self.blocks, self.groups)

    def begin(self, block: int) -> int:
        """Where a block begins, in bytes of the file."""
        return block * self.block

    def end(self, block: int) -> int:
        """Where it ends: the last one may be shorter."""
        return min(self.begin(block) + self.block, self.nbytes)


def digest(data: Any) -> bytes:
    """Return the BLAKE3 checksum of bytes, or of a contiguous array of any shape."""
    from blake3 import blake3

    return blake3(data.reshape(-1).data if isinstance(data, np.ndarray) else data).digest()


def read_at(file: FileIO, offset: int, out: Bytes) -> int:
    """Fill a flat array from byte `offset` on, as far as the file goes; return how many bytes that were."""
    rest, done = out.data, 0
    try:
        file.seek(offset)
        while done < len(rest) and (count := file.readinto(rest[done:])):
            done += count
    except OSError as error:
        raise unreadable(Path(os.fsdecode(file.name)), error) from error
    return done


def hash_blocks(file: FileIO, grid: BlockGrid, *, whole: Any = None, progress: Progress | None = None) -> Bytes:
    """Return the checksum of every block, [blocks, 32] uint8; of blocks behind the end of the file, zeros.

    Args:
        file: opened; read once from its start.
        grid: how it was cut when it was sealed; what the file has behind `grid.nbytes` is not looked at.
        whole: a BLAKE3 hasher that is told all bytes, too.
        progress: called with the bytes done since its last call.
    """
    out: Bytes = np.zeros((grid.blocks, DIGEST), np.uint8)
    per_chunk = max(1, _CHUNK // grid.block)
    buffer: Bytes = np.empty(min(per_chunk * grid.block, grid.nbytes), np.uint8)
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, grid.blocks, per_chunk):
            wanted = min(len(buffer), grid.nbytes - grid.begin(first))
            count = read_at(file, grid.begin(first), buffer[:wanted])
            view = buffer[:count]
            blocks = -(-count // grid.block)
            half = -(-blocks // 2) if whole is None else blocks
            jobs = [
                pool.submit(_hash_run, view[begin * grid.block :], grid.block, out[first + begin : first + end])
                for begin, end in ((0, half), (half, blocks))
                if begin < end
            ]
            if whole is not None:
                whole.update(view.data)
            for job in jobs:
                job.result()
            if progress is not None:
                progress(count)
            if count < wanted:
                break
    return out


def _hash_run(data: Bytes, block: int, out: Bytes) -> None:
    from blake3 import blake3

    view = data.data
    digests = [blake3(view[at * block : (at + 1) * block]).digest() for at in range(len(out))]
    out[:] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)


def parity_of_groups(file: FileIO, grid: BlockGrid, first: int, last: int) -> Bytes:
    """Return the parity blocks of groups `first` to `last` (exclusive), [groups, parity, block] uint8.

    The data of these groups are in memory at once; neighbouring groups are read in one go.
    """
    from zfec import Encoder

    groups = last - first
    data: Bytes = np.zeros((grid.rows(first), groups, grid.block), np.uint8)
    for row in range(len(data)):
        begin = grid.begin(row * grid.groups + first)
        end = min(begin + groups * grid.block, grid.nbytes)
        if begin < end:
            read_at(file, begin, data[row].reshape(-1)[: end - begin])
    out: Bytes = np.empty((groups, grid.parity, grid.block), np.uint8)

    def encode(at: int) -> None:
        rows = grid.rows(first + at)
        code = Encoder(rows, rows + grid.parity)
        numbers = tuple(range(rows, rows + grid.parity))
        for number, block in enumerate(code.encode(tuple(data[row, at].data for row in range(rows)), numbers)):
            out[at, number] = np.frombuffer(block, np.uint8)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(encode, range(groups)))
    return out
