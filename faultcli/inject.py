"""Write a corrupted copy of a checkpoint, streamed tensor by tensor; draw the faults or replay saved ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint, TensorInfo, torch_dtype
from faultcli.errors import CheckpointError, FaultError, FormatError, UsageError
from faultcli.faults.drawing import draw_one, share_out
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import NO_FAULTS, FaultMap, WordFaults
from faultcli.files import check_output
from faultcli.formats import NumberFormat
from faultcli.memory import format_for
from faultcli.protect.base import words_of_bytes
from faultcli.protect.stored import CheckRegion, StoredTensor, TensorSlot

Progress = Callable[[int], None]
Stored: TypeAlias = StoredTensor | CheckRegion  # what faults are drawn over


@dataclass(frozen=True)
class Injection:
    """What was written: the output, its faults, and how many values read differently because of them."""

    output: Path
    faults: FaultMap
    values_changed: int
    restored: bool = False  # a replay took the faults back: the output is the checkpoint as it was before them


def slots(checkpoint: Checkpoint, names: Sequence[str], format_name: str) -> list[TensorSlot]:
    """Return the places that the tensors `names` take in a memory of this format.

    Raises:
        FormatError: a tensor's dtype has no native format.
    """
    places = []
    for info in map(checkpoint.info, names):
        try:
            places.append(TensorSlot(info.name, info.shape, format_for(format_name, info.dtype)))
        except FormatError as error:
            problem = FormatError(f"tensor {info.name!r} {error.message}", error.remedy)
            raise about_checkpoint(problem, checkpoint) from None
    return places


def inject(
    checkpoint: Checkpoint,
    law: FaultLaw,
    output: Path,
    *,
    names: Sequence[str],
    format_name: str = "native",
    seed: int = 0,
    trial: int = 0,
    force: bool = False,
    save_faults: Path | None = None,
    progress: Progress | None = None,
) -> Injection:
    """Draw the faults of one trial and write the checkpoint as it reads with them.

    In the native format only the hit bits differ. In another format the selected tensors also carry the loss of being
    stored in it; the file keeps its dtypes. Peak memory is a few times the largest tensor, whatever the file's size.

    Args:
        checkpoint: the input; never changed.
        law: what the faults follow.
        output: file or directory, like the input.
        names: the tensors at risk, from `select`.
        format_name: number format of the memory.
        seed: with `trial` fixes the faults: those of the same trial of a campaign.
        trial: see `seed`.
        force: replace an existing output (and fault map).
        save_faults: where to save the fault map, bound to the checksums of input and output.
        progress: called with the bytes done since its last call.

    Raises:
        UsageError: a negative seed or trial, or one path for both outputs.
        FormatError: a value cannot be stored in the format; checkpoint and tensor are named.
        FaultError: the law does not fit the memory.
        OutputError: an output exists, is an input or cannot be written.
    """
    for name, number in (("seed", seed), ("trial", trial)):
        if number < 0:
            raise UsageError(f"--{name} {number}: a {name} is a whole number from 0", f"--{name} 0")
    if save_faults is not None and save_faults.absolute() == output.absolute():
        raise UsageError(f"{output}: the checkpoint and its fault map cannot be one file", "another --save-faults")
    places = slots(checkpoint, names, format_name)
    sites = [site for place in places for site in place.places]
    quotas = share_out(law, sites, seed=seed, trial=trial)

    def draw(region: Stored) -> WordFaults:
        return draw_one(law, region, seed=seed, trial=trial, quota=quotas.get(region.name) if quotas else None)

    if save_faults:
        kept = [*checkpoint.files, *([checkpoint.index] if checkpoint.index else [])]
        check_output(save_faults, force=force, inputs=kept)
    drawn, changed = _write(checkpoint, output, places, draw, force=force, progress=progress)
    layout = {site.name: site.layout for site in sites}
    faults = FaultMap(drawn, layout, format=format_name, fault=law.spec, seed=seed, trial=trial)
    if save_faults:
        try:
            faults = faults.bound(before=checkpoint.sha256(), after=Checkpoint.open(output).sha256())
            faults.save(save_faults, force=force)
        except BaseException:  # an output whose faults are lost is no result
            _remove(output)
            raise
    return Injection(output, faults, changed)


def replay(
    checkpoint: Checkpoint,
    faults: FaultMap,
    output: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Injection:
    """Apply a saved fault map. On the checkpoint it was drawn for it gives the corrupted one; a native map on the
    corrupted one gives every byte of the first back. A map without checksums (measured on a device) applies to any
    checkpoint of its layout.

    Raises:
        FaultError: the map belongs to another checkpoint or layout, or was drawn in another format than the native one
            and cannot be taken back, because storing in that format lost the original values.
        CheckpointError: the result is not the checkpoint that the map is bound to.
    """
    here = checkpoint.sha256() if faults.before else None
    if here is not None and here not in (faults.before, faults.after):
        raise FaultError(
            f"{checkpoint.path}: is not the checkpoint that the fault map belongs to (SHA-256 {here[:12]}…, "
            f"the map is for {str(faults.before)[:12]}… and {str(faults.after)[:12]}…)",
            "replay it on the checkpoint it was drawn for, or on the corrupted one",
        )
    places = slots(checkpoint, [name for name in faults.layout if name in checkpoint.tensors], faults.format)
    layout = {site.name: site.layout for slot in places for site in slot.places}
    missing = [name for name in faults.layout if name not in layout]
    if missing:
        raise FaultError(f"{checkpoint.path}: has no tensor {missing[0]!r}, which the fault map covers")
    faults.check_layout(layout, str(checkpoint.path))
    taking_back = here is not None and here == faults.after != faults.before
    if taking_back and any(slot.format != format_for("native", checkpoint.info(slot.name).dtype) for slot in places):
        raise FaultError(
            f"{checkpoint.path}: faults drawn in {faults.format} cannot be taken back: storing the weights in that "
            "format lost their original values",
            "use the original checkpoint",
        )

    def look_up(region: Stored) -> WordFaults:
        return faults.faults.get(region.name, NO_FAULTS)

    _, changed = _write(checkpoint, output, places, look_up, force=force, progress=progress)
    if here is not None and (expected := faults.before if taking_back else faults.after):
        result = Checkpoint.open(output).sha256()
        if result != expected:
            _remove(output)
            raise CheckpointError(f"{output}: SHA-256 is {result}, the fault map promises {expected}")
    return Injection(output, faults, changed, restored=taking_back)


def _remove(output: Path) -> None:
    """Remove what this module has just written."""
    shutil.rmtree(output) if output.is_dir() else output.unlink()


def about_checkpoint(error: FormatError, checkpoint: Checkpoint) -> FormatError:
    """Return the error of a tensor with the checkpoint's path, and with a remedy if it has none."""
    remedy = error.remedy or "leave the tensor out with --exclude, or name a format that stores such values"
    return FormatError(f"{checkpoint.path}: {error.message}", remedy)


def _write(
    checkpoint: Checkpoint,
    output: Path,
    places: Sequence[TensorSlot],
    faults_of: Callable[[Stored], WordFaults],
    *,
    force: bool,
    progress: Progress | None,
) -> tuple[dict[str, WordFaults], int]:
    """Stream the checkpoint to `output` with the tensors at `places` as they read with their faults.

    Returns the faults by region (those without are absent) and the number of values that read differently.
    """
    formats = {slot.name: slot.format for slot in places}
    drawn: dict[str, WordFaults] = {}
    changed = 0

    def change(info: TensorInfo, data: NDArray[np.uint8]) -> None:
        nonlocal changed
        try:
            faults, differing = _corrupt(info, data, formats[info.name], faults_of)
        except FormatError as error:
            raise about_checkpoint(error, checkpoint) from None
        changed += differing
        drawn.update({name: hit for name, hit in faults.items() if len(hit.words)})

    checkpoint.edit(output, change, names=list(formats), force=force, progress=progress)
    return dict(sorted(drawn.items())), changed


def _corrupt(
    info: TensorInfo,
    data: NDArray[np.uint8],
    format: NumberFormat,
    faults_of: Callable[[Stored], WordFaults],
) -> tuple[dict[str, WordFaults], int]:
    """Replace a tensor's bytes, in place, by what reads back; return its faults by region, and how many values they
    changed."""
    dtype = torch_dtype(info.dtype)
    assert dtype is not None  # it has a number format, so torch has it too
    if format == format_for("native", info.dtype):  # the words lie in the file: nothing to encode
        words = words_of_bytes(data, format.bits)
        faults = faults_of(StoredTensor(info.name, info.shape, format, words))
        words[faults.words] ^= faults.masks.astype(words.dtype)
        return {info.name: faults}, len(faults.words)
    import torch

    values = torch.from_numpy(data).view(dtype).view(info.shape)
    stored = StoredTensor.write(info.name, values, format)
    drawn = {region.name: faults_of(region) for region in stored.regions}
    touched = stored.faulty(drawn)
    flat = values.view(-1)
    flat.copy_(stored.read().view(-1))
    flat.index_copy_(0, touched.index, touched.values.to(dtype))
    return drawn, len(touched.index)
