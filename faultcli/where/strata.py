"""The strata of a memory: every region of it (or output channel of one) by bit position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from faultcli.errors import UsageError
from faultcli.faults.law import Region
from faultcli.faults.maps import WordFaults
from faultcli.faults.one_bit import OneBit
from faultcli.faults.sampling import Stream
from faultcli.memory import MemoryImage, TensorInMemory
from faultcli.protect.arranged import ArrangedTensor

LOOKED_AT = 256  # words per region whose bits are flipped, without a run, to predict what a flip does
MOST_STRATA = 100_000
_HARMLESS = 10.0  # a flip that changes a value by x of the largest one is taken to change 10·x of the answers at most


@dataclass
class Stratum:
    """The sites of one bit position in one region or output channel.

    Attributes:
        region: name of the region: the tensor, or its check words or scales.
        channel: output channel; None: all of the region.
        bit: position, 0 is the least significant.
        first_word: where its words begin.
        size: number of sites, one per word.
        offset: number of the region's first bit among all bits of the memory.
        word_bits: bits per word.
        group: what the format calls the bit: sign, exponent, …; None: check words.
        predicted: upper guess, 0 to 1, of the part of answers that a flip here changes, from the codes alone.
    """

    region: str
    channel: int | None
    bit: int
    first_word: int
    size: int
    offset: int
    word_bits: int
    group: str | None
    predicted: float
    seed: int
    _drawn: list[int] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)
    _stream: Stream | None = None

    def law(self, turn: int) -> OneBit:
        """Return the flip of the `turn`-th site, from 0; sites come in random order, none twice.

        Raises:
            IndexError: there are not so many.
        """
        return OneBit(self.region, self.first_word + self._site(turn), self.bit)

    def number(self, turn: int) -> int:
        """Return the number of the `turn`-th site among all bits of the memory: the number of its trial."""
        return self.offset + (self.first_word + self._site(turn)) * self.word_bits + self.bit

    def _site(self, turn: int) -> int:
        if turn >= self.size:
            raise IndexError(f"{self.region} bit {self.bit} has {self.size} sites")
        if self._stream is None:
            self._stream = Stream("faultcli where", self.seed, self.region, self.channel, self.bit, self.size)
        while len(self._drawn) <= turn:
            if len(self._drawn) > self.size // 2:  # few are left: draw among them, not until one of them comes up
                left = sorted(set(range(self.size)) - self._seen)
                order = np.argsort(self._stream.uniform(len(left)), kind="stable")
                self._drawn += [left[i] for i in order]
                break
            site = int(self._stream.below(self.size, 1)[0])
            if site not in self._seen:
                self._seen.add(site)
                self._drawn.append(site)
        return self._drawn[turn]


def strata_of(image: MemoryImage, seed: int, *, channels: bool = False, blind: bool = False) -> list[Stratum]:
    """Return the strata of a memory; together they hold every stored bit once.

    Args:
        image: the memory.
        seed: of the order in which sites are drawn.
        channels: by output channel (a slice of what lies in the memory) as well; check words and scales stay whole.
        blind: predict nothing from the codes.

    Raises:
        UsageError: there are more than `MOST_STRATA`.
    """
    found: list[Stratum] = []
    offset = 0
    for tensor in image.tensors.values():
        shape = tuple(tensor.rows.shape if isinstance(tensor, ArrangedTensor) else tensor.read().shape)
        for region in tensor.regions:
            words, bits = region.layout
            parts = shape[0] if channels and region.holds_values and len(shape) > 1 else 1
            if not parts or tensor.elements % parts:
                parts = 1
            step = tensor.elements // parts if parts > 1 else words
            groups = {bit: group for group, positions in region.fields.items() for bit in positions}
            predicted = np.ones(bits) if blind or not words else _predicted(tensor, region, seed)
            for part in range(parts):
                last = part == parts - 1  # padding behind the last element goes with the last channel
                size = words - part * step if last else step
                if size:
                    channel = part if parts > 1 else None
                    found += [
                        Stratum(
                            region.name,
                            channel,
                            b,
                            part * step,
                            size,
                            offset,
                            bits,
                            groups.get(b),
                            float(predicted[b]),
                            seed,
                        )
                        for b in range(bits)
                    ]
            offset += words * bits
            if len(found) > MOST_STRATA:
                raise UsageError(
                    f"there are more than {MOST_STRATA:,} strata", "fewer tensors: --include GLOB, or --by layer"
                )
    return found


def _predicted(tensor: TensorInMemory, region: Region, seed: int) -> Sequence[float]:
    """Return, by bit, an upper guess of the part of answers that a flip changes: in proportion to the mean change of
    the value, in units of the largest value of the tensor, as the memory's reader gives it.

    It looks at a few words, one flip at a time; a value that is not finite, or no value at all, counts as changed.
    """
    words, bits = region.layout
    golden = tensor.read().flatten().to(torch.float64)
    largest = float(golden.abs().max()) if golden.numel() else 0.0
    stream = Stream("faultcli where", seed, region.name, "looked at")
    count = min(LOOKED_AT, words)
    looked = np.unique(stream.below(words, count))
    if not largest:
        return [1.0] * bits
    changes = np.zeros(bits)
    for bit in range(bits):
        mask = np.uint64(1 << bit)
        # Spread over a tensor the flips rarely meet in one block of a code; a guess may be wrong, no estimate is.
        faults = WordFaults(looked, np.full(len(looked), mask, dtype=np.uint64))
        read = tensor.faulty({region.name: faults})
        values, index = read.values.flatten().to(torch.float64), read.index.to(torch.int64)
        change = ((values - golden[index]).abs() / largest).nan_to_num(nan=1.0, posinf=1.0)
        changes[bit] = float((_HARMLESS * change).clamp(max=1.0).sum()) / len(looked)
    return [float(min(1.0, change)) for change in changes]
