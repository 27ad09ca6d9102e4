"""The cheapest protection by tensor: its parts against slow references, its numbers against a campaign's."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from faultcli.campaign.subject import Subject, state_sha256
from faultcli.cli import run
from faultcli.errors import FaultcliError
from faultcli.faults.laws import parse_law
from faultcli.memory import MemoryImage
from faultcli.protect.chain import Chain, parse_chain
from faultcli.report.planned import planned_document, planned_lines
from faultcli.where.frontier import Frontier, by_tensor, hull
from faultcli.where.goal import PlanGoal
from faultcli.where.options import Option, options_of
from faultcli.where.planning import find_plan
from faultcli.workload.classifier import Workload
from faultcli.workload.curvature import curvature


def test_curvature_is_that_of_the_divergence() -> None:
    """On average over signs it is the diagonal of Σ J'(diag(p) − pp')J, computed here input by input."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    inputs = torch.randn(12, 4)
    subject = Subject.of(model, (inputs, torch.zeros(12, dtype=torch.long)))
    assert isinstance(subject.workload, Workload)
    names = list(subject.tensors)
    exact = {name: torch.zeros_like(tensor) for name, tensor in subject.tensors.items()}
    for row in inputs:
        logits = model(row)
        p = logits.detach().softmax(0)
        middle = p.diag() - torch.outer(p, p)
        for name in names:
            by_class = [torch.autograd.grad(z, model.get_parameter(name), retain_graph=True)[0] for z in logits]
            jacobian = torch.stack(by_class).flatten(1)
            exact[name] += torch.einsum("ki,kl,li->i", jacobian, middle, jacobian).view(exact[name].shape) / 12
    before = state_sha256(model.state_dict())
    seen = [curvature(subject.workload, names, seed) for seed in range(150)]
    assert state_sha256(model.state_dict()) == before
    for name in names:
        mean = torch.stack([one[name] for one in seen]).mean(0)
        assert float(mean.sum()) == pytest.approx(float(exact[name].sum()), rel=0.2)
        assert torch.allclose(mean, exact[name], rtol=0.5, atol=0.05 * float(exact[name].max()))


def test_expected_damage_is_about_what_faults_do() -> None:
    """Where these are small, as they are behind protections; a ruined model is thought to be worse than it is."""
    subject, law, seed = Subject.open(limit=150), parse_law("bitflip:1e-3"), 4
    workload = subject.workload
    assert isinstance(workload, Workload)
    h = curvature(workload, list(subject.tensors))
    chains = [parse_chain(text) for text in ("none", "inplace=1")]
    golden = workload.answers().double().log_softmax(-1)
    by_chain = [found for _, found in options_of(subject, "q2.5", law, chains, h, seed=seed)]
    for name in subject.tensors:
        options = [found[name] for found in by_chain]
        for option, chain in zip(options, chains, strict=True):
            image = replace(subject, tensors={name: subject.tensors[name]}).memory("q2.5", chain)
            assert option.bits == image.overhead_bits_per_weight * image.weights
            found = []
            for trial in range(20 if chain.links else 0):
                workload.load(dict(image.values()))
                with image.patch(image.draw(law, seed=seed, trial=trial)).applied(workload.parameters):
                    faulty = workload.answers().double().log_softmax(-1)
                found.append(float((golden.exp() * (golden - faulty)).sum(1).mean()))
            workload.load(subject.tensors)
            assert not found or 1 / 3 < option.damage / float(np.mean(found)) < 3, (name, option.text)
        assert options[1].damage < options[0].damage
        assert options[0].code_words == 0 < options[1].code_words


def test_nothing_cheaper_does_better_than_a_plan_of_the_frontier() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        options = {
            name: [Option((), int(rng.integers(0, 30)), 0, float(rng.integers(0, 30))) for _ in range(5)]
            for name in "abc"
        }
        frontier = Frontier.of(options)
        every = [
            (sum(one.bits for one in plan), sum(one.damage for one in plan))
            for plan in itertools.product(*options.values())
        ]
        costs = list(frontier.costs())
        assert costs == sorted(costs, key=lambda cost: (cost[0], -cost[1]))
        for number, (bits, damage) in enumerate(costs):
            plan = frontier.plan(number).values()
            assert (sum(one.bits for one in plan), sum(one.damage for one in plan)) == (bits, pytest.approx(damage))
            assert not [other for other in every if other[0] <= bits and other[1] < damage - 1e-9]
        assert costs[0][0] == min(bits for bits, _ in every)
        assert costs[-1][1] == pytest.approx(min(damage for _, damage in every))


def test_a_hull_leaves_out_what_a_mixture_beats() -> None:
    bits_and_damage = [(0, 10.0), (1, 9.0), (2, 2.0), (2, 5.0), (3, 1.9), (4, 0.0), (9, 0.0), (5, math.inf)]
    options = [Option((), bits, 0, damage) for bits, damage in bits_and_damage]
    assert [(one.bits, one.damage) for one in hull(options)] == [(0, 10.0), (2, 2.0), (4, 0.0)]


def test_a_choice_is_a_chain_that_gives_every_tensor_its_own() -> None:
    names = ["a[0]", "a0", "b*", "b.c"]
    links = dict(zip(names, map(parse_chain, ("tmr", "none", "secded=64", "none")), strict=True))
    chain = by_tensor({name: Option(own.links, 0, 0, 0.0) for name, own in links.items()})
    chain.check_names(names)
    assert {name: Chain(chain.of(name)).text for name in names} == {name: own.text for name, own in links.items()}


@pytest.fixture
def faultcli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


FEW = [text for chain in ("none", "inplace=1", "secded=64") for text in ("--candidate", chain)]
SMALL = ("--ber", "1e-3", "--format", "q2.5", "--limit", "100")


def test_a_plan_is_judged_as_a_campaign_judges_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faultcli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = faultcli(
        "plan", *SMALL, *FEW, "--trials", "4", "--choose-on", "50", "-o", "p.toml", "--json", "p.json"
    )
    assert code == 0, err
    found = json.loads(Path("p.json").read_text())
    assert found["verdict"] == "met"
    assert found["overhead_bits_per_weight"] < 0.5  # secded=64 everywhere takes 1
    last = found["verified"][-1]
    assert last["seed"] > 0  # not the maps that it was chosen by
    assert found["least_accuracy"] == pytest.approx(found["original_accuracy"] - 0.01)
    by_hand = ("--protect", "p.toml", "--seed", last["seed"], "--trials", "4")
    (arm,) = json.loads(faultcli("campaign", *SMALL, *by_hand, "--json", "-")[1])["arms"]
    assert arm["trial_accuracies"] == last["trial_accuracies"]
    assert arm["overhead_bits_per_weight"] == pytest.approx(found["overhead_bits_per_weight"])
    assert arm["protect"] == found["protect"]
    assert arm["stored_accuracy"] == last["stored_accuracy"]


def test_a_plan_costs_what_its_memory_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ldpc` for all tensors pays for the smallest out of what all of them have, which no tensor by itself shows."""
    monkeypatch.setattr("faultcli.where.options.MAPS", 1)
    subject, chain, law = Subject.open(limit=20), parse_chain("ldpc=0.5"), parse_law("bitflip:1e-3")
    goal = PlanGoal("q2.5", law, max_drop=0.5, candidates=(chain,), choose_maps=1, verify_maps=1)
    found = find_plan(subject, goal)
    whole = subject.memory("q2.5", chain, None).overhead_bits_per_weight
    assert found.rounds[-1].overhead == whole > found.overhead(found.choice)
    assert planned_document(found, None)["overhead_bits_per_weight"] == whole
    assert f"{whole:.3g} bits per weight" in planned_lines(found)[-1]
    none = Option((), 0, 0, 0.0)
    mixed = {name: none if name == "fc2.weight" else one for name, one in found.choice.items()}
    memory = subject.memory("q2.5", by_tensor(mixed))
    assert memory.overhead_bits_per_weight == pytest.approx(found.overhead(mixed))


def test_by_default_a_long_code_is_found_where_it_is_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1 % of flipped bits `inplace` has to give up more bits, and a smaller budget of `ldpc` is lost for sure."""
    monkeypatch.setattr("faultcli.where.options.MAPS", 2)
    subject = Subject.open(limit=50, include=["conv2*"])
    goal = PlanGoal("int8-channel", parse_law("bitflip:1e-2"), max_drop=1e-3, choose_maps=1, verify_maps=2)
    found = find_plan(subject, goal)
    assert found.chain.text == "ldpc=1"
    assert found.rounds[-1].met
    (options,) = found.options.values()
    assert "ldpc=0.5" not in [one.text for one in options]
    assert found.choice["conv2.weight"].bits < min(one.bits for one in options if one.text in ("secded=64", "tmr"))


def test_what_is_sure_to_be_lost_is_read_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faultcli.where.options.MAPS", 1)
    subject, law = Subject.open(limit=5, include=["conv1*"]), parse_law("bitflip:0.1")
    h, chains = {"conv1.weight": torch.ones_like(subject.tensors["conv1.weight"])}, [parse_chain("ldpc=0.25")]
    found = dict(options_of(subject, "int8-channel", law, chains, h, seed=0, kept=1))[chains[0]]["conv1.weight"]
    assert found.damage > 0
    assert found.reads is not None
    assert found.reads.patches[0].values_changed > 50
    (_, one), (_, other) = options_of(subject, "int8-channel", law, [*chains, parse_chain("none")], h, seed=0)
    assert (len(one), len(other)) == (0, 1)


def test_a_chain_that_works_nowhere_ends_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is the last one or not; what works, though sure to be lost, is taken then."""
    monkeypatch.setattr("faultcli.where.options.MAPS", 1)
    monkeypatch.setattr("faultcli.where.options._blocks_fail", lambda stored, law, times=1: 1)
    subject, law = Subject.open(limit=5, include=["conv1*"]), parse_law("bitflip:1e-4")
    h = {"conv1.weight": torch.ones_like(subject.tensors["conv1.weight"])}
    lost, wide = parse_chain("ldpc=0.25"), parse_chain("inplace=4")  # words of int3 have 1 bit to spare
    for chains in ([lost, wide], [wide, lost]):
        found = dict(options_of(subject, "int3", law, chains, h, seed=0))
        assert list(found[lost]) == ["conv1.weight"]
        assert not found[wide]
    with pytest.raises(FaultcliError, match="1 bits to spare"):
        list(options_of(subject, "int3", law, [wide], h, seed=0))


def test_a_plan_is_no_dearer_than_one_chain_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frontier trusts expected damage; here it is told that what does well everywhere is worse than nothing."""
    monkeypatch.setattr("faultcli.where.options.MAPS", 1)
    subject, law, seen = Subject.open(limit=100, include=["conv*"]), parse_law("bitflip:1e-2"), list[str]()
    chains = [parse_chain(text) for text in ("none", "inplace=0.5", "inplace=2", "tmr")]
    goal = PlanGoal("q2.5", law, 0.9, candidates=chains, choose_on=50, choose_maps=1, verify_maps=2)

    def wrong(image: MemoryImage, *about: object) -> float:
        return {"none": 2.0, "tmr": 0.1}.get(Chain(image.chain.links).text, 3.0)

    monkeypatch.setattr("faultcli.where.options.expected_damage", wrong)
    found = find_plan(subject, goal, seen.append)
    (judged,) = found.rounds
    assert found.chain.text == "inplace=2"
    assert judged.met
    assert judged.seed == 1
    assert judged.overhead == subject.memory("q2.5", found.chain).overhead_bits_per_weight == found.looked[-1][0]
    refused = next(text for text in seen if text.startswith("inplace=0.5 for all"))
    assert "loses" in refused  # by one run on few inputs, and no more of it

    found = find_plan(subject, replace(goal, candidates=[chains[0], chains[1], chains[3]]), seen.append)
    assert {Chain(one.links).text for one in found.choice.values()} <= {"none", "tmr"}
    assert found.rounds[0].overhead > 0.1


def test_a_plan_with_long_codes_is_read_by_the_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faultcli: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--candidate", "none", "--candidate", "ldpc=0.5", "--candidate", "secded=64", "--trials", "2")
    code, _, err = faultcli("plan", *SMALL, *few, "--choose-on", "20", "-o", "p.toml", "--json", "p.json")
    assert code == 0, err
    found = json.loads(Path("p.json").read_text())
    assert {one["name"]: one["protect"] for one in found["tensors"]}["fc1.weight"] == "ldpc=0.5"

    Path("m.toml").write_text(Path("p.toml").read_text() + '[tensors]\n"fc2.*" = "secded=64"\n')
    few = ("--ber", "1e-3", "--limit", "100", "--trials", "2", "--quiet", "--json", "-")
    (arm,) = json.loads(faultcli("campaign", "--format", "q2.5", "--protect", "m.toml", *few)[1])["arms"]
    faultcli("demo", "-o", "demo")
    (model,) = Path("demo").glob("*.safetensors")
    code, _, err = faultcli("harden", model, "--format", "q2.5", "--protect", "m.toml", "-o", "h.safetensors")
    assert code == 0, err
    (hardened,) = json.loads(faultcli("campaign", "h.safetensors", "--data", "digits", *few)[1])["arms"]
    assert hardened["protect"] == arm["protect"]
    for same in ("trial_accuracies", "stored_accuracy", "overhead_bits_per_weight"):
        assert hardened[same] == arm[same]


def test_one_map_decides_nothing(faultcli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = faultcli("plan", *SMALL, *FEW, "--trials", "1", "--choose-on", "20")
    assert code == 4, err
    assert "not decided" in out
    assert err.count("on new fault maps") == 1  # and of a dearer plan no more would be known


def test_what_cannot_be_met_ends_with_1(faultcli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = faultcli(
        "plan", *SMALL, "--trials", "3", "--choose-on", "50", "--candidate", "none", "--ber", "1e-2"
    )
    assert code == 1
    assert "missed" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-drop", "0.01", "--min-accuracy", "0.9"), "two ways to say the same"),
        (("--min-accuracy", "1"), "without faults it is 1"),
        (("--min-accuracy", "95"), "is a fraction"),
        (("--max-drop", "0"), "--max-drop 0: is to be above 0"),
        (("--max-drop", "1"), "--max-drop 1: holds whatever happens"),
        (("-o", "plan.json"), "end in .toml"),
        (("--candidate", "scales:tmr"), "is no chain for any tensor"),
        (("--candidate", "inplace=7"), "to spare"),
        (("--trials", "0"), "are 1 or more"),
    ],
)
def test_bad_input_is_two_lines_and_exit_code_2(
    options: tuple[str, ...], said: str, faultcli: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = faultcli("plan", *SMALL, "--choose-on", "20", *options, "--quiet")
    assert (code, err.count("\n")) == (2, 2)
    assert said in err


def test_a_plan_is_for_a_rate(faultcli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = faultcli("plan", "--format", "q2.5")
    assert (code, err.count("\n")) == (2, 2)
    assert "for a bit-error rate, and none is named" in err


def test_where_with_plan_is_the_same_command(faultcli: Callable[..., tuple[int, str, str]]) -> None:
    few = (*SMALL, *FEW, "--trials", "2", "--choose-on", "20")
    assert faultcli("where", "--plan", *few) == faultcli("plan", *few)
