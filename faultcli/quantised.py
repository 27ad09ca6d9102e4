"""A quantised checkpoint as the memory that it is: faults hit the words of its file, and weights read what they make.

What a hardened file is to a campaign, such a file is as well: its tensors are the regions, each with its role; a patch
has the elements of a weight that hit codes, scales, zero points or indices change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint import Checkpoint, TensorInfo
from faultcli.checkpoint.packed import HeldWords, HitWords, Packed, PackedWeight
from faultcli.errors import CheckpointError, UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import NO_FAULTS, FaultMap, Layout, WordFaults
from faultcli.faults.selection import Selection
from faultcli.formats import NumberFormat, bit_positions, format_for, word_format
from faultcli.hardened.damage import HardenedMemory, memory_of_map
from faultcli.hardened.read import Hardened, names_at_risk, stored_as
from faultcli.injection import FileMemory, PlainMemory, word_shape
from faultcli.memory import MemoryImage, TensorInMemory
from faultcli.protect.base import Noticed, Words, codes_of, words_of
from faultcli.protect.chain import UNPROTECTED, Chain, check_packed
from faultcli.protect.protected_tensor import ReadElements, StoredTensor
from faultcli.protect.regions import CheckRegion, TensorSlot


@dataclass(frozen=True)
class PartInfo:
    """A tensor of the file as selection looks at it. `role`: in a quantised weight; None: it is no part of one."""

    info: TensorInfo
    role: str | None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def dtype(self) -> str:
        return self.info.dtype

    @property
    def shape(self) -> Sequence[int]:
        return self.info.shape


@dataclass(frozen=True)
class PartRegion:
    """The words of a tensor of the file that is a part of a weight. Laws that change values do not hit them: a word is
    no weight."""

    name: str
    role: str
    format: NumberFormat
    words: Words

    @property
    def tensor(self) -> str:
        """Its own name: `include=GLOB` of a law looks at the tensors of the file."""
        return self.name

    @property
    def layout(self) -> Layout:
        return Layout(len(self.words), self.format.bits)

    @property
    def holds_values(self) -> bool:
        return False

    def positions(self, bits: str) -> tuple[int, ...]:
        return bit_positions(self.format, bits)

    def codes(self, words: NDArray[np.int64] | slice) -> NDArray[np.uint64]:
        return self.words[words].astype(np.uint64)

    decoded = codes  # nothing protects them

    def encode_zero(self) -> int:
        raise TypeError(f"{self.name} holds no values")

    def encode_noisy(self, noise: NDArray[np.float64]) -> NDArray[np.uint64]:
        raise TypeError(f"{self.name} holds no values")


class QuantisedTensor:
    """A weight as its parts lie in the memory.

    Args:
        weight: which weight.
        held: the words of its parts.
        file: where they are from.
        at_risk: the parts that faults can hit.
        chain: what protects them, by role.
    """

    def __init__(
        self, weight: PackedWeight, held: HeldWords, file: Packed, at_risk: Iterable[str], chain: Chain = UNPROTECTED
    ) -> None:
        self.name, self.weight, self._held, self._dtype = weight.name, weight, held, file.dtype
        self.elements = math.prod(weight.shape)
        self.regions: tuple[PartRegion | StoredTensor | CheckRegion, ...] = ()
        self._protected: dict[str, StoredTensor] = {}
        for part in at_risk:
            words = held.words[part]
            self.regions += (
                PartRegion(part, weight.roles[part], word_format(file.checkpoint.info(part).dtype), words),
            )
            if links := chain.for_role(weight.roles[part]):
                integers = word_format("U8" if words.itemsize == 1 else f"I{8 * words.itemsize}")
                self._protected[part] = own = StoredTensor.write(part, codes_of(words.copy()), integers, links)
                self.regions += own.regions[1:]  # beside the words themselves

    @property
    def extra_bits(self) -> int:
        """Check words, and what completes their blocks; all else that it takes lies in the file."""
        return sum(own.extra_bits for own in self._protected.values())

    def read(self) -> Tensor:
        """Return the weight as the model reads it."""
        return self.weight.decode(self._held, self._dtype)

    def faulty(self, faults: Mapping[str, WordFaults], *, on_values: bool = False) -> ReadElements:
        """Return the elements that read another value, bit for bit, once the faults are there."""
        left = {**faults, **{part: self._left(own, faults) for part, own in self._protected.items()}}
        return ReadElements(*self.weight.touched(hit_words(self._held, self.weight, left), self._dtype))

    def _left(self, own: StoredTensor, faults: Mapping[str, WordFaults]) -> WordFaults:
        """Return the bits that differ in a part's words as its protection reads them."""
        if not any(region.name in faults for region in own.regions):
            return NO_FAULTS
        read = own.faulty(faults)
        index = read.index.numpy()
        return WordFaults(index, (words_of(read.values) ^ own.data[index]).astype(np.uint64))

    def noticed(self, faults: Mapping[str, WordFaults]) -> Noticed:
        """Return what the check words beside its parts notice of the faults, by region."""
        said = Noticed()
        for own in self._protected.values():
            said |= own.noticed(faults)
        return said


def hit_words(held: HeldWords, weight: PackedWeight, faults: Mapping[str, WordFaults]) -> HitWords:
    """Return the words of a weight's parts with faults in them."""
    return HitWords(held, {part: faults[part] for part in weight.roles if part in faults and len(faults[part].words)})


@dataclass(frozen=True)
class Quantised:
    """A quantised checkpoint, and which of its tensors faults can hit. Made by `of`, which reads no weight."""

    packed: Packed
    names: Sequence[str]  # tensors of the file

    @classmethod
    def of(cls, checkpoint: Checkpoint, selection: Selection) -> Quantised | None:
        """Return what of a checkpoint is at risk; None if its weights are not quantised.

        Raises:
            CheckpointError: as `Packed.of`.
            UsageError: as `faults.selection.select`.
        """
        packed = Packed.of(checkpoint)
        return None if packed is None else cls(packed, selection.names(parts(packed)))

    @cached_property
    def weights(self) -> list[str]:
        """The weights and other tensors that faults can change, by the names that the model has for them.

        Raises:
            CheckpointError: a tensor is at risk that no weight is made of.
        """
        for name in self.parts_of:
            if name not in self.packed.infos:
                raise CheckpointError(
                    f"{self.packed.checkpoint.path}: tensor {name!r} says how others are stored, or is for activations;"
                    " what a flip there does, no weight says",
                    f"leave it out: --exclude {name!r}",
                )
        return list(self.parts_of)

    @cached_property
    def parts_of(self) -> dict[str, list[str]]:
        """The tensors of the file that are at risk, by what the model reads of them."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(self.packed.weight_of.get(name, name), []).append(name)
        return found

    def image(self, weights: Iterable[str], chain: Chain = UNPROTECTED) -> MemoryImage:
        """Return those of `weights` as they lie in the memory that the file is, with check words beside them.

        Raises:
            UsageError: the chain protects parts that are not at risk.
        """
        at_risk = {self.packed.roles.get(name) for name in self.names}
        for role, link in chain.roles:
            if role not in at_risk:
                problem = f"{role}:{link.text}: no {role} are at risk, so nothing would be protected"
                raise UsageError(problem, f"put them at risk with --target and --include, or leave {role} out")
        return MemoryImage.around(dict(self._stored(weights, chain)), "native", chain)

    def _stored(self, weights: Iterable[str], chain: Chain) -> Iterator[tuple[str, TensorInMemory]]:
        for name in weights:
            if name in self.packed.weights:
                weight = self.packed.weights[name]
                yield name, QuantisedTensor(weight, self.packed.held(name), self.packed, self.parts_of[name], chain)
            else:
                dtype = self.packed.checkpoint.info(name).dtype
                values, format = self.packed.checkpoint.read(name), format_for("native", dtype)
                stored = StoredTensor.write(name, values, format, chain.links)
                yield name, replace(stored, dtype=self.packed.read_dtype(name))

    def memory(self) -> QuantisedMemory:
        """Return the memory that the file is, for `inject`."""
        return QuantisedMemory(self.packed, [self.packed.checkpoint.info(name) for name in self.names])


class QuantisedMemory(PlainMemory):
    """The memory that a quantised checkpoint's file is.

    Args:
        packed: the checkpoint.
        infos: the tensors at risk.
    """

    def __init__(self, packed: Packed, infos: Iterable[TensorInfo]) -> None:
        slots = [TensorSlot(info.name, word_shape(info), word_format(info.dtype)) for info in infos]
        super().__init__(packed.checkpoint, slots, "native")
        self._packed = packed

    @property
    def layout(self) -> str:
        """What its layout is called."""
        return self._packed.layout.title

    def check_law(self, law: FaultLaw) -> None:
        refuse_values(law, self._packed)

    def values_changed(self, faults: Mapping[str, WordFaults]) -> int:
        """Return how many weights read otherwise, and other values."""
        hit = dict.fromkeys(self._packed.weight_of.get(name, name) for name in faults)
        changed = 0
        for name in hit:
            if name not in self._packed.weights:
                changed += len(faults[name].words)
                continue
            weight = self._packed.weights[name]
            index, _ = weight.touched(hit_words(self._packed.held(name), weight, faults), self._packed.dtype)
            changed += len(index)
        return changed


@dataclass(frozen=True)
class FileAtRisk:
    """What of a checkpoint's file faults can hit: tensors, or weights of a hardened file, in a number format. `memory`:
    the file as the memory that it is; None: it is a plain one, which stands for a memory of the format."""

    names: Sequence[str]
    format: str
    memory: FileMemory | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, selection: Selection, format: str) -> FileAtRisk:
        """Select what is at risk of a checkpoint: a plain, hardened or quantised one.

        Raises:
            CheckpointError: the file contradicts itself.
            UsageError: nothing is selected, or a hardened or quantised file is asked for in another format.
        """
        hardened = Hardened.of(checkpoint)
        if hardened is not None:
            stored_as(hardened, [format], [])
            names = names_at_risk(checkpoint, hardened, selection)
            return cls(names, hardened.format, HardenedMemory(hardened, names))
        quantised = Quantised.of(checkpoint, selection)
        if quantised is not None:
            refuse_other_memories(quantised.packed, [format], [])
            return cls(quantised.names, format, quantised.memory())
        return cls(selection.names(checkpoint.tensors.values()), format)


def memory_of(checkpoint: Checkpoint, faults: FaultMap) -> FileMemory | None:
    """Return the memory of a hardened or quantised file that a fault map was drawn over; None: it is of a plain one,
    or of the file's words as they lie there."""
    if (hardened := Hardened.of(checkpoint)) is not None:
        return memory_of_map(hardened, faults)
    packed = Packed.of(checkpoint)
    if packed is None or faults.format != "native":
        return None
    return QuantisedMemory(packed, [checkpoint.info(name) for name in faults.layout if name in checkpoint.tensors])


def parts(packed: Packed) -> list[PartInfo]:
    """Return all tensors of a file with their roles, for selection."""
    infos = packed.checkpoint.tensors.values()
    return [PartInfo(info, packed.roles.get(info.name)) for info in infos]


def refuse_values(law: FaultLaw, packed: Packed) -> None:
    """Refuse a law that changes weights in place of bits.

    Raises:
        UsageError: it does.
    """
    if law.on_values:
        raise UsageError(
            f"{law.spec}: changes values; {packed.checkpoint.path} is quantised, and holds codes and scales",
            "flip bits: --ber P, --fault flips:K, stuck-at-0:P or burst:P",
        )


def refuse_other_memories(packed: Packed, formats: Sequence[str], chains: Sequence[Chain]) -> None:
    """Refuse formats other than that of a quantised file, and protections other than check words beside its parts.

    Raises:
        UsageError: others are asked for, or the file has no such part.
    """
    path = packed.checkpoint.path
    if set(formats) - {"native"}:
        raise UsageError(
            f"{path}: is quantised ({packed.layout.title}): its memory is the words of its file, and no other",
            "leave --format out, or take the model as it was before it was quantised",
        )
    known = sorted(set(packed.roles.values()))
    for chain in chains:
        check_packed(chain)
        for role, _ in chain.roles:
            if role not in known:
                problem = f"{path}: {chain.text}: the file ({packed.layout.title}) has no {role}"
                raise UsageError(problem, f"name parts that it has: {', '.join(known)}")
