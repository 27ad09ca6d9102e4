"""EDMN as published, and known damage."""

import numpy as np
import pytest
import torch
from synthetic import CLASSES, accuracy, clean_logits, damaged, labelled, labels_of
from torch.nn import functional as F

from faultcli.recover.base import Card, CorrectorError
from faultcli.recover.damaged_logits import Copy, LabelledLogits
from faultcli.recover.edmn import Edmn, EdmnOptions, Perceptron, train_perceptron
from faultcli.recover.methods import TrainingOptions, train_corrector

DATA = labelled(1000, 1, (1.0,))


def test_the_published_network_has_about_71_thousand_parameters() -> None:
    labels = torch.arange(20) % 10
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    network = train_perceptron(logits, logits, logits, labels, EdmnOptions(epochs=1), 0)
    assert network.numbers == 10 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10 == 71_178


def test_it_starts_as_the_identity() -> None:
    tiny = EdmnOptions(epochs=1, learning_rate=1e-12)
    network = train_perceptron(DATA.clean, DATA.clean, DATA.clean, DATA.labels, tiny, 0)
    assert np.abs(network(DATA.clean.double().numpy())).max() < 1e-6


def test_the_perceptron_computes_what_torch_computes() -> None:
    generator = torch.Generator().manual_seed(3)
    w0, b0, w1, b1 = (torch.randn(*shape, generator=generator) for shape in ((5, 4), (5,), (4, 5), (4,)))
    x = torch.randn(7, 4, generator=generator)
    ours = Perceptron((w0.numpy(), w1.numpy()), (b0.numpy(), b1.numpy()))(x.double().numpy())
    expected = F.linear(F.relu(F.linear(x, w0, b0)), w1, b1)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)


def test_it_learns_the_damage_that_it_saw() -> None:
    corrector = train_corrector("edmn", DATA, Card(CLASSES))
    assert isinstance(corrector, Edmn)
    logits = DATA.copies[0].logits
    assert accuracy(corrector.observe()(logits), DATA.labels) > accuracy(logits, DATA.labels) + 0.1


def test_aligned_needs_a_window() -> None:
    aligned = TrainingOptions(edmn=EdmnOptions(hidden=(16,), epochs=2, aligned=True))
    corrector = train_corrector("edmn", DATA, Card(CLASSES), aligned)
    with pytest.raises(CorrectorError, match="needs a window"):
        corrector.observe()
    assert corrector.observe(DATA.copies[0].logits[:200]).decision == "edmn on aligned logits"


@pytest.mark.parametrize("strength", [0.3, 1.0, 1.6])
def test_known_damage_is_corrected_on_inputs_that_were_not_trained_on(strength: float) -> None:
    labels = labels_of(3000, 5)
    clean = clean_logits(labels, 6)
    logits = torch.from_numpy(damaged(clean, strength, 42)).float()
    data = LabelledLogits(torch.from_numpy(clean).float(), torch.from_numpy(labels), (Copy("x", 0, logits),))
    training, rest = data.rows(np.arange(1500)), data.rows(np.arange(1500, 3000))
    corrector = train_corrector("adaptive", training, Card(CLASSES, "known damage"))
    correction = corrector.observe()
    before, after = (accuracy(z, rest.labels) for z in (rest.copies[0].logits, correction(rest.copies[0].logits)))
    assert after >= before
    assert after > accuracy(rest.clean, rest.labels) - 0.05


def test_known_damage_of_a_healthy_model_is_left_alone() -> None:
    data = LabelledLogits(DATA.clean, DATA.labels, (Copy("x", 0, DATA.clean.clone()),))
    options = TrainingOptions(edmn=EdmnOptions(hidden=(32,)))
    corrector = train_corrector("adaptive", data, Card(CLASSES, "known damage"), options)
    assert accuracy(corrector.observe()(DATA.clean), DATA.labels) >= accuracy(DATA.clean, DATA.labels) - 0.002


def test_known_damage_is_one_device() -> None:
    with pytest.raises(CorrectorError, match="one damaged device, here are 8"):
        train_corrector("adaptive", labelled(), Card(CLASSES, "known damage"))
