"""The checkpoint as it lies in the memory: encoded once, read back only where a fault map touches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Unpack

import torch
from torch import Tensor, nn

from faultcli.checkpoint import DTYPES
from faultcli.errors import UsageError
from faultcli.faults.drawing import draw_faults
from faultcli.faults.law import FaultLaw, Region
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap, Layout, WordFaults
from faultcli.faults.selection import Selecting, Selection
from faultcli.formats import ByRows, ChannelsOf, as_words, from_words
from faultcli.live import LiveTensor, as_pairs, places
from faultcli.modules import channels_of
from faultcli.protect.arranged import arranged, to_arrange
from faultcli.protect.base import Noticed, Protection
from faultcli.protect.chain import UNPROTECTED, Chain
from faultcli.protect.factors import Factors
from faultcli.protect.plan_file import Protect, read_chain
from faultcli.protect.protected_tensor import ReadElements, StoredTensor
from faultcli.protect.unstorable import formats_of


@dataclass(frozen=True)
class Patch:
    """What a fault map does to the values of a model: sparse, applied in place, undone in place."""

    elements: Mapping[str, ReadElements]  # by tensor name; untouched tensors are absent
    pairs: frozenset[str] = frozenset()  # tensors of complex numbers: their elements are real and imaginary parts

    @property
    def values_changed(self) -> int:
        """Number of elements that read another value."""
        return sum(len(e.index) for e in self.elements.values())

    @contextmanager
    def applied(self, state: Mapping[str, LiveTensor]) -> Iterator[None]:
        """Hold the faulty values in `state` (live tensors by checkpoint name) for the length of a `with` block.

        Costs O(touched) time and memory. What was there before comes back bit for bit, also after an exception.
        """
        saved: list[tuple[Tensor, Tensor, Tensor]] = []
        try:
            with torch.no_grad():
                for name, touched in self.elements.items():
                    live = as_pairs(state[name]) if name in self.pairs else state[name]
                    for view, where, which in places(live, touched.index.to(live.device)):
                        values = touched.values.to(live.device)[which]
                        saved.append((view, where, _swap(view, where, values)))
            yield
        finally:
            with torch.no_grad():
                for view, where, old in reversed(saved):
                    _swap(view, where, old)


def _swap(live: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Put values at flat positions (row-major) of a live tensor and return what was there."""
    values = as_words(values.to(device=live.device, dtype=live.dtype))  # as bytes where torch cannot index
    live = as_words(live)
    if live.is_contiguous():
        flat = live.view(-1)
        old = flat[index]
        flat.index_copy_(0, index, values)
    else:  # channels last, or transposed: where it lies
        where = torch.unravel_index(index, live.shape)
        old = live[where]
        live.index_put_(where, values)
    return old


@dataclass(frozen=True)
class Hit:
    """What one fault map did to a model."""

    faults: FaultMap
    patch: Patch

    @property
    def flips(self) -> int:
        """Stored bits that differ."""
        return self.faults.flips

    @property
    def values_changed(self) -> int:
        """Values that read differently because of them."""
        return self.patch.values_changed


class TensorInMemory(Protocol):
    """A tensor of a model as it lies in a memory, in whatever words."""

    @property
    def elements(self) -> int:
        """Number of values."""

    @property
    def regions(self) -> Sequence[Region]:
        """Everything of it that faults can hit."""

    @property
    def extra_bits(self) -> int:
        """Bits that are needed beside its words."""

    def read(self) -> Tensor:
        """Return the whole tensor as read back without faults, for reading and copying only."""

    def faulty(self, faults: Mapping[str, WordFaults], *, on_values: bool = False) -> ReadElements:
        """Return the elements that read another value once the faults, by region, are there."""

    def noticed(self, faults: Mapping[str, WordFaults]) -> Noticed:
        """Return what its protections notice of the faults, by region."""


class MemoryImage:
    """The selected tensors of a checkpoint, encoded in a number format behind a chain of protections.

    Args:
        tensors: the selected tensors by name, with the values to store.
        format_name: a name of the table of formats, or `native`: each tensor's own dtype.
        chain: the protections.
        ber: the bit-error rate that protections which need one are designed for.
        factors: what the tensors are multiplied by, unless the chain says something else.
        channels: output channels of tensors where they are no slices of the first dimension.

    Raises:
        FormatError: a value cannot be stored; the tensor is named.
        UsageError: a protection does not work on this format, or needs a bit-error rate; or its check words would have
            the name of a tensor.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        format_name: str = "native",
        chain: Chain = UNPROTECTED,
        ber: float | None = None,
        factors: Mapping[str, Factors] | None = None,
        channels: ChannelsOf | None = None,
    ) -> None:
        self.format_name = format_name
        self.chain = chain

        self._dtypes = {name: values.dtype for name, values in tensors.items()}
        if format_name == "native":  # whatever the dtype, where nothing protects it; all else needs numbers
            tensors = {name: values if chain.of(name) else as_words(values) for name, values in tensors.items()}

        dtypes = {name: str(values.dtype) for name, values in tensors.items()}
        named = {name: _DTYPE_NAMES.get(dtype, dtype.removeprefix("torch.")) for name, dtype in dtypes.items()}
        formats = formats_of(named, format_name)
        scaling = {name for name in tensors if any(link.rank == Protection.VALUE for link in chain.of(name))}
        multiplied = {name: own for name, own in (factors or {}).items() if name not in scaling}
        known = channels or {}
        several = {name for name, own in multiplied.items() if name in formats and len(own.values) > 1}
        rows = to_arrange(known, formats, chain.of) | {name: known[name] for name in several & known.keys()}
        by_rows = ByRows(tensors, rows)
        links = chain.for_tensors(by_rows, formats.__getitem__, ber)
        for name, own in multiplied.items():
            if name in links:
                links[name] = (own.by_rows(rows[name]) if name in rows else own, *links[name])
        self.tensors: Mapping[str, TensorInMemory] = {
            name: arranged(
                StoredTensor.write(name, by_rows[name], formats[name], links[name], ber=ber),
                rows.get(name),
                tuple(values.shape),
            )
            for name, values in tensors.items()
        }
        self._set_up()

    def _set_up(self) -> None:
        """Check the names of regions, by which faults are kept; there is no model yet.

        Raises:
            UsageError: two regions have one name.
        """
        if len(self.layout) < len(self.regions):
            names = [region.name for region in self.regions]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(
                f"tensor {twice!r} has the name that the check words of another tensor take",
                "leave one of the two out with --exclude, or rename it",
            )

        self._live: Mapping[str, Tensor] = {}  # where `faulty` puts the values, for an image of a model
        self._holding = False  # the live tensors have the values as stored

    @classmethod
    def around(cls, tensors: Mapping[str, TensorInMemory], format_name: str, chain: Chain) -> MemoryImage:
        """Return the image that tensors make which lie in a memory already."""
        image = cls.__new__(cls)
        image.format_name, image.chain, image.tensors = format_name, chain, dict(tensors)
        image._dtypes = {}  # they read as the numbers that they are
        image._set_up()
        return image

    @classmethod
    def of(
        cls,
        model: nn.Module | Mapping[str, Tensor],
        *,
        format: str = "native",
        protect: Protect = "none",
        ber: float | None = None,
        **selecting: Unpack[Selecting],
    ) -> MemoryImage:
        """Write the weights of a model, as they are now, into a memory; the model is left as it is.

            memory = MemoryImage.of(model, format="q2.5", protect="secded=64")
            with memory.faulty("flips:3", trial=7) as hit:
                evaluate(model)

        Args:
            model: a module on any device, or its live tensors by name. Of tensors that share their memory (tied
                weights), the first name counts: one copy lies in the memory.
            format: number format of the memory; `native`: each tensor's own dtype.
            protect: protections, as `--protect` takes them, or what a plan's file says.
            ber: the bit-error rate that protections which need one are designed for.
            selecting: `target`, `include`, `exclude`: which tensors are at risk, see `faults.selection.select`.

        Raises:
            UsageError: nothing is selected, or names, formats or protections are unknown or do not go together.
            FormatError: a value cannot be stored in the format; the tensor is named.
        """
        live = first_names(model.state_dict() if isinstance(model, nn.Module) else model)
        tensors = at_risk(live, Selection(**selecting))
        channels = channels_of(model) if isinstance(model, nn.Module) else {}
        image = cls(tensors, format, read_chain(protect), ber, channels=channels)
        image._live = {name: live[name] for name in tensors}
        return image

    @contextmanager
    def faulty(self, fault: str | FaultLaw, *, seed: int = 0, trial: int = 0) -> Iterator[Hit]:
        """Hold the values that the model reads from this memory after faults, for the length of a `with` block.

        Afterwards every bit of the model is as it was before the block. Costs O(flips); in formats that round, the
        values as stored are written and taken back besides, unless the block stands inside one of `as_stored`.

        Args:
            fault: a law, as `--fault` takes it: `bitflip:1e-4`, `flips:3`, `gaussian:0.1`.
            seed, trial: fix the faults: those of the same trial of a campaign.

        Raises:
            UsageError: the image was not made of a model, or there is no such law.
            FaultError: the law does not fit the memory.
        """
        law = parse_law(fault) if isinstance(fault, str) else fault
        faults = self.draw(law, seed=seed, trial=trial)
        patch = self.patch(faults)
        with self.as_stored(), patch.applied(self._live):
            yield Hit(faults, patch)

    @contextmanager
    def as_stored(self) -> Iterator[None]:
        """Hold the values as this memory stores them, without faults, in the model for the length of a `with` block.

        Raises:
            UsageError: the image was not made of a model.
        """
        if not self._live:
            raise UsageError(
                "this memory was not made of a model, so there is none to run", "use MemoryImage.of(model)"
            )
        if self._holding or self._exact:
            yield
            return
        saved = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        try:
            self._copy_in(self.values())
            self._holding = True
            yield
        finally:
            self._holding = False
            self._copy_in(saved.items())

    @cached_property
    def _exact(self) -> bool:
        """Whether the model reads what it holds already: nothing was rounded."""
        return all(
            _same_bits(values.to(self._live[name].dtype), self._live[name].cpu()) for name, values in self.values()
        )

    def _copy_in(self, values: Iterable[tuple[str, Tensor]]) -> None:
        with torch.no_grad():
            for name, tensor in values:
                self._live[name].copy_(tensor)

    @cached_property
    def regions(self) -> list[Region]:
        """Everything that faults can hit."""
        return [region for stored in self.tensors.values() for region in stored.regions]

    @cached_property
    def layout(self) -> dict[str, Layout]:
        """Words and bits of every region."""
        return {region.name: region.layout for region in self.regions}

    @property
    def bits(self) -> int:
        """Number of stored bits at risk, those of the protections included."""
        return sum(words * bits for words, bits in self.layout.values())

    @property
    def overhead_bits_per_weight(self) -> float:
        """What the protections add per weight: check bits in the memory, and constants and tables beside it."""
        return sum(stored.extra_bits for stored in self.tensors.values()) / max(1, self.weights)

    @property
    def weights(self) -> int:
        """Number of values stored."""
        return sum(stored.elements for stored in self.tensors.values())

    def values(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every tensor as read back without faults, one at a time; for reading and copying only."""
        for name, stored in self.tensors.items():
            values = stored.read()
            yield name, from_words(values, self._dtypes.get(name, values.dtype))

    def draw(self, law: FaultLaw, *, seed: int, trial: int) -> FaultMap:
        """Draw the faults of one trial."""
        return draw_faults(law, self.regions, seed=seed, trial=trial, format_name=self.format_name)

    def patch(self, faults: FaultMap) -> Patch:
        """Read back what the faults touch.

        Raises:
            FaultError: the map was drawn over another layout.
        """
        faults.check_layout(self.layout, "the checkpoint")
        touched = self._hit(faults)
        elements = {name: self.tensors[name].faulty(faults.faults, on_values=faults.on_values) for name in touched}
        dtypes = {name: self._dtypes.get(name, e.values.dtype) for name, e in elements.items()}
        pairs = frozenset(name for name, dtype in dtypes.items() if dtype.is_complex)
        read = {
            name: e if name in pairs else ReadElements(e.index, from_words(e.values, dtypes[name]))
            for name, e in elements.items()
            if len(e.index)
        }
        return Patch(read, pairs)

    def noticed(self, faults: FaultMap) -> Noticed:
        """Return what the protections notice of faults of this memory's layout, by their own account: whether flips
        were corrected, and whether words were found that could not be."""
        said = Noticed()
        for name in self._hit(faults):
            said |= self.tensors[name].noticed(faults.faults)
        return said

    def _hit(self, faults: FaultMap) -> list[str]:
        """Return the tensors that faults hit."""
        return list(dict.fromkeys(self._tensor_of[name] for name in faults.faults))

    @cached_property
    def _tensor_of(self) -> dict[str, str]:
        """The tensor that a region belongs to, by the region's name."""
        return {region.name: name for name, stored in self.tensors.items() for region in stored.regions}


@dataclass(frozen=True)
class _Live:
    """A live tensor as `select` looks at it."""

    name: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]


def at_risk(live: Mapping[str, Tensor], selection: Selection) -> dict[str, Tensor]:
    """Return copies, on the CPU and contiguous, of the live tensors that are selected."""
    known = [_Live(name, _DTYPE_NAMES.get(str(t.dtype), str(t.dtype)), tuple(t.shape)) for name, t in live.items()]
    return {
        name: live[name].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name in selection.names(known)
    }


def first_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without those that are the very same memory as an earlier one: tied weights are stored once."""
    kept: dict[tuple[int, tuple[int, ...], tuple[int, ...]], tuple[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place = tensor.data_ptr() if tensor.numel() else id(tensor)
        kept.setdefault((place, tuple(tensor.shape), tensor.stride()), (name, tensor.detach()))
    return dict(kept.values())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype and shape are alike bit for bit, NaN and the sign of 0 included."""
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


_DTYPE_NAMES = {f"torch.{known}": name for name, (_, known) in DTYPES.items() if known}
