"""Scaled checkpoints: a file with c·w in place of w, its constants in the metadata, undone to the last byte.

Multiplying by a power of two is exact; by any other factor, c·w and the quotient are rounded, and the quotient may come
out next to w. So what is left over, w minus the quotient in units of the last place, is kept compressed in the
metadata, where only `--undo` needs it: a device that divides by c is off by a unit in the last place at the most, or
has lost what c·w rounded to zero. A factor with which c·w would overflow is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli import __version__
from faultcli.checkpoint import Checkpoint, TensorInfo, torch_dtype
from faultcli.errors import CheckpointError, FormatError, UsageError
from faultcli.memory import format_for
from faultcli.protect.base import per_element
from faultcli.protect.chain import Chain
from faultcli.protect.factors import FactorSearch, choose_factors
from faultcli.protect.scale import Factors, Scale

METADATA_KEY = "faultcli.scale"
SCHEMA = "faultcli.scale/1"
_MAX_CORRECTIONS = 64 << 20  # bytes of compressed corrections that a header takes

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


@dataclass(frozen=True)
class Scaling:
    """What a scaled checkpoint says of itself."""

    factors: Mapping[str, Tensor]  # float64 [1] or [channels]
    corrections: Mapping[str, bytes]
    original_sha256: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Scaling | None:
        """Return a checkpoint's scaling; None if it is not scaled.

        Raises:
            CheckpointError: the record in its metadata is damaged or of another version.
        """
        text = checkpoint.metadata.get(METADATA_KEY)
        if text is None:
            return None
        try:
            record = json.loads(text)
            if record["schema"] != SCHEMA:
                problem = f"is {record['schema']}, this faultcli reads {SCHEMA}"
                raise CheckpointError(f"{checkpoint.path}: {problem}", "use the faultcli that scaled it")
            factors = {name: _constants(factor) for name, factor in record["factors"].items()}
            corrections = {name: base64.b64decode(text) for name, text in record["corrections"].items()}
            scaling = cls(factors, corrections, str(record["original_sha256"]))
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
            raise _damaged(checkpoint) from None
        for name, factor in scaling.factors.items():
            usable = name in checkpoint.tensors and bool((factor > 0).all()) and bool(factor.isfinite().all())
            if not usable or len(factor) not in (1, *checkpoint.tensors[name].shape[:1]):
                raise _damaged(checkpoint)
        return scaling

    def restore(self, name: str, stored: Tensor) -> Tensor:
        """Return the original tensor, bit for bit, of a scaled one."""
        if name not in self.factors:
            return stored
        divided = _divide(stored, self.factors[name])
        if name not in self.corrections:
            return divided
        try:
            kind, _, packed = self.corrections[name].partition(b":")
            offsets = np.frombuffer(zlib.decompress(packed), dtype=np.dtype(kind.decode()))
            bits = _bits(divided)
            restored = bits + offsets.astype(bits.dtype).reshape(bits.shape)
        except (ValueError, TypeError, zlib.error) as error:
            problem = f"tensor {name!r}: the record of its scaling is damaged ({error})"
            raise CheckpointError(problem, "use the original checkpoint") from None
        return torch.from_numpy(restored.view(np.uint8)).view(stored.dtype).view(stored.shape)


def read_weights(checkpoint: Checkpoint) -> tuple[Callable[[str], Tensor], dict[str, Factors] | None]:
    """Return how to read the weights of a checkpoint, scaled or not, and the factors that its memory holds them with
    (None if it is not scaled)."""
    scaling = Scaling.of(checkpoint)
    if scaling is None:
        return checkpoint.read, None
    factors = {name: Factors(factor.float(), 16 * len(factor)) for name, factor in scaling.factors.items()}
    return lambda name: scaling.restore(name, checkpoint.read(name)), factors


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
        checkpoint: the input; never changed.
        scale: which factors.
        output: file or directory, like the input.
        names: the tensors to scale, from `select`.
        format_name: number format of the memory that the factors and predictions are for.
        ber: its bit-error rate.
        force: replace an existing output.
        progress: called with the bytes done since its last call; they add up to twice the checkpoint's.

    Raises:
        CheckpointError: the checkpoint is scaled already.
        UsageError: a factor makes finite weights overflow; says how many, and the largest power of two that works.
        FormatError: weights that the format cannot store, or that no factor makes fit.
    """
    if METADATA_KEY in checkpoint.metadata:
        raise CheckpointError(f"{checkpoint.path}: is scaled already", "undo that first: faultcli scale MODEL --undo")
    common = _common_factor(checkpoint, scale, names, format_name, ber)
    rows, factors, corrections = [], {}, {}
    for name in names:
        info, weights = checkpoint.info(name), checkpoint.read(name)
        format = format_for(format_name, info.dtype)
        chosen = common
        if chosen is None:
            chosen = choose_factors({name: weights}, {name: format}.__getitem__, Chain(scale), ber)[name].values
        factor = chosen.double()
        record, corrected = _corrections(checkpoint, info, weights, factor)
        if record:
            corrections[name] = record
        search = FactorSearch(name, weights, format, Chain(), ber)
        best = float(chosen) if scale == Scale("auto") else search.best_factor()
        listed = factor.tolist()
        factors[name] = listed if len(listed) > 1 else listed[0]
        rows.append(
            ScaledTensor(
                name,
                factors[name],
                best,
                search.error(factor.float()),
                search.error(torch.ones(1)),
                search.error(torch.tensor([best])),
                corrected,
            )
        )
        if progress is not None:
            progress(info.nbytes)
    if sum(map(len, corrections.values())) > _MAX_CORRECTIONS:
        raise UsageError(
            f"{checkpoint.path}: what rounding loses under these factors does not fit into the header",
            "use a power of two, which loses nothing: try --factor 4",
        )
    summary = {
        "schema": SCHEMA,
        "version": __version__,
        "original_sha256": checkpoint.sha256(),
        "factors": factors,
        "corrections": {name: base64.b64encode(data).decode() for name, data in corrections.items()},
    }
    constants = {name: _constants(factor) for name, factor in factors.items()}

    def multiply(info: TensorInfo, data: NDArray[np.uint8]) -> None:
        values = _view(info, data)
        values.copy_(_multiply(values, constants[info.name]))

    metadata = {**checkpoint.metadata, METADATA_KEY: json.dumps(summary, sort_keys=True)}
    checkpoint.edit(output, multiply, names=list(names), metadata=metadata, force=force, progress=progress)
    return rows


def unscale_checkpoint(
    checkpoint: Checkpoint, output: Path, *, force: bool = False, progress: Progress | None = None
) -> str:
    """Write the original of a scaled checkpoint, byte for byte, and return its SHA-256, which has been checked.

    Raises:
        CheckpointError: the checkpoint is not scaled, or was changed since; then there is no output.
    """
    scaling = Scaling.of(checkpoint)
    if scaling is None:
        raise CheckpointError(f"{checkpoint.path}: is not scaled, there is nothing to undo")

    def divide(info: TensorInfo, data: NDArray[np.uint8]) -> None:
        values = _view(info, data)
        values.copy_(scaling.restore(info.name, values.clone()))

    def proven(partial: Path) -> None:
        found = Checkpoint.open(partial).sha256()
        if found != scaling.original_sha256:
            raise CheckpointError(
                f"{checkpoint.path}: undoing the scaling gives SHA-256 {found[:12]}…, the original had "
                f"{scaling.original_sha256[:12]}…: the file was changed after it was scaled",
                "use the original checkpoint",
            )

    checkpoint.edit(
        output, divide, names=list(scaling.factors), restore_header=True, force=force, progress=progress, check=proven
    )
    return scaling.original_sha256


def _common_factor(
    checkpoint: Checkpoint, scale: Scale, names: Sequence[str], format_name: str, ber: float
) -> Tensor | None:
    """Return the one factor of the model, if it has one; needs all its tensors at once."""
    if scale.granularity != "model" or not isinstance(scale.factor, str):
        return None
    tensors = {name: checkpoint.read(name) for name in names}

    def format_of(name: str) -> Any:
        return format_for(format_name, checkpoint.info(name).dtype)

    return next(iter(choose_factors(tensors, format_of, Chain(scale), ber).values())).values


def _corrections(checkpoint: Checkpoint, info: TensorInfo, weights: Tensor, factor: Tensor) -> tuple[bytes | None, int]:
    """Return the record of what dividing does not give back, and how many values it concerns."""
    finite = weights.double().isfinite()
    scaled = _multiply(weights, factor)
    overflowing = int((finite & ~_fits(weights, factor)).sum())
    if overflowing:
        peak = float(weights.double()[finite].abs().max())
        works = 2.0 ** math.floor(math.log2(torch.finfo(weights.dtype).max / peak))
        raise UsageError(
            f"{checkpoint.path}: tensor {info.name!r}: {overflowing} values overflow {info.dtype} when multiplied by "
            f"{float(factor.max()):g}",
            f"the largest power of two that works is {works:g}",
        )
    offsets = _bits(weights) - _bits(_divide(scaled, factor))  # modulo 2^bits, so it undoes anything, NaN included
    wrong = int(np.count_nonzero(offsets))
    if not wrong:
        return None, 0
    for dtype in ("int8", "int16", "int32", "int64"):
        narrow = offsets.astype(dtype)
        if np.array_equal(narrow.astype(offsets.dtype), offsets):
            return dtype.encode() + b":" + zlib.compress(narrow.tobytes(), 6), wrong
    raise AssertionError("int64 holds everything")


def _fits(weights: Tensor, factor: Tensor) -> Tensor:
    wide = weights.double()
    return (wide * per_element(factor, wide, tuple(wide.shape), None)).abs() <= torch.finfo(weights.dtype).max


def _multiply(weights: Tensor, factor: Tensor) -> Tensor:
    """Return c·w in the dtype of w, rounded once from float64."""
    wide = weights.double()
    return _narrow(wide * per_element(factor, wide, tuple(wide.shape), None), weights)


def _divide(stored: Tensor, factor: Tensor) -> Tensor:
    """Return v/c in the dtype of v, rounded once from float64."""
    wide = stored.double()
    return _narrow(wide / per_element(factor, wide, tuple(wide.shape), None), stored)


def _narrow(wide: Tensor, like: Tensor) -> Tensor:
    if like.dtype in (torch.float32, torch.float64):
        return wide.to(like.dtype)
    return wide.float().to(like.dtype)  # by way of float32, as numpy and everybody else do it


def _bits(values: Tensor) -> NDArray[Any]:
    unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[values.element_size()]
    return values.contiguous().view(-1).view(torch.uint8).numpy().view(unsigned)


def _view(info: TensorInfo, data: NDArray[np.uint8]) -> Tensor:
    dtype = torch_dtype(info.dtype)
    if dtype is None or not dtype.is_floating_point:
        raise FormatError(f"tensor {info.name!r} has dtype {info.dtype}, which cannot be scaled", "leave it out")
    return torch.from_numpy(data).view(dtype).view(info.shape)


def _constants(factor: float | list[float]) -> Tensor:
    return torch.tensor(factor if isinstance(factor, list) else [factor], dtype=torch.float64)


def _damaged(checkpoint: Checkpoint) -> CheckpointError:
    return CheckpointError(f"{checkpoint.path}: the record of its scaling is damaged", "use the original checkpoint")
