"""The mixture against slow, obvious references."""

import numpy as np
from synthetic import CLASSES, clean_logits, labels_of

from faultcli.recover.align import Alignment
from faultcli.recover.mixture.gaussians import ClassMixture, Fit, Rows
from faultcli.recover.mixture.law import DamageLaw, MovedClasses
from faultcli.recover.mixture.search import search
from faultcli.recover.reference import Reference

LABELS = labels_of(900)
LOGITS = clean_logits(LABELS)
X = (LOGITS - LOGITS.mean(0)) / LOGITS.std(0)
PRIOR = np.full(CLASSES, 1 / CLASSES)


def test_one_round_is_one_step_of_expectation_maximisation() -> None:
    start = np.random.default_rng(0).dirichlet(np.ones(CLASSES), len(X))
    fit = Rows(X).fit(start.T, 1, PRIOR)
    means = np.stack([(start[:, c : c + 1] * X).sum(0) / start[:, c].sum() for c in range(CLASSES)])
    np.testing.assert_allclose(fit.means, means, atol=1e-8)
    density = np.empty((len(X), CLASSES))
    for c in range(CLASSES):
        offset = X - means[c]
        distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(fit.covariances[c]), offset)
        density[:, c] = PRIOR[c] * np.exp(-0.5 * distance) / np.sqrt(np.linalg.det(fit.covariances[c]))
    np.testing.assert_allclose(fit.posterior.T, density / density.sum(1, keepdims=True), atol=1e-7)
    assert np.isclose(fit.log_likelihood, np.log(density.sum(1)).mean())
    answer = ClassMixture.of(fit.means, fit.covariances, PRIOR).log_posterior(X)
    np.testing.assert_allclose(np.exp(answer), fit.posterior.T, atol=1e-7)


def test_a_round_with_one_covariance_for_all() -> None:
    start = np.random.default_rng(0).dirichlet(np.ones(CLASSES), len(X))
    means, precision = Rows(X).metric(start.T)
    within = sum((start[:, c : c + 1] * (X - means[c])).T @ (X - means[c]) for c in range(CLASSES)) / len(X)
    share = 2 * CLASSES / len(X)
    expected = (1 - share) * within + np.diag(share * np.diag(within) + 1e-6 * np.diag(within).mean())
    np.testing.assert_allclose(np.linalg.inv(precision), expected, atol=1e-9)
    distance = np.stack([np.einsum("ni,ij,nj->n", X - m, precision, X - m) for m in means])
    density = PRIOR[:, None] * np.exp(-0.5 * distance)
    np.testing.assert_allclose(Rows(X).share_covariance(start.T, 1, PRIOR), density / density.sum(0), atol=1e-9)


def test_several_starts_at_once_end_where_each_ends() -> None:
    starts = np.random.default_rng(2).dirichlet(np.ones(CLASSES), (3, len(X))).transpose(0, 2, 1)
    together = Rows(X).fit(starts, 5)
    for number, start in enumerate(starts):
        alone = Rows(X).fit(start, 5)
        np.testing.assert_allclose(together.one(number).posterior, alone.posterior, atol=1e-8)
        np.testing.assert_allclose(together.one(number).covariances, alone.covariances, atol=1e-8)


def test_the_closest_components_are_those_with_the_least_distance_in_spreads() -> None:
    means = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 8.0, 0.0]])
    spread = np.array([np.diag([4.0, 1.0, 1.0]), np.diag([5.0, 1.0, 1.0]), np.diag([1.0, 7.0, 1.0])])
    assert Fit(means, spread, np.zeros((3, 1)), np.zeros(())).closest() == (0, 1)
    wide = spread.copy()
    wide[2, 1, 1] = 400.0  # 8² / 200.5 < 3² / 4.5
    assert Fit(means, wide, np.zeros((3, 1)), np.zeros(())).closest() == (0, 2)


def test_covariances_are_those_of_the_classes_moved_towards_their_mean() -> None:
    means, covariances = Rows(X).maximise(np.eye(CLASSES)[:, LABELS])
    own = np.stack([np.cov(X[c == LABELS].T, bias=True) for c in range(CLASSES)])
    np.testing.assert_allclose(means, [X[c == LABELS].mean(0) for c in range(CLASSES)], atol=1e-8)
    pull = covariances - own
    assert (np.abs(covariances - covariances.mean(0)) < np.abs(own - own.mean(0)) + 1e-9).all()
    assert np.abs(pull).max() > 0


def test_likelihood_never_falls() -> None:
    rows, posterior, last = Rows(X), np.random.default_rng(1).dirichlet(np.ones(CLASSES), len(X)).T, -np.inf
    for _ in range(12):
        fit = rows.fit(posterior, 1, PRIOR)
        assert fit.log_likelihood > last - 0.02  # the shrinkage of the covariances costs a little
        posterior, last = fit.posterior, fit.log_likelihood


def test_the_search_finds_and_names_the_classes() -> None:
    reference = Reference.measure(LOGITS, LABELS)
    law = DamageLaw.learn(
        reference, MovedClasses.of(LOGITS, LABELS, Alignment.between(LOGITS, reference), reference), []
    )
    for seed in range(3):
        lost = np.random.default_rng(seed).standard_normal(X.shape)  # aligned logits that say nothing
        fit = search(X, lost, PRIOR, law, np.random.default_rng(seed))
        assert (fit.posterior.argmax(0) == LABELS).mean() > 0.97
        np.testing.assert_allclose(fit.posterior.sum(0), 1, atol=1e-5)


def test_single_precision_ends_where_double_precision_does() -> None:
    starts = np.random.default_rng(3).dirichlet(np.ones(CLASSES), (3, len(X))).transpose(0, 2, 1)
    slow, fast = (Rows(X, exact=exact).fit(starts, 6) for exact in (True, False))
    assert fast.posterior.dtype == np.float32
    np.testing.assert_allclose(fast.posterior, slow.posterior, atol=2e-3)
    np.testing.assert_allclose(fast.means, slow.means, atol=1e-3)
    np.testing.assert_allclose(fast.covariances, slow.covariances, atol=1e-3)
    np.testing.assert_allclose(fast.log_likelihood, slow.log_likelihood, atol=1e-4)
