"""Writing a scaled checkpoint, and undoing one: what is written is proven before it appears."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, split

from faultcli.checkpoint import Checkpoint, ContentHash, LazyTensors, TensorInfo, edit, torch_dtype
from faultcli.errors import CheckpointError, FormatError, UsageError
from faultcli.formats import ByRows, Channels, NumberFormat
from faultcli.formats.values import TILE
from faultcli.injection import slots
from faultcli.protect.arranged import to_arrange
from faultcli.protect.factor_search import TABLE_BITS, FactorSearch
from faultcli.protect.factors import LARGEST_FACTOR, divided, integers, multiplied
from faultcli.protect.scale import Scale
from faultcli.scaling.record import METADATA_KEY, SCHEMA, Scaling, constants_of, matching_tiles
from faultcli.version import __version__

_MAX_CORRECTIONS = 64 << 20  # bytes of compressed corrections that a header takes
_MOST_ROUNDED = (
    64 << 20
)  # weights that factors may round; of more, corrections would not fit, so powers of two are used

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ScaledTensor:
    """One tensor of a scaled checkpoint. Errors are predicted expected squared errors of a weight, relative to the mean
    square of the tensor's weights, for one bit-error rate and number format."""

    name: str
    factor: float | list[float]  # per tensor, or per output channel
    best_factor: float  # of least predicted error, per tensor
    asked: float
    one: float
    best: float
    corrections: int  # values that dividing by the factor alone does not give back exactly


def scale_checkpoint(
    checkpoint: Checkpoint,
    scale: Scale,
    output: Path,
    *,
    names: Sequence[str],
    format_name: str,
    ber: float,
    force: bool = False,
    progress: Progress | None = None,
) -> list[ScaledTensor]:
    """Write a checkpoint with the tensors `names` multiplied by their factors.

    Args:
        checkpoint: the input; never changed. Factors per channel belong to its `channels`.
        scale: which factors. Beyond 64 million weights those that are chosen are rounded down to powers of two.
        output: file or directory, like the input.
        names: the tensors to scale, from `select`.
        format_name: number format of the memory that the factors and predictions are for.
        ber: its bit-error rate.
        force: replace an existing output.
        progress: called with the bytes done since its last call; they add up to twice the checkpoint's: to find the
            factors and the checksum, which lie in front of the weights, and to write.

    Raises:
        CheckpointError: the checkpoint is scaled already.
        UsageError: a factor makes finite weights overflow; says how many, and the largest power of two that works. Or
            what rounding loses does not fit into the header, which is said before any work is done. Or undoing what was
            written does not give every weight back, which is tried before it appears.
        FormatError: weights that the format cannot store, or that no factor makes fit.

    Peak memory is a few times the largest tensor, whatever the file's size.
    """
    names = [name for name in names if checkpoint.info(name).elements]
    formats = {slot.name: slot.format for slot in slots(checkpoint, names, format_name, numbers=True)}
    rounds = _may_round(checkpoint, names, scale)
    rows_of = to_arrange(checkpoint.channels, formats, lambda name: [scale])
    per_channel = {name: own for name, own in rows_of.items() if scale.by_row}
    common = None
    if scale.granularity == "model" and names:
        common = _chosen(scale, ByRows(LazyTensors(checkpoint, names), rows_of), formats, ber, rounds=rounds)
    rows: list[ScaledTensor] = []
    factors: dict[str, float | list[float]] = {}
    corrections: dict[str, bytes] = {}
    room = _MAX_CORRECTIONS
    content = ContentHash(checkpoint)

    def look(name: str, info: TensorInfo) -> None:  # a function, so that nothing of the last tensor is kept
        nonlocal room
        data = checkpoint.read_bytes(name)
        content.update(info.file, data)
        if progress is not None:
            progress(info.nbytes)
        if name not in formats:
            return
        weights = _view(info, data)
        in_rows = ByRows({name: weights}, rows_of)
        chosen = _chosen(scale, in_rows, formats, ber, rounds=rounds) if common is None else common
        factor = chosen.double()
        record, corrected = None, 0
        if not _is_exact(weights, factor):
            own = per_channel.get(name)
            record, corrected = _corrections(checkpoint, names, info, weights, factor, own, room)
        if record:
            corrections[name] = record
            room -= len(record)
        search = _search(name, in_rows[name], formats[name], ber, per_channel=len(factor) > 1)
        rows.append(_row(search, factor, float(chosen) if scale == Scale("auto") and rounds else None, corrected))
        factors[name] = rows[-1].factor

    for name, info in checkpoint.tensors.items():
        look(name, info)
    summary = {
        "schema": SCHEMA,
        "version": __version__,
        "original_sha256": content.hexdigest(),
        "factors": factors,
        "corrections": {name: base64.b64encode(data).decode() for name, data in corrections.items()},
        **({"channels": {name: own.numbers for name, own in per_channel.items()}} if per_channel else {}),
    }
    originals: dict[str, bytes] = {}  # hashes of weights, so that they are not read again to be compared

    def multiply(info: TensorInfo, data: NDArray[np.uint8]) -> None:
        originals[info.name] = hashlib.blake2b(data.data).digest()
        values = _view(info, data)
        for tile, factor in matching_tiles(constants_of(factors[info.name]), per_channel.get(info.name), values):
            tile.copy_(multiplied(tile, factor))

    def prove(partial: Path) -> None:
        name = _not_undone(Checkpoint.open(partial), originals)
        if name is not None:
            problem = f"{checkpoint.path}: tensor {name!r}: scaling by {factors[name]} cannot be undone"
            raise UsageError(problem, "a power of two loses nothing: --factor 4")

    metadata = {**checkpoint.metadata, METADATA_KEY: json.dumps(summary, sort_keys=True)}
    edit(checkpoint, output, multiply, names, metadata=metadata, force=force, progress=progress, check=prove)
    return rows


def _chosen(
    scale: Scale, tensors: Mapping[str, Tensor], formats: Mapping[str, NumberFormat], ber: float, *, rounds: bool
) -> Tensor:
    """Return the factors of a tensor, or the one of all; unless they may round, they are rounded down to powers of
    two."""
    chosen = next(iter(scale.for_tensors(tensors, formats.__getitem__, ber=ber).values())).values
    return chosen if rounds else torch.exp2(chosen.log2().floor())


def _not_undone(written: Checkpoint, originals: Mapping[str, bytes]) -> str | None:
    """Return the first tensor of a scaled checkpoint that does not read as the weights of this hash; None if all do."""
    scaling = Scaling.of(written)
    assert scaling is not None
    for name, original in originals.items():
        back = scaling.read(name, written.read(name), in_place=True).view(-1).view(torch.uint8)
        if hashlib.blake2b(back.numpy().data).digest() != original:
            return name
    return None


def _may_round(checkpoint: Checkpoint, names: Sequence[str], scale: Scale) -> bool:
    """Return whether there is room for what factors lose that are no powers of two.

    Raises:
        CheckpointError, FormatError, UsageError: the checkpoint, a tensor, or the factor for so many weights cannot be.
    """
    if METADATA_KEY in checkpoint.metadata:
        raise CheckpointError(f"{checkpoint.path}: is scaled already", "undo that first: faultcli scale MODEL --undo")
    for name in names:
        _check_scalable(checkpoint.info(name))
    rounds = sum(checkpoint.info(name).elements for name in names) <= _MOST_ROUNDED
    if not rounds and not isinstance(scale.factor, str) and not _is_power_of_two(torch.tensor([scale.factor])):
        near = 2.0 ** round(math.log2(scale.factor))
        raise UsageError(
            f"{checkpoint.path}: a factor of {scale.factor:g} rounds, and what rounding loses of so many weights takes"
            " too much room",
            f"a power of two loses nothing: --factor {near:g}",
        )
    return rounds


def _search(name: str, weights: Tensor, format: NumberFormat, ber: float, *, per_channel: bool) -> FactorSearch:
    return FactorSearch(name, weights, format, (), ber, per_channel=per_channel, sample_bits=TABLE_BITS)


def _row(search: FactorSearch, factor: Tensor, best: float | None, corrected: int) -> ScaledTensor:
    """Return what is said of a tensor; `best` is the best factor if it is known."""
    best = search.best_factor() if best is None else best
    listed = factor.tolist()
    asked, one, least = (search.error(values) for values in (factor.float(), torch.ones(1), torch.tensor([best])))
    return ScaledTensor(search.name, listed if len(listed) > 1 else listed[0], best, asked, one, least, corrected)


def _is_power_of_two(factor: Tensor) -> bool:
    return bool((torch.frexp(factor.double()).mantissa == 0.5).all())


def _is_exact(weights: Tensor, factor: Tensor) -> bool:
    """Whether multiplying loses nothing: powers of two, and no value that overflows or comes near underflowing."""
    if not _is_power_of_two(factor):
        return False
    about = torch.finfo(weights.dtype)
    low, high = float(factor.min()), float(factor.max())
    magnitude = (1 << 8 * weights.element_size() - 1) - 1
    for tile in split(integers(weights).reshape(-1), TILE):
        bits = tile & magnitude  # of floats, these are in the order of their magnitudes
        least, most = bits.masked_fill(bits == 0, magnitude).min(), bits.max()
        smallest, largest = (float(one.view(weights.dtype)) for one in (least.reshape(1), most.reshape(1)))
        if not bool(bits.any()):
            continue
        if not (largest * max(high, 1.0) <= about.max and smallest * min(low, 1.0) >= about.tiny):
            return False
    return True


def unscale_checkpoint(
    checkpoint: Checkpoint, output: Path, *, force: bool = False, progress: Progress | None = None
) -> str:
    """Write the original of a scaled checkpoint, byte for byte, and return its SHA-256, which has been checked.

    Raises:
        CheckpointError: the checkpoint is not scaled, or was changed since; then there is no output.
    """
    scaling = Scaling.of(checkpoint)
    if scaling is None:
        raise CheckpointError(
            f"{checkpoint.path}: is not scaled, there is nothing to undo",
            f"it is as it was trained: use it as it is, or scale it: faultcli scale {checkpoint.path} --factor max",
        )

    def divide(info: TensorInfo, data: NDArray[np.uint8]) -> None:
        scaling.read(info.name, _view(info, data), in_place=True)

    def proven(partial: Path) -> None:
        found = Checkpoint.open(partial).sha256(progress)
        if found != scaling.original_sha256:
            raise CheckpointError(
                f"{checkpoint.path}: undoing the scaling gives SHA-256 {found[:12]}…, the original had "
                f"{scaling.original_sha256[:12]}…: the file was changed after it was scaled",
                "use the original checkpoint",
            )

    names = list(scaling.factors)
    edit(checkpoint, output, divide, names, restore_header=True, force=force, progress=progress, check=proven)
    return scaling.original_sha256


def _corrections(
    checkpoint: Checkpoint,
    names: Sequence[str],
    info: TensorInfo,
    weights: Tensor,
    factor: Tensor,
    channels: Channels | None,
    room: int,
) -> tuple[bytes | None, int]:
    """Return the record, of `room` bytes at the most, of what dividing does not give back, and how many values it
    concerns."""
    largest = torch.finfo(weights.dtype).max
    offsets = torch.empty(weights.shape, dtype=integers(weights).dtype)
    overflowing, wrong = 0, 0
    for target, tile, constant in matching_tiles(factor, channels, offsets, weights):
        wide = tile.double()
        overflowing += int(((wide.where(wide.isfinite(), 0.0) * constant).abs() > largest).sum())
        # Modulo 2^bits, so that it undoes anything, NaN included.
        target.copy_(integers(tile) - integers(divided(multiplied(tile, constant), constant)))
        wrong += int(target.count_nonzero())
    if overflowing:
        raise UsageError(
            f"{checkpoint.path}: tensor {info.name!r}: {overflowing} values overflow {info.dtype} when multiplied by "
            f"{float(factor.max()):g}",
            f"the largest power of two that works is {_largest_that_works(checkpoint, names):g}",
        )
    return (_pack(checkpoint, offsets.view(-1), room), wrong) if wrong else (None, 0)


def _largest_that_works(checkpoint: Checkpoint, names: Sequence[str]) -> float:
    """Return the largest power of two with which no tensor overflows."""
    works = math.log2(LARGEST_FACTOR)
    for weights in map(checkpoint.read, names):
        peak = max((float(t[t.isfinite()].abs().max()) for t in split(weights.double().reshape(-1), TILE)
                    if bool(t.isfinite().any())), default=0.0)  # fmt: skip
        if peak:
            works = min(works, math.floor(math.log2(torch.finfo(weights.dtype).max) - math.log2(peak)))
    return float(2.0**works)


def _pack(checkpoint: Checkpoint, offsets: Tensor, room: int) -> bytes:
    """Return offsets, in the narrowest dtype that holds them, compressed."""
    low, high = map(int, offsets.aminmax())
    names = ("int8", "int16", "int32", "int64")
    name = next(name for name in names if np.iinfo(name).min <= low and high <= np.iinfo(name).max)
    packer, packed = zlib.compressobj(6), bytearray(name.encode() + b":")
    for chunk in split(offsets, TILE):
        packed += packer.compress(chunk.numpy().astype(name).tobytes())
        if len(packed) > room:
            raise UsageError(
                f"{checkpoint.path}: what rounding loses under these factors does not fit into the header",
                "use a power of two, which loses nothing: try --factor 4",
            )
    return bytes(packed + packer.flush())


def _check_scalable(info: TensorInfo) -> None:
    dtype = torch_dtype(info.dtype)
    if dtype is None or not dtype.is_floating_point:
        raise FormatError(f"tensor {info.name!r} has dtype {info.dtype}, which cannot be scaled", "leave it out")


def _view(info: TensorInfo, data: NDArray[np.uint8]) -> Tensor:
    _check_scalable(info)
    dtype = torch_dtype(info.dtype)
    assert dtype is not None
    return torch.from_numpy(data).view(dtype).view(info.shape)
