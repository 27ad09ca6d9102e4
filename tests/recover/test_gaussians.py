"""The mixture against slow, obvious references."""

import numpy as np
import pytest
from synthetic import CLASSES, clean_logits, labels_of

from faultcli.recover.mixture.cluster_matching import MeanStructure
from faultcli.recover.mixture.gaussians import ClassMixture, Rows, search
from faultcli.recover.reference import Reference

LABELS = labels_of(900)
LOGITS = clean_logits(LABELS)
X = (LOGITS - LOGITS.mean(0)) / LOGITS.std(0)
PRIOR = np.full(CLASSES, 1 / CLASSES)


@pytest.mark.parametrize("shared", [True, False])
def test_one_round_is_one_step_of_expectation_maximisation(shared: bool) -> None:
    start = np.random.default_rng(0).dirichlet(np.ones(CLASSES), len(X))
    fit = Rows(X, PRIOR).fit(start.T, 1, shared=shared)
    means = np.stack([(start[:, c : c + 1] * X).sum(0) / start[:, c].sum() for c in range(CLASSES)])
    np.testing.assert_allclose(fit.means, means, atol=1e-8)
    density = np.empty((len(X), CLASSES))
    for c in range(CLASSES):
        offset = X - means[c]
        distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(fit.covariances[c]), offset)
        density[:, c] = PRIOR[c] * np.exp(-0.5 * distance) / np.sqrt(np.linalg.det(fit.covariances[c]))
    np.testing.assert_allclose(fit.posterior.T, density / density.sum(1, keepdims=True), atol=1e-7)
    assert np.isclose(fit.log_likelihood, np.log(density.sum(1)).mean())
    assert np.array_equal(fit.covariances[0], fit.covariances[1]) == shared
    answer = ClassMixture.of(fit.means, fit.covariances, PRIOR).log_posterior(X)
    np.testing.assert_allclose(np.exp(answer), fit.posterior.T, atol=1e-7)


def test_covariances_are_those_of_the_classes_moved_towards_their_mean() -> None:
    means, covariances = Rows(X, PRIOR).maximise(np.eye(CLASSES)[:, LABELS])
    own = np.stack([np.cov(X[c == LABELS].T, bias=True) for c in range(CLASSES)])
    np.testing.assert_allclose(means, [X[c == LABELS].mean(0) for c in range(CLASSES)], atol=1e-8)
    pull = covariances - own
    assert (np.abs(covariances - covariances.mean(0)) < np.abs(own - own.mean(0)) + 1e-9).all()
    assert np.abs(pull).max() > 0


def test_likelihood_never_falls() -> None:
    rows, posterior, last = Rows(X, PRIOR), np.random.default_rng(1).dirichlet(np.ones(CLASSES), len(X)).T, -np.inf
    for _ in range(12):
        fit = rows.fit(posterior, 1)
        assert fit.log_likelihood > last - 0.02  # the shrinkage of the covariances costs a little
        posterior, last = fit.posterior, fit.log_likelihood


def test_the_search_finds_and_names_the_classes() -> None:
    reference = Reference.measure(LOGITS, LABELS)
    structure = MeanStructure.learn(reference.standard_means, [])
    for seed in range(3):
        lost = np.random.default_rng(seed).standard_normal(X.shape)  # aligned logits that say nothing
        fit = search(X, lost, PRIOR, structure, np.random.default_rng(seed))
        assert (fit.posterior.argmax(0) == LABELS).mean() > 0.97
        np.testing.assert_allclose(fit.posterior.sum(0), 1)


def test_free_weights_are_worth_something_only_where_the_class_mix_is_another_one() -> None:
    skewed = np.flatnonzero((LABELS > 1) | (np.arange(len(LABELS)) % 5 == 0))
    gains = []
    for rows in (np.arange(len(X)), skewed):
        window = Rows(X[rows], PRIOR)
        gains.append(window.gain_of_free_weights(window.fit(np.eye(CLASSES)[:, LABELS[rows]], 20)))
    assert gains[0] < 0.005
    assert gains[1] > 10 * gains[0]


def test_separation_is_in_standard_deviations_to_the_nearest_class() -> None:
    means = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 8.0, 0.0]])
    spread = np.array([np.diag([4.0, 1.0, 1.0]), np.diag([5.0, 1.0, 1.0]), np.diag([1.0, 7.0, 1.0])])
    nearest = [3 / 4.5**0.5, 3 / 4.5**0.5, 8 / 4**0.5]  # variances between two classes: (4 + 5) / 2, (1 + 7) / 2
    between = 3**2 / ((5 + 1) / 2) + 8**2 / ((1 + 7) / 2)  # of the second and the third, which are farther apart
    assert between > nearest[2] ** 2
    assert ClassMixture.of(means, spread, np.full(3, 1 / 3)).separation() == pytest.approx(np.mean(nearest))
