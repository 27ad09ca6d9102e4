"""Every method of the table, under the same rules."""

import numpy as np
import pytest
import torch
from synthetic import CLASSES, accuracy, clean_logits, damaged, labelled, labels_of

from faultcli.errors import FaultcliError, UsageError
from faultcli.recover.base import Card, Corrector, CorrectorError
from faultcli.recover.damaged_logits import Copy, LabelledLogits
from faultcli.recover.edmn import EdmnOptions
from faultcli.recover.methods import METHODS, TrainingOptions, train_corrector

FAST = TrainingOptions(window=300, edmn=EdmnOptions(hidden=(32,), epochs=4))
DATA = labelled()


@pytest.fixture(scope="module")
def trained() -> dict[str, Corrector]:
    return {name: train_corrector(name, DATA, Card(CLASSES, model="ab" * 32), FAST) for name in METHODS}


def unseen(strength: float, seed: int, n: int = 1200) -> tuple[torch.Tensor, np.ndarray]:
    labels = labels_of(n, seed)
    return torch.from_numpy(damaged(clean_logits(labels, seed + 1), strength, seed)).float(), labels


@pytest.mark.parametrize("method", METHODS)
def test_training_is_deterministic(method: str, trained: dict[str, Corrector]) -> None:
    again = train_corrector(method, DATA, Card(CLASSES, model="ab" * 32), FAST)
    first, second = trained[method].parts(), again.parts()
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    for name, array in first[0].items():
        np.testing.assert_array_equal(array, second[0][name])


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_are_not_finite_stay_as_they_are(method: str, trained: dict[str, Corrector]) -> None:
    logits, _ = unseen(1.0, 500)
    logits[3, 1], logits[7, 0], logits[9] = torch.nan, torch.inf, -torch.inf
    correction = trained[method].observe(logits[:600])
    corrected = correction(logits)
    hit = torch.tensor([3, 7, 9])
    assert torch.equal(corrected[hit].isnan(), logits[hit].isnan())
    assert torch.equal(corrected[hit].isinf(), logits[hit].isinf())
    others = torch.ones(len(logits), dtype=torch.bool)
    others[hit] = False
    assert corrected[others].isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_correction_does_not_depend_on_the_batch(method: str, trained: dict[str, Corrector]) -> None:
    logits, _ = unseen(1.0, 501)
    correction = trained[method].observe(logits[:600])
    whole = correction(logits)
    parts = torch.cat([correction(part) for part in logits.split(77)])
    assert torch.allclose(whole, parts, atol=1e-4)
    assert whole.dtype == torch.float32
    assert whole.shape == logits.shape
    assert correction(logits[:0]).shape == (0, CLASSES)


@pytest.mark.parametrize("method", METHODS)
def test_strength_runs_from_nothing_to_everything(method: str, trained: dict[str, Corrector]) -> None:
    logits, _ = unseen(1.0, 502)
    nothing, half, whole = (trained[method].observe(logits[:600], strength=s)(logits) for s in (0.0, 0.5, 1.0))
    assert torch.equal(nothing, logits)
    assert torch.allclose(half, (logits + whole) / 2, atol=1e-3)
    with pytest.raises(CorrectorError, match=r"strength of 1\.5"):
        trained[method].observe(logits[:600], strength=1.5)


@pytest.mark.parametrize("method", ["align", "mixture", "adaptive"])
def test_damage_is_undone_without_labels(method: str, trained: dict[str, Corrector]) -> None:
    gains = []
    for seed in range(600, 606):
        logits, labels = unseen(1.0, seed)
        correction = trained[method].observe(logits[:600])
        gains.append(accuracy(correction(logits[600:]), labels[600:]) - accuracy(logits[600:], labels[600:]))
    assert np.mean(gains) > 0.2
    assert min(gains) > -0.02


def test_adaptive_leaves_the_healthy_model_alone_whatever_the_class_mix(trained: dict[str, Corrector]) -> None:
    for classes in (np.arange(CLASSES), np.array([0, 3]), np.array([1, 2, 5])):
        labels = np.random.default_rng(9).choice(classes, 500)
        logits = torch.from_numpy(clean_logits(labels, 77)).float()
        correction = trained["adaptive"].observe(logits)
        assert correction.decision == "identity"
        assert correction(logits) is logits


def test_adaptive_corrects_windows_in_which_classes_are_missing(trained: dict[str, Corrector]) -> None:
    gains, seen_gains = [], []
    for seed in range(700, 708):
        random = np.random.default_rng(seed)
        seen = random.permutation(CLASSES)[: CLASSES // 2]
        window = torch.from_numpy(damaged(clean_logits(random.choice(seen, 1000), seed), 1.0, seed)).float()
        labels = labels_of(900, seed)
        logits = torch.from_numpy(damaged(clean_logits(labels, seed + 1), 1.0, seed)).float()
        corrected = trained["adaptive"].observe(window)(logits)
        gains.append(accuracy(corrected, labels) - accuracy(logits, labels))
        at = np.isin(labels, seen)
        seen_gains.append(accuracy(corrected[at], labels[at]) - accuracy(logits[at], labels[at]))
    assert np.mean(seen_gains) > 0.2
    assert min(seen_gains) > -0.1
    assert np.mean(gains) > 0.1  # of classes that it has not seen, too
    aligned = trained["align"].observe(window)(logits)
    assert accuracy(aligned[at], labels[at]) < accuracy(corrected[at], labels[at]) - 0.1  # which takes all to be there


def test_adaptive_counts_few_numbers_and_predicts_its_gain(trained: dict[str, Corrector]) -> None:
    logits, _ = unseen(1.0, 610)
    correction = trained["adaptive"].observe(logits[:600])
    assert "mixture" in correction.decision or correction.decision == "align"
    assert 0 < correction.numbers < 1000
    assert correction.predicted_gain is not None
    assert correction.predicted_gain > 0.03


def test_the_predicted_gain_is_what_comes_and_its_interval_covers_it(trained: dict[str, Corrector]) -> None:
    errors, covered = [], 0
    for seed in range(620, 632):
        logits, labels = unseen(0.6, seed)  # a level between those of the training
        correction = trained["adaptive"].observe(logits[:600])
        gain = accuracy(correction(logits[600:]), labels[600:]) - accuracy(logits[600:], labels[600:])
        assert correction.predicted_gain is not None
        assert correction.predicted_interval is not None
        low, high = correction.predicted_interval
        assert low <= correction.predicted_gain <= high
        errors.append(correction.predicted_gain - gain)
        covered += low <= gain <= high
    assert abs(np.mean(errors)) < 0.03
    assert covered >= 10


def test_a_window_of_garbage_leaves_everything_alone(trained: dict[str, Corrector]) -> None:
    window = torch.full((200, CLASSES), torch.nan)
    window[:3] = 0.0
    for method in ("align", "mixture", "adaptive"):
        correction = trained[method].observe(window)
        assert correction.is_identity
        assert "only 3 of 200" in correction.reason


def test_outliers_do_not_spoil_the_window(trained: dict[str, Corrector]) -> None:
    logits, labels = unseen(1.0, 611)
    spoiled = logits[:600].clone()
    spoiled[::100] = 1e30
    before = accuracy(trained["adaptive"].observe(logits[:600])(logits), labels)
    assert accuracy(trained["adaptive"].observe(spoiled)(logits), labels) > before - 0.03


@pytest.mark.parametrize("method", ["align", "mixture", "adaptive"])
def test_windows_are_needed_and_not_too_small(method: str, trained: dict[str, Corrector]) -> None:
    with pytest.raises(CorrectorError, match="needs a window"):
        trained[method].observe()
    with pytest.raises(CorrectorError, match="window of 5 inputs is too small"):
        trained[method].observe(torch.zeros(5, CLASSES))


@pytest.mark.parametrize("method", ["align", "mixture", "adaptive"])
def test_another_number_of_classes_is_refused(method: str, trained: dict[str, Corrector]) -> None:
    with pytest.raises(CorrectorError, match="trained for 6 classes"):
        trained[method].observe(torch.zeros(500, CLASSES + 1))


def test_another_model_is_refused(trained: dict[str, Corrector]) -> None:
    for corrector in trained.values():
        corrector.check_model("ab" * 32, CLASSES)
        with pytest.raises(CorrectorError, match="another model: SHA-256 abab"):
            corrector.check_model("cd" * 32)
        with pytest.raises(CorrectorError, match="6 classes, the model has 10"):
            corrector.check_model("ab" * 32, 10)


def test_labels_that_are_missing_are_named() -> None:
    with pytest.raises(CorrectorError, match="1500 rows of logits and 0 labels"):
        LabelledLogits(DATA.clean, None, DATA.copies)  # type: ignore[arg-type]
    with pytest.raises(CorrectorError, match="between 0 and 5"):
        LabelledLogits(DATA.clean, DATA.labels + 1)
    lacking = DATA.rows(np.flatnonzero(DATA.labels.numpy() != 2))
    with pytest.raises(CorrectorError, match="hold 0 of class 2"):
        train_corrector("align", lacking, Card(CLASSES))


def test_mistakes_in_training_are_explained() -> None:
    with pytest.raises(UsageError, match="unknown correction method 'edm'"):
        train_corrector("edm", DATA, Card(CLASSES))
    with pytest.raises(CorrectorError, match="too few for windows of 1000"):
        train_corrector("adaptive", DATA, Card(CLASSES))
    ruined = LabelledLogits(DATA.clean, DATA.labels, (Copy("x", 0, torch.full_like(DATA.clean, torch.nan)),))
    for method in ("edmn", "mixture", "adaptive"):
        with pytest.raises(CorrectorError, match="no damaged copy"):
            train_corrector(method, ruined, Card(CLASSES), FAST)
    with pytest.raises(FaultcliError, match="hidden sizes"):
        EdmnOptions(hidden=(0,))


def test_many_classes_get_no_mixture() -> None:
    labels = labels_of(1400, 3, 70)
    clean = clean_logits(labels, 4, 70)
    copies = tuple(Copy("x", i, torch.from_numpy(damaged(clean, 0.2, i)).float()) for i in range(3))
    data = LabelledLogits(torch.from_numpy(clean).float(), torch.from_numpy(labels), copies)
    adaptive = train_corrector("adaptive", data, Card(70), TrainingOptions(window=350))
    assert "mixture" not in adaptive.observe(copies[0].logits[:350]).decision
    with pytest.raises(CorrectorError, match="mixture of 70 classes"):
        train_corrector("mixture", data, Card(70))
