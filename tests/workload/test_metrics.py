"""The metrics against a reference that looks at one row and one class at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from faultcli.workload.metrics import GoldenRun, Outcome, measure

NAN, INF = math.nan, math.inf


def ranking(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda k: (-row[k], k))


def confidence(row: list[float]) -> float:
    return 1 / sum(math.exp(x - max(row)) for x in row)


def slow(logits: list[list[float]], labels: list[int], golden: list[list[float]] | None) -> dict[str, float | None]:
    """Count row by row, as the definitions read."""
    classes = len(logits[0])
    names = ["correct1", "correct5", "due", "masked", "sdc", "sdc1", "sdc5", "sdc10pct", "sdc20pct"]
    count: dict[str, float | None] = dict.fromkeys(names, 0)
    losses = []

    def add(name: str, hit: bool) -> None:
        count[name] += hit  # type: ignore[operator]

    for i, row in enumerate(logits):
        if not all(map(math.isfinite, row)):
            add("due", True)
            continue
        order = ranking(row)
        add("correct1", order[0] == labels[i])
        add("correct5", labels[i] in order[:5])
        losses.append(max(row) - row[labels[i]] + math.log(sum(math.exp(x - max(row)) for x in row)))
        if golden is None:
            continue
        if not all(map(math.isfinite, golden[i])):
            for name in ("sdc", "sdc1", "sdc5", "sdc10pct", "sdc20pct"):
                add(name, True)
            continue
        best = ranking(golden[i])[0]
        add("masked", order[0] == best)
        add("sdc", order[0] != best)
        add("sdc1", order[0] != best)
        add("sdc5", best not in order[:5])
        drift = abs(confidence(row) / confidence(golden[i]) - 1)
        add("sdc10pct", drift > 0.1)
        add("sdc20pct", drift > 0.2)
    if golden is None:
        count.update(dict.fromkeys(["masked", "sdc", "sdc1", "sdc5", "sdc10pct", "sdc20pct"]))
    if classes <= 5:
        count["correct5"] = count["sdc5"] = None
    count["n"] = len(logits)
    count["loss"] = sum(losses) / len(losses) if losses else None
    return count


def check(logits: list[list[float]], labels: list[int], golden: list[list[float]] | None) -> Outcome:
    run = None if golden is None else GoldenRun(torch.tensor(golden))
    outcome = measure(torch.tensor(logits), torch.tensor(labels), run)
    expected = slow(logits, labels, golden)
    loss = expected.pop("loss")
    assert {name: getattr(outcome, name) for name in expected} == expected
    assert outcome.loss == (None if loss is None else pytest.approx(loss, rel=1e-5, abs=1e-6))
    if golden is not None:
        assert outcome.masked is not None
        assert outcome.sdc is not None
        assert outcome.masked + outcome.sdc + outcome.due == outcome.n
    return outcome


# Few distinct values make ties; NaN and infinity are among them. No confidence lies within float32 of 10 % or 20 %.
VALUES = st.sampled_from([0.0, -0.0, 1.0, 2.0, 5.0, -3.0, 30.0]) | st.sampled_from(
    [0.0, 1.0, 2.0, NAN, INF, -INF, 3e38]
)


@st.composite
def _runs(draw: st.DrawFn) -> tuple[list[list[float]], list[int], list[list[float]] | None]:
    classes, n = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    rows = st.lists(st.lists(VALUES, min_size=classes, max_size=classes), min_size=n, max_size=n)
    logits, golden = draw(rows), draw(st.none() | rows)
    if golden is not None and draw(st.booleans()):
        logits = [golden[0], *logits[1:]]
    return logits, draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)), golden


@settings(deadline=None, max_examples=300)
@given(_runs())
def test_agrees_with_the_slow_reference(run: tuple[list[list[float]], list[int], list[list[float]] | None]) -> None:
    check(*run)


@pytest.mark.parametrize("classes", [3, 5, 6, 10, 100])
def test_agrees_on_random_logits(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    golden = 3 * torch.randn(200, classes, generator=generator)
    logits = golden + 0.5 * torch.randn(200, classes, generator=generator)
    logits[::17, classes // 2] = NAN
    labels = torch.randint(classes, (200,), generator=generator)
    check(logits.tolist(), labels.tolist(), golden.tolist())


def test_a_non_finite_row_is_never_correct() -> None:
    outcome = check([[NAN] * 10, [INF] + [0.0] * 9, [9.0] + [0.0] * 8 + [-INF]], [0, 0, 0], [[9.0] + [0.0] * 9] * 3)
    assert (outcome.correct1, outcome.correct5, outcome.due, outcome.sdc, outcome.loss) == (0, 0, 3, 0, None)
    assert outcome.top1 == 0


def test_ties_go_to_the_lower_class() -> None:
    tied = [[1.0] * 10]
    assert [check(tied, [label], None).correct1 for label in (0, 1, 9)] == [1, 0, 0]
    assert [check(tied, [label], None).correct5 for label in (0, 4, 5)] == [1, 1, 0]


def test_without_a_golden_run_the_comparisons_are_undefined() -> None:
    outcome = check([[0.0, 1.0, 2.0]], [2], None)
    assert (outcome.masked, outcome.sdc, outcome.sdc1, outcome.sdc5, outcome.sdc10pct) == (None,) * 5
    assert (outcome.top1, outcome.top5, outcome.due) == (1.0, None, 0)


def test_confidence_counts_by_how_far_it_moves() -> None:
    golden = [[math.log(0.8), math.log(0.2)]] * 4
    rows = [[math.log(p), math.log(1 - p)] for p in (0.8, 0.73, 0.71, 0.63)]  # off by 0, 8.75, 11.25 and 21.25 %
    outcome = check(rows, [0] * 4, golden)
    assert (outcome.sdc, outcome.sdc10pct, outcome.sdc20pct) == (0, 2, 1)


def test_a_finite_answer_where_the_golden_run_has_none_counts_as_changed() -> None:
    outcome = check([[1.0] + [0.0] * 9], [0], [[NAN] * 10])
    assert (outcome.correct1, outcome.masked, outcome.sdc, outcome.sdc5, outcome.sdc20pct) == (1, 0, 1, 1, 1)


def test_rates_are_fractions() -> None:
    golden = torch.eye(4, 6) * 3
    logits = golden.clone()
    logits[0] = NAN
    logits[1, 5] = 9
    rates = measure(logits, torch.arange(4), GoldenRun(golden)).rates()
    assert rates.pop("loss") is not None
    assert rates == {
        **{"top1": 0.5, "top5": 0.75, "due": 0.25, "masked": 0.5, "sdc": 0.25, "sdc1": 0.25},
        **{"sdc5": 0.0, "sdc10pct": 0.25, "sdc20pct": 0.25},
    }


def test_the_loss_of_huge_logits_is_finite() -> None:
    outcome = measure(torch.tensor([[3e38, -3e38]]), torch.tensor([1]))
    assert outcome.loss == pytest.approx(6e38)


@pytest.mark.parametrize(
    ("logits", "labels", "golden", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), None, r"logits of shape \[0, 3\]"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), None, r"logits of shape \[3\]"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), None, r"3 rows of logits and labels of shape \[2\]"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4), r"a golden run of \[3, 4\]"),
    ],
)
def test_shapes_that_do_not_belong_together(
    logits: Tensor, labels: Tensor, golden: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(logits, labels, None if golden is None else GoldenRun(golden))
