"""Chains by tensor: which one a tensor gets, what a plan's file may say, and that its content is what it is."""

import json
from pathlib import Path

import pytest
import torch

import faultcli
from faultcli.campaign.plan import cross, read_arm
from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law
from faultcli.memory import MemoryImage
from faultcli.protect.chain import Chain, chain_of, parse_chain
from faultcli.protect.plan_file import plan_text, read_chain

PLAN = {"default": "inplace=1", "tensors": {"conv.1.*": "secded=64", "conv.*": "scale=max,parity", "head": "none"}}


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    names = ("stem", "conv.0.weight", "conv.1.weight", "head")
    return {name: torch.randn(9, 16, generator=generator) * 0.2 for name in names}


def test_the_first_glob_that_matches_counts() -> None:
    chain = read_chain(PLAN)
    own = {name: Chain(chain.of(name)).text for name in weights()}
    assert own == {
        "stem": "inplace=1",
        "conv.0.weight": "scale=max,parity",
        "conv.1.weight": "secded=64",
        "head": "none",
    }


@pytest.mark.parametrize("format", ["q2.5", "int8-channel", "fp16", "native"])
def test_every_tensor_lies_as_behind_its_own_chain_alone(format: str) -> None:
    image = MemoryImage(weights(), format, read_chain(PLAN))
    extra = 0
    for name, values in weights().items():
        alone = MemoryImage({name: values}, format, Chain(read_chain(PLAN).of(name)))
        own, other = image.tensors[name], alone.tensors[name]
        assert [region.name for region in own.regions] == [region.name for region in other.regions]
        assert torch.equal(own.read(), other.read())
        faults = alone.draw(parse_law("bitflip:0.02"), seed=1, trial=2)
        read, expected = own.faulty(faults.faults), other.faulty(faults.faults)
        assert torch.equal(read.index, expected.index)
        assert torch.equal(read.values, expected.values)
        extra += other.extra_bits
    assert image.overhead_bits_per_weight == extra / image.weights


def test_a_factor_per_model_is_one_of_the_tensors_that_share_their_links() -> None:
    tensors = {"a": torch.full((2, 2), 0.5), "b": torch.full((2, 2), 0.25), "c": torch.full((2, 2), 0.001)}
    image = MemoryImage(tensors, "q2.5", read_chain({"default": "scale=max:model", "tensors": {"c": "scale=max"}}))
    assert float(image.tensors["b"].read()[0, 0]) == pytest.approx(
        64 / 127 * 0.5
    )  # by the factor of a; by its own it would be 0.25
    assert float(image.tensors["c"].read()[0, 0]) == pytest.approx(0.001, rel=0.01)  # else it would read as 0


def test_a_file_is_what_it_says_wherever_it_lies(tmp_path: Path) -> None:
    text = plan_text(read_chain(PLAN), "made by hand")
    for name in ("one.toml", "two.toml"):
        (tmp_path / name).write_text(text)
    one, two = (read_chain(tmp_path / name) for name in ("one.toml", "two.toml"))
    assert one == two == read_chain(str(tmp_path / "one.toml")) == read_chain(PLAN)
    assert parse_chain(one.text) == one
    (arm,) = cross(["q2.5"], [parse_law("bitflip:1e-3")], [one])
    assert json.loads(str(arm.identity["protect"])) == PLAN
    assert read_arm(arm.identity) == arm
    reordered = {**PLAN, "tensors": dict(reversed(PLAN["tensors"].items()))}  # type: ignore[attr-defined]
    assert chain_of(reordered) != one


def test_without_tensors_a_plan_is_its_default() -> None:
    assert read_chain({"default": "secded=64"}) == parse_chain("secded=64")
    assert read_chain({"tensors": {"a": "tmr"}}).links == ()


def test_names_are_quoted_as_toml_has_them(tmp_path: Path) -> None:
    tensors = {'a"b\\c': "tmr", "ü\n\x7f*": "parity", "[!a]": "none"}
    (tmp_path / "p.toml").write_text(plan_text(read_chain({"tensors": tensors})))
    assert dict(read_chain(tmp_path / "p.toml").rules) == dict(read_chain({"tensors": tensors}).rules)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ('defualt = "tmr"', "unknown key 'defualt'"),
        ("tensors = 3", "tensors is no table"),
        ('[tensors]\nconv.1.weight = "tmr"', "conv is a table"),
        ('[tensors]\n"conv" = 3', "'conv' = 3"),
        ('[tensors]\n"" = "tmr"', "'' = 'tmr'"),
        ('[tensors]\n"a" = "tmrr"', "unknown protection 'tmrr'"),
        ('default = "codes:tmr"', "not for parts of quantised ones"),
        ('default = "{}"', "no glob with a chain"),
        ("default = ", "is no TOML"),
    ],
)
def test_what_no_plan_says_is_explained(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_chain(tmp_path / "p.toml")
    assert caught.value.message.startswith(f"{tmp_path / 'p.toml'}: ")
    assert complaint in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("globs", "complaint"),
    [
        (["conv.*", "fc.*"], "'fc.*' matches no tensor at risk (stem, conv.0.weight, conv.1.weight, …)"),
        (["conv.*", "conv.1.*"], "'conv.1.*' matches no tensor that 'conv.*' has not taken before it"),
    ],
)
def test_a_line_that_no_tensor_goes_by_is_refused(globs: list[str], complaint: str) -> None:
    plan = {"tensors": dict.fromkeys(globs, "tmr")}
    with pytest.raises(UsageError) as caught:
        MemoryImage(weights(), "q2.5", read_chain(plan))
    assert complaint in caught.value.message


def test_a_program_takes_a_mapping() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    plan = {"default": "none", "tensors": {"1.weight": "tmr"}}
    with faultcli.faulty(model, "flips:1,include=0.weight", format="q2.5", protect=plan) as hit:
        assert hit.values_changed == 1
    with faultcli.faulty(model, "flips:1,include=1.weight", format="q2.5", protect=plan) as hit:
        assert hit.values_changed == 0
    subject = faultcli.Subject.of(model, (torch.ones(4, 8), torch.zeros(4, dtype=torch.long)))
    found = faultcli.run_campaign(subject, "bitflip:1e-2", formats=["q2.5"], protect=["none", plan], trials=2)
    assert [arm.overhead_bits_per_weight for arm in found.arms] == [0, 16 * 16 / 80]
    late = {"tensors": {"nowhere": "tmr"}}
    with pytest.raises(UsageError, match="nowhere"):
        faultcli.run_campaign(subject, "bitflip:1e-2", formats=["q2.5"], protect=["none", late], trials=10**6)
