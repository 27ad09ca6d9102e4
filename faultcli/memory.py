"""The checkpoint as it lies in the memory: encoded once, read back only where a fault map touches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from faultcli.checkpoint import DTYPES
from faultcli.errors import UsageError
from faultcli.faults.drawing import draw_faults
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import FaultMap, Layout
from faultcli.formats import NumberFormat, native_format, parse_format
from faultcli.protect.chain import UNPROTECTED, Chain
from faultcli.protect.factors import choose_factors
from faultcli.protect.scale import Factors
from faultcli.protect.stored import CheckRegion, ReadElements, StoredTensor


@dataclass(frozen=True)
class Patch:
    """What a fault map does to the values of a model: sparse, applied in place, undone in place."""

    elements: Mapping[str, ReadElements]  # by tensor name; untouched tensors are absent

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
    """The selected tensors of a checkpoint, encoded in a number format behind a chain of protections.

    Args:
        tensors: the selected tensors by name, with the values to store.
        format_name: a name of the table of formats, or `native`: each tensor's own dtype.
        chain: the protections.
        ber: the bit-error rate that protections which need one are designed for.
        factors: what the tensors are multiplied by, unless the chain says something else.

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
    ) -> None:
        self.format_name = format_name
        self.chain = chain

        def format_of(name: str) -> NumberFormat:
            return format_for(format_name, _DTYPE_NAMES[str(tensors[name].dtype)])

        if chain.scale is not None or factors is None:
            factors = choose_factors(tensors, format_of, chain, ber)
        self.tensors = {
            name: StoredTensor.write(name, values, format_of(name), chain, ber=ber, factors=factors.get(name))
            for name, values in tensors.items()
        }
        if len(self.layout) < len(self.regions):  # faults are kept by name
            names = [region.name for region in self.regions]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(
                f"tensor {twice!r} has the name that the check words of another tensor take",
                "leave one of the two out with --exclude, or rename it",
            )

    @cached_property
    def regions(self) -> list[StoredTensor | CheckRegion]:
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
        return ((name, stored.read()) for name, stored in self.tensors.items())

    def draw(self, law: FaultLaw, *, seed: int, trial: int) -> FaultMap:
        """Draw the faults of one trial."""
        return draw_faults(law, self.regions, seed=seed, trial=trial, format_name=self.format_name)

    def patch(self, faults: FaultMap) -> Patch:
        """Read back what the faults touch.

        Raises:
            FaultError: the map was drawn over another layout.
        """
        faults.check_layout(self.layout, "the checkpoint")
        tensor_of = {region.name: region.tensor for region in self.regions}
        touched = dict.fromkeys(tensor_of[name] for name in faults.faults)
        elements = {name: self.tensors[name].faulty(faults.faults) for name in touched}
        return Patch({name: e for name, e in elements.items() if len(e.index)})


_DTYPE_NAMES = {f"torch.{known}": name for name, (_, known) in DTYPES.items() if known}


def format_for(format_name: str, dtype: str) -> NumberFormat:
    """Return the format of this name for a tensor of this safetensors dtype; `native` is the dtype itself.

    Raises:
        UsageError: no such format.
        FormatError: the dtype is none that can be read as numbers, one by one (booleans, packed values).
    """
    own = native_format(dtype)
    return own if format_name == "native" else parse_format(format_name)
