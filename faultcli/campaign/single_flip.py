"""Where the one flipped bit of a trial lies, what reads there, and what the protections noticed of it.

A trial with one flip is one fault of a fault list. What is kept here makes the list (`campaign.safety`) without the
checkpoint, and costs what the flip costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from faultcli.faults.law import FaultLaw
from faultcli.faults.laws import Flips
from faultcli.faults.maps import FaultMap
from faultcli.formats import as_words, from_words
from faultcli.live import LiveTensor, as_pairs, places
from faultcli.memory import MemoryImage, Patch


@dataclass(frozen=True)
class SingleFlip:
    """One flipped bit.

    `region`: a tensor, or `TENSOR#NAME` where the bit is of check words or scales. `word`: flat position there. `bit`:
    0 is the lowest. `before`: the word as it was written. `corrected`, `detected`: what the protections say
    (`MemoryImage.noticed`). `values`: what read there before and after, as texts, if exactly one value changed.
    """

    region: str
    word: int
    bit: int
    before: int
    corrected: bool
    detected: bool
    values: tuple[str, str] | None

    @property
    def after(self) -> int:
        """The word with the flip."""
        return self.before ^ 1 << self.bit


def one_flip(law: FaultLaw) -> bool:
    """Whether every fault map of a law has exactly one flip."""
    return isinstance(law, Flips) and law.count == 1


def single_flip(
    image: MemoryImage, faults: FaultMap, patch: Patch, live: Mapping[str, LiveTensor]
) -> SingleFlip | None:
    """Return the flip of a fault map that has one; None for any other map.

    Args:
        image: the memory.
        faults: of its layout.
        patch: what they do.
        live: the tensors of the model by name, with the values as stored.
    """
    if faults.flips != 1:
        return None
    ((name, (words, masks)),) = faults.faults.items()
    region = next(region for region in image.regions if region.name == name)
    noticed = image.noticed(faults)
    return SingleFlip(
        name,
        int(words[0]),
        int(masks[0]).bit_length() - 1,
        int(region.codes(words)[0]),
        noticed.corrected,
        noticed.detected,
        _values(patch, live),
    )


def _values(patch: Patch, live: Mapping[str, LiveTensor]) -> tuple[str, str] | None:
    if patch.values_changed != 1:
        return None
    ((name, touched),) = patch.elements.items()
    held = as_pairs(live[name]) if name in patch.pairs else live[name]
    for view, where, _ in places(held, touched.index.to(held.device)):
        words = as_words(view)
        old = from_words(words[torch.unravel_index(where[:1], words.shape)], view.dtype)
        return _text(old), _text(touched.values[:1].to(old.dtype))
    return None  # the model does not read it


def _text(value: Tensor) -> str:
    """Write one number: 9 digits tell any two float32 apart."""
    return f"{float(value.double()):.9g}" if value.is_floating_point() else str(value.item())
