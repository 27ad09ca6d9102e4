"""Which flips of a stored tensor may hurt most: first-order gradient times the change of what is read, for every bit.

The reading is not differentiable, so it is not differentiated: for every single flip it is carried out, behind whatever
protects the words, and what it changes is multiplied by the gradient in the weights. Where one flip of a block is
corrected, sets of flips in one block are looked at instead; where words look after themselves, pairs in a word as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.faults.maps import NO_FAULTS, WordFaults
from faultcli.where.readings import BlockRegion, Faults, Reading, StoredBit, with_flips, with_sites

MOST_TOGETHER = 6  # flips of one block that are looked at as a set
_BLOCKS = 32  # blocks of a tensor whose sets are looked at
_SPARE = 2  # sets of m are taken from the m + 2 bits of a block that would hurt most
_SINGLY = 4096  # sites of a block with faults that are looked at, one by one


class Candidate(NamedTuple):
    """Flips that belong together. `rank`: what they are predicted to cost per flip."""

    rank: float
    sites: tuple[StoredBit, ...]


def candidates(reading: Reading, gradient: Tensor, faults: Faults, most: int, count: int) -> list[Candidate]:
    """Return the `count` most promising sets of at most `most` flips on top of faults, the best first.

    Ranks are gradient × change, summed over what a set changes. A change beyond the largest weight of the tensor counts
    by its magnitude, as first order says nothing of its sign; one to NaN or infinity is infinite. Flips that change
    nothing are no candidates, nor are bits that are faulty already. Costs O(elements) per bit of a word, and per word
    of a block; ties go to the lower word.

    Args:
        reading: the tensor.
        gradient: float [elements], as they lie in the memory.
        faults: of the whole memory.
    """
    own = reading.own(faults)
    ranking = _Ranking(reading, gradient, own, count)
    found = [one for region in reading.regions() if not region.corrected for one in ranking.singles(region)]
    if reading.corrected:
        found += ranking.in_faulty_blocks()
        found += ranking.sets(min(most, MOST_TOGETHER))
    elif most > 1 and reading.checked:
        found += ranking.copies()
        found += ranking.pairs()
    return sorted(found, key=lambda one: (-one.rank, len(one.sites), one.sites))[:count]


class _Ranking:
    def __init__(self, reading: Reading, gradient: Tensor, faults: Faults, count: int) -> None:
        self.reading, self.gradient, self.faults, self.count = reading, gradient, faults, count
        self.now = reading.read(faults)

    def singles(self, region: BlockRegion) -> Iterator[Candidate]:
        """Yield the best single flips of a region, by the word's place in its block and the bit."""
        taken = self.faults.get(region.name, NO_FAULTS)
        for first in range(min(region.step, region.words)):
            words = np.arange(first, region.words, region.step)
            for bit in range(region.bits):
                masks = np.full(len(words), 1 << bit, dtype=np.uint64)
                ranks = self._by_block(self.reading.read(with_flips(self.faults, region.name, words, masks)), region)
                ranks = ranks[: len(words)]
                hit = taken.words[(taken.masks >> np.uint64(bit) & np.uint64(1)).astype(bool)]
                ranks[np.searchsorted(words, hit[hit % region.step == first])] = -np.inf
                for block in _top(ranks, self.count):
                    yield Candidate(float(ranks[block]), (StoredBit(region.name, int(words[block]), bit),))

    def copies(self) -> Iterator[Candidate]:
        """Yield the best pairs of a bit and its copy, where bits are read as the majority of their copies."""
        stored = self.reading.stored
        for link, name in zip(stored.links, stored.names, strict=True):
            if link.copied_from is None or self.reading.group != 1:
                continue
            words, region = np.arange(stored.elements), f"{stored.name}#{name}"
            for bit in range(link.copied_from, stored.format.bits):
                mask = np.full(len(words), 1 << bit, dtype=np.uint64)
                both = with_flips(self.faults, stored.name, words, mask)
                both = with_flips(both, region, link.per_block * words, mask >> np.uint64(link.copied_from))
                ranks, changed = self._ranks(self.reading.read(both))
                ranks = np.where(changed, ranks / 2, -np.inf)
                for faulty, step in ((stored.name, 1), (region, link.per_block)):
                    ranks[self.faults.get(faulty, NO_FAULTS).words // step] = -np.inf
                for word in map(int, _top(ranks, self.count)):
                    copy = StoredBit(region, link.per_block * word, bit - link.copied_from)
                    yield Candidate(float(ranks[word]), (StoredBit(stored.name, word, bit), copy))

    def pairs(self) -> Iterator[Candidate]:
        """Yield the best pairs of bits of one word, where words look after themselves: two flips may pass unseen."""
        stored = self.reading.stored
        if self.reading.group != 1 or any(link.copied_from is not None for link in stored.links):
            return
        words, known = np.arange(stored.elements), self.faults.get(stored.name, NO_FAULTS)
        for bits in combinations(range(stored.format.bits), 2):
            mask = sum(1 << bit for bit in bits)
            both = with_flips(self.faults, stored.name, words, np.full(len(words), mask, dtype=np.uint64))
            ranks, changed = self._ranks(self.reading.read(both))
            ranks = np.where(changed, ranks / 2, -np.inf)
            ranks[known.words[known.masks & np.uint64(mask) != 0]] = -np.inf
            for word in map(int, _top(ranks, self.count)):
                low, high = bits
                yield Candidate(
                    float(ranks[word]), (StoredBit(stored.name, word, low), StoredBit(stored.name, word, high))
                )

    def in_faulty_blocks(self) -> Iterator[Candidate]:
        """Yield single flips in blocks that have faults, one by one, where flips of other blocks are corrected."""
        regions = [region for region in self.reading.regions() if region.corrected]
        for block in sorted(
            {int(word) // r.step for r in regions for word in self.faults.get(r.name, NO_FAULTS).words}
        ):
            known = _of_block(self.faults, regions, block)
            taken = {site for region in regions for site in _sites(region, block, known)}
            sites = (
                StoredBit(region.name, word, bit)
                for region in regions
                for word in range(block * region.step, min((block + 1) * region.step, region.words))
                for bit in range(region.bits)
            )
            for _, site in zip(range(_SINGLY), (one for one in sites if one not in taken), strict=False):
                rank = self._of_few(with_sites(known, (site,)), known)
                if rank is not None:
                    yield Candidate(rank, (site,))

    def sets(self, most: int) -> Iterator[Candidate]:
        """Yield sets of flips in one block without faults: of those bits that would hurt most, were they read as they
        are."""
        stored, group = self.reading.stored, self.reading.group
        width = most + _SPARE
        ranks, offsets, bits = self._raw(width)
        faulty = np.array(
            sorted({int(w) // group for w in self.faults.get(stored.name, NO_FAULTS).words}), dtype=np.int64
        )
        ranks[faulty] = -np.inf
        for m in range(2, most + 1):
            worth = np.where(np.isneginf(ranks[:, :m]).any(axis=1), -np.inf, ranks[:, :m].sum(axis=1))
            blocks = np.sort(_top(worth, _BLOCKS))
            for chosen in combinations(range(min(m + _SPARE, ranks.shape[1])), m):
                columns = np.array(chosen)
                real = blocks[~np.isneginf(ranks[blocks][:, columns]).any(axis=1)]
                words = real[:, None] * group + offsets[real][:, columns]
                masks = np.uint64(1) << bits[real][:, columns].astype(np.uint64)
                index, values = self.reading.sparse(with_flips({}, stored.name, words.reshape(-1), masks.reshape(-1)))
                by_block = self._few_by_block(index, values, real)
                for at in map(int, _top(by_block, self.count)):
                    sites = [
                        StoredBit(stored.name, int(words[at, i]), int(bits[real[at], columns[i]])) for i in range(m)
                    ]
                    yield Candidate(float(by_block[at]) / m, tuple(sorted(sites)))

    def _raw(self, width: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return of every block the ranks of its worst bits, if nothing corrected them, [blocks, width] from the worst,
        with their words' places in the block and their bits."""
        stored, group = self.reading.stored, self.reading.group
        blocks = -(-stored.elements // group)
        words, place = np.arange(stored.elements), torch.arange(group).expand(blocks, group)
        best = torch.empty(blocks, 0, dtype=torch.float64)
        offsets = bits = torch.empty(blocks, 0, dtype=torch.int64)
        for bit in range(stored.format.bits):
            masks = np.full(len(words), 1 << bit, dtype=np.uint64)
            ranks, changed = self._ranks(
                self.reading.read({stored.name: WordFaults(words, masks)}, on_values=True), self.reading.clean
            )
            padded = np.full(blocks * group, -np.inf)
            padded[: len(ranks)] = np.where(changed, ranks, -np.inf)
            best = torch.cat([best, torch.from_numpy(padded).view(blocks, group)], dim=1)
            offsets = torch.cat([offsets, place], dim=1)
            bits = torch.cat([bits, torch.full((blocks, group), bit)], dim=1)
            best, order = best.sort(dim=1, descending=True, stable=True)
            order = order[:, :width]
            best, offsets, bits = best[:, :width], offsets.gather(1, order), bits.gather(1, order)
        return best.numpy(), offsets.numpy(), bits.numpy()

    def _ranks(self, after: Tensor, before: Tensor | None = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the rank of what every element reads, and which elements read another number."""
        return self._compare(after, self.now if before is None else before, self.gradient)

    def _compare(
        self, after: Tensor, before: Tensor, gradient: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        change = after.double() - before.double()
        changed = ~((after == before) | (after.isnan() & before.isnan()))
        ranks = gradient * change
        ranks = torch.where(change.abs() > self.reading.largest, ranks.abs(), ranks)
        ranks = torch.where(after.isfinite() | ~changed, ranks, torch.inf)
        return torch.where(changed, ranks, 0.0).nan_to_num(0.0, torch.inf, -torch.inf).numpy(), changed.numpy()

    def _by_block(self, after: Tensor, region: BlockRegion) -> NDArray[np.float64]:
        """Return the rank of every block of a region; -inf where nothing changes."""
        ranks, changed = self._ranks(after)
        if region.block_of is None:
            return np.where(changed, ranks, -np.inf)
        block, blocks = region.block_of.numpy(), -(-region.words // region.step)
        some = np.bincount(block[changed], minlength=blocks)
        return np.where(some > 0, np.bincount(block, weights=ranks, minlength=blocks), -np.inf)

    def _few_by_block(self, index: Tensor, values: Tensor, blocks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rank of each of some blocks (ascending) without faults, of which `index` are read as `values`."""
        ranks, changed = self._compare(values, self.reading.clean[index], self.gradient[index])
        at = np.searchsorted(blocks, index.numpy() // self.reading.group)
        some = np.bincount(at[changed], minlength=len(blocks))
        return np.where(some > 0, np.bincount(at, weights=ranks, minlength=len(blocks)), -np.inf)

    def _of_few(self, after: Faults, before: Faults) -> float | None:
        """Return the rank of going from some faults of one block to others; None if nothing changes."""
        (one, was), (other, becomes) = self.reading.sparse(before), self.reading.sparse(after)
        index = torch.unique(torch.cat([one, other]))  # ascending
        old, new = self.reading.clean[index], self.reading.clean[index]
        old[torch.searchsorted(index, one)] = was
        new[torch.searchsorted(index, other)] = becomes
        ranks, changed = self._compare(new, old, self.gradient[index])
        return float(ranks.sum()) if changed.any() else None


def _of_block(faults: Faults, regions: list[BlockRegion], block: int) -> Faults:
    """Return the faults of one block."""
    found = {}
    for region in regions:
        words, masks = faults.get(region.name, NO_FAULTS)
        inside = words // region.step == block
        if inside.any():
            found[region.name] = WordFaults(words[inside], masks[inside])
    return found


def _sites(region: BlockRegion, block: int, faults: Faults) -> Iterator[StoredBit]:
    words, masks = faults.get(region.name, NO_FAULTS)
    for word, mask in zip(words, masks, strict=True):
        yield from (StoredBit(region.name, int(word), bit) for bit in range(region.bits) if int(mask) >> bit & 1)


def _top(ranks: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` largest ranks that are not -inf, the largest first, of equals the first."""
    if count < len(ranks):
        least = np.partition(ranks, len(ranks) - count)[len(ranks) - count]
        above, equal = np.flatnonzero(ranks > least), np.flatnonzero(ranks == least)
        places = np.concatenate([above, equal[: count - len(above)]])
    else:
        places = np.arange(len(ranks))
    places = places[~np.isneginf(ranks[places])]
    ordered: NDArray[np.int64] = places[np.lexsort((places, -ranks[places]))]
    return ordered
