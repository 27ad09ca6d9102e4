"""Names where classes are missing, against a slow, obvious reference."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from faultcli.recover.mixture import presence
from faultcli.recover.mixture.class_distances import DistanceLaw, log_distances
from faultcli.recover.mixture.class_volumes import VolumeLaw
from faultcli.recover.mixture.cluster_matching import MeanStructure
from faultcli.recover.mixture.gaussians import Rows
from faultcli.recover.mixture.part_naming import PartNaming
from faultcli.recover.mixture.presence import present_classes

CLASSES = 6
SILENT = VolumeLaw(np.zeros(CLASSES), 1.0)  # classes of one size: volumes say nothing
EVEN = np.full(CLASSES, 1 / CLASSES)
RANDOM = np.random.default_rng(0)
CLEAN = 2 * np.eye(CLASSES) + 0.3 * RANDOM.standard_normal((CLASSES, CLASSES))
APART = DistanceLaw(log_distances(CLEAN, np.tile(0.2**2 * np.eye(CLASSES), (CLASSES, 1, 1))))


def moved(random: np.random.Generator) -> np.ndarray:
    """Class means after damage: less of the clean ones, noise, and an offset of every logit."""
    return 0.7 * CLEAN + 0.25 * random.standard_normal(CLEAN.shape) + 2 * random.standard_normal(CLASSES)


def centred(means: np.ndarray) -> np.ndarray:
    return means - means.mean(axis=0)


LAW = replace(MeanStructure.learn(centred(CLEAN), [centred(moved(RANDOM)) for _ in range(20)], 0.1), means=CLEAN)


def test_agreement_is_the_correlation_that_is_left_without_the_offsets() -> None:
    spread = np.linspace(0.5, 2, CLASSES)
    naming = PartNaming(LAW, SILENT, APART, spread)
    means = RANDOM.standard_normal((4, CLASSES))
    for labels in itertools.islice(itertools.permutations(range(CLASSES), 4), 0, None, 31):
        covariance = np.linalg.inv(LAW.class_precision)[np.ix_(labels, labels)]
        white = np.linalg.inv(np.linalg.cholesky(covariance))
        one = white @ np.ones(4)
        without = np.eye(4) - np.outer(one, one) / (one @ one)
        right = np.linalg.cholesky(LAW.logit_precision)
        a, b = (without @ white @ x @ right for x in (means * spread, CLEAN[list(labels)]))
        rho = max(0.0, (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
        expected = -0.5 * 3 * CLASSES * np.log(1 - rho**2)
        shifted = means + 7 / spread  # an offset explains nothing
        for tried in (means, shifted):
            np.testing.assert_allclose(naming.agreement(tried, np.array([labels]))[0], expected, atol=1e-8)


def test_the_classes_of_a_window_are_found_and_named() -> None:
    for seed in range(6):
        random = np.random.default_rng(seed)
        held = np.sort(random.permutation(CLASSES)[: 6 if seed % 3 == 0 else 3])
        labels = random.choice(held, 600)
        logits = moved(random)[labels] + 0.2 * random.standard_normal((600, CLASSES))
        spread = logits.std(axis=0)
        x = (logits - logits.mean(axis=0)) / spread
        cut = np.zeros((CLASSES, 600))  # every class cut in as many as six components allow
        pieces = np.array([np.flatnonzero(held == label)[0] for label in labels])
        cut[pieces + len(held) * random.integers(CLASSES // len(held), size=600), np.arange(600)] = 1
        raw = logits.argmax(axis=1)
        present = present_classes(
            x, Rows(x).fit(cut, 3), EVEN, raw, PartNaming(LAW, SILENT, APART, spread), lambda shares, raw=raw: raw
        )
        assert sorted(present.labels.tolist()) == held.tolist()
        assert (present.labels[present.fit.posterior.argmax(axis=0)] == labels).mean() > 0.97


def test_a_class_that_comes_much_more_often_is_not_cut_in_two() -> None:
    """One class is two thirds of the window: told that all come alike, a fit cuts it, and others share a component."""
    for seed in range(4):
        random = np.random.default_rng(seed)
        labels = np.where(random.random(900) < 0.66, 0, random.integers(1, CLASSES, size=900))
        logits = moved(random)[labels] + 0.2 * random.standard_normal((900, CLASSES))
        spread = logits.std(axis=0)
        x = (logits - logits.mean(axis=0)) / spread
        wrong = np.zeros((CLASSES, 900))
        halves = x[:, 1] > np.median(x[labels == 0, 1])
        component = np.select([labels == 0, labels <= 2], [4 * halves, 1], labels - 1)  # 1 and 2 in one component
        wrong[component, np.arange(900)] = 1
        naming, raw = PartNaming(LAW, SILENT, APART, spread), np.zeros(900, dtype=np.int64)
        present = present_classes(x, Rows(x).fit(wrong, 3), EVEN, raw, naming, lambda shares, raw=raw: raw)
        assert sorted(present.labels.tolist()) == list(range(CLASSES))
        assert (present.labels[present.fit.posterior.argmax(axis=0)] == labels).mean() > 0.97
        np.testing.assert_allclose(present.shares(CLASSES), np.bincount(labels) / 900, atol=0.02)


def test_classes_that_were_told_by_few_rows_are_not_given_back() -> None:
    """Four of six classes, and two components of a few stray rows: these are no classes."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        held = np.array([0, 1, 3, 5])
        labels = random.choice(held, 120)
        logits = moved(random)[labels] + 0.2 * random.standard_normal((120, CLASSES))
        spread = logits.std(axis=0)
        x = (logits - logits.mean(axis=0)) / spread
        cut = np.eye(CLASSES)[:, labels]
        cut[:, :8] = np.eye(CLASSES)[:, [2, 4] * 4]
        raw = labels
        fit = Rows(x).fit(cut, 1, np.full(CLASSES, 1 / CLASSES))
        present = present_classes(
            x, fit, EVEN, raw, PartNaming(LAW, SILENT, APART, spread), lambda shares, raw=raw: raw
        )
        assert sorted(present.labels.tolist()) == held.tolist()


def test_a_window_of_mostly_one_class_has_to_be_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heavy damage gives most rows one class; up to 60 %, or 30 points above training, nothing is asked for it."""
    random = np.random.default_rng(3)
    skewed = np.array([0.05, 0.75, *[0.05] * (CLASSES - 2)])
    for often, prior, taken_off in ((0.5, EVEN, 0.0), (0.9, EVEN, 60 * 0.3), (0.9, skewed, 0.0)):
        labels = np.where(random.random(1000) < often, 1, random.choice([0, 2, 3], 1000))
        logits = moved(random)[labels] + 0.2 * random.standard_normal((1000, CLASSES))
        spread = logits.std(axis=0)
        x = (logits - logits.mean(axis=0)) / spread
        naming = PartNaming(LAW, SILENT, APART, spread)
        mixes = presence._ClassMixes.of(x, labels, naming, lambda shares, raw=labels: raw, prior)
        fit = mixes.rows.fit(np.eye(4)[:, labels], 8)
        score = mixes.look(fit).score
        with monkeypatch.context() as changed:
            changed.setattr(presence, "_PER_SHARE", 0.0)
            np.testing.assert_allclose(mixes.look(fit).score - score, taken_off, atol=1.5 if taken_off else 1e-9)


def test_two_classes_leave_nothing_to_merge_or_cut() -> None:
    random = np.random.default_rng(2)
    clean = np.array([[2.0, 0], [0, 2]])
    law = replace(MeanStructure.learn(centred(clean), [centred(clean) / 2], 0.1), means=clean)
    labels = (random.random(400) < 0.8).astype(np.int64)
    logits = clean[labels] + 0.3 * random.standard_normal((400, 2)) + np.array([9.0, 0])
    spread = logits.std(axis=0)
    x = (logits - logits.mean(axis=0)) / spread
    wrong = np.eye(2)[(x[:, 0] > np.median(x[:, 0])).astype(int)].T
    raw = logits.argmax(axis=1)  # all of one class
    present = present_classes(
        x,
        Rows(x).fit(wrong, 1),
        np.full(2, 0.5),
        raw,
        PartNaming(law, VolumeLaw(np.zeros(2), 1.0), DistanceLaw(np.zeros((2, 2))), spread),
        lambda shares, raw=raw: raw,
    )
    assert sorted(present.labels.tolist()) == [0, 1]


def test_missing_classes_are_placed_where_the_law_expects_them() -> None:
    """Means drawn from a law: the conditional expectation beats the clean means, and its spread is the error's."""
    random = np.random.default_rng(5)
    held, missing = np.arange(3), np.arange(3, CLASSES)
    errors, naive, expected = [], [], []
    for _ in range(100):
        means = moved(random)
        placed, spread = LAW.completed(means[held], held)
        np.testing.assert_array_equal(placed[held], means[held])
        assert not spread[held].any()
        errors.append(((placed - means)[missing] ** 2).mean())
        expected.append(np.einsum("cii->ci", spread[missing]).mean())
        naive.append(((CLEAN - means)[missing] ** 2).mean())
    assert np.mean(errors) < 0.2 * np.mean(naive)
    assert 0.5 < np.mean(errors) / np.mean(expected) < 2
