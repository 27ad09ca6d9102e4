"""Biases for many classes, from windows that hold few inputs of any class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from synthetic import accuracy, clean_logits, labels_of

from faultcli.recover.base import Card, CorrectorError
from faultcli.recover.damaged_logits import Copy, LabelledLogits
from faultcli.recover.file import load_corrector, save_corrector
from faultcli.recover.many_classes import (
    _PENALTY,
    _WARMTH,
    WAYS,
    ManyClasses,
    _Case,
    _reference,
    _steps,
    _tried,
    class_mix,
    marginal_biases,
)
from faultcli.recover.methods import TrainingOptions, train_corrector

K, WINDOW = 100, 60


def shifted(clean: np.ndarray, seed: int, size: float = 4.0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    noise = np.random.default_rng(seed + 1).standard_normal(clean.shape)
    return torch.from_numpy(clean + size * random.standard_normal(K) + noise).float()


def training(n: int = 240, copies: int = 6) -> LabelledLogits:
    labels = labels_of(n, 3, K)
    clean = clean_logits(labels, 4, K)
    made = tuple(Copy("shift", seed, shifted(clean, 50 + seed)) for seed in range(copies))
    return LabelledLogits(torch.from_numpy(clean).float(), torch.from_numpy(labels), made)


@pytest.fixture(scope="module")
def corrector() -> ManyClasses:
    found = train_corrector("adaptive", training(), Card(K), TrainingOptions(window=WINDOW))
    assert isinstance(found, ManyClasses)
    return found


def test_biases_are_where_the_penalised_marginals_match() -> None:
    random = np.random.default_rng(0)
    scores, mix = 3 * random.standard_normal((40, 7)), random.dirichlet(np.ones(7))

    def objective(b: np.ndarray) -> float:
        total = _WARMTH * logsumexp((scores + b) / _WARMTH, axis=1).sum()
        return float(total - len(scores) * mix @ b + _PENALTY * _WARMTH / 2 * b @ b)

    slow = minimize(objective, np.zeros(7), tol=1e-8).x
    np.testing.assert_allclose(marginal_biases(scores, mix), slow, atol=0.05)


def test_the_class_mix_is_uniform_where_counts_tell_nothing() -> None:
    few = class_mix(np.array([1] * 50 + [0] * 50))
    assert few.max() < 1.2 * few.min()
    counts = np.array([900, 90, 10])
    np.testing.assert_allclose(class_mix(counts), counts / 1000, atol=0.01)


def test_windows_with_less_than_one_input_per_class_help(corrector: ManyClasses) -> None:
    labels = labels_of(800, 5, K)
    clean = clean_logits(labels, 6, K)
    gains = []
    for seed in range(900, 905):
        logits = shifted(clean, seed)
        correction = corrector.observe(logits[:WINDOW])
        gains.append(
            accuracy(correction(logits[WINDOW:]), labels[WINDOW:]) - accuracy(logits[WINDOW:], labels[WINDOW:])
        )
        assert correction.predicted_gain is not None
        assert correction.predicted_gain > 0.1
    assert min(gains) > 0.1


def test_what_lies_outside_of_training_is_left_alone(corrector: ManyClasses) -> None:
    labels = labels_of(600, 7, K)
    healthy = torch.from_numpy(clean_logits(labels, 8, K)).float()
    for window in healthy.split(WINDOW):
        assert corrector.observe(window).is_identity
    few = torch.from_numpy(clean_logits(np.repeat(np.arange(12), 10), 9, K)).float()
    correction = corrector.observe(few[:WINDOW])  # of six classes only: the means have moved, the answers are sharp
    assert correction.is_identity
    assert "sharp" in correction.reason
    correction = corrector.observe(shifted(healthy.double().numpy(), 1, size=40)[:WINDOW])
    assert correction.is_identity
    assert "than any in training" in correction.reason


def test_nothing_is_done_where_nothing_helped_in_training() -> None:
    data = training()
    random = np.random.default_rng(1)
    noise = [torch.from_numpy(6 * random.standard_normal(data.clean.shape)).float() for _ in range(6)]
    ruined = replace(data, copies=tuple(Copy("noise", i, 0 * data.clean + z) for i, z in enumerate(noise)))
    found = train_corrector("many", ruined, Card(K), TrainingOptions(window=WINDOW))
    assert found.observe(noise[0][:WINDOW]).is_identity


def test_a_damaged_file_is_refused(corrector: ManyClasses, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_corrector(replace(corrector, ways=corrector.ways + 9), path)
    with pytest.raises(CorrectorError, match="contradict each other"):
        load_corrector(path)


def scaled(clean: np.ndarray, seed: int) -> torch.Tensor:
    """Return damage that moves every logit and changes its spread."""
    random = np.random.default_rng(seed)
    classes = clean.shape[1]
    noise = 0.5 * random.standard_normal(clean.shape)
    scale = np.exp(0.7 * random.standard_normal(classes))
    return torch.from_numpy(clean * scale + 2 * random.standard_normal(classes) + noise).float()


def test_large_windows_are_aligned_and_may_lack_classes() -> None:
    classes, window = 70, 210
    labels = labels_of(490, 3, classes)
    clean = clean_logits(labels, 4, classes)
    made = tuple(Copy("scale", seed, scaled(clean, 50 + seed)) for seed in range(4))
    data = LabelledLogits(torch.from_numpy(clean).float(), torch.from_numpy(labels), made)
    found = train_corrector("adaptive", data, Card(classes), TrainingOptions(window))
    labels = labels_of(2000, 5, classes)
    logits = scaled(clean_logits(labels, 6, classes), 900)
    seen, rest = slice(None, 1000), slice(1000, None)
    raw = accuracy(logits[rest], labels[rest])
    for rows in (np.arange(window), np.flatnonzero(labels[seen] % 2 == 0)[:window]):
        correction = found.observe(logits[rows])
        assert correction.decision == "align"
        assert accuracy(correction(logits[rest]), labels[rest]) > raw + 0.02
    healthy = torch.from_numpy(clean_logits(labels, 7, classes)).float()
    assert all(found.observe(healthy[labels % 2 == some][:window]).is_identity for some in (0, 1))


def test_a_way_is_chosen_by_windows_that_lack_classes_too() -> None:
    data = training(n=600, copies=1)
    clean, logits = data.clean.double().numpy(), data.copies[0].logits.double().numpy()
    labels = data.labels.numpy()
    rest, few = slice(300, None), np.flatnonzero(labels[:300] < K // 2)
    known = _reference(clean[:300], labels[:300])
    fair, half = (_tried((rows, rows[:0]), logits[rest], labels[rest], known) for rows in (logits[:300], logits[few]))
    both = _tried((logits[:300], logits[few]), logits[rest], labels[rest], known)
    np.testing.assert_allclose(both[0], fair[0])
    np.testing.assert_allclose(both[1], (fair[0] + half[0]) / 2)
    assert np.abs(half[0] - fair[0]).max() > 0.01
    gains, chosen_by = np.zeros(len(WAYS)), np.zeros(len(WAYS))
    gains[1:3] = 0.1, 0.2  # the second is better on windows as in training only
    chosen_by[1:3] = 0.1, -0.1
    steps = _steps([_Case(copy, 5.0, gains, chosen_by, both[2]) for copy in range(4)])
    assert steps[1].tolist() == [1]
    assert steps[3].tolist() == [0.1]


def test_classes_of_the_judged_inputs_are_not_told_to_the_ways() -> None:
    """One input per class: clean moments of the inputs that are judged would tell which classes these are of."""
    random, classes, n = np.random.default_rng(0), 300, 80
    labels = random.permutation(classes)[:n]
    clean = 9 * np.eye(classes)[labels] + 0.5 * random.standard_normal((n, classes))
    made = [torch.from_numpy(clean + 3 * random.standard_normal(clean.shape)).float() for _ in range(4)]
    copies = tuple(Copy("noise", i, logits) for i, logits in enumerate(made))
    data = LabelledLogits(torch.from_numpy(clean).float(), torch.from_numpy(labels), copies)
    found = train_corrector("many", data, Card(classes), TrainingOptions(25))
    assert found.gains.max() < 0.1
