"""A damaged hardened file made whole, as far as its protections reach; and the bit-error rate that it has met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.header import build_header, header_entries
from faultcli.checkpoint.reader import ShardFile
from faultcli.checkpoint.writer import rebuild
from faultcli.errors import UsageError
from faultcli.faults.maps import WordFaults
from faultcli.files import copy_range, write_all
from faultcli.formats.values import TILE
from faultcli.hardened.layout import flip
from faultcli.hardened.read import Hardened
from faultcli.hardened.record import COPIES, intact_copy
from faultcli.protect.base import Recovery, Words
from faultcli.protect.protected_tensor import StoredTensor

Progress = Callable[[int], None]


@dataclass(frozen=True)
class RepairedTensor:
    """What was found in one tensor, its scales included.

    `flips`: stored bits that were corrected, check bits included. `lost`: first and last position in the memory of
    every run of weights whose block is beyond correction. `faults`: what to flip, by region.
    """

    name: str
    weights: int
    flips: int
    lost: tuple[tuple[int, int], ...]
    faults: Mapping[str, WordFaults]
    seen: tuple[Recovery, ...]

    @property
    def lost_weights(self) -> int:
        """Weights that lie in blocks beyond correction."""
        return sum(last - first + 1 for first, last in self.lost)


@dataclass(frozen=True)
class Estimate:
    """A bit-error rate, the likeliest, and an interval: those that are less likely by no more than chance allows."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Repair:
    """What was found in a file. `ber`: None where nothing can tell. `record`: how many of its copies were damaged.
    `unit`: what is counted as a weight: `words` in a quantised checkpoint, of which a weight is several or a part."""

    tensors: Sequence[RepairedTensor]
    ber: Estimate | None
    record: int
    unit: str = "weights"

    @property
    def flips(self) -> int:
        """Stored bits that were corrected."""
        return sum(tensor.flips for tensor in self.tensors)

    @property
    def lost_weights(self) -> int:
        """Weights that lie in blocks beyond correction."""
        return sum(tensor.lost_weights for tensor in self.tensors)

    @property
    def unchecked(self) -> list[str]:
        """Tensors without anything that could tell damaged words from others."""
        return [tensor.name for tensor in self.tensors if tensor.weights and not tensor.seen]


def repair_checkpoint(
    hardened: Hardened,
    output: Path,
    *,
    confidence: float = 0.95,
    force: bool = False,
    progress: Progress | None = None,
) -> Repair:
    """Write a hardened file with every flip taken back that its protections can tell.

    Blocks beyond correction are left as they are, so that they are still known to be lost.

    Args:
        hardened: the damaged file; never changed.
        output: file or directory, like the input.
        confidence: of the bit-error rate's interval.
        force: replace an existing output.
        progress: called with the weights done since its last call.

    Raises:
        UsageError: nothing in its chain can tell damaged words from others.
        OutputError: the output exists, is an input or cannot be written.
    """
    found = []
    for name in hardened.slots:
        found.append(repaired(hardened.stored(name)))
        if progress is not None:
            progress(found[-1].weights)
    if not any(tensor.seen for tensor in found):
        raise UsageError(
            f"{hardened.checkpoint.path}: {hardened.chain.label} cannot tell damaged words from others",
            "repair it by a seal (faultcli seal, faultcli repair --seal), or harden with inplace=2 or secded=64",
        )
    copy = intact_copy(hardened.checkpoint.metadata)
    assert copy is not None  # else it would not have been opened
    good = dict.fromkeys(COPIES, copy)
    damaged = sum(hardened.checkpoint.metadata.get(key) != copy for key in COPIES)
    faults = {region: hits for tensor in found for region, hits in tensor.faults.items()}

    def write(shard: ShardFile, target: Path) -> None:
        _copy_whole(shard, target)
        with target.open("r+b", buffering=0) as file:
            if damaged:
                raw = shard.raw_header()
                header = build_header(header_entries(raw, shard.path), {**shard.header.metadata, **good})
                if len(header) <= len(raw):
                    write_all(file, memoryview(raw[:8] + header[8:].ljust(len(raw) - 8)))
            for info in shard.header.tensors:
                if info.name in faults:
                    data = hardened.checkpoint.read_bytes(info.name)
                    flip(data, faults[info.name], hardened.regions[info.name].bits)
                    file.seek(info.offset)
                    write_all(file, data.data)

    rebuild(hardened.checkpoint, output, write, force=force, check=_open)
    ber = estimate([one for tensor in found for one in tensor.seen], confidence)
    return Repair(found, ber, damaged, "weights" if hardened.record.quantised is None else "words")


def _open(written: Path) -> None:
    Hardened.of(Checkpoint.open(written))


def repaired(stored: StoredTensor) -> RepairedTensor:
    """Find the flips in a tensor that its protections can tell, some blocks at a time."""
    group = math.lcm(*(1, *(link.block for link in stored.links)))
    size = max(1, TILE // group) * group
    words, checks = np.empty_like(stored.words), [np.empty_like(own) for own in stored.checks]
    lost, seen = np.zeros(len(words), dtype=bool), None
    for start in range(0, len(words), size):
        part = slice(start, start + size)
        rows = [slice(start // link.block, (start + size) // link.block) for link in stored.links]
        old_checks = [own[at] for own, at in zip(stored.checks, rows, strict=True)]
        words[part], new_checks, lost[part], recovery = _recovered(stored, stored.words[part], old_checks)
        for own, at, new in zip(checks, rows, new_checks, strict=True):
            own[at] = new
        seen = _together(seen, recovery)
    faults = dict(_differences(stored, words, checks))
    runs = _runs(lost[: stored.elements])
    found: tuple[Recovery, ...] = () if seen is None else (seen,)
    if stored.scales is not None:
        scales = repaired(stored.scales)
        faults |= scales.faults
        found += scales.seen
        runs += _elements_of_scales(stored, scales.lost)
    flips = sum(int(np.bitwise_count(hits.masks).sum()) for hits in faults.values())
    return RepairedTensor(stored.name, stored.elements, flips, runs, faults, found)


def _recovered(
    stored: StoredTensor, read: Words, read_checks: list[Words]
) -> tuple[Words, list[Words], NDArray[np.bool_], Recovery | None]:
    """Return words and check words of some blocks as they were written, which words are lost, and what the link that
    reads first saw. Of two links, the inner one has the last word on what is lost."""
    words, checks, seen = read, list(read_checks), None
    lost = np.zeros(len(words), dtype=bool)
    for place in reversed(range(len(stored.links))):
        link = stored.links[place]
        recovery = link.recover(words.reshape(-1, link.block), read_checks[place])
        if recovery is not None:
            seen = seen or recovery
            words = recovery.words.reshape(-1)
            own = np.repeat(recovery.lost, link.block)
            lost = own if link.block_failure(0.0) is not None else lost | own
    for place, link in enumerate(stored.links):
        if link.per_block:
            fresh, old = link.checks(words.reshape(-1, link.block)), read_checks[place]
            kept = lost.reshape(-1, link.block).any(axis=1, keepdims=True)
            checks[place] = np.where(kept, old, fresh).astype(old.dtype)
    return words, checks, lost, seen


def _together(seen: Recovery | None, more: Recovery | None) -> Recovery | None:
    """Return what was found in parts of a tensor, without their words."""
    if more is None:
        return seen
    found, beyond = (more.found, more.beyond) if seen is None else (seen.found + more.found, seen.beyond + more.beyond)
    return Recovery(more.words[:0].copy(), more.lost[:0].copy(), found, beyond, more.bits)


def _differences(stored: StoredTensor, words: Words, checks: Sequence[Words]) -> Iterable[tuple[str, WordFaults]]:
    now = replace(stored, words=words, checks=tuple(checks), scales=None)
    for before, after in zip(stored.regions, now.regions, strict=False):  # scales come last, and are looked at alone
        old, new = (one.data if isinstance(one, StoredTensor) else one.words for one in (before, after))
        hit = np.flatnonzero(old != new)
        if len(hit):
            yield before.name, WordFaults(hit, (old[hit] ^ new[hit]).astype(np.uint64))


def _runs(lost: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Return first and last position of every run of ones."""
    ends = [*lost[:1], *lost[-1:]]  # a run at either end has an edge there
    inner = np.flatnonzero(lost[1:] != lost[:-1]) + 1
    edges = np.concatenate([[0] * bool(ends and ends[0]), inner, [len(lost)] * bool(ends and ends[1])]).reshape(-1, 2)
    return tuple((int(first), int(end) - 1) for first, end in edges)


def _elements_of_scales(stored: StoredTensor, lost: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the elements whose scales are lost, as runs."""
    import torch

    from faultcli.formats import ScaledFormat

    assert isinstance(stored.format, ScaledFormat)
    groups = [torch.arange(first, last + 1) for first, last in lost]
    ones = np.zeros(stored.elements, dtype=bool)
    if groups:
        ones[stored.format.elements_of(torch.cat(groups)).numpy()] = True
    return _runs(ones)


def estimate(seen: Sequence[Recovery], confidence: float) -> Estimate | None:
    """Return the likeliest bit-error rate of independent flips, given how many were found in each code word, and how
    many code words had more than can be counted. The interval is that of the likelihood ratio (Wilks 1938)."""
    from scipy.optimize import brentq, minimize_scalar
    from scipy.stats import binom, chi2

    if not seen:
        return None
    kinds = sorted({(one.bits, len(one.found)) for one in seen})
    alike = [[one for one in seen if (one.bits, len(one.found)) == kind] for kind in kinds]
    counts = [(np.sum([one.found for one in of], axis=0), sum(one.beyond for one in of)) for of in alike]

    def likelihood(log_rate: float) -> float:
        rate, total = math.exp(log_rate), 0.0
        for (bits, counted), (found, beyond) in zip(kinds, counts, strict=True):
            total += float(found @ binom.logpmf(np.arange(counted), bits, rate))
            total += beyond * float(binom.logsf(counted - 1, bits, rate)) if beyond else 0.0
        return total

    low, high = math.log(1e-18), math.log(0.5)
    nothing = all(not one.beyond and not one.found[1:].any() for one in seen)
    best = low if nothing else float(minimize_scalar(lambda r: -likelihood(r), bounds=(low, high), method="bounded").x)
    least = likelihood(best) - float(chi2.ppf(confidence, 1)) / 2

    def excess(log_rate: float) -> float:
        return likelihood(log_rate) - least

    down = 0.0 if nothing or excess(low) > 0 else math.exp(brentq(excess, low, best))
    up = 0.5 if excess(high) > 0 else math.exp(brentq(excess, best, high))
    return Estimate(0.0 if nothing else math.exp(best), down, up)


def _copy_whole(shard: ShardFile, target: Path) -> None:
    with shard.open() as source, target.open("wb", buffering=0) as file:
        copy_range(source, 0, shard.stamp[1], file)
