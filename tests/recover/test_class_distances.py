"""How many components there are, by how far apart they lie."""

import itertools

import numpy as np

from faultcli.recover.mixture.class_distances import DistanceLaw, FoundDistances, log_distances
from faultcli.recover.mixture.gaussians import Rows

RANDOM = np.random.default_rng(0)
CLEAN = RANDOM.standard_normal((5, 4)) * 3
COVARIANCES = np.stack([factor @ factor.T + np.eye(4) for factor in RANDOM.standard_normal((5, 4, 4))])


def test_distances_are_those_in_the_shared_metric() -> None:
    logs, precision = log_distances(CLEAN, COVARIANCES), np.linalg.inv(COVARIANCES.mean(axis=0))
    for one, other in itertools.permutations(range(5), 2):
        apart = CLEAN[one] - CLEAN[other]
        np.testing.assert_allclose(logs[one, other], np.log(np.sqrt(apart @ precision @ apart)))
    assert not np.diag(logs).any()
    assert np.isfinite(log_distances(np.zeros((2, 4)), COVARIANCES[:2])).all()


def test_a_map_of_all_logits_changes_nothing() -> None:
    through = RANDOM.standard_normal((4, 4))
    moved = log_distances(CLEAN @ through.T, through @ COVARIANCES @ through.T)
    np.testing.assert_allclose(moved, log_distances(CLEAN, COVARIANCES), atol=1e-9)


def test_agreement_is_that_of_one_pair_after_the_other() -> None:
    law = DistanceLaw(log_distances(CLEAN, COVARIANCES))
    rows, names = np.array([400.0, 30, 90]), np.array([3, 0, 4])
    logs = law.clean[np.ix_(names, names)] - 0.4 + np.array([[0, 0.1, -0.2], [0.1, 0, 0.3], [-0.2, 0.3, 0]])
    found = FoundDistances(logs, FoundDistances.of(CLEAN[:3], COVARIANCES[:3], rows).weights)
    namings = np.array(list(itertools.permutations(range(5), 3)))
    agreements = law.agreement(found, namings)
    for naming, agreement in zip(namings, agreements, strict=True):
        weights, moved = [], []
        for one, other in itertools.combinations(range(3), 2):
            weights.append(1 / (1 + (1 / rows[one] + 1 / rows[other]) / 0.1**2))
            moved.append(logs[one, other] - law.clean[naming[one], naming[other]])
        lost = sum(w * m for w, m in zip(weights, moved, strict=True)) / sum(weights)
        squares = sum(w * (m - lost) ** 2 for w, m in zip(weights, moved, strict=True))
        expected = -6 * np.log((squares / (0.1**2 + (0.3 * lost) ** 2) + 4) / (3 - 1 + 4))
        np.testing.assert_allclose(agreement, expected)
    assert not law.agreement(found, np.array([[0, 1], [4, 2]])[:, :2]).any()


def test_a_class_that_is_cut_shows() -> None:
    """The two halves of a class lie much closer together than any two classes, whatever they are called."""
    random = np.random.default_rng(1)
    clean = 6 * np.eye(5) + 0.5 * random.standard_normal((5, 5))
    law = DistanceLaw(log_distances(clean, np.tile(np.eye(5), (5, 1, 1))))
    labels = random.integers(3, size=900)
    x = 0.8 * clean[labels] + random.standard_normal((900, 5))
    cut = np.where((labels == 0) & (x[:, 4] > np.median(x[labels == 0, 4])), 3, labels)

    def best(components: np.ndarray) -> float:
        held = np.eye(components.max() + 1)[:, components]
        found = FoundDistances.of(*Rows(x).maximise(held), held.sum(axis=1))
        return float(law.agreement(found, np.array(list(itertools.permutations(range(5), len(held))))).max())

    assert best(labels) > 0
    assert best(cut) < best(labels) - 4


def test_few_rows_count_for_little() -> None:
    few, many = (FoundDistances.of(CLEAN, COVARIANCES, np.full(5, rows)).weights for rows in (10.0, 1e6))
    assert (few < 0.1).all()
    assert (many > 0.99).all()
