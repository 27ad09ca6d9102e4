"""From a checkpoint to a hardened one, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint, LazyTensors, TensorInfo
from faultcli.checkpoint.header import DTYPES, HEADER_RECORD, build_header, tensor_bytes
from faultcli.checkpoint.packed import Packed
from faultcli.checkpoint.reader import ShardFile
from faultcli.checkpoint.writer import header_record, rebuild
from faultcli.errors import CheckpointError, FormatError, UsageError
from faultcli.files import reserve, write_all
from faultcli.formats import ByRows, ChannelsOf, ScaledFormat
from faultcli.hardened.layout import to_bytes
from faultcli.hardened.read import Hardened
from faultcli.hardened.record import COPIES, MemoryRecord, TensorRecord
from faultcli.hardened.slot import Slot
from faultcli.injection import about_checkpoint, slots
from faultcli.protect.arranged import to_arrange
from faultcli.protect.base import Protection
from faultcli.protect.chain import Chain
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.protect.quantised_tensor import links_of, refuse_idle, refuse_other_memories, weights_by_part, with_checks
from faultcli.scaling.record import METADATA_KEY

Progress = Callable[[int], None]

# Characters in the header at the most: of one of many constants, and of all others of a link, with their names.
_PACKED = 6
_CONSTANTS = 200


@dataclass(frozen=True)
class HardenedRow:
    """What one tensor takes. `bits`: of its words. `check_bits`: of what lies in the memory beside them.
    `constant_bits`: of what is needed to read it and kept in the record. `role`: of a part of quantised weights; the
    weights are told with one of the parts."""

    name: str
    weights: int
    bits: int
    check_bits: int
    constant_bits: int
    role: str | None = None


def harden_checkpoint(
    checkpoint: Checkpoint,
    output: Path,
    *,
    names: Sequence[str],
    format_name: str,
    chain: Chain,
    ber: float | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[HardenedRow]:
    """Write a checkpoint as it lies in a memory: the tensors `names` as stored words, what their protections add beside
    them, and what reading needs in the metadata. All other tensors come through byte for byte; of a quantised
    checkpoint every tensor keeps its dtype and shape, and its bytes too where check words are all that protects it.

    Args:
        checkpoint: the input; never changed. What is stored per channel belongs to its `channels`.
        output: file or directory, like the input.
        names: the tensors at risk, from `select`.
        format_name: number format of the memory.
        chain: the protections.
        ber: the bit-error rate that protections which need one are designed for.
        force: replace an existing output.
        progress: called with the bytes done since its last call; they add up to the checkpoint's.

    Raises:
        CheckpointError: the checkpoint is hardened or scaled already.
        FormatError, UsageError: a value cannot be stored in the format, or a protection does not work on it.
        OutputError: the output exists, is an input or cannot be written.

    Peak memory is a few times the largest tensor, whatever the file's size.
    """
    check_plain(checkpoint)
    packed = Packed.of(checkpoint)
    if packed is not None:
        return _harden_packed(packed, output, names, _Settings(format_name, chain, ber, progress), force=force)
    try:
        formats = {slot.name: slot.format for slot in slots(checkpoint, names, format_name, numbers=True)}
        rows = to_arrange(checkpoint.channels, formats, chain.of)
        links = chain.for_tensors(ByRows(LazyTensors(checkpoint, names), rows), formats.__getitem__, ber)
        shapes = {name: checkpoint.info(name).shape for name in names}
        shapes |= {name: own.shape for name, own in rows.items()}
        plans = {name: Slot.planned(name, formats[name], links[name], shapes[name]) for name in names}
        _check_names(checkpoint, plans)
        writer = _Writer(checkpoint, plans, links, rows, _Settings(format_name, chain, ber, progress))
        rebuild(checkpoint, output, writer.write_shard, force=force, check=writer.finish)
    except FormatError as error:
        raise about_checkpoint(error, checkpoint, names) from None
    return writer.rows


def _harden_packed(
    packed: Packed, output: Path, names: Sequence[str], settings: _Settings, *, force: bool
) -> list[HardenedRow]:
    chain, checkpoint = settings.chain, packed.checkpoint
    refuse_other_memories(packed, [settings.format_name], [chain])
    refuse_idle(packed, names, chain)
    links = {name: links_of(packed, name, chain) for name in names}
    infos = {name: checkpoint.info(name) for name in names}
    plans = {name: Slot.kept(name, info.dtype, info.shape, links[name]) for name, info in infos.items()}
    _check_names(checkpoint, plans)
    writer = _Writer(checkpoint, plans, links, {}, settings, packed)
    rebuild(checkpoint, output, writer.write_shard, force=force, check=writer.finish)
    weights = weights_by_part(packed, names)
    return [replace(row, weights=weights[row.name]) for row in writer.rows]


def check_plain(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is hardened or scaled already."""
    if any(key in checkpoint.metadata for key in COPIES):
        raise CheckpointError(
            f"{checkpoint.path}: is hardened already",
            f"take the plain checkpoint: faultcli harden {checkpoint.path} --read",
        )
    checkpoint.refuse_gguf("harden")
    if METADATA_KEY in checkpoint.metadata:
        raise CheckpointError(
            f"{checkpoint.path}: is scaled already",
            "undo that, and let the chain scale: faultcli scale MODEL --undo; --protect scale=max",
        )


def _check_names(checkpoint: Checkpoint, plans: Mapping[str, Slot]) -> None:
    taken: dict[str, str] = dict.fromkeys(set(checkpoint.tensors) - set(plans), "")
    for name, slot in plans.items():
        for region in slot.regions:
            if region in taken:
                raise UsageError(
                    f"{checkpoint.path}: two tensors need the name {region!r}, one beside the words of {name!r}",
                    "leave one of the two out with --exclude, or rename it",
                )
            taken[region] = name


@dataclass(frozen=True)
class _Settings:
    """What is the same for all tensors; as in `harden_checkpoint`."""

    format_name: str
    chain: Chain
    ber: float | None
    progress: Progress | None


@dataclass
class _Writer:
    """Writes the bodies of all files, and their headers when all constants are known. `packed`: a quantised checkpoint,
    whose tensors keep their dtypes and shapes."""

    checkpoint: Checkpoint
    plans: Mapping[str, Slot]
    links: Mapping[str, tuple[Protection, ...]]
    channels: ChannelsOf  # of tensors that lie as the rows of these
    settings: _Settings
    packed: Packed | None = None
    rows: list[HardenedRow] = field(default_factory=list)
    _records: dict[str, TensorRecord] = field(default_factory=dict)
    _entries: dict[str, tuple[bytes, dict[str, Any], int]] = field(default_factory=dict)

    def write_shard(self, shard: ShardFile, target: Path) -> None:
        """Write a file but for its header, for which there is room."""
        entries, size = _laid_out(shard, self.plans)
        raw = shard.raw_header()
        room = self._room(raw, entries)
        self._entries[shard.name] = raw, entries, room
        with target.open("wb", buffering=0) as file:
            reserve(file, room + size)
            for info in shard.header.tensors:
                if info.name in self.plans:
                    self._write_tensor(file, info, entries, room)
                else:
                    _put(file, room + entries[info.name]["data_offsets"][0], self.checkpoint.read_bytes(info.name))
                if self.settings.progress is not None:
                    self.settings.progress(info.nbytes)

    def _write_tensor(self, file: FileIO, info: TensorInfo, entries: Mapping[str, Any], room: int) -> None:
        channels, stored = self.channels.get(info.name), self._stored(info)
        planned = self.plans[info.name].regions
        assert {region.name: region.layout for region in stored.regions} == planned
        for region in stored.regions:
            words = region.data if isinstance(region, StoredTensor) else region.words
            data = to_bytes(words, region.layout.bits)
            _put(file, room + entries[region.name]["data_offsets"][0], data)
        format = stored.format
        scales = format.scales if isinstance(format, ScaledFormat) and not format.at_risk else None
        constants = tuple(link.constants() for link in stored.links)
        role = self._role(info.name)
        self._records[info.name] = TensorRecord(info.dtype, info.shape, constants, scales, channels, role)
        whole = sum(layout.words * layout.bits for layout in planned.values())
        bits = planned[info.name].words * planned[info.name].bits
        self.rows.append(HardenedRow(info.name, stored.elements, bits, whole - bits, _constant_bits(stored), role))

    def _stored(self, info: TensorInfo) -> StoredTensor:
        name, links = info.name, self.links[info.name]
        if self.packed is not None:
            return with_checks(name, info.dtype, self.packed.words(name), links)
        channels, values = self.channels.get(name), self.checkpoint.read(name)
        values = values if channels is None else channels.rows(values)
        return StoredTensor.write(name, values, self.plans[name].format, links, ber=self.settings.ber)

    def _role(self, name: str) -> str | None:
        return None if self.packed is None else self.packed.roles.get(name)

    def _record(self, tensors: Mapping[str, TensorRecord]) -> Mapping[str, str]:
        layout = None if self.packed is None else self.packed.layout.title
        settings = self.settings
        return MemoryRecord(settings.format_name, settings.chain.text, settings.ber, tensors, layout).metadata()

    def finish(self, written: Path) -> None:
        """Write the headers into all files, and open what was written as a reader does."""
        ordered = {name: self._records[name] for name in self.checkpoint.tensors if name in self._records}
        record = self._record(ordered)
        for name, (raw, entries, room) in self._entries.items():
            header = self._header(raw, entries, record)
            assert len(header) <= room
            path = written / name if written.is_dir() else written
            with path.open("r+b", buffering=0) as file:
                write_all(file, memoryview((room - 8).to_bytes(8, "little") + header[8:].ljust(room - 8)))
        made = Hardened.of(Checkpoint.open(written))
        if self.packed is not None and made is not None:
            made.packed()

    def _header(self, raw: bytes, entries: Mapping[str, Any], record: Mapping[str, str]) -> bytes:
        kept = {key: text for key, text in self.checkpoint.metadata.items() if key != HEADER_RECORD}
        return build_header(entries, {**kept, **record, HEADER_RECORD: header_record(raw)})

    def _room(self, raw: bytes, entries: Mapping[str, Any]) -> int:
        """Return bytes that suffice for a header, whatever the constants are."""
        empty = {
            name: TensorRecord(info.dtype, info.shape, (), channels=self.channels.get(name), role=self._role(name))
            for name, info in ((name, self.checkpoint.info(name)) for name in self.plans)
        }
        without = self._header(raw, entries, self._record(empty))
        several = "channel" in self.settings.chain.text + self.settings.format_name
        packed = sum(_PACKED * slot.shape[0] for slot in self.plans.values() if several and slot.shape)
        most = 1 + max(map(len, self.links.values()), default=0)
        constants = (packed + _CONSTANTS * len(self.plans)) * most
        return -(-(len(without) + len(COPIES) * constants) // 8) * 8


def _constant_bits(stored: StoredTensor) -> int:
    own = sum(link.side_bits for link in stored.links) + stored.format.side_bits
    return own + (_constant_bits(stored.scales) if stored.scales else 0)


def _laid_out(shard: ShardFile, plans: Mapping[str, Slot]) -> tuple[dict[str, Any], int]:
    """Return the header entries of a file, in the order of the safetensors library, and the bytes of all tensors."""
    wanted: list[tuple[str, str, tuple[int, ...]]] = []
    for info in shard.header.tensors:
        if info.name not in plans:
            wanted.append((info.name, info.dtype, info.shape))
            continue
        for region, layout in plans[info.name].regions.items():
            wanted.append((region, *plans[info.name].lies_as(region, layout)))
    rank = {dtype: number for number, dtype in enumerate(DTYPES)}
    entries: dict[str, Any] = {}
    end = 0
    for name, dtype, shape in sorted(wanted, key=lambda one: (-rank[one[1]], one[0])):
        size = tensor_bytes(dtype, shape)
        assert size is not None
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    return entries, end


def _put(file: FileIO, offset: int, data: NDArray[np.uint8]) -> None:
    file.seek(offset, os.SEEK_SET)
    write_all(file, data.data)
