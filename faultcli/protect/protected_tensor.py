"""One tensor in the memory behind its protections: written once, read back whole or where faults touch it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import FaultcliError, FormatError
from faultcli.faults.maps import NO_FAULTS, WordFaults
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.protect.base import Fitted, Noticed, Protection, Words, Written, codes_of, words_of, zero_word
from faultcli.protect.encoding import Values, encoded
from faultcli.protect.parts import TensorPart, parts
from faultcli.protect.regions import CheckRegion, TensorSlot, scales_name


@dataclass(frozen=True)
class ReadElements:
    """`index`: int64 [n], ascending flat positions in a tensor. `values`: [n], what reads there."""

    index: Tensor
    values: Tensor


@dataclass(frozen=True)
class StoredTensor(TensorSlot):
    """A tensor's words, and how they are read. The region of its words that fault laws draw over.

    `words`: unsigned, one per element in row-major order, then padding up to whole groups of blocks. `scales`: those
    that lie in the memory, behind the protections that take words of any kind. `dtype`: of the weights, and of what
    reads: a value is read into the dtype that the checkpoint has; None: the format's.
    """

    words: Words
    links: tuple[Fitted, ...] = ()
    checks: tuple[Words, ...] = field(default=(), repr=False)  # per link [blocks, per_block]
    names: tuple[str, ...] = ()  # of the links
    scales: StoredTensor | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def write(
        cls,
        name: str,
        weights: Tensor,
        format: NumberFormat,
        links: Sequence[Protection] = (),
        *,
        ber: float | None = None,
    ) -> StoredTensor:
        """Store a tensor.

        Args:
            name: for regions and messages.
            weights: any shape.
            format: what one word is.
            links: the protections, those of this tensor (`Protection.for_tensors`).
            ber: the bit-error rate that the memory is designed for.

        Raises:
            FormatError, UsageError: names the tensor, and what cannot be stored or does not work on this format.
        """
        scales: StoredTensor | None = None
        try:
            elements = weights.numel()
            group = math.lcm(*(1, *(link.fit_block(format, elements) for link in links)))
            values = Values(weights, format, tuple(links), group)
            fitted_format, words = encoded(values, ber)
            if isinstance(fitted_format, ScaledFormat) and fitted_format.at_risk:
                scales = cls._write_scales(name, fitted_format, links, ber)
            padded = words if elements % group == 0 else np.pad(words, (0, -elements % group))
            fitted: dict[Protection, Fitted] = {}
            for link in links:
                if link.rank != Protection.ESTIMATE:
                    corrected = any(before.block_failure(0.0) is not None for before in fitted.values())
                    fitted[link] = own = link.fit(Written(values, padded[:elements], fitted_format, ber, corrected))
                    padded = own.write_words(padded.reshape(-1, own.block)).reshape(-1)
            # What looks at values (a guard, a posterior) is fitted to those that will be read: without the low bits
            # that other links give up. Check words change no word that is as it was written.
            looking = [link for link in links if link not in fitted]
            readable = padded
            for link in reversed([link for link in fitted if looking and not fitted[link].per_block]):
                blocks = readable.reshape(-1, fitted[link].block)
                readable = fitted[link].read_words(blocks, np.empty((len(blocks), 0), dtype=np.uint8)).reshape(-1)
            for link in looking:
                fitted[link] = link.fit(Written(values, readable[:elements], fitted_format, ber))
            checks = tuple(fitted[link].checks(padded.reshape(-1, fitted[link].block)) for link in links)
        except FaultcliError as error:
            text = error.message if isinstance(error, FormatError) else f"({error.message})"
            raise type(error)(f"tensor {name!r} {text}", error.remedy) from None
        shape, names = tuple(weights.shape), tuple(link.name for link in links)
        own_links = tuple(fitted[link] for link in links)
        return cls(name, shape, fitted_format, padded, own_links, checks, names, scales, weights.dtype)

    @classmethod
    def _write_scales(
        cls, tensor: str, format: ScaledFormat, links: Sequence[Protection], ber: float | None
    ) -> StoredTensor:
        assert format.scales is not None
        own = [link for link in links if link.rank >= Protection.CHECK]
        stored = cls.write(scales_name(tensor), format.scales, format.store, own, ber=ber)
        return replace(stored, scales_of=tensor)

    @property
    def data(self) -> Words:
        """The words of the elements, without padding."""
        return self.words[: self.elements]

    def codes(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        return self.data[words].astype(np.uint64)

    def decoded(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        return self._decoded[words].astype(np.uint64)

    @cached_property
    def _decoded(self) -> Words:
        return self.decode_words(self.words, self.checks)[: self.elements] if self.links else self.data

    def encode_zero(self) -> int:
        return self._zero

    @cached_property
    def _zero(self) -> int:
        return zero_word(self.format)

    def encode_noisy(self, noise: NDArray[np.float64]) -> NDArray[np.uint64]:
        if not self.format.value_dtype.is_floating_point:
            problem = f"tensor {self.name!r} holds whole numbers, which no noise can be added to"
            raise FormatError(problem, "leave it out with --exclude")
        stored = self.format.decode(codes_of(self._decoded).view(self.shape))
        return words_of(self.format.encode(stored.double() + torch.from_numpy(noise).view(self.shape))).astype(
            np.uint64
        )

    @property
    def regions(self) -> tuple[StoredTensor | CheckRegion, ...]:
        """Everything of this tensor that lies in the memory: its words, what its protections add, and its scales."""
        return (self, *self._extra, *(self.scales.regions if self.scales else ()))

    @cached_property
    def _extra(self) -> tuple[CheckRegion, ...]:
        extra = []
        stored = len(self.words) if any(link.fills_padding for link in self.links) else self.elements
        if stored > self.elements:
            padding = self.words[self.elements :]
            extra.append(CheckRegion(f"{self.name}#padding", self.tensor, padding, self.format.bits))
        for link, name, words in zip(self.links, self.names, self.checks, strict=True):
            if link.per_block:
                kept = link.check_layout(stored).words  # blocks of words that lie in no memory need no check words
                extra.append(CheckRegion(f"{self.name}#{name}", self.tensor, words.reshape(-1)[:kept], link.check_bits))
        return tuple(extra)

    @property
    def extra_bits(self) -> int:
        """Bits that are needed beside the words: what protections add to the memory, and constants beside it, those of
        the format too. Scales that lie in the memory are bits of the memory."""
        added = sum(region.layout.words * region.layout.bits for region in self._extra)
        constants = sum(link.side_bits for link in self.links)
        return added + constants + self.format.side_bits + (self.scales.extra_bits if self.scales else 0)

    @property
    def code_words(self) -> int:
        """Code words that are checked when all of it is read: blocks of every link that looks at words."""
        looking = [link for link in self.links if type(link).read_words is not Fitted.read_words]
        own = sum(len(self.words) // link.block for link in looking)
        return own + (self.scales.code_words if self.scales else 0)

    def read(self, out: Tensor | None = None) -> Tensor:
        """Return the whole tensor as read back without faults, in the dtype of the weights.

        It may share its memory with the image (fp32 is stored as it is), so it is for reading and copying only.

        Args:
            out: where to write it instead of into a new tensor; returned.
        """
        group = math.lcm(*(1, *(link.block for link in self.links)))
        for part in parts(self.shape, self.format, self.links, group):
            if part.rows is not ... and out is None:
                if self._as_it_is:
                    break
                out = torch.empty(self.shape, dtype=self.dtype or self.format.value_dtype)
            padded = slice(part.start, -(-part.stop // group) * group)
            own = zip(self.links, self.checks, strict=True)
            checks = [words[padded.start // link.block : padded.stop // link.block] for link, words in own]
            words = self.decode_words(self.words[padded], checks)
            values = self._values_of_part(part, words[: part.stop - part.start])
            if out is None:
                return values
            out[part.rows] = values
        return out if out is not None else self.values_of(self.data, None)

    @property
    def _as_it_is(self) -> bool:
        """Whether it reads as a view of its words."""
        return not self.links and getattr(self.format, "native", None) == self.format.value_dtype == self.dtype

    def _values_of_part(self, part: TensorPart[Fitted], words: Words) -> Tensor:
        """Return what the decoded words of a part stand for."""
        if part.rows is ...:
            return self.values_of(words, None)
        own = replace(self, shape=part.shape, format=part.format, links=part.links)
        return own.values_of(words, None)

    def faulty(self, faults: Mapping[str, WordFaults], *, on_values: bool = False) -> ReadElements:
        """Return the elements that read another value once the faults are there (bit for bit: −0 is not 0).

        Args:
            faults: by region name.
            on_values: they hit words as they leave error correction.
        """
        if on_values:
            words, masks = faults.get(self.name, NO_FAULTS)
            before = self._decoded[words]
            return self._differing(torch.from_numpy(words), before, before ^ masks.astype(before.dtype))
        group, rescaled = self.group, self._rescaled(faults)
        element, old, old_checks, new, new_checks = self._touched(faults, rescaled)
        before, after = self.decode_words(old, old_checks), self.decode_words(new, new_checks)
        kept = element < self.elements
        if group > 1 and rescaled is None:
            kept &= before != after  # most words of a touched block come back as they were
        index = torch.from_numpy(element[kept])
        units = self._units(index, rescaled) if rescaled is not None else None
        return self._differing(index, before[kept], after[kept], units)

    def noticed(self, faults: Mapping[str, WordFaults]) -> Noticed:
        """Return what the protections notice of the faults, by region name; what looks at values (a guard) says
        nothing.

        Of two links, the inner one has the last word on what is lost, as in `hardened.repair`.
        """
        _, _, _, words, checks = self._touched(faults, None)
        corrected, lost = False, np.zeros(len(words), dtype=bool)
        for link, own in zip(reversed(self.links), reversed(checks), strict=True) if len(words) else ():
            recovery = link.recover(words.reshape(-1, link.block), own)
            if recovery is not None:
                corrected |= bool(recovery.found[1:].any())
                words, here = recovery.words.reshape(-1), np.repeat(recovery.lost, link.block)
                lost = here if link.block_failure(0.0) is not None else lost | here
        said = Noticed(corrected, bool(lost.any()))
        return said if self.scales is None else said | self.scales.noticed(faults)

    @property
    def group(self) -> int:
        """Words that are read together."""
        return math.lcm(*(1, *(link.block for link in self.links)))

    def _touched(
        self, faults: Mapping[str, WordFaults], rescaled: ReadElements | None
    ) -> tuple[NDArray[np.int64], Words, list[Words], Words, list[Words]]:
        """Return the elements of all groups that faults or other scales touch, their words and check words as written,
        and those with the faults in them."""
        group = self.group
        own: tuple[StoredTensor | CheckRegion, ...] = (self, *self._extra)
        hits = {region.name: faults[region.name] for region in own if region.name in faults}
        data = hits.get(self.name, NO_FAULTS)
        if group == 1 and len(hits) == 1 and len(data.words) and rescaled is None:
            groups = data.words  # the usual case, without a search
        else:
            touched = [w // group for w in self._elements_of(hits)]
            if rescaled is not None:
                touched.append(self._scaled_format.elements_of(rescaled.index).numpy() // group)
            groups = _distinct(np.concatenate(touched or [data.words]))
        old = self.words.reshape(-1, group)[groups]
        new = old.copy()
        _flip(new, groups, data)
        if f"{self.name}#padding" in hits:
            padding = hits[f"{self.name}#padding"]
            _flip(new, groups, WordFaults(padding.words + self.elements, padding.masks))
        old_checks, new_checks = list(self.checks), list(self.checks)
        for position, (link, name) in enumerate(zip(self.links, self.names, strict=True)):
            if link.per_block:
                rows = self.checks[position].reshape(-1, group // link.block * link.per_block)[groups]
                old_checks[position] = rows.copy().reshape(-1, link.per_block)
                _flip(rows, groups, hits.get(f"{self.name}#{name}", NO_FAULTS))
                new_checks[position] = rows.reshape(-1, link.per_block)
        element = (groups[:, None] * group + np.arange(group)).reshape(-1)
        return element, old.reshape(-1), old_checks, new.reshape(-1), new_checks

    def _differing(self, index: Tensor, before: Words, after: Words, units: Tensor | None = None) -> ReadElements:
        """Return the elements at `index` that read another value from words after than from words before; `units` as
        in `values_of`, after."""
        old_values, values = self.values_of(before, index), self.values_of(after, index, units)
        differs = words_of(_bit_view(old_values)) != words_of(_bit_view(values))
        if not differs.all():
            chosen = torch.from_numpy(differs)
            index, values = index[chosen], values[chosen]
        return ReadElements(index, values)

    def _elements_of(self, hits: Mapping[str, WordFaults]) -> Iterator[NDArray[np.int64]]:
        """Yield, per hit region, an element of each block that a hit word belongs to."""
        for name, hit in hits.items():
            if name == self.name:
                yield hit.words
            elif name == f"{self.name}#padding":
                yield hit.words + self.elements
            else:
                link = self.links[self.names.index(name.rpartition("#")[2])]
                yield hit.words // link.per_block * link.block

    def _rescaled(self, faults: Mapping[str, WordFaults]) -> ReadElements | None:
        """Return the scales that read another value; None if none does."""
        if self.scales is None or not any(region.name in faults for region in self.scales.regions):
            return None
        read = self.scales.faulty(faults)
        return read if len(read.index) else None

    @property
    def _scaled_format(self) -> ScaledFormat:
        assert isinstance(self.format, ScaledFormat)
        return self.format

    def _units(self, index: Tensor, rescaled: ReadElements) -> Tensor:
        """Return the scales of elements once some scales read another value."""
        units, own = self._scaled_format.units(index), self._scaled_format.group_of(index)
        at = torch.searchsorted(rescaled.index, own).clamp_(max=len(rescaled.index) - 1)
        return torch.where(rescaled.index[at] == own, rescaled.values[at], units)

    def decode_words(self, words: Words, checks: tuple[Words, ...] | list[Words]) -> Words:
        """Undo what the links did to words of whole groups."""
        return self.read_links(words, checks, slice(None))

    def read_links(self, words: Words, checks: tuple[Words, ...] | list[Words], which: slice) -> Words:
        """Undo what some of the links did, the last of them first."""
        for link, own in zip(reversed(self.links[which]), reversed(checks[which]), strict=True):
            words = link.read_words(words.reshape(-1, link.block), own).reshape(-1)
        return words

    def values_of(self, words: Words, index: Tensor | None, units: Tensor | None = None) -> Tensor:
        """Return what decoded words stand for.

        Args:
            words: of all elements, or of those at `index`.
            index: int64 [n], flat positions; None for all.
            units: float32 [n], the elements' scales as they were read; None: as they were written.
        """
        codes = codes_of(words) if index is not None else codes_of(words).view(self.shape)
        if units is not None:
            values = self.format.element.decode(codes).mul_(units.view(codes.shape))
        else:
            values = self.format.decode(codes, index)
            if self.links and isinstance(self.format, ScaledFormat):
                units = self.format.units(index)
        for link in reversed(self.links):
            values = link.read_values(values, words, index, units)
        return values if self.dtype is None else values.to(self.dtype)


def _distinct(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return numbers ascending and without repeats; np.unique builds a hash table, which takes ten times as long."""
    ascending = np.sort(numbers)
    distinct: NDArray[np.int64] = ascending[np.diff(ascending, prepend=-1) != 0]  # positions: never -1
    return distinct


def _flip(rows: Words, groups: NDArray[np.int64], faults: WordFaults) -> None:
    """Flip bits, in place, in rows [n, width] of which `groups` (ascending) says which they are."""
    if len(faults.words):
        group, column = np.divmod(faults.words, rows.shape[1])
        rows[np.searchsorted(groups, group), column] ^= faults.masks.astype(rows.dtype)


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bit_view(values: Tensor) -> Tensor:
    return values.view(_INTEGERS[values.element_size()])
