"""The mixture against slow, obvious references."""

import numpy as np
from synthetic import CLASSES, clean_logits, labels_of

from faultcli.recover.gaussians import fit_class_covariances, fit_shared, search
from faultcli.recover.reference import Reference
from faultcli.recover.structure import MeanStructure

LABELS = labels_of(900)
LOGITS = clean_logits(LABELS)
X = (LOGITS - LOGITS.mean(0)) / LOGITS.std(0)
PRIOR = np.full(CLASSES, 1 / CLASSES)


def test_one_round_is_one_step_of_expectation_maximisation() -> None:
    start = np.random.default_rng(0).dirichlet(np.ones(CLASSES), len(X))
    fit = fit_shared(X, start, PRIOR, 1)
    means = np.stack([(start[:, c : c + 1] * X).sum(0) / start[:, c].sum() for c in range(CLASSES)])
    np.testing.assert_allclose(fit.means, means, atol=1e-8)
    density = np.empty((len(X), CLASSES))
    for c in range(CLASSES):
        offset = X - means[c]
        distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(fit.covariance), offset)
        density[:, c] = PRIOR[c] * np.exp(-0.5 * distance) / np.sqrt(np.linalg.det(fit.covariance))
    np.testing.assert_allclose(fit.posterior, density / density.sum(1, keepdims=True), atol=1e-7)
    assert np.isclose(fit.log_likelihood, np.log(density.sum(1)).mean())


def test_likelihood_never_falls() -> None:
    posterior, last = np.random.default_rng(1).dirichlet(np.ones(CLASSES), len(X)), -np.inf
    for _ in range(12):
        fit = fit_shared(X, posterior, PRIOR, 1)
        assert fit.log_likelihood > last - 0.02  # the shrinkage of the covariance costs a little
        posterior, last = fit.posterior, fit.log_likelihood


def test_the_search_finds_and_names_the_classes() -> None:
    reference = Reference.measure(LOGITS, LABELS)
    structure = MeanStructure.learn(reference.standard_means, [])
    for seed in range(3):
        lost = np.random.default_rng(seed).standard_normal(X.shape)  # aligned logits that say nothing
        fit = search(X, lost, PRIOR, structure, np.random.default_rng(seed))
        mixture = fit_class_covariances(X, fit)
        assert (mixture.log_posterior(X).argmax(1) == LABELS).mean() > 0.97
        np.testing.assert_allclose(np.exp(mixture.log_posterior(X)).sum(1), 1)
