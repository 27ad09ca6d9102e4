"""Names by how much room classes take up."""

import itertools

import numpy as np

from faultcli.recover.mixture.class_volumes import VolumeLaw, log_volumes

CLEAN = np.array([-3.0, 0.5, 1.0, 2.5, -1.0])


def test_a_map_of_all_logits_changes_nothing() -> None:
    random = np.random.default_rng(0)
    factors = random.standard_normal((5, 4, 4))
    covariances = factors @ factors.transpose(0, 2, 1)
    mixed = (through := random.standard_normal((4, 4))) @ covariances @ through.T
    law, labels = VolumeLaw(CLEAN, 0.3), np.arange(5)
    before, after = (law.agreement(log_volumes(c), labels) for c in (covariances, mixed))
    np.testing.assert_allclose(before, after)
    assert not np.allclose(log_volumes(covariances), log_volumes(mixed))


def test_agreement_is_what_least_squares_leave() -> None:
    """Against a fit of a straight line to every naming, one after the other."""
    random = np.random.default_rng(1)
    law, found = VolumeLaw(CLEAN, 0.4), 0.6 * CLEAN[[3, 0, 4]] + 7 + 0.2 * random.standard_normal(3)
    namings = np.array(list(itertools.permutations(range(5), 3)))
    agreements = law.agreement(found, namings)
    for naming, agreement in zip(namings, agreements, strict=True):
        slope, offset = np.polyfit(CLEAN[naming], found, 1)
        line = offset + slope * CLEAN[naming] if slope > 0 else found.mean()
        rest, whole = ((found - line) ** 2).sum(), ((found - found.mean()) ** 2).sum()
        np.testing.assert_allclose(agreement, -np.log((rest + 1.2) / (whole + 1.2)), atol=1e-9)
    assert agreements[(namings == [3, 0, 4]).all(axis=1)] > np.quantile(agreements, 0.9)


def test_namings_of_all_classes_are_reckoned_at_once() -> None:
    law, found = VolumeLaw(CLEAN, 0.4), np.random.default_rng(3).standard_normal(5)
    namings = np.array(list(itertools.permutations(range(5))))
    every = np.broadcast_to(np.arange(5), namings.shape)
    np.testing.assert_allclose(law.of_all(found)(namings), law.agreement(found[namings], every), atol=1e-12)


def test_volumes_that_are_alike_say_nothing() -> None:
    namings = np.array(list(itertools.permutations(range(5))))
    assert not VolumeLaw(np.ones(5), 1.0).agreement(CLEAN, namings).any()
    assert not VolumeLaw(CLEAN, 1.0).agreement(np.ones(5), namings).any()


def test_the_noise_is_learned_from_damaged_copies() -> None:
    random = np.random.default_rng(2)
    clean = 2 * random.standard_normal(40)
    copies = [0.7 * clean - 5 + 0.5 * random.standard_normal(40) for _ in range(30)]
    assert np.isclose(VolumeLaw.learn(clean, copies).variance, 0.25, rtol=0.1)
    assert VolumeLaw.learn(clean, []).variance == clean.var()
    assert VolumeLaw.learn(clean, [clean]).variance == 0.1
