"""Figures of functional safety: held to numbers worked out by hand, to sums of binomial probabilities, and to a store.

The campaign of `synthetic` is worked out here. The memory fails at 700 FIT per Mbit.

Without protection the memory has 2²⁰ bits = 1 Mbit, so 700 FIT in all. Of 20 faults 4 are SDC, 1 is DUE, 15 are masked:

    SDC  700 · 4/20 = 140 FIT     DUE  700 · 1/20 = 35 FIT     masked  700 · 15/20 = 525 FIT
    safe 15/20 = 75 %             not dangerous 1 − 5/20 = 75 %

Behind parity it has 9/8 Mbit, so 787.5 FIT. Of 20 faults 18 are detected (one of them with a changed answer), 1 is SDC:
its trial says that nobody noticed anything; 1 is masked. λ₀ = 700 · 5/20 = 175 FIT, λ = 787.5 · 1/20 = 39.375 FIT.

    SDC  39.375 FIT     detected  787.5 · 18/20 = 708.75 FIT     coverage 1 − 39.375/175 = 77.5 %

Of a class without events in 20 faults no more than 1 − 0.05^(1/20) = 13.91 % can be: 97.4 of 700 FIT.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from damage import ABOUT
from small_campaign import run_demo

from faultcli.campaign.gates import Gate
from faultcli.campaign.merge import merge
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.records import CampaignResult, Failure, Record
from faultcli.campaign.result import result_of
from faultcli.campaign.safety import FaultClass, SafetyRates, class_of, safety_of
from faultcli.campaign.single_flip import SingleFlip
from faultcli.campaign.statistics import at_least, at_most
from faultcli.campaign.store import ArmMemory, Store, StoreError
from faultcli.checkpoint import Checkpoint
from faultcli.errors import FaultcliError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain
from faultcli.report.formats import render
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.metrics import Outcome

INPUTS = 10
FAULTS = 20
RATES = SafetyRates(700.0)
SINGLE = Plan(
    cross(["q2.5"], [parse_law("flips:1")], [parse_chain("none"), parse_chain("parity"), parse_chain("secded=64")]),
    trials=25,
)


def outcome(sdc: int = 0, due: int = 0) -> Outcome:
    masked = INPUTS - sdc - due
    return Outcome(INPUTS, masked, None, 0.5, due, masked, sdc, sdc, None, 0, 0)


def flip(trial: int, *, detected: bool = False) -> SingleFlip:
    return SingleFlip("fc.weight", trial, 7 if trial < 5 else 0, 3, False, detected, ("1.5", "-0.5"))


def synthetic(path: Path) -> Path:
    """Write the store that is worked out above."""
    plan = Plan(cross(["q2.5"], [parse_law("flips:1")], [parse_chain("none"), parse_chain("parity")]), FAULTS)
    identity = plan.identity(checkpoint="c" * 64, workload="{}")
    with closing(Store.open(path)) as store:
        store.join(identity, plan, inputs=INPUTS, original=outcome(), provenance=ABOUT)
        plain, parity = identity.arms
        store.keep_memory(plain, ArmMemory(1 << 20, 0.0, outcome()))
        store.keep_memory(parity, ArmMemory(9 << 17, 1.0, outcome()))
        for trial in range(FAULTS):
            found = outcome(sdc=2) if trial < 4 else outcome(due=1) if trial == 4 else outcome()
            store.add(plain, Record(0, trial, 1, 1, found, 0.1, flip(trial)))
            noticed = flip(trial, detected=trial < 18)
            store.add(parity, Record(1, trial, 1, 1, outcome(sdc=int(trial in (0, 18))), 0.1, noticed))
    return path


@pytest.fixture(scope="module")
def worked_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That store, to be copied."""
    return synthetic(tmp_path_factory.mktemp("worked-out") / "s")


def opened(path: Path) -> CampaignResult:
    with closing(Store.read(path)) as store:
        return result_of(store)


def rows(name: str, result: CampaignResult, rates: SafetyRates = RATES) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(name, result, rates).decode())))


def reference_at_most(count: int, n: int, confidence: float) -> float:
    """The share at which so few events have the probability 1 − confidence, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        chance = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count + 1))
        low, high = (p, high) if chance > 1 - confidence else (low, p)
    return low


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_bounds_are_those_of_the_binomial_distribution(confidence: float) -> None:
    n = 20
    for count in range(n):
        assert at_most(count, n, confidence) == pytest.approx(reference_at_most(count, n, confidence), abs=1e-12)
        assert at_least(n - count, n, confidence) == pytest.approx(1 - at_most(count, n, confidence))
    assert at_most(0, n, confidence) == pytest.approx(1 - (1 - confidence) ** (1 / n))
    assert (at_most(n, n), at_least(0, n), at_most(0, 0)) == (1.0, 0.0, 1.0)
    for share in (0.01, 0.1, 0.37, 0.5, 0.9):
        chances = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
        missed = sum(chance for k, chance in enumerate(chances) if at_most(k, n, confidence) < share)
        assert missed <= 1 - confidence + 1e-12
    with pytest.raises(ValueError, match="3 of 2"):
        at_most(3, 2)


def test_the_figures_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    result = opened(synthetic(tmp_path / "s"))
    plain, parity = rows("r.csv", result)
    assert [plain[name] for name in ("sdc", "due", "detected", "corrected", "masked", "faults")] == (
        ["4", "1", "0", "0", "15", "20"]
    )
    wanted = {"fit": 700, "sdc_fit": 140, "due_fit": 35, "masked_fit": 525, "safe": 0.75, "not_dangerous": 0.75}
    assert {name: float(plain[name]) for name in wanted} == pytest.approx(wanted)
    assert plain["coverage"] == plain["coverage_at_least"] == ""
    wanted = {"fit": 787.5, "sdc_fit": 39.375, "detected_fit": 708.75, "coverage": 0.775, "safe": 0.05}
    assert {name: float(parity[name]) for name in wanted} == pytest.approx(wanted)

    # Bounds: each at 95 %, the two of a coverage at 97.5 %.
    assert float(plain["sdc_fit_at_most"]) == pytest.approx(700 * reference_at_most(4, 20, 0.95))
    assert float(plain["not_dangerous_at_least"]) == pytest.approx(1 - reference_at_most(5, 20, 0.95))
    largest, smallest = 787.5 * reference_at_most(1, 20, 0.975), 700 * (1 - reference_at_most(15, 20, 0.975))
    assert float(parity["coverage_at_least"]) == pytest.approx(1 - largest / smallest)


def test_what_was_not_seen_has_a_bound_and_no_rate(tmp_path: Path) -> None:
    result = opened(synthetic(tmp_path / "s"))
    plain, _ = rows("r.csv", result)
    assert plain["corrected_fit"] == plain["corrected_share"] == ""
    assert float(plain["corrected_fit_at_most"]) == pytest.approx(700 * 0.1391, abs=0.05)
    page = render("r.html", result, RATES).decode()
    assert "≤ 97.4" in page  # 97.36, and never rounded down
    assert "140 <small>[≤ 281]</small>" in page  # 700 · 40.103 % = 280.7
    assert "77.5 % <small>[none shown]</small>" in page  # the bound is below 0: 20 faults show no coverage
    assert ">0 FIT" not in page
    best = replace(result, arms=(result.arms[0], replace(result.arms[1], records=result.arms[1].records[:18])))
    assert "<td>≥ 84.6 %</td>" in render("r.html", best, RATES).decode()  # 0.05^(1/18) = 84.67 %: all 18 not dangerous
    (strict, _) = rows("r.csv", result, SafetyRates(700.0, 0.99))
    assert float(strict["corrected_fit_at_most"]) == pytest.approx(700 * (1 - 0.01 ** (1 / 20)))
    (twice, _) = rows("r.csv", result, SafetyRates(1400.0))
    assert float(twice["sdc_fit"]) == 280


def test_the_list_of_faults(tmp_path: Path) -> None:
    found = rows("r.faults.csv", opened(synthetic(tmp_path / "s")))
    assert len(found) == 2 * FAULTS
    assert [row["class"] for row in found[:6]] == ["sdc"] * 4 + ["due", "masked"]
    assert found[FAULTS]["class"] == "detected"
    assert found[0] == {
        "id": "0-0",
        "format": "q2.5",
        "protect": "none",
        "tensor": "fc.weight",
        "index": "0",
        "bit": "7",
        "word_before": "0x3",
        "word_after": "0x83",
        "value_before": "1.5",
        "value_after": "-0.5",
        "values_changed": "1",
        "class": "sdc",
        "inputs_changed": "2",
        "inputs_not_finite": "0",
        "inputs": "10",
    }


@pytest.mark.parametrize(
    ("seen", "corrected", "detected", "wanted"),
    [
        (outcome(), False, False, FaultClass.MASKED),
        (outcome(), True, False, FaultClass.CORRECTED),
        (outcome(), True, True, FaultClass.DETECTED),
        (outcome(sdc=1), False, True, FaultClass.DETECTED),
        (outcome(sdc=1), True, False, FaultClass.SDC),  # corrected, and wrong
        (outcome(sdc=1, due=3), False, False, FaultClass.SDC),  # the worse of the two
        (outcome(due=3), True, False, FaultClass.DUE),
        (outcome(due=2), False, False, FaultClass.MASKED),  # as without faults
    ],
)
def test_every_fault_is_of_one_class(seen: Outcome, corrected: bool, detected: bool, wanted: FaultClass) -> None:
    record = Record(0, 0, 1, 1, seen, 0.0, replace(flip(0), corrected=corrected, detected=detected))
    assert class_of(record, outcome(due=2)) == wanted


def test_a_trial_that_could_not_be_run_counts_as_sdc(tmp_path: Path) -> None:
    result = opened(synthetic(tmp_path / "s"))
    arms = replace(result.arms[0], failures=(Failure(0, 20, "it died"),)), result.arms[1]
    figures = safety_of(replace(result, arms=arms), RATES).arms[0]
    assert (figures.trials, figures.counts[FaultClass.SDC]) == (21, 5)
    assert "counted as SDC" in render("r.html", replace(result, arms=arms), RATES).decode()


def test_what_a_campaign_keeps_is_what_its_seed_draws(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "s")) as store:
        written = run_demo(store, plan=SINGLE)
    result = opened(tmp_path / "s")
    assert replace(result, seconds=0.0) == replace(written, seconds=0.0)
    plain, parity, secded = safety_of(result, RATES).arms
    assert set(plain.classes) <= {FaultClass.MASKED, FaultClass.SDC}
    assert set(parity.classes) == {FaultClass.DETECTED}
    assert set(secded.classes) == {FaultClass.CORRECTED}

    checkpoint = Checkpoint.open(demo_checkpoint_path())
    tensors = {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}
    image = MemoryImage(tensors, "q2.5")
    stored = dict(image.values())
    for record in plain.result.records:
        kept = record.flip
        assert kept is not None
        faults = image.draw(parse_law("flips:1"), seed=0, trial=record.trial)
        ((name, (words, masks)),) = faults.faults.items()
        assert (kept.region, kept.word, 1 << kept.bit) == (name, words[0], masks[0])
        values = image.patch(faults).elements[name].values
        before = stored[name].reshape(-1)[kept.word]
        assert kept.values is not None
        assert tuple(map(float, kept.values)) == (before, values[0])
        assert kept.after - kept.before == pytest.approx((1 if kept.after > kept.before else -1) * int(masks[0]))


def test_stores_of_before_read_as_they_are(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "new")) as store:
        run_demo(store, plan=SINGLE)
    (tmp_path / "old").write_bytes((tmp_path / "new").read_bytes())
    with closing(sqlite3.connect(tmp_path / "old")) as raw:
        raw.execute("DROP TABLE single_flips")
        raw.commit()
    old, new = opened(tmp_path / "old"), opened(tmp_path / "new")
    assert all(record.flip is None for arm in old.arms for record in arm.records)
    found = safety_of(old, RATES)
    assert [one.number for one in found.arms] == [0]  # nothing can be noticed without a protection
    assert found.arms[0].counts == safety_of(new, RATES).arms[0].counts
    assert "did not keep what protections notice" in found.left_out[0]
    with pytest.raises(UsageError, match="did not keep where a flip is"):
        render("r.faults.csv", old, RATES)
    for sources in (("old", "new"), ("new", "old")):
        target = tmp_path / "-".join(sources)
        merge([tmp_path / source for source in sources], target)
        assert opened(target).arms == new.arms


def test_a_campaign_of_many_flips_has_no_places(tmp_path: Path) -> None:
    law = parse_law("flips:2")
    with closing(Store.open(tmp_path / "s")) as store:
        run_demo(store, plan=replace(SINGLE, arms=cross(["q2.5"], [law]), trials=2))
    with closing(sqlite3.connect(tmp_path / "s")) as raw:
        assert not raw.execute("SELECT count(*) FROM sqlite_master WHERE name = 'single_flips'").fetchone()[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arm: replace(arm, arm=replace(arm.arm, fault=parse_law("bitflip:1e-4"))), "than one flip each"),
        (lambda arm: replace(arm, arm=replace(arm.arm, fault=parse_law("flips:2"))), "than one flip each"),
        (lambda arm: replace(arm, arm=replace(arm.arm, fault=parse_law("flips:1,bits=sign"))), "a part of the memory"),
        (lambda arm: replace(arm, sequential=True), "has gates or --until-ci"),
        (lambda arm: replace(arm, records=()), "has no trials"),
        (
            lambda arm: replace(arm, records=tuple(replace(r, outcome=Outcome(1, 1, 1, 0.0, 0)) for r in arm.records)),
            "says of no answer",
        ),
    ],
)
def test_other_trials_are_refused_with_what_to_run(change: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    result = opened(synthetic(tmp_path / "s"))
    changed = replace(result, arms=tuple(map(change, result.arms)))
    with pytest.raises(UsageError) as refused:
        safety_of(changed, RATES)
    assert said in refused.value.message
    assert "\n" not in refused.value.message
    assert "faultcli campaign model --data DATA --fault flips:1 --format q2.5 --protect none" in str(
        refused.value.remedy
    )
    mixed = safety_of(replace(result, arms=(result.arms[0], change(result.arms[1]))), RATES)
    assert len(mixed.arms) == len(mixed.left_out) == 1
    assert said in render("r.html", mixed.campaign, RATES).decode()


@pytest.mark.parametrize(
    "rates", [(0.0, 0.95), (-1.0, 0.95), (math.nan, 0.95), (math.inf, 0.95), (7.0, 1.0), (7.0, 0.4)]
)
def test_rates_that_are_none(rates: tuple[float, float]) -> None:
    with pytest.raises(UsageError):
        SafetyRates(*rates)


def test_gates_make_trials_that_do_not_count(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "s")) as store:
        result = run_demo(store, plan=replace(SINGLE, trials=2, gates=(Gate("min-accuracy", 0.5),)))
    with pytest.raises(UsageError, match="has gates"):
        safety_of(result, RATES)


@pytest.mark.parametrize(
    "cell",
    [
        *("", "{", "[]", "null", "{}", b"\xff"),
        *(
            json.dumps({**json.loads('{"region": "w", "word": 1, "bit": 2, "before": 3, "corrected": true, '
            '"detected": false, "values": null}'), **change})
            for change in (
                {"region": 1}, {"word": -1}, {"word": 0.5}, {"bit": 64}, {"before": -1}, {"before": 1 << 64},
                {"corrected": 1}, {"detected": None}, {"values": ["1"]}, {"values": "12"}, {"values": [1, 2]}, {"x": 1},
            )
        ),
    ],
)  # fmt: skip
def test_damage_is_said(cell: object, worked_out: Path, tmp_path: Path) -> None:
    path = shutil.copy(worked_out, tmp_path / "s")
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE single_flips SET flip = ? WHERE trial = 3", (cell,))
        raw.commit()
    with pytest.raises(StoreError, match=r"damaged.* (flip|text|word|place)"):
        opened(path)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM trials WHERE trial = 3",
        "UPDATE trials SET flips = 2 WHERE trial = 3",
        "ALTER TABLE single_flips ADD COLUMN more TEXT",
    ],
)
def test_flips_without_their_trials_are_damage(statement: str, worked_out: Path, tmp_path: Path) -> None:
    path = shutil.copy(worked_out, tmp_path / "s")
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(statement)
        raw.commit()
    with pytest.raises(FaultcliError, match=r"damaged.* (flip|flips, and one place|single_flips)"):
        opened(path)
