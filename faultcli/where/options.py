"""What every tensor may be protected by, what that costs, and what is expected to be left of the damage.

Nothing is run for it but the gradients of `workload.curvature`: all tensors are written behind each chain, fault maps
are drawn over them and read back, and what reads differently from the weights counts ½ Σ h·δ².
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from faultcli.campaign.subject import Subject
from faultcli.errors import FaultcliError
from faultcli.faults.law import FaultLaw
from faultcli.faults.selection import escaped
from faultcli.memory import MemoryImage, Patch
from faultcli.protect.arranged import ArrangedTensor
from faultcli.protect.chain import Chain, Links
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.protect.spare_bits import SparingProtection

MAPS = 20  # per tensor and chain; they cost no run of the model
_ENOUGH, _FEWEST = 1 << 18, 4  # weights in all maps of a tensor, of which large ones have many each; maps at the least
_TOGETHER, _FEWEST_TOGETHER = 1 << 15, 2  # the same where a chain reads many words together, which takes long
_LONG = 64  # words


@dataclass(frozen=True)
class Reads:
    """What a tensor behind a chain reads as.

    `image`: of this tensor alone. `patches`: what faults change, by trial, the first few of the seed.
    """

    image: MemoryImage
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Option:
    """A tensor behind one chain.

    `bits`: beside its words, constants included. `code_words`: checked when all of it is read. `damage`: the expected
    divergence of the answers, in nats, if faults hit this tensor alone; rounding included. `reads`: to run it by; None
    where no plan of a frontier takes it.
    """

    links: Links
    bits: int
    code_words: int
    damage: float
    reads: Reads | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The chain."""
        return Chain(self.links).text


def options_of(
    subject: Subject,
    format: str,
    law: FaultLaw,
    chains: Sequence[Chain],
    curvature: Mapping[str, Tensor],
    *,
    seed: int,
    kept: int = 0,
) -> Iterator[tuple[Chain, dict[str, Option]]]:
    """Yield, chain by chain, the tensors behind it; those that it does not work on are left out, and so are those of
    which long blocks are sure to be lost. Where a long code holds twice the rate, one that gives up more bits is not
    looked at. At the end come the tensors that nothing else works on than what is sure to be lost, behind the last such
    chain.

    What a chain finds for several tensors together (a factor), it finds for all.

    Args:
        subject: what is at risk.
        format: of the memory.
        law: of the faults.
        chains: without rules.
        curvature: h of every weight.
        seed: of the fault maps.
        kept: so many of the first maps are kept as what options read.

    Raises:
        FaultcliError: no chain works on a tensor; says why the last one does not.
    """
    served, lost, failed = set[str](), dict[str, Chain](), dict[str, FaultcliError]()
    enough = dict[tuple[type, ...], float]()

    def option(name: str, image: MemoryImage, chain: Chain) -> tuple[Option, bool]:
        stored = _stored(image, name)
        patches = [image.patch(image.draw(law, seed=seed, trial=trial)) for trial in range(max(kept, _maps(stored)))]
        damage = expected_damage(image, name, subject.tensors[name], curvature[name], patches)
        reads = Reads(image, tuple(patches[:kept])) if kept else None
        unhurt = not any(patch.values_changed for patch in patches)
        return Option(chain.links, stored.extra_bits, stored.code_words, damage, reads), unhurt

    for chain in chains:
        kinds, budget = tuple(map(type, chain.links)), _budget(chain)
        if budget > enough.get(kinds, math.inf):
            yield chain, {}
            continue
        sure = True
        found: dict[str, Option] = {}
        for name, image in _written(subject, format, chain, law, failed):
            stored = _stored(image, name)
            if _blocks_fail(stored, law) == 1:
                lost[name] = chain  # decoding for nothing takes longest
                continue
            found[name], unhurt = option(name, image, chain)
            sure &= unhurt and _blocks_fail(stored, law, times=2) == 0
        if sure and len(found) == len(subject.tensors):
            enough[kinds] = budget
        served |= found.keys()
        yield chain, found
    for name in subject.tensors:
        if name not in served and name not in lost:
            raise failed[name]
    left = {name: chain for name, chain in lost.items() if name not in served}
    for chain in dict.fromkeys(left.values()):
        written = _written(subject, format, chain, law, failed)
        yield chain, {name: option(name, image, chain)[0] for name, image in written if left.get(name) == chain}


def _stored(image: MemoryImage, name: str) -> StoredTensor:
    tensor = image.tensors[name]
    stored = tensor.rows if isinstance(tensor, ArrangedTensor) else tensor
    assert isinstance(stored, StoredTensor)
    return stored


def _written(
    subject: Subject, format: str, chain: Chain, law: FaultLaw, failed: dict[str, FaultcliError]
) -> Iterator[tuple[str, MemoryImage]]:
    """Yield the tensors behind a chain, one by one; why it does not work on the others comes into `failed`."""
    ber = law.ber if chain.needs_ber else None
    try:
        whole = subject.memory(format, by_name(chain, next(iter(subject.tensors))), ber)
    except FaultcliError:
        for name, values in subject.tensors.items():
            try:
                yield name, replace(subject, tensors={name: values}).memory(format, chain, ber)
            except FaultcliError as error:
                failed[name] = error
        return
    for name, tensor in whole.tensors.items():
        yield name, MemoryImage.around({name: tensor}, format, chain)


def by_name(chain: Chain, name: str) -> Chain:
    """Return a chain for all tensors as what chains by tensor say that give it to all of them."""
    return Chain(chain.links, rules=((escaped(name), chain.links),))


def _maps(stored: StoredTensor) -> int:
    together = max(_FEWEST_TOGETHER, _TOGETHER // stored.group)
    return min(MAPS, together, max(_FEWEST, _ENOUGH // max(1, stored.elements)))


def _budget(chain: Chain) -> float:
    """Return the bits that a chain gives up of every word; 0 if it gives up none."""
    return sum(link.spare for link in chain.links if isinstance(link, SparingProtection))


def _blocks_fail(stored: StoredTensor, law: FaultLaw, times: float = 1.0) -> float | None:
    """Return how probably the long blocks of a tensor are lost, at so many times the rate; None if it has none."""
    failures = [link.block_failure(times * (law.ber or 0.0)) for link in stored.links if link.block >= _LONG]
    return max((failure for failure in failures if failure is not None), default=None)


def expected_damage(
    image: MemoryImage, name: str, weights: Tensor, curvature: Tensor, patches: Sequence[Patch]
) -> float:
    """Return the mean over fault maps of ½ Σ h·δ², at most `RUINED` a map.

    Args:
        image: the tensor `name` alone.
        weights: what it should read as.
        curvature: h, in the shape of `weights`.
        patches: what each map changes of it.
    """
    exact, h = weights.flatten().double(), curvature.flatten().double()
    read = dict(image.values())[name].flatten().double()
    clean = h * (read - exact).square()
    whole, total = float(clean.sum()), 0.0
    for patch in patches:
        touched, more = patch.elements.get(name), 0.0
        if touched is not None:
            index = touched.index
            change = (touched.values.double() - exact[index]).square()
            more = float(
                (h[index] * change.nan_to_num(math.inf, math.inf) - clean[index]).nan_to_num(0.0, RUINED).sum()
            )
        total += min(RUINED, max(0.0, whole + more) / 2)
    return total / len(patches)


RUINED = 10.0  # nats: that answers are worse than worthless is bad enough
