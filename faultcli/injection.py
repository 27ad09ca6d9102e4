"""Write a corrupted copy of a checkpoint, streamed tensor by tensor; draw the faults or replay saved ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint, ContentHash, LazyTensors, TensorInfo, edit, torch_dtype
from faultcli.errors import CheckpointError, FaultError, FormatError, NonFiniteError, UsageError
from faultcli.faults.drawing import draw_one, share_out
from faultcli.faults.law import FaultLaw, Region, Site
from faultcli.faults.maps import NO_FAULTS, FaultMap, WordFaults
from faultcli.files import check_output
from faultcli.formats import NATIVE, Channels, NumberFormat, container_dtype, word_format
from faultcli.protect.arranged import arranged, to_arrange
from faultcli.protect.base import words_of_bytes
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.protect.regions import TensorSlot
from faultcli.protect.unstorable import formats_of, naming_all

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Injection:
    """What was written: the output, its faults, and how many values read differently because of them."""

    output: Path
    faults: FaultMap
    values_changed: int
    restored: bool = False  # a replay took the faults back: the output is the checkpoint as it was before them


@dataclass(frozen=True)
class Draw:
    """What decides the faults of a trial.

    Attributes:
        law: what they follow.
        names: the tensors at risk, from `select`.
        format: number format of the memory.
        seed: with `trial` fixes the faults: those of the same trial of a campaign.
        trial: see `seed`.

    Raises:
        UsageError: a negative seed or trial.
    """

    law: FaultLaw
    names: Sequence[str]
    format: str = "native"
    seed: int = 0
    trial: int = 0

    def __post_init__(self) -> None:
        for name, number in (("seed", self.seed), ("trial", self.trial)):
            if number < 0:
                raise UsageError(f"--{name} {number}: a {name} is a whole number from 0", f"--{name} 0")


class FileMemory(ABC):
    """The memory that a checkpoint's file is, or stands for: where faults can hit, and what they do to the file.

    Attributes:
        checkpoint: the file.
        format: number format of the memory.
    """

    checkpoint: Checkpoint
    format: str

    @property
    @abstractmethod
    def sites(self) -> Sequence[Site]:
        """All regions that faults can hit."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The tensors of the file that change."""

    @property
    @abstractmethod
    def restorable(self) -> bool:
        """Whether applying a fault map twice gives every byte of the file back."""

    @abstractmethod
    def check_law(self, law: FaultLaw) -> None:
        """Refuse a law whose faults this file cannot hold; UsageError."""

    @abstractmethod
    def corrupt(
        self, info: TensorInfo, data: NDArray[np.uint8], faults_of: Callable[[Region], WordFaults]
    ) -> dict[str, WordFaults]:
        """Let faults hit the bytes of a tensor of the file, in place, and return them by region."""

    @abstractmethod
    def values_changed(self, faults: Mapping[str, WordFaults]) -> int:
        """Return how many values read differently because of faults; called when all tensors are corrupted."""


class PlainMemory(FileMemory):
    """The memory that selected tensors of a plain checkpoint are written into, and read back from.

    Args:
        checkpoint: the checkpoint.
        places: those that the tensors at risk take in the memory, from `slots`.
        format: number format of the memory.
    """

    def __init__(self, checkpoint: Checkpoint, places: Sequence[TensorSlot], format: str) -> None:
        self.checkpoint, self.format = checkpoint, format
        self._slots = {slot.name: slot for slot in places}
        self._rows = to_arrange(checkpoint.channels, {slot.name: slot.format for slot in places})
        self._changed = 0

    @property
    def sites(self) -> Sequence[Site]:
        return [site for slot in self._slots.values() for site in slot.places]

    @property
    def names(self) -> Sequence[str]:
        return list(self._slots)

    @property
    def restorable(self) -> bool:
        infos = {name: self.checkpoint.info(name) for name in self._slots}
        return all(slot.format == word_format(infos[name].dtype) for name, slot in self._slots.items())

    def check_law(self, law: FaultLaw) -> None:
        """Refuse nothing: the file holds values, as any law leaves them."""

    def corrupt(
        self, info: TensorInfo, data: NDArray[np.uint8], faults_of: Callable[[Region], WordFaults]
    ) -> dict[str, WordFaults]:
        slot, rows = self._slots[info.name], self._rows.get(info.name)
        faults, changed = _corrupt(info, data, slot.format, faults_of, rows)
        self._changed += changed
        return faults

    def values_changed(self, faults: Mapping[str, WordFaults]) -> int:
        return self._changed


def slots(checkpoint: Checkpoint, names: Sequence[str], format_name: str, *, numbers: bool = False) -> list[TensorSlot]:
    """Return the places that the tensors `names` take in a memory of this format. In the native one these are the words
    of the file, whatever its dtype: the two fp32 words of a complex number, the bytes of booleans and packed values.

    A tensor of which the checkpoint's `channels` are known lies there as [channels, row], if the format stores
    something for each.

    Args:
        numbers: the words have to be numbers that a format reads, as protections need them.

    Raises:
        FormatError: a tensor's dtype is none that the format reads.
    """
    if format_name == "native" and not numbers:
        own_words = map(checkpoint.info, names)
        return [TensorSlot(info.name, word_shape(info), word_format(info.dtype)) for info in own_words]
    infos = {name: checkpoint.info(name) for name in names}
    try:
        formats = formats_of({name: info.dtype for name, info in infos.items()}, format_name)
    except FormatError as error:
        raise about_checkpoint(error, checkpoint) from None
    rows = to_arrange(checkpoint.channels, formats)
    shapes = {name: info.shape for name, info in infos.items()}
    shapes |= {name: own.shape for name, own in rows.items()}
    places = [TensorSlot(name, shapes[name], format) for name, format in formats.items()]
    return places


def inject(
    checkpoint: Checkpoint,
    draw: Draw,
    output: Path,
    *,
    memory: FileMemory | None = None,
    force: bool = False,
    save_faults: Path | None = None,
    progress: Progress | None = None,
) -> Injection:
    """Draw the faults of one trial and write the checkpoint as it reads with them.

    In the native format only the hit bits differ. In another format the selected tensors also carry the loss of being
    stored in it; the file keeps its dtypes. Peak memory is a few times the largest tensor, whatever the file's size.

    Args:
        checkpoint: the input; never changed.
        draw: which faults.
        output: file or directory, like the input.
        memory: what the file is the memory of; None: it is a plain checkpoint, `draw` says of what format.
        force: replace an existing output (and fault map).
        save_faults: where to save the fault map, bound to the checksums of input and output.
        progress: called with the bytes done since its last call; they add up to the checkpoint's, or with a fault map
            to save, for which the output is read once more, to twice that.

    Raises:
        UsageError: one path for both outputs.
        FormatError: a value cannot be stored in the format; checkpoint and tensor are named.
        FaultError: the law does not fit the memory.
        OutputError: an output exists, is an input or cannot be written.
    """
    if save_faults is not None and save_faults.absolute() == output.absolute():
        raise UsageError(f"{output}: the checkpoint and its fault map cannot be one file", "another --save-faults")
    memory = memory or PlainMemory(checkpoint, slots(checkpoint, draw.names, draw.format), draw.format)
    memory.check_law(draw.law)
    sites = memory.sites
    law, numbers = draw.law, {"seed": draw.seed, "trial": draw.trial}
    quotas = share_out(law, sites, **numbers)

    def drawn_in(region: Region) -> WordFaults:
        return draw_one(law, region, **numbers, quota=quotas.get(region.name) if quotas else None)

    if save_faults:
        kept = [*checkpoint.files, *([checkpoint.index] if checkpoint.index else [])]
        check_output(save_faults, force=force, inputs=kept)
    layout = {site.name: site.layout for site in sites}
    saved: FaultMap | None = None

    def fault_map(drawn: dict[str, WordFaults]) -> FaultMap:
        how = {"format": memory.format, "fault": law.spec, "on_values": law.on_values}
        return FaultMap(drawn, layout, **numbers, **how)  # type: ignore[arg-type]

    def save(partial: Path, drawn: dict[str, WordFaults], before: str | None) -> None:
        nonlocal saved
        if save_faults is not None and before is not None:
            after = Checkpoint.open(partial).sha256(progress)
            bound = fault_map(drawn).bound(before=before, after=after)
            bound.save(save_faults, force=force)
            saved = bound

    try:
        bound = save_faults is not None
        drawn, changed = _write(memory, output, drawn_in, save, force=force, progress=progress, hashed=bound)
    except BaseException:
        if saved is not None and save_faults is not None:  # the map of an output that never appeared
            save_faults.unlink(missing_ok=True)
        raise
    return Injection(output, saved or fault_map(drawn), changed)


def replay(
    checkpoint: Checkpoint,
    faults: FaultMap,
    output: Path,
    *,
    memory: FileMemory | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Injection:
    """Apply a saved fault map. On the checkpoint it was drawn for it gives the corrupted one; a native map on the
    corrupted one gives every byte of the first back. A map without checksums (measured on a device) applies to any
    checkpoint of its layout. `memory` is as for `inject`.

    Raises:
        FaultError: the map belongs to another checkpoint or layout, or was drawn in another format than the native one
            and cannot be taken back, because storing in that format lost the original values.
        CheckpointError: the result is not the checkpoint that the map is bound to.
    """
    if memory is None:
        here = [name for name in faults.layout if name in checkpoint.tensors]
        places = slots(checkpoint, here, faults.format)
        memory = PlainMemory(checkpoint, places, faults.format)
    layout = {site.name: site.layout for site in memory.sites}
    missing = [name for name in faults.layout if name not in layout]
    if missing:
        problem = f"has no tensor {missing[0]!r}, which the fault map covers"
        raise FaultError(f"{checkpoint.path}: {problem}", "replay the map on the checkpoint that it was drawn for")
    faults.check_layout(layout, str(checkpoint.path))
    taking_back = False

    def look_up(region: Region) -> WordFaults:
        return faults.faults.get(region.name, NO_FAULTS)

    def prove(partial: Path, _: dict[str, WordFaults], here: str | None) -> None:
        nonlocal taking_back
        if here is not None:
            taking_back = _takes_back(memory, faults, here)
            promised, found = faults.before if taking_back else faults.after, Checkpoint.open(partial).sha256(progress)
            if found != promised:
                raise CheckpointError(
                    f"{checkpoint.path}: with the faults, its SHA-256 is {found[:12]}…, the fault map promises "
                    f"{str(promised)[:12]}…",
                    "the map was changed after it was drawn: draw it again",
                )

    bound = faults.before is not None
    _, changed = _write(memory, output, look_up, prove, force=force, progress=progress, hashed=bound)
    return Injection(output, faults, changed, restored=taking_back)


def word_shape(info: TensorInfo) -> tuple[int, ...]:
    """Return the shape of a tensor's words: its own, or flat where an element is no word of `word_format`."""
    return info.shape if info.dtype in NATIVE else (8 * info.nbytes // word_format(info.dtype).bits,)


def _takes_back(memory: FileMemory, faults: FaultMap, sha256: str) -> bool:
    """Return whether a map takes its faults back on a checkpoint of this hash, or makes them.

    Raises:
        FaultError: it does neither.
    """
    if sha256 not in (faults.before, faults.after):
        raise FaultError(
            f"{memory.checkpoint.path}: is not the checkpoint that the fault map belongs to (SHA-256 {sha256[:12]}…, "
            f"the map is for {str(faults.before)[:12]}… and {str(faults.after)[:12]}…)",
            "replay it on the checkpoint it was drawn for, or on the corrupted one",
        )
    taking_back = sha256 == faults.after != faults.before
    if taking_back and not memory.restorable:
        raise FaultError(
            f"{memory.checkpoint.path}: faults drawn in {faults.format} cannot be taken back: storing the weights in "
            "that format lost their original values",
            "use the original checkpoint",
        )
    return taking_back


def about_checkpoint(error: FormatError, checkpoint: Checkpoint, names: Sequence[str] = ()) -> FormatError:
    """Return the error of a tensor with the checkpoint's path, and with a remedy if it has none; of NaN and infinities,
    that of all tensors `names` that hold such."""
    if error.message.startswith(f"{checkpoint.path}: "):
        return error
    if isinstance(error, NonFiniteError) and names:
        error = naming_all(error, LazyTensors(checkpoint, names))
    remedy = error.remedy or "leave the tensor out with --exclude, or name a format that stores such values"
    return FormatError(f"{checkpoint.path}: {error.message}", remedy)


def _write(
    memory: FileMemory,
    output: Path,
    faults_of: Callable[[Region], WordFaults],
    check: Callable[[Path, dict[str, WordFaults], str | None], None],
    *,
    force: bool,
    progress: Progress | None,
    hashed: bool,
) -> tuple[dict[str, WordFaults], int]:
    """Stream a checkpoint to `output` with its memory under faults. `check` is called with what was written, before it
    appears, with the faults, and if `hashed` with the SHA-256 of the checkpoint as it was read; what it raises keeps
    the output from appearing.

    Returns the faults by region (those without are absent) and the number of values that read differently.
    """
    checkpoint = memory.checkpoint
    drawn: dict[str, WordFaults] = {}
    content = ContentHash(checkpoint) if hashed else None

    def change(info: TensorInfo, data: NDArray[np.uint8]) -> None:
        try:
            faults = memory.corrupt(info, data, faults_of)
        except FormatError as error:
            raise about_checkpoint(error, checkpoint, memory.names) from None
        drawn.update({name: hit for name, hit in faults.items() if len(hit.words)})

    def checked(partial: Path) -> None:
        check(partial, dict(sorted(drawn.items())), content.hexdigest() if content else None)

    edit(checkpoint, output, change, memory.names, content, force=force, progress=progress, check=checked)
    return dict(sorted(drawn.items())), memory.values_changed(drawn)


def _corrupt(
    info: TensorInfo,
    data: NDArray[np.uint8],
    format: NumberFormat,
    faults_of: Callable[[Region], WordFaults],
    rows: Channels | None,
) -> tuple[dict[str, WordFaults], int]:
    """Replace a tensor's bytes, in place, by what reads back; return its faults by region, and how many values they
    changed."""
    if format == word_format(info.dtype):  # the words lie in the file: nothing to encode
        words = words_of_bytes(data, format.bits)
        faults = faults_of(StoredTensor(info.name, word_shape(info), format, words))
        words[faults.words] ^= faults.masks.astype(words.dtype)
        return {info.name: faults}, len(faults.words)
    dtype = torch_dtype(info.dtype)
    assert dtype is not None  # it has a number format, so torch has it too
    values = torch.from_numpy(data).view(dtype).view(info.shape)
    stored = StoredTensor.write(info.name, values if rows is None else rows.rows(values), format)
    drawn = {region.name: faults_of(region) for region in stored.regions}
    touched = arranged(stored, rows, info.shape).faulty(drawn)
    if rows is None:
        stored.read(values)
    else:
        values.copy_(rows.back(stored.read(), info.shape))
    raw = container_dtype(8 * dtype.itemsize)  # torch copies by index in integers, not in 8-bit floats
    values.view(raw).view(-1).index_copy_(0, touched.index, touched.values.to(dtype).view(raw))
    return drawn, len(touched.index)
