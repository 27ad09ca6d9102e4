"""What a scaled checkpoint says of itself, and how it reads: as the weights that it was written from."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.errors import CheckpointError
from faultcli.formats import Channels, ChannelsOf
from faultcli.formats.values import row_tiles, tiles
from faultcli.protect.factors import Factors, charged, divided, integers

METADATA_KEY = "faultcli.scale"
SCHEMA = "faultcli.scale/1"


@dataclass(frozen=True)
class Scaling:
    """What a scaled checkpoint says of itself."""

    factors: Mapping[str, Tensor]  # float64 [1] or [channels]
    corrections: Mapping[str, bytes]
    original_sha256: str
    channels: ChannelsOf = field(default_factory=dict)  # that factors belong to, if not slices of the first dimension

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
            factors = {name: constants_of(factor) for name, factor in record["factors"].items()}
            corrections = {name: base64.b64decode(text) for name, text in record["corrections"].items()}
            channels = {name: Channels(*map(int, numbers)) for name, numbers in record.get("channels", {}).items()}
            scaling = cls(factors, corrections, str(record["original_sha256"]), channels)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, binascii.Error):
            raise damaged(checkpoint) from None
        for name, factor in scaling.factors.items():
            usable = factor.dim() == 1 and bool((factor > 0).all()) and bool(factor.isfinite().all())
            if name not in checkpoint.tensors or not usable:
                raise damaged(checkpoint)
            info, own = checkpoint.tensors[name], channels.get(name)
            if len(factor) not in ((1, *info.shape[:1]) if own is None else (own.count,)) or (
                own is not None and (min(own.numbers) < 1 or own.elements != info.elements)
            ):
                raise damaged(checkpoint)
        return scaling

    def charged_factors(self) -> dict[str, Factors]:
        """Return the factors that the memory of the checkpoint holds its weights with."""
        return charged({name: factor.float() for name, factor in self.factors.items()})

    def channels_among(self, found: ChannelsOf) -> ChannelsOf:
        """Return the output channels that a network has, but for tensors that are scaled channel by channel those that
        they were scaled by."""
        by_channel = {name for name, factor in self.factors.items() if len(factor) > 1}
        return {name: own for name, own in found.items() if name not in by_channel} | dict(self.channels)

    def read(self, name: str, words: Tensor, *, in_place: bool = False) -> Tensor:
        """Return what words of the file stand for: the original's weight, bit for bit, where the word is as it was
        written, and v/c, as on any device, where faults have changed it. `in_place`: in the memory of
        the words, which is contiguous."""
        if name not in self.factors or not words.numel():
            return words
        out, offsets = words if in_place else torch.empty_like(words), self.offsets(name, words)
        more = [] if offsets is None else [offsets]
        for pieces in matching_tiles(self.factors[name], self.channels.get(name), out, words, *more):
            target, source, *offset, factor = pieces
            target.copy_(divided(source, factor, *offset))
        return out

    def offsets(self, name: str, words: Tensor) -> Tensor | None:
        """Return what dividing a tensor's words does not give back, in units of the last place; None if nothing.

        Raises:
            CheckpointError: the record of it is damaged.
        """
        if name not in self.corrections:
            return None
        try:
            kind, _, packed = self.corrections[name].partition(b":")
            width = np.dtype(kind.decode())
            unpacked = zlib.decompressobj().decompress(packed, words.numel() * width.itemsize + 1)
            own = integers(words)
            values = np.frombuffer(unpacked, dtype=width).astype(f"i{own.element_size()}")
            return torch.from_numpy(values).view(own.shape)
        except (ValueError, TypeError, RuntimeError, zlib.error) as error:
            problem = f"tensor {name!r}: the record of its scaling is damaged ({error})"
            raise CheckpointError(problem, "use the original checkpoint") from None


def read_state(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Factors] | None, str]:
    """Return all tensors of a checkpoint as they read, the factors of a scaled one together with c·w as the file has it
    (None if it is not scaled), and the SHA-256 of its content: from one read."""
    scaling = Scaling.of(checkpoint)
    words, sha256 = checkpoint.state_and_sha256()
    if scaling is None:
        return words, None, sha256
    factors = {
        name: replace(known, multiplied=words[name], offsets=scaling.offsets(name, words[name]))
        for name, known in scaling.charged_factors().items()
    }
    return {name: scaling.read(name, own) for name, own in words.items()}, factors, sha256


def matching_tiles(factor: Tensor, channels: Channels | None, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching pieces of tensors of one shape, contiguous, which share their memory, and the constants that
    belong to them, in a shape that broadcasts: what is computed in float64 stays small. `channels`: those that the
    constants belong to; None: the slices of the first dimension, or the only constant to all."""
    if channels is not None:
        for views in zip(*map(channels.views, tensors), strict=True):
            which, own = views[0][0], [view for _, view in views]
            for some in row_tiles(tuple(own[0].shape)):
                yield *(view[some] for view in own), factor[which][some, None, None]
        return
    rows = [tensor.reshape(len(factor), -1) for tensor in tensors]
    for tile in tiles(*rows[0].shape):
        yield *(row[tile] for row in rows), factor[tile[0], None]


def constants_of(factor: float | list[float]) -> Tensor:
    return torch.tensor(factor if isinstance(factor, list) else [factor], dtype=torch.float64)


def damaged(checkpoint: Checkpoint) -> CheckpointError:
    return CheckpointError(f"{checkpoint.path}: the record of its scaling is damaged", "use the original checkpoint")
