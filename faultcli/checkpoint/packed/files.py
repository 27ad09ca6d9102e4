"""What a layout looks at: the tensors of a checkpoint, without their values, and what the files beside it say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch

from faultcli.checkpoint.header import TensorInfo, torch_dtype
from faultcli.checkpoint.packed.arrays import SCALES, ZEROS, StoredNumbers
from faultcli.checkpoint.packed.bits import BitPacking
from faultcli.checkpoint.packed.spread import Blocks
from faultcli.checkpoint.packed.weight import Operand
from faultcli.checkpoint.reader import Checkpoint
from faultcli.errors import CheckpointError

_FETCH = "fetch or export the checkpoint again, or take the model as it was before it was quantised"
_OTHER = "take the model as it was before it was quantised, or one in a layout of the table in docs/quantised.md"
REALS = ("F16", "BF16", "F32")
WORDS = {"U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "F32": 32}


@dataclass(frozen=True)
class Files:
    """A checkpoint, and the `quantization_config` that describes it; empty where nothing does."""

    checkpoint: Checkpoint
    config: Mapping[str, Any]

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """All tensors, by name."""
        return self.checkpoint.tensors

    def ending(self, suffix: str) -> Iterator[str]:
        """Yield the names that end so, without the ending."""
        return (name.removesuffix(suffix) for name in self.infos if name.endswith(suffix))

    def need(self, name: str, of: str) -> TensorInfo:
        """Return a tensor without which `of` cannot be read. CheckpointError if there is none."""
        if name not in self.infos:
            raise CheckpointError(f"{self.checkpoint.path}: {of!r} is quantised, but its {name!r} is missing", _FETCH)
        if 0 in self.infos[name].shape:
            self.wrong(name, f"holds nothing of {of!r}")
        return self.infos[name]

    def wrong(self, name: str, problem: str) -> NoReturn:
        """Refuse a tensor that does not fit the others."""
        raise CheckpointError(f"{self.checkpoint.path}: tensor {name!r} {problem}", _FETCH)

    def unknown(self, what: str) -> NoReturn:
        """Refuse a layout, version or packing that this faultcli does not read."""
        raise CheckpointError(f"{self.checkpoint.path}: {what}", _OTHER)

    def number(self, *keys: str) -> int | None:
        """Return a whole number that the configuration says under the first of these keys; None if it says none."""
        for key in keys:
            value = self.config.get(key)
            if value is not None:
                if type(value) is not int:
                    self.unknown(f"quantization_config says {key} = {value!r}, which is no whole number")
                return value
        return None

    @cached_property
    def uniform(self) -> bool:
        """Whether the configuration speaks of all weights alike, with no exceptions for some."""
        return not self.config.get("dynamic") and not self.config.get("extra_config")

    def array(self, name: str, of: str, role: str, shape: Sequence[int]) -> StoredNumbers:
        """Return the values of a tensor that has to have a shape, as rows of the last dimension."""
        info = self.need(name, of)
        dtype = torch_dtype(info.dtype)
        if tuple(info.shape) != tuple(shape):
            self.wrong(name, f"is {list(info.shape)}; {of!r} needs {list(shape)}")
        if dtype is None or dtype.is_complex or dtype == torch.bool:
            self.wrong(name, f"is {info.dtype}, which holds no such numbers")
        cols = shape[-1] if shape else 1
        return StoredNumbers(name, role, math.prod(shape[:-1]), cols, dtype)

    def floats(self, name: str, of: str, role: str, shape: Sequence[int]) -> StoredNumbers:
        """As `array`, of real numbers of 16 or 32 bits."""
        self.check_dtype(name, of, REALS)
        return self.array(name, of, role, shape)

    def check_dtype(self, name: str, of: str, dtypes: Sequence[str]) -> None:
        """Refuse a tensor of another dtype than these."""
        if self.need(name, of).dtype not in dtypes:
            self.wrong(name, f"is {self.infos[name].dtype}; for {of!r} it has to be {' or '.join(dtypes)}")

    def codes(
        self, name: str, role: str, rows: int, cols: int, packing: BitPacking, *, down: bool = False
    ) -> StoredNumbers:
        """Return the codes [rows, cols] that are packed into a tensor, along rows that are as long as they need."""
        info = self.infos[name]
        words = packing.words_for(rows if down else cols)
        wanted = words * (cols if down else rows)
        if info.dtype not in WORDS or WORDS[info.dtype] != packing.word_bits or math.prod(info.shape) != wanted:
            size = f"{rows}×{cols} codes of {packing.bits} bits"
            self.wrong(name, f"is {info.dtype} {list(info.shape)}, which does not hold {size}")
        return StoredNumbers(name, role, rows, cols, torch.uint8, packing, down)

    def scales(
        self, name: str, of: str, grid: tuple[int, int], dtypes: Sequence[str] = REALS, *, block: Sequence[int] = ()
    ) -> Operand:
        """Return scales of a grid [rows, cols]: one for all, one a row, one a group or one a block, by the shape
        of their tensor. `block`: of a block, where the last ones may be smaller.

        A scale for each matrix of a stack [matrices, …] is one for its rows.
        """
        return self._met(name, of, grid, SCALES, dtypes, block)

    def zeros(self, name: str, of: str, grid: tuple[int, int], *, block: Sequence[int] = ()) -> Operand:
        """Return zero points, one for each scale; as `scales`."""
        return self._met(name, of, grid, ZEROS, (*REALS, "I8", "U8", "I16", "I32", "F8_E4M3"), block)

    def _met(
        self, name: str, of: str, grid: tuple[int, int], role: str, dtypes: Sequence[str], block: Sequence[int]
    ) -> Operand:
        self.check_dtype(name, of, dtypes)
        shape, (rows, cols) = self.infos[name].shape, grid
        count, last = math.prod(shape), shape[-1] if shape else 1
        down = count // last
        if count == 1:
            spread = Blocks(rows, cols, rows, cols)
        elif last == 1 or len(shape) == 1:
            if rows % count:
                self.wrong(name, f"is {list(shape)}; {of!r} has {rows} rows")
            spread = Blocks(rows, cols, rows // count, cols)
        elif block and (-(-rows // block[0]), -(-cols // block[1])) == (down, last):
            spread = Blocks(rows, cols, block[0], block[1])
        elif cols % last or rows % down:
            self.wrong(name, f"is {list(shape)}, which does not divide the {rows}×{cols} values of {of!r}")
        else:
            spread = Blocks(rows, cols, rows // down, cols // last)
        dtype = torch_dtype(self.infos[name].dtype)
        assert dtype is not None
        return Operand(StoredNumbers(name, role, *spread.shape, dtype), spread)

    def check_group(self, name: str, cols: int, groups: int, size: int | None, *, exact: bool = True) -> None:
        """Refuse a group size that does not divide the columns, or that makes other groups than the file has."""
        if size is None or not self.uniform:
            return
        size = cols if size == -1 else size
        if size < 1 or (exact and cols % size):
            self.wrong(name, f"has {cols} columns, which groups of {size} do not divide")
        if -(-cols // size) != groups:
            self.wrong(name, f"has {cols} columns; groups of {size} make {-(-cols // size)}, the file has {groups}")


def elementwise(rows: int, cols: int, *, across: bool = False) -> Blocks:
    """Return the spread of an array that has a number for every element, as the grid lies or across it."""
    return Blocks(rows, cols, across=across)
