"""A quantised checkpoint: which tensors make which weights, and the weights as they read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from faultcli.checkpoint.header import DTYPES, TensorInfo, torch_dtype
from faultcli.checkpoint.packed.arrays import HeldWords
from faultcli.checkpoint.packed.bits import Words
from faultcli.checkpoint.packed.files import Files
from faultcli.checkpoint.packed.numbers import Numbers, numbers_in
from faultcli.checkpoint.packed.table import CONFIG, PackedLayout, layout_of, read_object
from faultcli.checkpoint.packed.weight import PackedWeight
from faultcli.checkpoint.reader import Checkpoint
from faultcli.errors import CheckpointError
from faultcli.formats import word_format

_COMPUTED_WITH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Packed:
    """A checkpoint with quantised weights. Made by `of`, which reads no weight.

    `weights`: by the name that the model has for them. `dtype`: what its config.json says that the model computes in;
    None: nothing, so every weight is in the dtype that its library gives.
    """

    checkpoint: Checkpoint
    layout: PackedLayout
    weights: Mapping[str, PackedWeight]
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Packed | None:
        """Return what a checkpoint holds in one of the layouts of the table; None if it holds no such weight.

        Raises:
            CheckpointError: a part is missing or has another size than the others ask for, or the files beside the
                checkpoint name a version or a packing that is not read.
        """
        found = layout_of(checkpoint)
        if found is None:
            return None
        layout, config = found
        files = Files(checkpoint, config)
        weights = {weight.name: weight for weight in layout.find(files)}
        if not weights:
            return None
        packed = cls(checkpoint, layout, weights, _dtype(checkpoint))
        for info in packed.rest:
            if info.name in weights or (info.name.endswith(".weight") and _is_code(info)):
                files.wrong(info.name, f"is {info.dtype} {list(info.shape)} and has no scales in {layout.title}")
        return packed

    @cached_property
    def roles(self) -> dict[str, str]:
        """The roles of the tensors that weights are made of, by name, in the order of the file."""
        found = {tensor: role for weight in self.weights.values() for tensor, role in weight.roles.items()}
        return {name: found[name] for name in self.checkpoint.tensors if name in found}

    @cached_property
    def weight_of(self) -> dict[str, str]:
        """The weight that a tensor of the file is a part of."""
        return {tensor: weight.name for weight in self.weights.values() for tensor in weight.roles}

    @cached_property
    def block_types(self) -> dict[str, int]:
        """How many weights are stored as blocks of each type, sorted by name; empty where weights are no blocks."""
        fields = (info.field for info in self.checkpoint.tensors.values())
        types = {field.weight: field.block for field in fields if field is not None}
        return dict(sorted(Counter(types.values()).items()))

    @cached_property
    def rest(self) -> list[TensorInfo]:
        """The tensors that are no part of a quantised weight and read as they are."""
        return [
            info
            for name, info in self.checkpoint.tensors.items()
            if name not in self.roles and not name.endswith(self.layout.beside or ("\0",))
        ]

    def held(self, weight: str) -> HeldWords:
        """Read the words of a weight's tensors."""
        return HeldWords({tensor: self.words(tensor) for tensor in self.weights[weight].roles})

    def words(self, tensor: str) -> Words:
        """Read the words of a tensor of the file, flat."""
        bits = word_format(self.checkpoint.info(tensor).dtype).bits
        words: Words = self.checkpoint.read_bytes(tensor).view(f"<u{bits // 8}")
        return words

    def numbers(self, tensor: str) -> Numbers | str:
        """Return the numbers that a tensor of the file is full of; or why none of its bits carries little."""
        weight = self.weight_of.get(tensor)
        return numbers_in(self.checkpoint.info(tensor), None if weight is None else self.weights[weight])

    def decode(self, name: str) -> Tensor:
        """Return a weight as the model reads it, in `dtype`."""
        return self.weights[name].decode(self.held(name), self.dtype)

    def read(self, name: str) -> Tensor:
        """Return a weight, or a tensor of the file that is no part of one, as the model reads it."""
        if name in self.weights:
            return self.decode(name)
        return self.checkpoint.read(name).to(self.read_dtype(name))

    def read_dtype(self, name: str) -> torch.dtype | None:
        """Return the dtype that a tensor which is no part of a weight reads in: the model's, if it holds reals."""
        own = torch_dtype(self.checkpoint.info(name).dtype)
        return self.dtype if self.dtype and own in _COMPUTED_WITH.values() else own

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """What `state` has, by name: weights in the dtype of the model, or of their layout, and in no file."""
        known = {f"torch.{torch_name}": name for name, (_, torch_name) in DTYPES.items()}
        found = {}
        for name, weight in self.weights.items():
            dtype = self.dtype or weight.grid.dtype
            size = dtype.itemsize * math.prod(weight.shape)
            found[name] = TensorInfo(name, known[str(dtype)], weight.shape, self.checkpoint.path, 0, size)
        return found | {info.name: info for info in self.rest}

    def state(self) -> dict[str, Tensor]:
        """Return all weights, and the tensors that read as they are."""
        return {name: self.read(name) for name in self.infos}


def refuse_quantised(checkpoint: Checkpoint, command: str) -> None:
    """Refuse a checkpoint with quantised weights for a command that stores weights in a way of its own.

    Raises:
        CheckpointError: it has such weights, or is a GGUF file.
    """
    checkpoint.refuse_gguf(command)
    if (packed := Packed.of(checkpoint)) is not None:
        raise CheckpointError(
            f"{checkpoint.path}: is quantised ({packed.layout.title}); {command} takes weights that are stored plain",
            "take the model as it was before it was quantised",
        )


def _is_code(info: TensorInfo) -> bool:
    dtype = torch_dtype(info.dtype)
    return len(info.shape) > 1 and (dtype is None or dtype.itemsize == 1)


def _dtype(checkpoint: Checkpoint) -> torch.dtype | None:
    content = read_object(checkpoint.directory / CONFIG)
    for holder in (content, content.get("text_config")):
        for key in ("dtype", "torch_dtype"):
            if isinstance(holder, dict) and str(holder.get(key)).removeprefix("torch.") in _COMPUTED_WITH:
                return _COMPUTED_WITH[str(holder[key]).removeprefix("torch.")]
    return None
