"""What a hardened checkpoint holds, and the plain checkpoint as it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint import Checkpoint, TensorInfo
from faultcli.checkpoint.header import HEADER_RECORD, header_entries, parse_header, tensor_bytes
from faultcli.checkpoint.packed import Numbers, Packed
from faultcli.checkpoint.reader import ShardFile
from faultcli.checkpoint.writer import rebuild, recorded_header
from faultcli.errors import CheckpointError, FaultcliError, UsageError
from faultcli.faults.maps import Layout
from faultcli.faults.selection import Selection
from faultcli.files import reserve, write_all
from faultcli.hardened.layout import from_bytes
from faultcli.hardened.record import COPIES, MemoryRecord, TensorRecord
from faultcli.hardened.slot import Slot
from faultcli.memory import MemoryImage
from faultcli.protect.arranged import ArrangedTensor, arranged
from faultcli.protect.base import Words
from faultcli.protect.chain import UNPROTECTED, Chain, check_packed, parse_chain
from faultcli.protect.inplace_parts import for_part
from faultcli.protect.protected_tensor import StoredTensor

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Hardened:
    """A checkpoint whose tensors at risk are stored words. Made by `of`, which reads no tensor."""

    checkpoint: Checkpoint
    record: MemoryRecord
    chain: Chain
    slots: Mapping[str, Slot]  # by tensor, in the order of the original

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Hardened | None:
        """Return what a checkpoint says of its memory; None if it is not hardened.

        Raises:
            CheckpointError: its record is damaged or of another version, or its tensors are not those of the record.
        """
        record = MemoryRecord.of(checkpoint.metadata, checkpoint.path)
        if record is None:
            return None
        try:
            chain = parse_chain(record.protect)
            if record.quantised is None:
                chain.check_plain()
                own = {name: chain.of(name) for name in record.tensors}
                slots = {name: Slot.of(name, record.format, own[name], one) for name, one in record.tensors.items()}
            else:
                check_packed(chain)
                slots = {name: _kept(name, chain, one) for name, one in record.tensors.items()}
        except (FaultcliError, KeyError, TypeError, ValueError, OverflowError) as error:
            problem = f"{checkpoint.path}: the record of its memory contradicts itself ({error})"
            raise CheckpointError(problem, "harden the original again") from None
        for slot in slots.values():
            for region, layout in slot.regions.items():
                _check_region(checkpoint, region, *slot.lies_as(region, layout))
        return cls(checkpoint, record, chain, slots)

    @property
    def format(self) -> str:
        """The number format of the memory, as on the command line."""
        return self.record.format

    def as_it_reads(self) -> Checkpoint:
        """Return a quantised checkpoint that was hardened as it reads: without check words, every word of its tensors
        as they leave it."""
        own = {name: info for name, info in self.checkpoint.tensors.items() if name in self.infos}
        settled = {field.name: getattr(self.checkpoint, field.name) for field in fields(Checkpoint)}
        return _AsItReads(**settled | {"tensors": own, "metadata": self.metadata}, hardened=self)

    def packed(self) -> Packed:
        """Return the quantised checkpoint that was hardened, as it reads.

        Raises:
            CheckpointError: as `Packed.of`; or the files beside it make something else of it than those that it was
                hardened with.
        """
        packed, layout = Packed.of(self.as_it_reads()), self.record.quantised
        said = {name: one.role for name, one in self.record.tensors.items() if one.role is not None}
        if packed is None or packed.layout.title != layout or not said.items() <= packed.roles.items():
            found = "weights that are not quantised" if packed is None else packed.layout.title
            problem = f"was hardened as {layout}, and reads as {found} by what lies beside it"
            raise CheckpointError(f"{self.checkpoint.path}: {problem}", "put the config.json of the model beside it")
        return packed

    @cached_property
    def regions(self) -> dict[str, Layout]:
        """Words and bits of everything that faults can hit."""
        return {region: layout for slot in self.slots.values() for region, layout in slot.regions.items()}

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """The tensors of the original, by name: those at risk with the dtype that they read in, and in no file."""
        found = {}
        for name, one in self.record.tensors.items():
            size = tensor_bytes(one.dtype, one.shape)
            found[name] = TensorInfo(name, one.dtype, one.shape, self.checkpoint.path, 0, size or 0)
        rest = {name: info for name, info in self.checkpoint.tensors.items() if name not in self.regions}
        return found | rest

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the original."""
        return {key: text for key, text in self.checkpoint.metadata.items() if key not in COPIES}

    def words(self, region: str) -> Words:
        """Read the words of a region."""
        return from_bytes(self.checkpoint.read_bytes(region), self.regions[region])

    def stored(self, name: str) -> StoredTensor:
        """Read a tensor as it lies in the memory."""
        return self.slots[name].tensor(self.words)

    def arranged(self, name: str) -> StoredTensor | ArrangedTensor:
        """Read a tensor as it lies in the memory, to be read in the shape of the original."""
        record = self.record.tensors[name]
        return arranged(self.stored(name), record.channels, record.shape)

    def image(self, names: Sequence[str]) -> MemoryImage:
        """Read tensors as they lie in the memory."""
        return MemoryImage.around({name: self.arranged(name) for name in names}, self.format, self.chain)

    def read(self, name: str) -> Tensor:
        """Read a tensor of the original as it comes out of the memory; of a file, those that are not at risk, too."""
        return self.arranged(name).read() if name in self.slots else self.checkpoint.read(name)

    def state(self) -> dict[str, Tensor]:
        """Read all tensors of the original."""
        return {name: self.read(name) for name in self.infos}


@dataclass(frozen=True)
class _AsItReads(Checkpoint):
    """A checkpoint whose tensors come out of a memory of which every tensor keeps its dtype and shape."""

    hardened: Hardened = field(kw_only=True)

    def read_bytes(self, name: str, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        slot = self.hardened.slots.get(name)
        if slot is None or not slot.links:
            return super().read_bytes(name, out)
        data = self.hardened.read(name).numpy().view(np.uint8)
        if out is None:
            return data
        out[: len(data)] = data
        return out[: len(data)]


def _kept(name: str, chain: Chain, record: TensorRecord) -> Slot:
    links = for_part(chain.for_role(record.role), Numbers.of_dtype(record.dtype))
    return Slot.kept(name, record.dtype, record.shape, links, record.links)


def _check_region(checkpoint: Checkpoint, region: str, dtype: str, wanted: tuple[int, ...]) -> None:
    remedy = "bring it back from a seal (faultcli repair --seal), or harden the original again"
    info = checkpoint.tensors.get(region)
    if info is None:
        raise CheckpointError(f"{checkpoint.path}: a hardened file without its tensor {region!r}", remedy)
    if (info.dtype, info.shape) != (dtype, wanted):
        problem = f"tensor {region!r} is {info.dtype} {list(info.shape)}, the record says {dtype} {list(wanted)}"
        raise CheckpointError(f"{checkpoint.path}: {problem}", remedy)


def names_at_risk(checkpoint: Checkpoint, hardened: Hardened | None, selection: Selection) -> list[str]:
    """Return the tensors of a checkpoint that are at risk; of a hardened one, those that lie in its memory, of which
    globs leave some out.

    Raises:
        UsageError: as `select`.
    """
    if hardened is None:
        return selection.names(checkpoint.tensors.values())
    return replace(selection, target="any").names([hardened.infos[name] for name in hardened.slots])


def stored_as(
    hardened: Hardened | None, formats: Sequence[str], chains: Sequence[Chain]
) -> tuple[list[str], list[Chain]]:
    """Return the formats and protections of memories that are asked for; those of a hardened file are its own.

    Raises:
        UsageError: others are asked for.
    """
    if hardened is None:
        return list(formats), list(chains)
    asked_format = set(formats) - {"native", hardened.format}
    asked_chain = {chain.text for chain in chains} - {UNPROTECTED.text, hardened.chain.text}
    if asked_format or asked_chain:
        path = hardened.checkpoint.path
        raise UsageError(
            f"{path}: is hardened: its memory is {hardened.format} behind {hardened.chain.label}, and no other",
            f"leave --format and --protect out, or take the plain checkpoint: faultcli harden {path} --read -o PLAIN",
        )
    return [hardened.format], [hardened.chain]


def read_checkpoint(hardened: Hardened, output: Path, *, force: bool = False, progress: Progress | None = None) -> None:
    """Write the plain checkpoint as a hardened one reads, with the header that it had.

    Args:
        hardened: the input; never changed.
        output: file or directory, like the input.
        force: replace an existing output.
        progress: called with the bytes of the plain tensors done since its last call.

    Raises:
        CheckpointError: a file does not say what its header was.
        OutputError: the output exists, is an input or cannot be written.
    """

    def write(shard: ShardFile, target: Path) -> None:
        record = shard.header.metadata.get(HEADER_RECORD)
        if record is None:
            raise CheckpointError(f"{shard.path}: does not say what its header was", "harden the original again")
        raw = recorded_header(record, shard.path)
        infos = parse_header(raw, shard.path, _end(raw, shard.path)).tensors
        with target.open("wb", buffering=0) as file:
            reserve(file, len(raw) + sum(info.nbytes for info in infos))
            write_all(file, memoryview(raw))
            for info in infos:
                write_all(file, _bytes(hardened, info, shard.path).data)
                if progress is not None:
                    progress(info.nbytes)

    rebuild(hardened.checkpoint, output, write, force=force, check=_open)


def _open(written: Path) -> None:
    Checkpoint.open(written)


def _end(raw: bytes, path: Path) -> int:
    """Return the length of the file that a header is of."""
    ends = [entry["data_offsets"][1] for name, entry in header_entries(raw, path).items() if name != "__metadata__"]
    return len(raw) + max(ends, default=0)


def _bytes(hardened: Hardened, info: TensorInfo, path: Path) -> NDArray[np.uint8]:
    if info.name not in hardened.slots:
        data = hardened.checkpoint.read_bytes(info.name)
    else:
        values = hardened.read(info.name)
        data = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    if len(data) != info.nbytes:
        problem = f"tensor {info.name!r} reads as {len(data)} bytes, its header said {info.nbytes}"
        raise CheckpointError(f"{path}: {problem}", "harden the original again")
    return data
