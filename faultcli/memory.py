"""The checkpoint as it lies in the memory: encoded once, read back only where a fault map touches it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint import DTYPES
from faultcli.errors import FormatError
from faultcli.faults.laws import FaultLaw, draw_faults
from faultcli.faults.maps import FaultMap, Layout, WordFaults
from faultcli.formats import NumberFormat, bit_positions, native_format, parse_format

Words = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]

_UNSIGNED = {torch.uint8: np.uint8, torch.int16: np.uint16, torch.int32: np.uint32, torch.int64: np.uint64}
_SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32, np.dtype(np.uint64): np.int64}


def words_of(codes: Tensor) -> Words:
    """Return codes as flat unsigned words that share their memory: the view in which bits are flipped."""
    return codes.reshape(-1).numpy().view(_UNSIGNED[codes.dtype])


def words_of_bytes(data: NDArray[np.uint8], bits: int) -> Words:
    """Return a tensor's little-endian bytes as unsigned words of 8, 16, 32 or 64 bits that share their memory."""
    return data.view(f"<u{bits // 8}")


def codes_of(words: Words) -> Tensor:
    """Return unsigned words as the codes that `NumberFormat.decode` takes, sharing their memory."""
    return torch.from_numpy(words.view(_SIGNED.get(words.dtype, words.dtype)))


@dataclass(frozen=True)
class TensorSlot:
    """The place of one tensor in the memory, whatever it holds: enough to say which bits are at risk."""

    name: str
    shape: tuple[int, ...]
    format: NumberFormat

    @property
    def layout(self) -> Layout:
        return Layout(math.prod(self.shape), self.format.bits)

    @property
    def holds_values(self) -> bool:
        return True

    def positions(self, bits: str) -> tuple[int, ...]:
        return bit_positions(self.format, bits)


@dataclass(frozen=True)
class StoredTensor(TensorSlot):
    """One tensor in the memory: its words, and how they are read. The data region that fault laws draw over.

    `words`: unsigned, one per element in row-major order.
    """

    words: Words

    @classmethod
    def write(cls, name: str, values: Tensor, format: NumberFormat) -> StoredTensor:
        """Encode a tensor.

        Raises:
            FormatError: names the tensor and how many values the format cannot store.
        """
        try:
            fitted = format.fitted(values)
            return cls(name, tuple(values.shape), fitted, words_of(fitted.encode(values)))
        except FormatError as error:
            raise FormatError(f"tensor {name!r} {error.message}", error.remedy) from None

    def codes(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        return self.words[words].astype(np.uint64)

    def encode_zero(self) -> int:
        zeros = torch.zeros(self.shape if self.format.side_bits else 1)
        return int(words_of(self.format.encode(zeros))[0])

    def encode_noisy(self, noise: NDArray[np.float64]) -> NDArray[np.uint64]:
        noisy = self.read().double() + torch.from_numpy(noise).view(self.shape)
        return words_of(self.format.encode(noisy)).astype(np.uint64)

    def read(self) -> Tensor:
        """Return the whole tensor as read back without faults, in the format's value dtype.

        It may share its memory with the image (fp32 is stored as it is), so it is for reading and copying only.
        """
        return self.format.decode(codes_of(self.words).view(self.shape))

    def faulty_words(self, faults: WordFaults) -> Words:
        """Return the touched words after the faults, in the order of `faults.words`."""
        words: Words = self.words[faults.words] ^ faults.masks.astype(self.words.dtype)
        return words

    def patch(self, faults: WordFaults) -> PatchedElements:
        """Return the elements whose value differs once the faults are there (bit for bit: −0 is not 0)."""
        index = torch.from_numpy(faults.words)
        old = self.format.decode(codes_of(self.words[faults.words]), index)
        new = self.format.decode(codes_of(self.faulty_words(faults)), index)
        differs = words_of(_bit_view(old)) != words_of(_bit_view(new))
        if not differs.all():
            kept = torch.from_numpy(differs)
            index, new = index[kept], new[kept]
        return PatchedElements(index, new)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bit_view(values: Tensor) -> Tensor:
    return values.view(_INTEGERS[values.element_size()])


@dataclass(frozen=True)
class PatchedElements:
    """`index`: int64 [n], ascending flat positions in the tensor. `values`: [n], what reads there now."""

    index: Tensor
    values: Tensor


@dataclass(frozen=True)
class Patch:
    """What a fault map does to the values of a model: sparse, applied in place, undone in place."""

    elements: Mapping[str, PatchedElements]  # by tensor name; untouched tensors are absent

    @property
    def values_changed(self) -> int:
        """Number of elements that read another value."""
        return sum(len(e.index) for e in self.elements.values())

    @contextmanager
    def applied(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold the faulty values in `state` (live tensors by checkpoint name) for the length of a `with` block.

        Costs O(touched) time and memory. What was there before comes back bit for bit, also after an exception.
        """
        saved: list[tuple[Tensor, Tensor, Tensor]] = []
        try:
            with torch.no_grad():
                for name, touched in self.elements.items():
                    flat = state[name].view(-1)
                    where = touched.index.to(flat.device)
                    saved.append((flat, where, flat[where]))
                    flat.index_copy_(0, where, touched.values.to(device=flat.device, dtype=flat.dtype))
            yield
        finally:
            with torch.no_grad():
                for flat, where, old in reversed(saved):
                    flat.index_copy_(0, where, old)


class MemoryImage:
    """The selected tensors of a checkpoint, encoded in a number format.

    Args:
        tensors: the selected tensors by name, with the values to store.
        format_name: a name of the table of formats, or `native`: each tensor's own dtype.

    Raises:
        FormatError: a value cannot be stored; the tensor is named.
    """

    def __init__(self, tensors: Mapping[str, Tensor], format_name: str = "native") -> None:
        self.format_name = format_name
        self.tensors = {
            name: StoredTensor.write(name, values, format_for(format_name, _DTYPE_NAMES[str(values.dtype)]))
            for name, values in tensors.items()
        }

    @property
    def bits(self) -> int:
        """Number of stored bits at risk."""
        return sum(words * bits for words, bits in self.layout.values())

    @property
    def layout(self) -> dict[str, Layout]:
        """Words and bits of every region."""
        return {name: stored.layout for name, stored in self.tensors.items()}

    def values(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every tensor as read back without faults, one at a time; for reading and copying only."""
        return ((name, stored.read()) for name, stored in self.tensors.items())

    def draw(self, law: FaultLaw, *, seed: int, trial: int) -> FaultMap:
        """Draw the faults of one trial."""
        return draw_faults(law, self.tensors.values(), seed=seed, trial=trial, format_name=self.format_name)

    def patch(self, faults: FaultMap) -> Patch:
        """Read back what the faults touch.

        Raises:
            FaultError: the map was drawn over another layout.
        """
        faults.check_layout(self.layout, "the checkpoint")
        elements = {name: self.tensors[name].patch(hit) for name, hit in faults.faults.items()}
        return Patch({name: e for name, e in elements.items() if len(e.index)})


_DTYPE_NAMES = {f"torch.{known}": name for name, (_, known) in DTYPES.items() if known}


def format_for(format_name: str, dtype: str) -> NumberFormat:
    """Return the format of this name for a tensor of this safetensors dtype; `native` is the dtype itself."""
    return native_format(dtype) if format_name == "native" else parse_format(format_name)
