"""A quantised checkpoint as the memory that it is: faults hit the words of its file, and weights read what they make.

What a hardened file is to a campaign, such a file is as well: its tensors are the regions, each with its role; a patch
has the elements of a weight that hit codes, scales, zero points or indices change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from faultcli.checkpoint import Checkpoint, TensorInfo
from faultcli.checkpoint.packed import ROLES, HeldWords, Packed
from faultcli.errors import CheckpointError, UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import FaultMap, WordFaults
from faultcli.faults.selection import Selection
from faultcli.formats import format_for, word_format
from faultcli.hardened.damage import HardenedMemory, memory_of_map
from faultcli.hardened.read import Hardened, names_at_risk, stored_as
from faultcli.injection import FileMemory, PlainMemory, word_shape
from faultcli.memory import MemoryImage, TensorInMemory
from faultcli.protect.base import words_of
from faultcli.protect.chain import UNPROTECTED, Chain
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.protect.quantised_tensor import (
    PartRegion,
    QuantisedTensor,
    hit_words,
    integers,
    links_of,
    refuse_idle,
    refuse_other_memories,
    with_checks,
)
from faultcli.protect.regions import TensorSlot


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
class Quantised:
    """A quantised checkpoint, and which of its tensors faults can hit. Made by `of`, which reads no weight.

    `packed`: of a hardened file, the checkpoint as it reads. `names`: tensors of the file. `hardened`: what lies there
    in their place.
    """

    packed: Packed
    names: Sequence[str]
    hardened: Hardened | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, selection: Selection, hardened: Hardened | None = None) -> Quantised | None:
        """Return what of a checkpoint is at risk; None if its weights are not quantised.

        Args:
            checkpoint: plain, or hardened.
            selection: of a plain one's tensors; of a hardened one, globs and parts of weights narrow what lies in its
                memory.
            hardened: what `Hardened.of` says of it.

        Raises:
            CheckpointError: as `Packed.of`; or the files beside a hardened one are not those that it was hardened with.
            UsageError: as `faults.selection.select`.
        """
        if hardened is None:
            packed = Packed.of(checkpoint)
            return None if packed is None else cls(packed, selection.names(parts(packed)))
        if hardened.record.quantised is None:
            return None
        packed = hardened.packed()
        own = [part for part in parts(packed) if part.name in hardened.slots]
        if selection.target not in (*ROLES, "all-parts"):
            selection = replace(selection, target="any")
        return cls(packed, selection.names(own), hardened)

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

    def doubts(self, chain: Chain) -> list[str]:
        """Return what may go wrong with links on the tensors that are at risk, a sentence each.

        Raises:
            UsageError: as `links_of`.
        """
        links = {name: links_of(self.packed, name, chain) for name in self.names}
        found = [
            link.doubt(integers(self.packed.checkpoint.info(name).dtype), ()) for name in links for link in links[name]
        ]
        return list(dict.fromkeys(doubt for doubt in found if doubt is not None))

    def image(self, weights: Iterable[str], chain: Chain = UNPROTECTED) -> MemoryImage:
        """Return those of `weights` as they lie in the memory that the file is, with check words beside them.

        Args:
            weights: of `weights`.
            chain: what protects them; a hardened file has its own.

        Raises:
            UsageError: the chain protects parts that are not at risk.
        """
        if self.hardened is not None:
            chain = self.hardened.chain
        else:
            refuse_idle(self.packed, self.names, chain)
        return MemoryImage.around(dict(self._stored(weights, chain)), "native", chain)

    def _stored(self, weights: Iterable[str], chain: Chain) -> Iterator[tuple[str, TensorInMemory]]:
        for name in weights:
            if name in self.packed.weights:
                weight, held = self.packed.weights[name], self.packed.held(name)
                at_risk = {part: self._words(part, chain) for part in self.parts_of[name]}
                if self.hardened is None:  # else they are as they read already
                    read = {part: words_of(own.read()) for part, own in at_risk.items() if own.links}
                    held = HeldWords({**held.words, **read})
                parts = [(self._region(part, own), own if own.links else None) for part, own in at_risk.items()]
                yield name, QuantisedTensor(weight, held, self.packed.dtype, parts)
            else:
                info = self.packed.checkpoint.info(name)
                stored, format = self._words(name, chain), format_for("native", info.dtype)
                yield (
                    name,
                    replace(stored, shape=info.shape, format=format, dtype=self.packed.read_dtype(name)),
                )

    def _words(self, name: str, chain: Chain) -> StoredTensor:
        """Return a tensor of the file as it lies there, with its check words."""
        if self.hardened is not None:
            return self.hardened.stored(name)
        links = links_of(self.packed, name, chain)
        return with_checks(name, self.packed.checkpoint.info(name).dtype, self.packed.words(name), links)

    def _region(self, part: str, stored: StoredTensor) -> PartRegion:
        format = word_format(self.packed.checkpoint.info(part).dtype)
        return PartRegion(part, self.packed.roles[part], format, stored.data)

    def memory(self) -> FileMemory:
        """Return the memory that the file is, for `inject`."""
        if self.hardened is not None:
            return HardenedQuantisedMemory(self)
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


class HardenedQuantisedMemory(HardenedMemory):
    """The memory that a hardened file of a quantised checkpoint is.

    Args:
        quantised: the file, and what of it is at risk.
    """

    def __init__(self, quantised: Quantised) -> None:
        assert quantised.hardened is not None
        super().__init__(quantised.hardened, quantised.names)
        self._quantised = quantised

    def check_law(self, law: FaultLaw) -> None:
        refuse_values(law, self._quantised.packed)

    def values_changed(self, faults: Mapping[str, WordFaults]) -> int:
        """Return how many weights read otherwise behind their check words, and other values."""
        own = self._quantised.packed.weight_of
        parts = (self.tensor_of(region) for region in faults)
        image = self._quantised.image(dict.fromkeys(own.get(part, part) for part in parts))
        return sum(len(stored.faulty(faults).index) for stored in image.tensors.values())


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
        quantised = Quantised.of(checkpoint, selection, hardened)
        if quantised is not None:
            refuse_other_memories(quantised.packed, [format], [])
            return cls(quantised.names, format, quantised.memory())
        if hardened is not None:
            names = names_at_risk(checkpoint, hardened, selection)
            return cls(names, hardened.format, HardenedMemory(hardened, names))
        return cls(selection.names(checkpoint.tensors.values()), format)


def memory_of(checkpoint: Checkpoint, faults: FaultMap) -> FileMemory | None:
    """Return the memory of a hardened or quantised file that a fault map was drawn over; None: it is of a plain one,
    or of the file's words as they lie there."""
    if (hardened := Hardened.of(checkpoint)) is not None:
        memory = memory_of_map(hardened, faults)
        if memory is None or hardened.record.quantised is None:
            return memory
        return HardenedQuantisedMemory(Quantised(hardened.packed(), memory.slots, hardened))
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
