"""Chains as a whole: parsing, overhead, check regions that can be hit, and reads held to decoding everything."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from faultcli.errors import FaultcliError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.memory import MemoryImage
from faultcli.protect.chain import PROTECTIONS, UNPROTECTED, parse_chain
from faultcli.protect.estimate import estimate_ber
from faultcli.protect.protected_tensor import StoredTensor

CHAINS = [
    "scale=4",
    "scale=max",
    "scale=max:channel",
    "scale=max:model",
    "guard",
    "guard=clamp:channel",
    "scale=max,guard=zero:channel",
    "posterior=1e-3",
    "scale=2,posterior=1e-2:channel",
    "mset",
    "cep",
    "parity",
    "secded=64",
    "secded=128",
    "tmr",
    "tmr=msb:2",
    "inplace=1.5",
    "inplace=2",
    "scale=max:channel,inplace=2",
    "scale=max,guard,mset,secded=64",
    "guard,inplace=2,tmr",
]


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {  # sizes that fill no block
        "conv.weight": torch.randn(5, 3, 3, 3, generator=generator) * 0.2,
        "fc.weight": torch.randn(7, 11, generator=generator) * 0.05,
    }


def decode_everything(stored: StoredTensor, faults: FaultMap) -> torch.Tensor:
    """The slow way: flip bits in copies of all words, then read the whole tensor."""
    hit = {}
    for region in stored.regions:
        words = region.words.copy()
        if region.name in faults.faults:
            f = faults.faults[region.name]
            words[f.words] ^= f.masks.astype(words.dtype)
        hit[region.name] = words
    words = hit[stored.name].copy()
    if f"{stored.name}#padding" in hit:
        words[stored.elements :] = hit[f"{stored.name}#padding"]
    checks = []
    for own, name in zip(stored.checks, stored.names, strict=True):
        flat = own.reshape(-1).copy()
        region = hit.get(f"{stored.name}#{name}", flat)
        if own.size:  # not of the link `scale`, which keeps no words, and has the name of a format's scales
            flat[: len(region)] = region
        checks.append(flat.reshape(own.shape))
    read = dataclasses.replace(stored, words=words, checks=tuple(checks))
    if stored.scales is None:
        return read.read()
    return dataclasses.replace(read, format=with_scales(stored.format, decode_everything(stored.scales, faults))).read()


def with_scales(format: NumberFormat, scales: torch.Tensor) -> NumberFormat:
    assert isinstance(format, ScaledFormat)
    return dataclasses.replace(format, scales=scales)


WORKS_NOT = {  # 6 and 4 bits are no multiple of cep's 8; mxfp4 has one bit of mantissa; the word 0 of nf4 is not 0
    "fp6-e3m2": ("cep",),
    "mxfp4": ("cep", "inplace"),
    "nf4": ("cep", "inplace", "mset"),
    "int4-g16": ("cep",),
}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(
    "format", ["q2.5", "fp16", "fp32", "int8-channel", "fp8-e4m3-tensor", "mxfp8-e4m3", *WORKS_NOT]
)
def test_sparse_reads_equal_reading_everything(chain: str, format: str) -> None:
    if any(link in chain for link in WORKS_NOT.get(format, ())):
        with pytest.raises(UsageError):
            MemoryImage(weights(), format, parse_chain(chain), 1e-3)
        return
    image = MemoryImage(weights(), format, parse_chain(chain), 1e-3)
    state = {name: values.clone() for name, values in image.values()}
    for trial in range(4):
        faults = image.draw(parse_law("bitflip:0.01"), seed=3, trial=trial)
        before = {name: values.clone() for name, values in state.items()}
        with image.patch(faults).applied(state):
            for name, stored in image.tensors.items():
                assert same(state[name], decode_everything(stored, faults).to(state[name].dtype))
        assert all(same(state[name], before[name]) for name in state)


@pytest.mark.parametrize("chain", [c for c in CHAINS if "posterior" not in c])
def test_without_faults_a_protection_costs_precision_at_the_most(chain: str) -> None:
    image = MemoryImage(weights(), "q2.5", parse_chain(chain))
    spare = sum(link.spare_bits(image.tensors["fc.weight"].format) for link in image.chain.links)
    lost = {"mset": 4, "cep": 2}.get(next((n for n in ("mset", "cep") if n in chain), ""), 2**spare)
    factor = 4 if "scale=4" in chain else 1
    for name, values in image.values():
        assert float((values - weights()[name]).abs().max()) <= lost / 32 / factor + 1e-6


def test_data_words_have_the_same_faults_behind_any_chain() -> None:
    law = parse_law("bitflip:0.01")
    plain = MemoryImage(weights(), "q2.5").draw(law, seed=0, trial=0)
    for chain in CHAINS:
        drawn = MemoryImage(weights(), "q2.5", parse_chain(chain), 1e-3).draw(law, seed=0, trial=0)
        for name, hit in plain.faults.items():
            assert np.array_equal(drawn.faults[name].words, hit.words)
            assert np.array_equal(drawn.faults[name].masks, hit.masks)
        extra = set(drawn.layout) - set(plain.layout)
        assert all("#" in name for name in extra)


def test_faults_in_check_words_and_padding_count_and_are_hit() -> None:
    image = MemoryImage(weights(), "q2.5", parse_chain("inplace=2,secded=64"))
    faults = image.draw(parse_law("bitflip:0.05"), seed=0, trial=0)
    assert {name.partition("#")[2] for name in faults.faults} == {"", "padding", "secded"}
    assert image.bits == sum(layout.words * layout.bits for layout in image.layout.values())


def test_scales_stand_behind_the_checks_that_take_any_word() -> None:
    image = MemoryImage(weights(), "mxfp8-e4m3", parse_chain("guard,inplace=2,secded=64"))
    assert {name.partition("#")[2] for name in image.layout} == {"", "padding", "secded", "scale", "scale#secded"}
    one_flip = parse_law("bitflip:0.002,bits=scale")
    for chain, survives in (("none", False), ("parity", False), ("secded=64", True), ("tmr", True)):
        behind = MemoryImage(weights(), "mxfp8-e4m3", parse_chain(chain))
        changed = [behind.patch(behind.draw(one_flip, seed=0, trial=t)).values_changed for t in range(40)]
        assert (max(changed) == 0) == survives
    scales = parse_law("flips:1,bits=scale:exponent")
    lost = MemoryImage({"w": torch.ones(1, 32)}, "int8-g32", parse_chain("parity"))
    touched = lost.patch(lost.draw(scales, seed=0, trial=0)).elements["w"]
    assert touched.values.tolist() == [0.0] * 32  # a scale that is known to be wrong reads as 0


OVERHEADS = [  # of 135 + 77 weights of 8 bits
    ("none", 0),
    ("scale=4", 32),
    ("scale=max", 2 * 16),
    ("scale=max:channel", 12 * 16),
    ("guard", 2 * 16),
    ("posterior=1e-3", 2 * 26),
    ("mset", 0),
    ("parity", 212),
    ("secded=64", 8 * (17 + 10)),
    ("secded=128", 9 * (9 + 5)),
    ("tmr", 16 * 212),
    ("tmr=msb:2", 4 * 212),
    ("inplace=2", 2 * 26 + 8 * ((160 - 135) + (96 - 77))),
    ("inplace=2,tmr", 2 * 26 + 8 * ((160 - 135) + (96 - 77)) + 16 * (160 + 96)),
]


@pytest.mark.parametrize(("chain", "bits"), OVERHEADS)
def test_overhead_is_counted_in_full(chain: str, bits: int) -> None:
    image = MemoryImage(weights(), "q2.5", parse_chain(chain))
    assert image.overhead_bits_per_weight == pytest.approx(bits / 212)


def test_checks_of_scales_are_overhead() -> None:
    image = MemoryImage(weights(), "mxfp8-e4m3", parse_chain("parity"))  # 5 rows of 27 and 7 rows of 11 values
    assert image.overhead_bits_per_weight == pytest.approx((212 + 5 + 7) / 212)


def examples() -> Iterator[str]:
    for link in PROTECTIONS.values():
        yield from link.examples.split(", ")


@pytest.mark.parametrize(
    "text", [*examples(), "scale=auto:channel,guard", "none", "scale=0.12345678", "posterior=1.2345678e-05"]
)
def test_a_chain_survives_its_own_text(text: str) -> None:
    chain = parse_chain(text)
    assert parse_chain(chain.text) == chain


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sclae=2", "unknown protection 'sclae'"),
        ("guard,scale=2", "scale comes once, and first"),
        ("scale=2,scale=3", "scale comes once, and first"),
        ("secded=64,mset", "mset cannot follow secded=64"),
        ("guard,guard", "guard cannot follow guard"),
        ("inplace=2,parity", "parity would read words as 0 that inplace corrects"),
        ("guard,posterior", "posterior cannot follow guard"),
        ("posterior,secded=64", "has corrected"),
        ("secded=72", "64 or 128"),
        ("cep=d5p1", "unknown chunk"),
        ("tmr=msb", "is not tmr or tmr=msb:K"),
        ("tmr=msb:0", "is not tmr or tmr=msb:K"),
        ("parity=2", "takes no value"),
        ("mset=2", "takes no value"),
        ("guard=maybe", "zero or clamp"),
        ("posterior=often", "no bit-error rate"),
        ("posterior=0.7", "between 0 and 0.5"),
        ("inplace", "number of low bits"),
        ("inplace=0", "number of low bits"),
        ("scale", "a number, max or auto"),
        ("scale=-1", "positive and finite"),
        ("scale=max:row", "unknown granularity"),
        ("", "unknown protection ''"),
    ],
)
def test_malformed_chains_are_explained(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_chain(text)
    assert complaint in caught.value.message


@pytest.mark.parametrize(
    ("format", "chain", "complaint"),
    [
        ("q2.5", "cep=d15p1", "no multiple of 16"),
        ("fp4-e2m1", "tmr=msb:5", "have only 4 bits"),
        ("q1.1", "mset", "leave no room"),
        ("q2.5", "inplace=7", "to spare"),
        ("fp64", "inplace=2", "too wide"),
        ("q2.5", "posterior", "needs to know the bit-error rate"),
        ("q2.5", "scale=auto", "needs to know the bit-error rate"),
        ("nf4", "mset", "mset: makes bits 0, and the word 0 of nf4 is not the number 0"),
        ("nf4", "cep=d3p1", "the word 0 of nf4 is not the number 0"),
        ("nf4", "inplace=1", "the word 0 of nf4 is not the number 0"),
        ("mxfp4", "inplace=2", "words of mxfp4 have 1 bits to spare"),
    ],
)
def test_what_does_not_work_on_a_format_is_explained(format: str, chain: str, complaint: str) -> None:
    with pytest.raises(FaultcliError) as caught:
        MemoryImage(weights(), format, parse_chain(chain))
    assert complaint in caught.value.message


def test_a_guard_stops_exponent_flips() -> None:
    state = {name: values.clone() for name, values in MemoryImage(weights(), "fp32").values()}
    for chain, worst in (("none", 1e30), ("scale=max,guard", 2), ("guard=clamp", 2), ("posterior=1e-2", 2)):
        image = MemoryImage(weights(), "fp32", parse_chain(chain))
        peaks = []
        for trial in range(20):
            with image.patch(image.draw(parse_law("bitflip:0.01"), seed=0, trial=trial)).applied(state):
                peaks.append(max(float(v.nan_to_num(1e38, 1e38, -1e38).abs().max()) for v in state.values()))
        assert (max(peaks) > worst) == (chain == "none")


def test_posterior_reads_better_than_the_plain_code() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = {"w": torch.randn(100, 100, generator=generator) * 0.05}
    errors = {}
    for chain in ("none", "posterior=1e-2", "scale=auto,posterior"):
        image = MemoryImage(exact, "q2.5", parse_chain(chain), 1e-2)
        state = {name: values.clone() for name, values in image.values()}
        with image.patch(image.draw(parse_law("bitflip:0.01"), seed=0, trial=0)).applied(state):
            errors[chain] = float((state["w"] - exact["w"]).square().mean() / exact["w"].square().mean())
    assert errors["scale=auto,posterior"] < errors["posterior=1e-2"] < errors["none"] / 10
    assert errors["scale=auto,posterior"] < 0.2


@pytest.mark.parametrize("chain", ["inplace=2", "scale=0.5,posterior=1e-3"])
@pytest.mark.parametrize("ber", [1e-3, 5e-3, 1e-2])
def test_the_rate_can_be_read_off_the_words(chain: str, ber: float) -> None:
    generator = torch.Generator().manual_seed(0)
    image = MemoryImage({"w": torch.randn(300, 320, generator=generator) * 0.2}, "q2.5", parse_chain(chain))
    stored = image.tensors["w"]
    faults = image.draw(parse_law(f"bitflip:{ber}"), seed=0, trial=0).faults["w"]
    read = stored.words.copy()
    read[faults.words] ^= faults.masks.astype(read.dtype)
    estimate = estimate_ber([(stored, read)])
    assert estimate is not None
    assert estimate == pytest.approx(ber, rel=0.15 if chain.startswith("inplace") else 0.3)
    assert estimate_ber([(MemoryImage({"w": torch.ones(3)}, "q2.5", UNPROTECTED).tensors["w"], read[:3])]) is None


def test_a_channel_of_zeros_is_scaled_like_any_other() -> None:
    values = torch.tensor([[0.5, -0.25], [0.0, 0.0]])
    image = MemoryImage({"w": values}, "q2.5", parse_chain("scale=max:channel"))
    assert torch.allclose(image.tensors["w"].read(), values, atol=1 / 64 / 7)  # half a step, divided by the factor


@pytest.mark.parametrize("chain", CHAINS)
def test_a_tensor_without_values_lies_behind_any_chain(chain: str) -> None:
    image = MemoryImage({"w": torch.ones(0, 3)}, "q2.5", parse_chain(chain), 1e-3)
    assert image.tensors["w"].read().shape == (0, 3)
    assert image.bits == 0
