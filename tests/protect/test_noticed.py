"""What protections notice of every single flip, in every region that it can fall in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap, WordFaults
from faultcli.faults.selection import Selection
from faultcli.memory import MemoryImage
from faultcli.protect.base import Noticed
from faultcli.protect.chain import parse_chain
from faultcli.quantised import Quantised

PACKED = Path(__file__).parents[1] / "golden" / "packed"

CORRECTED, DETECTED, NOTHING = Noticed(True, False), Noticed(False, True), Noticed()


def image(chain: str, format_name: str = "q2.5") -> MemoryImage:
    values = torch.linspace(-0.9, 0.9, 21).reshape(3, 7)
    return MemoryImage({"w": values}, format_name, parse_chain(chain))


def fault_map(memory: MemoryImage, *flips: tuple[str, int, int]) -> FaultMap:
    faults = {
        region: WordFaults(np.array([word]), np.array([1 << bit], dtype=np.uint64)) for region, word, bit in flips
    }
    return FaultMap(faults, memory.layout)


def noticed(memory: MemoryImage, *flips: tuple[str, int, int]) -> Noticed:
    return memory.noticed(fault_map(memory, *flips))


def every_flip(memory: MemoryImage) -> dict[tuple[str, int, int], Noticed]:
    return {
        (name, word, bit): noticed(memory, (name, word, bit))
        for name, layout in memory.layout.items()
        for word in range(layout.words)
        for bit in range(layout.bits)
    }


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ("none", NOTHING),
        ("scale=max,guard", NOTHING),  # what looks at values tells nobody
        ("parity", DETECTED),
        ("cep=d7p1", DETECTED),
        ("secded=64", CORRECTED),
        ("tmr", CORRECTED),
        ("scale=max,secded=64", CORRECTED),
    ],
)
def test_every_flip(chain: str, said: Noticed) -> None:
    memory = image(chain)
    assert set(every_flip(memory).values()) == {said}
    if said == CORRECTED:
        assert not any(memory.patch(fault_map(memory, flip)).values_changed for flip in every_flip(memory))


@pytest.mark.parametrize(
    ("chain", "format_name", "tally"),
    [
        # Of 8 bits the top one and its two copies are voted on, in 21 words.
        ("mset", "q2.5", {CORRECTED: 21 * 3, NOTHING: 21 * 5}),
        # The top two bits of a word and both copies of them; the other six stand alone.
        ("tmr=msb:2", "q2.5", {CORRECTED: 21 * 6, NOTHING: 21 * 6}),
    ],
)
def test_how_many_flips(chain: str, format_name: str, tally: dict[Noticed, int]) -> None:
    memory = image(chain, format_name)
    assert Counter(every_flip(memory).values()) == tally
    assert sum(tally.values()) == memory.bits


@pytest.mark.parametrize(("chain", "said"), [("parity", DETECTED), ("secded=64", CORRECTED), ("none", NOTHING)])
def test_flips_of_scales(chain: str, said: Noticed) -> None:
    found = every_flip(image(chain, "int4-g32"))
    assert any("#scale" in region for region, _, _ in found)
    assert set(found.values()) == {said}


def test_two_flips_of_one_block_are_detected() -> None:
    memory = image("secded=64")
    assert noticed(memory, ("w", 0, 1), ("w#secded", 0, 1)) == DETECTED
    assert noticed(memory, ("w", 0, 1), ("w#secded", 1, 1)) == CORRECTED  # of two blocks, one each


def test_no_fault_is_noticed_where_there_is_none() -> None:
    for chain in ("none", "parity", "mset", "secded=64"):
        memory = image(chain)
        assert memory.noticed(FaultMap({}, memory.layout)) == NOTHING
        assert memory.tensors["w"].noticed({}) == NOTHING


def test_parts_of_quantised_weights() -> None:
    quantised = Quantised.of(Checkpoint.open(PACKED / "gptq-4"), Selection(target="all-parts"))
    assert quantised is not None
    memory = quantised.image(quantised.weights, parse_chain("scales:tmr,codes:parity"))
    wanted = {"scales": CORRECTED, "codes": DETECTED}
    seen = set()
    for trial in range(120):
        faults = memory.draw(parse_law("flips:1"), seed=0, trial=trial)
        (region,) = faults.faults
        role = quantised.packed.roles[region.partition("#")[0]]
        seen.add(role)
        assert memory.noticed(faults) == wanted.get(role, NOTHING), region
    assert seen > set(wanted)
