"""Check words beside the parts of quantised weights: what reads after faults, held to whole words read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.packed import HeldWords, Packed
from faultcli.cli import run
from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.faults.selection import Selection
from faultcli.protect.chain import parse_chain
from faultcli.protect.quantised_tensor import refuse_other_memories
from faultcli.quantised import Quantised

GOLDEN = Path(__file__).parent / "golden" / "packed"
CHAINS = ["secded=64", "parity", "tmr", "scales:tmr", "scales:tmr,codes:parity", "codes:secded=64"]


@dataclass
class Flips:
    """The masks of a region's hit words."""

    masks: Mapping[int, int]

    @classmethod
    def of(cls, faults: FaultMap, region: str) -> Flips:
        if region not in faults.faults:
            return cls({})
        words, masks = faults.faults[region]
        return cls(dict(zip(words.tolist(), masks.tolist(), strict=True)))


def read(words: NDArray[np.unsignedinteger], part: str, link: str, faults: FaultMap) -> list[int]:
    """Return a part's words as a protection reads them: one word, or one block, after the other."""
    own, bits = Flips.of(faults, part).masks, 8 * words.itemsize
    hit = [int(word) ^ own.get(at, 0) for at, word in enumerate(words)]
    if link == "tmr":
        copies = Flips.of(faults, f"{part}#tmr").masks
        for at, word in enumerate(words.tolist()):
            a, b, c = hit[at], word ^ copies.get(2 * at, 0), word ^ copies.get(2 * at + 1, 0)
            hit[at] = a & b | a & c | b & c
    elif link == "parity":
        checks = Flips.of(faults, f"{part}#parity").masks
        for at in range(len(hit)):
            flips = own.get(at, 0).bit_count() + checks.get(at, 0)
            hit[at] = 0 if flips % 2 else hit[at]
    elif link == "secded=64":
        met: Counter[int] = Counter()
        for at, mask in own.items():
            met[at * bits // 64] += mask.bit_count()
        for at, mask in Flips.of(faults, f"{part}#secded").masks.items():
            met[at] += mask.bit_count()
        for block, flips in met.items():
            assert flips < 3, "another seed: what three flips read as is told by the code's columns alone"
            at = slice(block * 64 // bits, (block + 1) * 64 // bits)
            hit[at] = [int(word) if flips == 1 else 0 for word in words[at]]
    return hit


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", ["gptq-4-act-order", "awq", "llm-int8", "float-quantized-blocks"])
def test_a_weight_reads_what_its_protections_leave(name: str, chain: str) -> None:
    quantised = Quantised.of(Checkpoint.open(GOLDEN / name), Selection(target="all-parts"))
    assert quantised is not None
    parsed = parse_chain(chain)
    refused = [role for role, _ in parsed.roles if role not in quantised.packed.roles.values()]
    if refused:
        pytest.skip(f"{name} has no {refused}")
    (weight,) = quantised.weights
    packed, held = quantised.packed, quantised.packed.held(weight)
    image, plain = quantised.image([weight], parsed), quantised.image([weight])
    links = {part: ",".join(link.text for link in parsed.for_role(role)) for part, role in packed.roles.items()}
    changed = 0
    for trial in range(4):
        faults = image.draw(parse_law("bitflip:2e-3"), seed=0, trial=trial)
        words = dict(held.words)
        for part in quantised.names:
            found = np.array(read(held.words[part], part, links[part], faults), dtype=np.uint64)
            words[part] = found.astype(held.words[part].dtype)
        want = packed.weights[weight].decode(HeldWords(words), packed.dtype)
        got = packed.decode(weight).clone()
        for touched in image.patch(faults).elements.values():
            got.view(-1)[touched.index] = touched.values
            changed += len(touched.index)
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))
    assert changed or chain in ("tmr", "secded=64")
    # every added bit is a bit of the memory, and is counted
    assert image.bits - plain.bits == round(image.overhead_bits_per_weight * image.weights) > 0


def test_the_price_is_that_of_the_parts() -> None:
    quantised = Quantised.of(Checkpoint.open(GOLDEN / "gptq-4"), Selection(target="all-parts"))
    assert quantised is not None
    infos = quantised.packed.checkpoint.tensors.values()
    scales = sum(16 * int(np.prod(i.shape)) for i in infos if quantised.packed.roles.get(i.name) == "scales")
    image = quantised.image(quantised.weights, parse_chain("scales:tmr"))
    assert image.overhead_bits_per_weight == 2 * scales / image.weights
    assert {name for name in image.layout if "#" in name} == {"layer.scales#tmr"}


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        ("scale:tmr", r"unknown part of quantised weights 'scale'"),
        ("scales:tmr,parity", r"parity does not say which parts"),
        ("scales:tmr,scales:parity", r"scales comes twice"),
        ("scales:none", r"scales has no protection"),
        ("scales:guard", r"guard: works on numbers"),
        ("codes:mset", r"mset.*: works on numbers"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(chain: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_chain(chain)


def test_a_file_is_asked_for_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    packed = Packed.of(Checkpoint.open(GOLDEN / "llm-int8"))
    assert packed is not None
    with pytest.raises(UsageError, match=r"has no zeros"):
        refuse_other_memories(packed, ["native"], [parse_chain("zeros:tmr")])
    for link in ("scale=max", "guard", "mset", "cep"):
        with pytest.raises(UsageError, match=rf"{link}.*works on numbers"):
            refuse_other_memories(packed, ["native"], [parse_chain(link)])
    quantised = Quantised.of(packed.checkpoint, Selection(target="codes"))
    assert quantised is not None
    with pytest.raises(UsageError, match=r"no scales are at risk"):
        quantised.image(quantised.weights, parse_chain("scales:tmr"))
    assert run(["campaign", "--ber", "1e-3", "--protect", "scales:tmr"]) == 2
    assert "are not quantised" in capsys.readouterr().err


def test_the_order_of_parts_does_not_matter() -> None:
    assert parse_chain("scales:tmr=msb:2, codes:secded").text == parse_chain("codes:secded=64,scales:tmr=msb:2").text
