"""Names for clusters: the fast search against trying everything."""

import itertools

import numpy as np

from faultcli.recover.mixture.cluster_matching import MeanStructure


def made_up(classes: int, seed: int) -> tuple[MeanStructure, np.ndarray]:
    random = np.random.default_rng(seed)
    means = 2 * np.eye(classes) + 0.3 * random.standard_normal((classes, classes))
    copies = [0.7 * means + 0.3 * random.standard_normal((classes, classes)) for _ in range(12)]
    return MeanStructure.learn(means, copies), 0.6 * means + 0.35 * random.standard_normal((classes, classes))


def nothing(labels: np.ndarray) -> np.ndarray:
    return np.zeros(len(labels))


def test_agreement_is_the_correlation_in_the_metric_of_the_noise() -> None:
    structure, means = made_up(5, 0)
    c, v = np.linalg.cholesky(structure.class_precision), np.linalg.cholesky(structure.logit_precision)
    for labels in itertools.islice(itertools.permutations(range(5)), 0, None, 17):
        moved, clean = c.T @ means[list(labels)] @ v, c.T @ structure.means @ v
        rho = max(0.0, (moved * clean).sum() / np.sqrt((moved**2).sum() * (clean**2).sum()))
        expected = -0.5 * 25 * np.log(1 - rho**2)
        assert np.isclose(structure.agreement(means, np.array([labels]))[0], expected)


def test_the_best_of_all_namings_is_found() -> None:
    for seed in range(20):
        structure, means = made_up(5, seed)
        every = np.array(list(itertools.permutations(range(5))))
        best = structure.agreement(means, every).max()
        shuffled = np.random.default_rng(seed).permutation(5)
        labels, agreement = structure.name_clusters(means[shuffled], nothing)
        assert np.isclose(agreement, best)
        assert np.array_equal(shuffled[labels], every[structure.agreement(means, every).argmax()])


def test_what_else_is_known_counts_beside_the_means() -> None:
    """From every naming, moves end where no swap or 3-cycle is better; what else is known counts in full."""
    structure, means = made_up(5, 3)
    right = np.array([1, 3, 0, 4, 2])
    labels, agreement = structure.climb(0 * means, np.arange(5), lambda tried: (tried == right).sum(axis=1) * 2.0)
    assert (labels.tolist(), agreement) == (right.tolist(), 10)
    every = np.array(list(itertools.permutations(range(5))))
    known = np.random.default_rng(0).standard_normal((5, 5))

    def also(tried: np.ndarray) -> np.ndarray:
        return known[np.arange(5), tried].sum(axis=1)

    best = (structure.agreement(means, every) + also(every)).max()
    assert np.isclose(structure.name_clusters(means, also)[1], best)


def test_a_search_among_nothing_but_nan_ends() -> None:
    structure, means = made_up(5, 0)
    labels, agreement = structure.climb(means * np.nan, np.arange(5), nothing)
    assert (labels.tolist(), np.isnan(agreement)) == ([0, 1, 2, 3, 4], True)


def test_without_damaged_copies_nothing_is_known() -> None:
    assert np.isclose(MeanStructure.learn(np.eye(3), []).class_precision, np.eye(3)).all()
