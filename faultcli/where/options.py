"""What every tensor may be protected by, what that costs, and what is expected to be left of the damage.

Nothing is run for it but the gradients of `workload.curvature`: each tensor is written behind each chain, fault maps
are drawn over it and read back, and what reads differently from the weights counts ½ Σ h·δ².
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from faultcli.campaign.subject import Subject
from faultcli.errors import FaultcliError
from faultcli.faults.law import FaultLaw
from faultcli.memory import MemoryImage
from faultcli.protect.arranged import ArrangedTensor
from faultcli.protect.chain import Chain, Links
from faultcli.protect.protected_tensor import StoredTensor

MAPS = 20  # per tensor and chain; they cost no run of the model


@dataclass(frozen=True)
class Option:
    """A tensor behind one chain.

    `bits`: beside its words, constants included. `code_words`: checked when all of it is read. `damage`: the expected
    divergence of the answers, in nats, if faults hit this tensor alone; rounding included.
    """

    links: Links
    bits: int
    code_words: int
    damage: float

    @property
    def text(self) -> str:
        """The chain."""
        return Chain(self.links).text


def options_of(
    subject: Subject, format: str, law: FaultLaw, chains: Sequence[Chain], curvature: Mapping[str, Tensor], *, seed: int
) -> Iterator[tuple[str, list[Option]]]:
    """Yield, tensor by tensor, what it may be protected by; chains that do not work on it are left out.

    Args:
        subject: what is at risk.
        format: of the memory.
        law: of the faults.
        chains: without rules.
        curvature: h of every weight.
        seed: of the fault maps.

    Raises:
        FaultcliError: no chain works on a tensor; says why the last one does not.
    """
    for name, values in subject.tensors.items():
        alone, found = replace(subject, tensors={name: values}), list[Option]()
        for chain in chains:
            try:
                image = alone.memory(format, chain, law.ber if chain.needs_ber else None)
            except FaultcliError:
                if chain == chains[-1] and not found:
                    raise
                continue
            stored = image.tensors[name]
            stored = stored.rows if isinstance(stored, ArrangedTensor) else stored
            assert isinstance(stored, StoredTensor)
            damage = expected_damage(image, name, values, curvature[name], law, seed=seed)
            found.append(Option(chain.links, stored.extra_bits, stored.code_words, damage))
        yield name, found


def expected_damage(
    image: MemoryImage, name: str, weights: Tensor, curvature: Tensor, law: FaultLaw, *, seed: int
) -> float:
    """Return the mean over fault maps of ½ Σ h·δ², at most `RUINED` a map.

    Args:
        image: the tensor `name` alone.
        weights: what it should read as.
        curvature: h, in the shape of `weights`.
        law: of the faults.
        seed: of the fault maps.
    """
    exact, h = weights.flatten().double(), curvature.flatten().double()
    read = dict(image.values())[name].flatten().double()
    clean = h * (read - exact).square()
    whole, total = float(clean.sum()), 0.0
    for trial in range(MAPS):
        touched = image.patch(image.draw(law, seed=seed, trial=trial)).elements.get(name)
        more = 0.0
        if touched is not None:
            index = touched.index
            change = (touched.values.double() - exact[index]).square()
            more = float(
                (h[index] * change.nan_to_num(math.inf, math.inf) - clean[index]).nan_to_num(0.0, RUINED).sum()
            )
        total += min(RUINED, max(0.0, whole + more) / 2)
    return total / MAPS


RUINED = 10.0  # nats: that answers are worse than worthless is bad enough
