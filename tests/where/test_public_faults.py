"""Single-bit faults of a public list, with outcomes, on the same network: `benchmarks.public_faults`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.public_faults import MEAN, STD, PublicFault, agreement, as_listed, chance, chosen, read_list, replay
from faultcli.campaign.subject import Subject
from faultcli.workload.classifier import Workload

IMAGES = 20
NAN, SOME, LATE, NOTHING = 471, 7544, 16595, 0  # all answers NaN; some; some of the last layer; none


@pytest.fixture(scope="module")
def listed(data_dir: Path) -> list[PublicFault]:
    return read_list(data_dir / "polito" / "ResNet20_FL.csv")


def test_replayed_faults_do_what_the_list_says(data_dir: Path, listed: list[PublicFault]) -> None:
    """The late start, the patch and the count of answers, held to a plain run of the network with the bit flipped."""
    subject = Subject.open(
        data_dir / "cifar10" / "resnet20.safetensors",
        str(data_dir / "cifar10" / "cifar10_test1000.npz"),
        limit=IMAGES,
        mean=MEAN,
        std=STD,
    )
    faults = [listed[number] for number in (NAN, SOME, LATE, NOTHING)]
    assert [fault.number for fault in faults] == [NAN, SOME, LATE, NOTHING]
    found = {one.number: one for one in replay(subject, faults)}
    workload = subject.workload
    assert isinstance(workload, Workload)
    golden = workload.logits().argmax(1)
    for fault in faults:
        live = workload.parameters[fault.tensor]
        assert isinstance(live, torch.Tensor)
        with torch.no_grad():
            before = live[fault.index].clone()
            live[fault.index] = (before.view(torch.int32) ^ 1 << fault.bit).view(torch.float32)
            logits = workload.logits()
            live[fault.index] = before
        finite = logits.isfinite().all(1)
        here = found[fault.number]
        assert here.due == int((~finite).sum())
        assert here.sdc == int((logits.argmax(1) != golden)[finite].sum())
        assert here.as_listed == int((logits.argmax(1) != golden).sum())  # torch: NaN is the greatest of all
        assert chance(here.as_listed, IMAGES, fault) > 0.01
    nan = found[NAN]
    assert nan.due == IMAGES
    assert nan.as_listed == int((golden != 0).sum()) < IMAGES
    assert chance(nan.sdc + nan.due, IMAGES, listed[NAN]) < chance(nan.as_listed, IMAGES, listed[NAN])


def test_what_is_replayed_begins_with_all_loud_faults(listed: list[PublicFault]) -> None:
    loud = [fault for fault in listed if fault.critical > 100]
    few, more = chosen(listed, 5, seed=1), chosen(listed, 50, seed=1)
    assert more[: len(few)] == few
    assert set(few[: len(loud)]) == set(loud)
    assert len({fault.number for fault in more}) == len(more) == len(loud) + 50
    assert chosen(listed, 5, seed=2) != few


def test_answers_as_the_list_counts_them() -> None:
    nan, inf = math.nan, math.inf
    logits = [[0.0, 1.0, 1.0], [nan, nan, nan], [5.0, nan, nan], [1.0, 3.0, -inf], [inf, nan, 2.0]]
    assert as_listed(torch.tensor(logits)).tolist() == [1, 0, 1, 1, 1]


def test_chance_is_that_of_drawing_without_putting_back() -> None:
    fault = PublicFault(0, "w", (0,), 0, critical=6, images=20)
    weights = [math.comb(6, k) * math.comb(14, 5 - k) / math.comb(20, 5) for k in range(6)]
    for changed in range(6):
        tails = sum(weights[: changed + 1]), sum(weights[changed:])
        assert chance(changed, 5, fault) == pytest.approx(min(1, 2 * min(tails)))
    assert chance(0, 5, PublicFault(0, "w", (0,), 0, critical=20, images=20)) == 0


def test_disagreements_are_those_that_so_many_faults_do_not_bring_by_chance() -> None:
    same = [(PublicFault(i, "w", (0,), 0, 100 * i, 1000), 10 * i, 100) for i in range(1, 9)]
    agreed = agreement(same)
    assert agreed.correlation == pytest.approx(1)
    assert (agreed.difference, agreed.apart, agreed.beyond) == (pytest.approx(0), (), ())
    rng = np.random.default_rng(0)  # a mean over many draws, held to the expectation
    drawn = rng.hypergeometric(
        [f.critical for f, _, _ in same], [1000 - f.critical for f, _, _ in same], 100, (4000, 8)
    )
    apart = np.abs(drawn / 100 - np.arange(1, 9) / 10).mean()
    assert agreed.by_drawing == pytest.approx(apart, rel=0.03)
    wrong = PublicFault(99, "w", (0,), 0, 500, 1000)
    beyond = PublicFault(98, "w", (0,), 0, 0, 1000)
    assert agreement([*same, (wrong, 90, 100), (beyond, 1, 100)]).apart == (99, 98)
    assert agreement([*same, (wrong, 63, 100)]).apart == ()
    assert agreement([(wrong, 63, 100)]).apart == (99,)  # it alone is one
    assert agreement([(beyond, 1, 100)]).beyond == (98,)
    assert agreement([(beyond, 0, 100)]).correlation is None


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is no list of single-bit faults"):
        read_list(path)
