"""The values of the run without faults that are kept, and the positions of a program at which a run can begin."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from faultcli.workload.late.program import Program, Values

PLAIN = (int, float, bool, str, torch.Size, torch.dtype, torch.device, type(None))
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Version:
    """A value, and how often it had been written into."""

    node: fx.Node
    writes: int


@dataclass(frozen=True)
class Cut:
    """A position of a program, with what is live there.

    Attributes:
        at: the position.
        live: values other than the input.
        uses_input: whether the input is live, too.
        overwritten: those that later steps write into.
    """

    at: int
    live: tuple[Version, ...]
    uses_input: bool
    overwritten: frozenset[fx.Node]


class Sight:
    """What is seen of a program's values during one run: which positions a run can begin at, and what that takes.

    It holds on to all values that are live at these positions until it is asked. Values have to count how often they
    are written into, which those of inference mode do not.

    Args:
        program: what is run.
        positions: those of interest.
    """

    def __init__(self, program: Program, positions: Iterable[int]) -> None:
        self._program = program
        self._positions = frozenset(positions)
        self._seen: dict[int, dict[fx.Node, tuple[Any, int]]] = {}
        self.bytes: dict[Version, int] = {}

    def look(self, at: int, values: Values) -> bool:
        """Take in what is live before a step."""
        if at in self._positions:
            self._seen[at] = {node: (values[node], _writes(values[node])) for node in self._program.live[at]}
        return False

    def cuts(self) -> list[Cut]:
        """Return the positions whose live values can be kept, once the run is over: each a tensor laid out as its copy
        is, of memory of its own, or plain. A copy of the rest could make a kernel take another way."""
        found = []
        for at, seen in sorted(self._seen.items()):
            held = {node: value for node, (value, _) in seen.items() if node is not self._program.input}
            tensors = [value for value in held.values() if isinstance(value, Tensor)]
            plain = all(isinstance(value, (Tensor, *PLAIN)) for value in held.values())
            memories = {value.untyped_storage().data_ptr() for value in tensors}
            if not plain or len(memories) < len(tensors) or not all(map(_as_copied, tensors)):
                continue
            versions = tuple(Version(node, seen[node][1]) for node in held)
            overwritten = frozenset(node for node, (value, writes) in seen.items() if _writes(value) != writes)
            self.bytes |= {v: held[v.node].nbytes if isinstance(held[v.node], Tensor) else 0 for v in versions}
            found.append(Cut(at, versions, self._program.input in seen, overwritten))
        return found


def chosen(
    cuts: Sequence[Cut], sizes: Mapping[Version, int], seconds: Sequence[float], readers: Sequence[int], most: int
) -> list[Cut]:
    """Return the positions to keep the values of: the next is always the one that saves most per byte.

    What is saved is the mean over the layers at risk, each being as likely to be the first that is touched.

    Args:
        cuts: those there are.
        sizes: bytes of every value, of all inputs together.
        seconds: that a run takes up to every position.
        readers: positions of the layers at risk, in order.
        most: bytes that all values may take together.
    """
    kept: list[Cut] = []
    held: set[Version] = set()
    rest = list(cuts)
    while rest:
        at = sorted(cut.at for cut in kept)

        def worth(cut: Cut, at: Sequence[int] = at) -> float:
            after = bisect_right(at, cut.at)
            before, end = at[after - 1] if after else 0, at[after] if after < len(at) else len(seconds)
            begins = sum(cut.at <= reader < end for reader in readers)
            new = sum(sizes[version] for version in cut.live if version not in held)
            return begins * (seconds[cut.at] - seconds[before]) / (new + 1)

        fitting = [c for c in rest if sum(sizes[v] for v in held.union(c.live)) <= most and worth(c) > 0]
        if not fitting:
            break
        best = max(fitting, key=worth)
        kept.append(best)
        held.update(best.live)
        rest.remove(best)
    return sorted(kept, key=lambda cut: cut.at)


class Kept:
    """Values of the run without faults of one batch.

    Attributes:
        values: those at the positions that are kept.
        output: those that the model returned.
    """

    def __init__(self) -> None:
        self.values: dict[Version, Any] = {}
        self.output: dict[fx.Node, Any] = {}

    def keep(self, cut: Cut, values: Values) -> None:
        """Copy what is live at a position, unless it is kept already."""
        for version in cut.live:
            if version not in self.values:
                self.values[version] = _copied(values[version.node])

    def keep_output(self, values: Values) -> None:
        """Copy what is live after the last step."""
        self.output = {node: _copied(value) for node, value in values.items()}

    def at(self, cut: Cut, given: Values) -> dict[fx.Node, Any]:
        """Return what a run that begins at a position needs; what it writes into, as a copy.

        Args:
            given: the input.
        """
        values = {v.node: self.values[v] for v in cut.live}
        found = {node: _copied(value) if node in cut.overwritten else value for node, value in values.items()}
        return {**found, **given} if cut.uses_input else found

    def same(self, cut: Cut, values: Values) -> bool:
        """Return whether what is live at a position is what it was without faults, bit for bit."""
        return all(_same(values[version.node], self.values[version]) for version in cut.live)

    def same_output(self, values: Values) -> bool:
        """Return whether what is live after the last step is what it was without faults, bit for bit."""
        return all(_same(value, self.output[node]) for node, value in values.items())

    @property
    def intact(self) -> bool:
        """Whether nobody has written into what is kept."""
        return all(_writes(value) == 0 for value in self.values.values())


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _writes(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _as_copied(tensor: Tensor) -> bool:
    """Return whether a copy of a tensor is laid out as it is, from the beginning of its memory."""
    strided = tensor.layout == torch.strided and not tensor.is_quantized and type(tensor) is Tensor
    return strided and tensor.storage_offset() == 0 and torch.empty_like(tensor).stride() == tensor.stride()


def _same(value: Any, kept: Any) -> bool:
    if not isinstance(kept, Tensor):
        return type(value) is type(kept) and bool(value == kept)
    if not isinstance(value, Tensor) or value.dtype != kept.dtype or value.stride() != kept.stride():
        return False
    return same_bits(value, kept)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one dtype hold the same bits; the sign of a zero and the bits of a NaN count."""
    one, other = (torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in (one, other))
    words = _WORDS[one.dtype.itemsize]
    return torch.equal(one.view(words), other.view(words))
