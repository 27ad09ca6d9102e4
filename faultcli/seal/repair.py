"""Damaged blocks brought back: from the seal's copy of the header, from a reference, from parity; each proven."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from faultcli.checkpoint.companions import companions_of, folders_of
from faultcli.checkpoint.reader import opened
from faultcli.errors import CheckpointError
from faultcli.files import atomic_directory, atomic_output, copy_range, write_all
from faultcli.seal.blocks import Bytes, Progress, digest, hash_blocks, read_at
from faultcli.seal.checking import DamagedBlock, damaged_numbers, describe, with_sealed_header
from faultcli.seal.record import Seal, SealedFile, files_of

FROM_HEADER, FROM_REFERENCE, FROM_PARITY = "header", "reference", "parity"


@dataclass(frozen=True)
class RestoredFile:
    """One file: what was damaged, and where each block came back from.

    `sources`: by number of the block, `header` (the seal's copy of it), `reference` or `parity`; what is damaged and
    not in there is lost. `found_bytes` None: it was missing. `proven`: whether the BLAKE3 of the whole file that was
    written is the sealed one.
    """

    path: Path
    sealed: SealedFile
    found_bytes: int | None
    damaged: tuple[DamagedBlock, ...]
    sources: dict[int, str]
    proven: bool

    @property
    def lost(self) -> tuple[DamagedBlock, ...]:
        """Blocks that stay as they are; zeros where the file had ended before them."""
        return tuple(block for block in self.damaged if block.number not in self.sources)


@dataclass(frozen=True)
class SealRepair:
    """What came of a repair; `left_out`: what is said of files beside the checkpoint that the output has not."""

    model: Path
    output: Path
    files: tuple[RestoredFile, ...]
    left_out: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the output is, byte for byte and proven, what was sealed."""
        return all(one.proven for one in self.files)

    @property
    def restored_blocks(self) -> int:
        """Blocks that came back."""
        return sum(len(one.sources) for one in self.files)

    @property
    def lost_blocks(self) -> int:
        """Blocks that did not."""
        return sum(len(one.lost) for one in self.files)


def repair_with_seal(
    path: Path,
    seal: Seal,
    output: Path,
    *,
    reference: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> SealRepair:
    """Write a damaged checkpoint with every block that can be brought back; what cannot stays as it is.

    A file becomes a file, of exactly the sealed length; an index or a folder a folder, with what lies beside the
    weights. If nothing is lost, the output is proven by the checksum of each whole file before it appears.

    Args:
        path: the damaged checkpoint; its header need not be readable, shards may be missing.
        seal: of the checkpoint when it was intact.
        output: the file or folder to write.
        reference: a copy of the checkpoint, which may be damaged itself: a block is taken if it fits its checksum.
        force: replace an existing output.
        progress: called with the bytes done since its last call; they add up to about twice the size of the files.

    Raises:
        CheckpointError: nothing is there, a file cannot be read or changed meanwhile, the seal is of another
            checkpoint, or the reference has other files.
        OutputError: the output exists, is an input or cannot be written.
    """
    path, output = Path(path), Path(output)
    sources = files_of(path, seal)
    references: list[Path | None] = [None] * len(sources)
    if reference is not None:
        references = [file if file.is_file() else None for file in files_of(Path(reference), seal)]
    inputs = [path, *sources, seal.path, *(file for file in references if file is not None)]
    if len(seal.files) == 1 and not path.is_dir():
        with atomic_output(output, force=force, inputs=inputs) as temporary:
            one = _Mending(sources[0], seal, 0, references[0]).write(temporary, progress)
        return SealRepair(path, output, (one,))
    folder = path if path.is_dir() else path.parent
    names = [one.name for one in seal.files]
    beside = companions_of(folder, names, sum(one.grid.nbytes for one in seal.files), output)
    brings = {*names, *folders_of(names), *beside.names}
    with atomic_directory(output, force=force, inputs=[folder, *inputs], brings=brings) as temporary:
        for inner in folders_of(names):
            (temporary / inner).mkdir()
        files = tuple(
            _Mending(source, seal, number, references[number]).write(temporary / names[number], progress)
            for number, source in enumerate(sources)
        )
        beside.copy(temporary)
    return SealRepair(path, output, files, beside.left_out)


class _Mending:
    """One file on its way from damaged to written."""

    def __init__(self, path: Path, seal: Seal, number: int, reference: Path | None) -> None:
        self._path, self._seal, self._number, self._reference = path, seal, number, reference
        self._sealed = seal.files[number]
        self._grid = self._sealed.grid

    def write(self, target: Path, progress: Progress | None) -> RestoredFile:
        """Write it to a new file."""
        found_bytes, bad = damaged_numbers(self._path, self._seal, self._number, progress)
        sources: dict[int, str] = {}
        with ExitStack() as stack:
            file = None if found_bytes is None else stack.enter_context(opened(self._path))
            reference = None if self._reference is None else stack.enter_context(opened(self._reference))
            written = stack.enter_context(target.open("w+b", buffering=0))
            if file is not None and found_bytes is not None:
                self._copy(file, min(found_bytes, self._grid.nbytes), written, progress)
            written.truncate(self._grid.nbytes)
            by_group: dict[int, list[int]] = defaultdict(list)
            for block in bad:
                if (data := self._found(block, written, reference)) is not None:
                    self._put(written, block, data[0])
                    sources[block] = data[1]
                else:
                    by_group[block % self._grid.groups].append(block)
            for group, missing in by_group.items():
                for block, recovered in self._decoded(group, missing, written).items():
                    self._put(written, block, recovered)
                    sources[block] = FROM_PARITY
            proven = len(sources) == len(bad) and self._prove(written)
        blocks = tuple(describe(self._sealed, block, recoverable=block in sources) for block in bad)
        return RestoredFile(self._path, self._sealed, found_bytes, blocks, sources, proven)

    def _copy(self, file: FileIO, nbytes: int, written: FileIO, progress: Progress | None) -> None:
        try:
            copy_range(file, 0, nbytes, written, progress)
        except EOFError as error:
            raise CheckpointError(f"{self._path}: became shorter while it was read", "run it again") from error

    def _put(self, written: FileIO, block: int, data: Bytes) -> None:
        written.seek(self._grid.begin(block))
        write_all(written, data.data)

    def _fits(self, block: int, data: Bytes) -> bool:
        return bool(digest(data) == self._sealed.hashes[block].tobytes())

    def _read(self, file: FileIO, block: int) -> Bytes:
        """Read a block; zeros behind the end of the file."""
        data: Bytes = np.zeros(self._grid.end(block) - self._grid.begin(block), np.uint8)
        read_at(file, self._grid.begin(block), data)
        return data

    def _found(self, block: int, written: FileIO, reference: FileIO | None) -> tuple[Bytes, str] | None:
        """Return a block that needs no decoding, and where it is from."""
        if (mended := with_sealed_header(written, self._sealed, block)) is not None:
            return mended, FROM_HEADER
        if reference is not None and self._fits(block, data := self._read(reference, block)):
            return data, FROM_REFERENCE
        return None

    def _decoded(self, group: int, missing: list[int], written: FileIO) -> dict[int, Bytes]:
        """Return the blocks of a group that were missing, none if there are more of them than intact parity blocks."""
        from zfec import Decoder

        if len(missing) > self._seal.parity:
            return {}
        rows = self._grid.rows(group)
        parity = [
            (rows + row, data)
            for row in range(self._seal.parity)
            if (data := self._seal.parity_block(self._number, group, row)) is not None
        ]
        if len(missing) > len(parity):
            return {}
        lost = set(missing)
        intact: list[tuple[int, Bytes]] = []
        for row, block in enumerate(self._grid.members(group)):
            if block not in lost:
                data = self._read(written, block)
                padded: Bytes = np.zeros(self._grid.block, np.uint8)
                padded[: len(data)] = data
                intact.append((row, padded))
        chosen = intact + parity[: len(missing)]
        decoder = Decoder(rows, rows + self._seal.parity)
        whole = decoder.decode(tuple(data.data for _, data in chosen), tuple(row for row, _ in chosen))
        found: dict[int, Bytes] = {}
        for block in missing:
            data = np.frombuffer(whole[block // self._grid.groups], np.uint8)
            data = data[: self._grid.end(block) - self._grid.begin(block)]
            if self._fits(block, data):
                found[block] = data
        return found

    def _prove(self, written: FileIO) -> bool:
        """Prove the whole file. It fails if the disk or the memory failed meanwhile."""
        from blake3 import blake3

        whole = blake3()
        hash_blocks(written, self._grid, whole=whole)
        if whole.hexdigest() != self._sealed.blake3:
            problem = "what was written is not what was sealed: it changed meanwhile, or memory or disk fail here"
            raise CheckpointError(f"{self._path}: {problem}", "run it again, on another machine if need be")
        return True
