"""What a scaled checkpoint says of itself, and how it reads: as the weights that it was written from."""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.errors import CheckpointError
from faultcli.formats import Channels, ChannelsOf
from faultcli.formats.values import tiles
from faultcli.protect.factors import Factors, charged, divided, integers

METADATA_KEY = "faultcli.scale"
SCHEMA = "faultcli.scale/1"
CHANNELS_SCHEMA = "faultcli.scale/2"  # of a file with output channels that are no slices of the first dimension


@dataclass(frozen=True)
class Scaling:
    """What a scaled checkpoint says of itself."""

    factors: Mapping[str, Tensor]  # float64 [1] or [channels]
    corrections: Mapping[str, bytes]
    original_sha256: str
    channels: ChannelsOf = field(default_factory=dict)  # of tensors with a factor for each

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
            if record["schema"] not in (SCHEMA, CHANNELS_SCHEMA):
                problem = f"is {record['schema']}, this faultcli reads {SCHEMA} and {CHANNELS_SCHEMA}"
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
            shape = checkpoint.tensors[name].shape
            own = channels.get(name, Channels.first(shape))
            if own.elements != math.prod(shape) or len(factor) not in (1, own.count, *shape[:1]):
                raise damaged(checkpoint)
        return scaling

    def charged_factors(self) -> dict[str, Factors]:
        """Return the factors that the memory of the checkpoint holds its weights with."""
        return charged({name: factor.float() for name, factor in self.factors.items()}, self.channels)

    def read(self, name: str, words: Tensor) -> Tensor:
        """Return what words of the file stand for: the original's weight, bit for bit, where the word is as it was
        written, and v/c, as on any device, where faults have changed it."""
        if name not in self.factors or not words.numel():
            return words
        out, offsets = torch.empty_like(words), self.offsets(name, words)
        tensors = [out, words, *([] if offsets is None else [offsets])]
        for pieces in matching_tiles(self.factors[name], self.channels.get(name), *tensors):
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
    """Yield matching pieces [rows, columns] of tensors of one shape, which share their memory, and the constants that
    belong to them, [1, 1], [rows, 1] or [1, columns]: what is computed in float64 stays small."""
    if channels is None or channels.in_order or len(factor) == 1:
        rows = [tensor.reshape(len(factor), -1) for tensor in tensors]
        for tile in tiles(*rows[0].shape):
            yield *(row[tile] for row in rows), factor[tile[0], None]
        return
    seen = [tensor.reshape(channels.groups, channels.outer, channels.channels * channels.inner) for tensor in tensors]
    for group, own in enumerate(factor.view(channels.groups, channels.channels)):
        columns = own.repeat_interleave(channels.inner)
        for tile in tiles(*seen[0].shape[1:]):
            yield *(tensor[group][tile] for tensor in seen), columns[None, tile[1]]


def constants_of(factor: float | list[float]) -> Tensor:
    return torch.tensor(factor if isinstance(factor, list) else [factor], dtype=torch.float64)


def damaged(checkpoint: Checkpoint) -> CheckpointError:
    return CheckpointError(f"{checkpoint.path}: the record of its scaling is damaged", "use the original checkpoint")
