"""A tensor that lies in the memory row by row of its output channels, where these are no slices of its first dimension.

Formats and protections take slices of the first dimension for output channels. A tensor that a module reads the other
way round (`[in, out]`) is therefore stored as a device would store it that computes with one scale per channel: as the
matrix of its channels. Where nothing that is stored depends on channels, tensors lie as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from faultcli.faults.maps import WordFaults
from faultcli.formats import Channels, ChannelsOf, NumberFormat
from faultcli.protect.base import Noticed, Protection
from faultcli.protect.protected_tensor import ReadElements, StoredTensor
from faultcli.protect.regions import CheckRegion


@dataclass(frozen=True)
class ArrangedTensor:
    """A stored tensor [channels, row], read in the shape that the checkpoint has it in."""

    rows: StoredTensor
    channels: Channels
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values."""
        return self.rows.elements

    @property
    def regions(self) -> tuple[StoredTensor | CheckRegion, ...]:
        """Everything of it that lies in the memory."""
        return self.rows.regions

    @property
    def extra_bits(self) -> int:
        """Bits that are needed beside its words."""
        return self.rows.extra_bits

    def read(self) -> Tensor:
        """Return the whole tensor as read back without faults, for reading and copying only."""
        return self.channels.back(self.rows.read(), self.shape)

    def faulty(self, faults: Mapping[str, WordFaults], *, on_values: bool = False) -> ReadElements:
        """Return the elements that read another value once the faults, by region, are there; in ascending order."""
        touched = self.rows.faulty(faults, on_values=on_values)
        index, order = self.channels.element(touched.index).sort()
        return ReadElements(index, touched.values[order])

    def noticed(self, faults: Mapping[str, WordFaults]) -> Noticed:
        """Return what the protections notice of the faults, by region."""
        return self.rows.noticed(faults)


def arranged(stored: StoredTensor, channels: Channels | None, shape: tuple[int, ...]) -> StoredTensor | ArrangedTensor:
    """Return a stored tensor as it reads in the checkpoint's shape; None: it has it."""
    return stored if channels is None else ArrangedTensor(stored, channels, shape)


def to_arrange(
    channels: ChannelsOf,
    formats: Mapping[str, NumberFormat],
    links_of: Callable[[str], Sequence[Protection]] = lambda name: (),
) -> dict[str, Channels]:
    """Return the channels, where they are known, of those tensors of which something is stored per channel.

    Args:
        channels: of any tensors.
        formats: of the tensors that are stored.
        links_of: what protects each.
    """
    return {
        name: own
        for name, own in channels.items()
        if name in formats and (formats[name].by_row or any(link.by_row for link in links_of(name)))
    }
