"""Gates: verdicts, their error rates by simulation, combination."""

import numpy as np
import pytest

from faultcli.campaign.gates import FaultFreeAccuracy, Gate, GateCheck, Verdict, combine, difference
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.records import Record
from faultcli.campaign.watch import Watch
from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law
from faultcli.workload.metrics import Outcome


def accuracies(rng: np.random.Generator, mean: float, n: int) -> np.ndarray:
    """One map in ten loses 30 points, the others little; the mean is exact."""
    bad = rng.random(n) < 0.1
    return np.where(bad, mean - 0.27, mean + 0.03) + rng.uniform(-0.02, 0.02, n)


@pytest.mark.parametrize(("offset", "wrong"), [(0.005, Verdict.FAIL), (0.0, Verdict.FAIL), (-0.005, Verdict.PASS)])
@pytest.mark.parametrize("name", ["min-accuracy", "max-drop", "max-sdc"])
def test_false_verdicts_under_early_stopping(name: str, offset: float, wrong: Verdict) -> None:
    rng = np.random.default_rng(0)
    gate = Gate(name, {"min-accuracy": 0.85, "max-drop": 0.06, "max-sdc": 0.15}[name])
    found = []
    for _ in range(60):
        check = GateCheck(gate, clean=FaultFreeAccuracy(0.91, 0.91), alpha=0.05)
        values = accuracies(rng, 0.85 + offset, 300)
        for value in values if gate.quantity == "accuracy" else 1 - values:
            if check.add(value) is not Verdict.INCONCLUSIVE:
                break
        found.append(check.verdict)
    assert found.count(wrong) / len(found) <= 0.05


def test_a_clear_case_is_decided_early() -> None:
    rng = np.random.default_rng(1)
    for mean, verdict in ((0.85, Verdict.PASS), (0.5, Verdict.FAIL)):
        check = GateCheck(Gate("min-accuracy", 0.7), clean=FaultFreeAccuracy(0.9, 0.9), alpha=0.05)
        for value in accuracies(rng, mean, 100):
            check.add(value)
        assert check.verdict is verdict
        assert check.trials < 50


def test_a_verdict_stays() -> None:
    check = GateCheck(Gate("min-accuracy", 0.5), clean=FaultFreeAccuracy(0.9, 0.9), alpha=0.05)
    for value in [1.0] * 20 + [0.0] * 500:
        check.add(value)
    assert check.verdict is Verdict.PASS


def test_a_drop_counts_from_the_accuracy_as_stored() -> None:
    assert Gate("max-drop", 0.02).limit(FaultFreeAccuracy(0.95, 0.9)) == pytest.approx(0.88)
    assert Gate("min-accuracy", 0.7).limit(FaultFreeAccuracy(0.95, 0.9)) == 0.7
    assert Gate("max-sdc", 0.1).limit(FaultFreeAccuracy(0.95, 0.9)) == 0.1
    check = GateCheck(Gate("max-drop", 0.95), clean=FaultFreeAccuracy(0.9, 0.9), alpha=0.05)
    assert check.verdict is Verdict.PASS  # no trial can lose more


@pytest.mark.parametrize(
    ("gate", "value", "verdict"),
    [
        (Gate("min-accuracy", 0.0), 0.0, Verdict.PASS),
        (Gate("max-sdc", 1.0), 1.0, Verdict.PASS),
        (Gate("max-sdc", 0.0), 0.0, Verdict.INCONCLUSIVE),  # that it never happens no number of trials can show
        (Gate("max-sdc", 0.0), 0.001, Verdict.FAIL),
        (Gate("min-accuracy", 1.0), 1.0, Verdict.INCONCLUSIVE),
        (Gate("min-accuracy", 1.0), 0.999, Verdict.FAIL),
    ],
)
def test_limits_at_the_ends(gate: Gate, value: float, verdict: Verdict) -> None:
    check = GateCheck(gate, clean=FaultFreeAccuracy(0.9, 0.9), alpha=0.05)
    for _ in range(50):
        check.add(value)
    assert check.verdict is verdict


def test_unknown_gates_and_thresholds() -> None:
    with pytest.raises(UsageError, match="unknown gate 'min-acuracy'"):
        Gate("min-acuracy", 0.5)
    with pytest.raises(UsageError, match="--max-drop 5: a threshold is a fraction"):
        Gate("max-drop", 5)
    for nonsense in (0.9, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"--max-perplexity .*: a threshold is a number from 1"):
            Gate("max-perplexity", nonsense)


def test_a_perplexity_is_tested_as_the_probability_of_a_token() -> None:
    gate = Gate("max-perplexity", 4.0)
    assert gate.limit(FaultFreeAccuracy(0.95, 0.9)) == 0.25
    for perplexity, verdict in ((3.0, Verdict.PASS), (6.0, Verdict.FAIL)):
        check = GateCheck(gate, clean=FaultFreeAccuracy(0.9, 0.9), alpha=0.05)
        for _ in range(200):
            check.add(1 / perplexity)
        assert check.verdict is verdict
    assert (
        GateCheck(Gate("max-perplexity", 1.0), clean=FaultFreeAccuracy(0.9, 0.9), alpha=0.05).add(0.5)
        is not Verdict.PASS
    )
    gate.check_measured({"token probability": 0.2}, "a model")
    with pytest.raises(UsageError, match="--max-perplexity: resnet has no perplexity on these data"):
        gate.check_measured({"accuracy": 0.9}, "resnet")


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ("", None),
        ("p", Verdict.PASS),
        ("pip", Verdict.INCONCLUSIVE),
        ("pif", Verdict.FAIL),
    ],
)
def test_combination(verdicts: str, together: Verdict | None) -> None:
    names = {"p": Verdict.PASS, "i": Verdict.INCONCLUSIVE, "f": Verdict.FAIL}
    assert combine(names[letter] for letter in verdicts) is together


def watches(gates: list[Gate], arms: int, clean: float = 0.96) -> list[Watch]:
    laws = [parse_law(f"flips:{count}") for count in range(1, arms + 1)]
    plan = Plan(cross(["q2.5"], laws), 1000, gates=tuple(gates))
    return [Watch(plan, arm, FaultFreeAccuracy(clean, clean)) for arm in range(arms)]


def record(trial: int, accuracy: float, sdc: float, n: int = 100) -> Record:
    correct, wrong = round(accuracy * n), round(sdc * n)
    return Record(0, trial, 1, 1, Outcome(n, correct, None, None, 0, masked=n - wrong, sdc=wrong), 0.0)


def test_all_gates_of_all_arms_share_one_error_rate() -> None:
    # Six checks at their limits: the chance that any of them fails must stay below 5 % in all. Were each allowed 5 %
    # alone, up to 26 % of the 40 campaigns would fail.
    rng = np.random.default_rng(2)
    gates = [Gate("min-accuracy", 0.5), Gate("max-sdc", 0.5)]
    wrong = 0
    for _ in range(40):
        arms = watches(gates, 3)
        for trial in range(120):
            for watch in arms:
                watch.enough(record(trial, rng.random() < 0.5, rng.random() < 0.5, n=1))
        wrong += combine(gate.verdict for watch in arms for gate in watch.gates) is Verdict.FAIL
    assert wrong <= 2


def test_every_gate_of_every_arm_has_its_verdict() -> None:
    gates = [Gate("min-accuracy", 0.8), Gate("max-sdc", 0.1)]
    good, bad = arms = watches(gates, 2)
    for watch, accuracy in ((good, 0.95), (bad, 0.6)):
        assert any(watch.enough(record(trial, accuracy, 0.02)) for trial in range(80))
    assert [(r.arm, r.gate.name, r.verdict.value) for watch in arms for r in watch.gates] == [
        (0, "min-accuracy", "pass"),
        (0, "max-sdc", "pass"),
        (1, "min-accuracy", "fail"),
        (1, "max-sdc", "pass"),
    ]
    (few,) = watches(gates, 1)
    assert not any(few.enough(record(trial, 0.95, 0.02)) for trial in range(2))
    assert combine(gate.verdict for gate in few.gates) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("n", [480, 500, 997])
def test_a_loss_exactly_at_the_threshold_holds(n: int) -> None:
    """In counts, whatever floats do: 476 of 480 to 470 of 480 is a loss of 0.0125."""
    for stored in {*range(0, n + 1, 11), n - 10, n - 4, n}:  # 470 and 476 of 480 among them
        limits = {}
        for lost in range(stored + 1):
            threshold = float(f"{lost / n:.12g}")
            if threshold * n != lost and n == 997:
                continue  # no decimal of twelve digits is this fraction
            limits[lost] = Gate("max-drop", threshold).limit(FaultFreeAccuracy(1.0, stored / n))
        for lost, limit in limits.items():
            if float(f"{lost / n:.6g}") * n == lost:  # a threshold that a person types
                assert (stored - lost) / n >= limit, (stored, lost)
            if lost + 1 <= stored:
                assert (stored - lost - 1) / n < limit or lost / n != float(f"{lost / n:.6g}")
    assert Gate("max-drop", 0.0125).limit(FaultFreeAccuracy(1.0, 476 / 480)) == 470 / 480


def test_differences_of_counts_are_exact() -> None:
    for n in (480, 500, 997, 10_000):
        for one in range(0, n, max(1, n // 60)):
            for other in range(0, n, max(1, n // 60)):
                assert difference(one / n, other / n) == (one - other) / n


def test_a_drop_from_the_original_counts_what_the_format_costs() -> None:
    clean = FaultFreeAccuracy(0.992, 0.308)
    check = GateCheck(Gate("max-drop-from-original", 0.05), clean=clean, alpha=0.05)
    for _ in range(100):
        check.add(0.3)
    assert check.verdict is Verdict.FAIL
    assert GateCheck(Gate("max-drop", 0.05), clean=clean, alpha=0.05).limit == pytest.approx(0.258)


def test_how_many_trials_an_open_gate_needs() -> None:
    rng = np.random.default_rng(0)
    draw = rng.beta(20, 2, 20_000)  # mean 0.909
    gate = Gate("min-accuracy", 0.88)
    check = GateCheck(gate, clean=FaultFreeAccuracy(1.0, 1.0), alpha=0.025)
    for value in draw[:30]:
        check.add(float(value))
    assert check.verdict is Verdict.INCONCLUSIVE
    guess = check.needed()
    assert guess is not None
    took = next(n for n, value in enumerate(draw[30:], 31) if check.add(float(value)) is not Verdict.INCONCLUSIVE)
    assert guess / 3 <= took <= guess * 3
    assert check.needed() is None
    at_the_limit = GateCheck(Gate("min-accuracy", 0.5), clean=FaultFreeAccuracy(1.0, 1.0), alpha=0.025)
    for value in [0.4, 0.6] * 10:
        at_the_limit.add(value)
    assert at_the_limit.needed() is None
