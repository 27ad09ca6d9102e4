"""A seal of an intact checkpoint: its files are read once for checksums and, for parity, once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import numpy as np

from faultcli.checkpoint import Checkpoint, TensorSource, write_safetensors
from faultcli.checkpoint.reader import opened, stamp_of
from faultcli.errors import CheckpointError, UsageError
from faultcli.files import check_output
from faultcli.seal.blocks import (
    DIGEST,
    LARGEST_BLOCK,
    MOST_PARITY,
    SMALLEST_BLOCK,
    BlockGrid,
    Bytes,
    Progress,
    digest,
    hash_blocks,
    parity_of_groups,
)
from faultcli.seal.record import Seal, SealedFile, groups_per_piece, piece_name, record_metadata
from faultcli.version import __version__


def sealed_bytes(checkpoint: Checkpoint, parity: int) -> int:
    """Return what `progress` of `write_seal` adds up to."""
    sizes = sum(shard.stamp[1] for shard in checkpoint.shards)
    sizes += 0 if checkpoint.index is None else checkpoint.index.stat().st_size
    return sizes * (2 if parity else 1)


def write_seal(
    checkpoint: Checkpoint,
    output: str | Path,
    *,
    parity: int = 0,
    block: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Seal:
    """Write the seal of a checkpoint: of each of its files, and of its index.

    Args:
        checkpoint: opened; its files are read twice if there is parity, and never changed.
        output: the seal; it appears whole or not at all.
        parity: parity blocks per group, 0 to 128: as many damaged blocks of a group come back.
        block: bytes of a block, 64 to 1 MiB; None: 4 KiB to 64 KiB by the length of each file.
        force: replace an existing seal.
        progress: called with the bytes read since its last call.

    Raises:
        UsageError: `parity` or `block` is out of range.
        OutputError: the seal exists, is an input or cannot be written.
        CheckpointError: a file cannot be read, changed meanwhile, or is GGUF.
    """
    checkpoint.refuse_gguf("seal")
    if not 0 <= parity <= MOST_PARITY:
        raise UsageError(f"--parity {parity}: a group has 0 to {MOST_PARITY} parity blocks", "--parity 2")
    if block is not None and not SMALLEST_BLOCK <= block <= LARGEST_BLOCK:
        problem = f"--block {block}: a block has {SMALLEST_BLOCK} to {LARGEST_BLOCK} bytes"
        raise UsageError(problem, "--block 4096, or leave it out")
    target = Path(output)
    if target.suffix == ".json":
        raise UsageError(f"{target}: a seal is no JSON", f"-o {target.with_suffix('.seal')}")
    paths = [*checkpoint.files, *([checkpoint.index] if checkpoint.index else [])]
    check_output(target, force=force, inputs=paths)
    headers: list[bytes | None] = [shard.raw_header() for shard in checkpoint.shards]
    headers += [None] if checkpoint.index else []
    with ExitStack() as stack:
        opened_files = [stack.enter_context(opened(path)) for path in paths]
        stamps = list(map(stamp_of, opened_files))
        for shard, stamp in zip(checkpoint.shards, stamps, strict=False):  # the index, if any, comes last
            if stamp != shard.stamp:
                raise CheckpointError(f"{shard.path}: changed while it was opened", "run the command again")
        files = tuple(
            _hashed(name, file, header, (block, parity), progress)
            for name, file, header in zip(checkpoint.names, opened_files, headers, strict=True)
        )

        def unchanged() -> None:
            for path, file, stamp in zip(paths, opened_files, stamps, strict=True):
                if stamp_of(file) != stamp:
                    raise CheckpointError(f"{path}: changed while it was sealed", "run the command again")

        sources = [
            source
            for number, one in enumerate(files)
            for source in _sources(number, one, opened_files[number], progress, unchanged)
        ]
        write_safetensors(target, sources, record_metadata(parity, files, __version__), force=force, inputs=paths)
    return Seal.open(target)


def _hashed(
    name: str, file: FileIO, header: bytes | None, cut: tuple[int | None, int], progress: Progress | None
) -> SealedFile:
    from blake3 import blake3

    grid = BlockGrid.of(stamp_of(file)[1], *cut)
    whole = blake3()
    hashes = hash_blocks(file, grid, whole=whole, progress=progress)
    return SealedFile(name, grid, whole.hexdigest(), hashes, header)


def _sources(
    number: int, one: SealedFile, file: FileIO, progress: Progress | None, unchanged: Callable[[], None]
) -> Iterator[TensorSource]:
    """Yield the tensors of a file's seal. Parity is computed when its turn to be written has come, in the order of
    names, so that one piece is in memory; the checksums of parity come after it, when `unchanged` is asked."""
    grid = one.grid
    yield TensorSource(f"{number}.blocks", "U8", (grid.blocks, DIGEST), lambda: one.hashes)
    if one.header is not None:
        header = one.header
        yield TensorSource(f"{number}.header", "U8", (len(header),), lambda: header)
    proofs: Bytes = np.zeros((grid.groups * grid.parity, DIGEST), np.uint8)
    per_piece = groups_per_piece(grid)
    for piece, first in enumerate(range(0, grid.groups if grid.parity else 0, per_piece)):
        last = min(first + per_piece, grid.groups)

        def load(first: int = first, last: int = last) -> Bytes:
            parity = parity_of_groups(file, grid, first, last).reshape(-1, grid.block)
            for at, block in enumerate(parity, first * grid.parity):
                proofs[at] = np.frombuffer(digest(block), np.uint8)
            if progress is not None:
                progress(sum(grid.rows(group) for group in range(first, last)) * grid.block)
            return parity

        yield TensorSource(piece_name(number, piece), "U8", ((last - first) * grid.parity, grid.block), load)

    def proven() -> Bytes:
        unchanged()
        return proofs

    yield TensorSource(f"{number}.parity_blocks", "U8", proofs.shape, proven)
