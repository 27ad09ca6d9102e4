"""A quantised weight in the memory that its file is: words of its parts, check words beside them, what reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.checkpoint.packed import CODES, ROLES, HeldWords, HitWords, Packed, PackedWeight
from faultcli.errors import UsageError
from faultcli.faults.maps import NO_FAULTS, Layout, WordFaults
from faultcli.formats import NumberFormat, bit_positions, word_format
from faultcli.protect.base import Noticed, Protection, Words, codes_of, words_of
from faultcli.protect.chain import Chain, check_packed
from faultcli.protect.inplace import InPlace
from faultcli.protect.inplace_parts import for_part
from faultcli.protect.protected_tensor import ReadElements, StoredTensor
from faultcli.protect.regions import CheckRegion


def integers(dtype: str) -> NumberFormat:
    """Return the words of a tensor of safetensors dtype `dtype` as integers, which is what check words are made of."""
    bits = word_format(dtype).bits
    return word_format("U8" if bits == 8 else f"I{bits}")


def with_checks(name: str, dtype: str, words: Words, links: Sequence[Protection]) -> StoredTensor:
    """Return the words [n] of a tensor of the file behind its protections: with check words beside them, or in them.

    Args:
        name, dtype: of the tensor.
        words: copied.
        links: of `links_of`.

    Raises:
        UsageError: numbers in the words have fewer bits to spare, or are not finite.
    """
    return StoredTensor.write(name, codes_of(words.copy()), integers(dtype), links)


def links_of(packed: Packed, name: str, chain: Chain) -> tuple[Protection, ...]:
    """Return the links of a tensor of a quantised checkpoint, a part of a weight or not.

    Raises:
        UsageError: a link takes low bits of numbers, and these words hold none that have some to spare.
    """
    role = packed.roles.get(name)
    links = chain.for_role(role)
    sparing = next((link for link in links if isinstance(link, InPlace)), None)
    if sparing is None:
        return links
    numbers = packed.numbers(name)
    if isinstance(numbers, str):
        problem = f"{packed.checkpoint.path}: {name!r}: {sparing.text}: {numbers}"
        raise UsageError(problem, _remedy(packed, sparing, role))
    return for_part(links, numbers)


def _remedy(packed: Packed, link: InPlace, role: str | None) -> str:
    """Say which parts have bits to spare, and what the others take."""
    unable = {own for part, own in packed.roles.items() if isinstance(packed.numbers(part), str)}
    able = [own for own in ROLES if own in packed.roles.values() and own not in unable]
    if not able:
        return "no part of it has; use check words: parity, secded=64 or tmr"
    chain = [f"{own}:{link.text}" for own in able] + [f"{role}:secded=64"] * (role is not None)
    return f"name parts that have: {', '.join(able)}, e.g. --protect {','.join(chain)}"


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
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return self.format.fields

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
        held: the words of its parts as they read without more faults.
        dtype: what the model computes in; None: what the weight's library gives.
        parts: those that faults can hit, as they lie there, each with its check words; None: it has none.
    """

    def __init__(
        self,
        weight: PackedWeight,
        held: HeldWords,
        dtype: torch.dtype | None,
        parts: Iterable[tuple[PartRegion, StoredTensor | None]],
    ) -> None:
        self.name, self.weight, self._held, self._dtype = weight.name, weight, held, dtype
        self.elements = math.prod(weight.shape)
        self.regions: tuple[PartRegion | StoredTensor | CheckRegion, ...] = ()
        self._protected: dict[str, StoredTensor] = {}
        for part, own in parts:
            self.regions += (part,)
            if own is not None:
                self._protected[part.name] = own
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
        return WordFaults(index, (words_of(read.values) ^ self._held.words[own.name][index]).astype(np.uint64))

    def noticed(self, faults: Mapping[str, WordFaults]) -> Noticed:
        """Return what the check words beside its parts notice of the faults, by region."""
        said = Noticed()
        for own in self._protected.values():
            said |= own.noticed(faults)
        return said


def hit_words(held: HeldWords, weight: PackedWeight, faults: Mapping[str, WordFaults]) -> HitWords:
    """Return the words of a weight's parts with faults in them."""
    return HitWords(held, {part: faults[part] for part in weight.roles if part in faults and len(faults[part].words)})


def weights_by_part(packed: Packed, names: Collection[str]) -> dict[str, int]:
    """Return how many weights the tensors `names` stand for. Those of a quantised weight are counted once, with its
    codes, or with another part if these are not among `names`: its other parts stand for none of their own."""
    found = dict.fromkeys(names, 0)
    for weight in packed.weights.values():
        parts = [part for part in weight.roles if part in found]
        codes = [part for part in parts if weight.roles[part] == CODES]
        if parts:
            found[(codes or parts)[0]] = math.prod(weight.shape)
    return found | {name: packed.checkpoint.info(name).elements for name in names if name not in packed.roles}


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


def refuse_idle(packed: Packed, names: Collection[str], chain: Chain) -> None:
    """Refuse a chain that protects parts of which none is at risk.

    Args:
        packed: the checkpoint.
        names: its tensors that are at risk.
        chain: what protects them.

    Raises:
        UsageError: it names such parts.
    """
    at_risk = {packed.roles.get(name) for name in names}
    for role, link in chain.roles:
        if role not in at_risk:
            problem = f"{role}:{link.text}: no {role} are at risk, so nothing would be protected"
            raise UsageError(problem, f"put them at risk with --target and --include, or leave {role} out")
