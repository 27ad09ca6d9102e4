"""The place of one tensor in a hardened file: its regions, and how their words read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from faultcli.checkpoint.header import tensor_bytes, torch_dtype
from faultcli.faults.maps import Layout
from faultcli.formats import NumberFormat, ScaledFormat, container_dtype, format_for, word_format
from faultcli.hardened.layout import file_dtype, file_shape
from faultcli.hardened.record import TensorRecord
from faultcli.protect.base import Constants, Fitted, Protection, Words, Written, words_of
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.protect.quantised_tensor import integers


@dataclass(frozen=True)
class Slot:
    """One tensor, or the scales of one, behind its protections, without its words.

    `dtype`: of what reads; None: the format's. `names`, `links`: of its protections. `scales`: those that lie in the
    memory. `held`: dtype and shape of a tensor of a quantised checkpoint, which its words keep in the file; to its
    protections they are integers.
    """

    name: str
    shape: tuple[int, ...]
    format: NumberFormat
    names: tuple[str, ...]
    links: tuple[Fitted, ...]
    dtype: torch.dtype | None = None
    scales: Slot | None = None
    held: tuple[str, tuple[int, ...]] | None = None

    @classmethod
    def of(cls, name: str, format_name: str, chain: Sequence[Protection], record: TensorRecord) -> Slot:
        """Return the place of a tensor of which a file says this.

        Raises:
            UsageError, FormatError: the format or a protection is none, or does not work on the other.
            KeyError, ValueError: the record contradicts itself.
        """
        if len(record.links) != len(chain):
            raise ValueError("links")
        format = format_for(format_name, record.dtype)
        if isinstance(format, ScaledFormat) and not format.at_risk:
            if record.scales is None:
                raise ValueError("scales")
            format = format.with_scales(record.scales.float(), record.stored_shape)
        return cls._of(name, format, chain, record.links, record.stored_shape, torch_dtype(record.dtype))

    @classmethod
    def planned(cls, name: str, format: NumberFormat, chain: Sequence[Protection], shape: tuple[int, ...]) -> Slot:
        """Return the place that a tensor will take, before it is written: only its regions are known."""
        own = [link for link in chain if link.rank >= Protection.WORD]
        return cls._of(name, format, own, [None] * len(own), shape, None)

    @classmethod
    def kept(
        cls,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        chain: Sequence[Protection],
        constants: Sequence[Constants | None] | None = None,
    ) -> Slot:
        """Return the place of a tensor of a quantised checkpoint, which keeps its dtype and shape.

        Args:
            name, dtype, shape: of the tensor in the file.
            chain: its protections, which add check words or take low bits for them.
            constants: of a file that is written; None: it will be.

        Raises:
            ValueError: the record contradicts itself.
        """
        nbytes, format = tensor_bytes(dtype, shape), integers(dtype)
        if nbytes is None or (constants is not None and len(constants) != len(chain)):
            raise ValueError("links or shape")
        known = [None] * len(chain) if constants is None else constants
        return replace(cls._of(name, format, chain, known, (8 * nbytes // format.bits,), None), held=(dtype, shape))

    @classmethod
    def _of(
        cls,
        name: str,
        format: NumberFormat,
        chain: Sequence[Protection],
        constants: Sequence[Constants | None],
        shape: tuple[int, ...],
        dtype: torch.dtype | None,
    ) -> Slot:
        fitted: list[Fitted] = []
        for link, known in zip(chain, constants, strict=True):
            corrected = any(before.block_failure(0.0) is not None for before in fitted)
            empty = _empty(format, corrected=corrected, elements=math.prod(shape))
            fitted.append(link.fit(empty) if known is None else link.restored(known, empty, shape))
        scales = None
        if (store := format.scale_format) is not None:
            own = [link for link in chain if link.rank >= Protection.CHECK]
            scales = cls._of(f"{name}#scale", store, own, [None] * len(own), (format.scale_words(shape),), None)
        return cls(name, shape, format, tuple(link.name for link in chain), tuple(fitted), dtype, scales)

    @property
    def law_format(self) -> NumberFormat:
        """What a word is to laws that look at the bits of a format."""
        return self.format if self.held is None else word_format(self.held[0])

    def lies_as(self, region: str, layout: Layout) -> tuple[str, tuple[int, ...]]:
        """Return dtype and shape of the tensor of the file that holds a region."""
        if region == self.name and self.held is not None:
            return self.held
        return file_dtype(layout.bits), file_shape(layout, self.shape if region == self.name else None)

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def padded(self) -> int:
        """Number of words, those included that fill the last block."""
        return self.elements + -self.elements % math.lcm(*(1, *(link.block for link in self.links)))

    @property
    def stored(self) -> int:
        """Number of words that lie in the memory."""
        return self.padded if any(link.fills_padding for link in self.links) else self.elements

    @property
    def regions(self) -> dict[str, Layout]:
        """Words and bits of everything of it that lies in the memory, by name, its own words first."""
        found = {self.name: Layout(self.elements, self.format.bits)}
        if self.stored > self.elements:
            found[f"{self.name}#padding"] = Layout(self.stored - self.elements, self.format.bits)
        for name, link in zip(self.names, self.links, strict=True):
            if link.per_block:
                found[f"{self.name}#{name}"] = link.check_layout(self.stored)
        return found | (self.scales.regions if self.scales else {})

    def tensor(self, words_in: Callable[[str], Words]) -> StoredTensor:
        """Return the tensor with its words.

        Args:
            words_in: gives the words of a region by its name.
        """
        words = words_in(self.name)
        if self.padded > self.elements:
            words = np.pad(words, (0, self.padded - self.elements))
            if self.stored > self.elements:
                words[self.elements :] = words_in(f"{self.name}#padding")
        checks = []
        for name, link in zip(self.names, self.links, strict=True):
            if not link.per_block:
                checks.append(link.checks(words.reshape(-1, link.block)))
                continue
            read = words_in(f"{self.name}#{name}")
            # Those of words that lie in no memory are not in the file.
            rest = link.checks(words[len(read) // link.per_block * link.block :].reshape(-1, link.block))
            checks.append(np.concatenate([read.astype(rest.dtype).reshape(-1, link.per_block), rest]))
        format, scales = self.format, None
        if self.scales is not None:
            assert isinstance(format, ScaledFormat)
            scales = replace(self.scales.tensor(words_in), scales_of=self.name)
            format = format.with_scales(scales.read().reshape(-1), self.shape)
        return StoredTensor(
            self.name, self.shape, format, words, self.links, tuple(checks), self.names, scales, self.dtype
        )


def _word_dtype(format: NumberFormat) -> np.dtype[np.unsignedinteger]:
    return words_of(torch.empty(0, dtype=container_dtype(format.bits))).dtype


def _empty(format: NumberFormat, *, corrected: bool, elements: int) -> Written:
    """Return no values in a format: all that those links need which know nothing of their tensor."""
    nothing: Tensor = torch.empty(0, dtype=format.value_dtype)
    return Written(nothing, np.empty(0, dtype=_word_dtype(format)), format, None, corrected, elements)
