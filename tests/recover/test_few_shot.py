"""A correction bettered by a few labelled inputs of the damaged device."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from synthetic import CLASSES, accuracy, clean_logits, damaged, labelled, labels_of

from faultcli.recover.base import Card, Corrector, CorrectorError
from faultcli.recover.few_shot import _fit, few_shot
from faultcli.recover.methods import train_corrector
from faultcli.recover.mixture.gaussians import log_normalised
from faultcli.recover.streaming import StreamingCorrector


@pytest.fixture(scope="module")
def align() -> Corrector:
    return train_corrector("align", labelled(1000, 2), Card(CLASSES))


def device(seed: int, n: int = 1600) -> tuple[torch.Tensor, torch.Tensor]:
    labels = labels_of(n, seed)
    return torch.from_numpy(damaged(clean_logits(labels, seed + 1), 1.5, seed)).float(), torch.from_numpy(labels)


def test_the_fit_is_where_a_search_without_slopes_ends() -> None:
    random = np.random.default_rng(0)
    base, x = log_normalised(random.standard_normal((60, 4))), random.standard_normal((60, 2))
    y = random.integers(0, 4, 60)
    found = _fit((base, x), y, 3.0)

    def objective(values: np.ndarray) -> float:
        t, w, b = values[0], values[1:9].reshape(2, 4), values[9:]
        scores = np.exp(t) * base + x @ w + b
        loss = (logsumexp(scores, axis=1) - scores[np.arange(60), y]).sum()
        return float(loss + 1.5 * ((w**2).sum() + (b**2).sum()) + 2 * t**2)

    slow = minimize(objective, np.zeros(13)).x
    np.testing.assert_allclose(found.weights.ravel(), slow[1:9], atol=0.01)
    np.testing.assert_allclose(found.biases, slow[9:], atol=0.01)
    assert found.warmth == pytest.approx(np.exp(slow[0]), abs=0.01)


def test_more_labels_give_more_back_and_few_take_nothing(align: Corrector) -> None:
    gains: dict[int, list[float]] = {10: [], 50: [], 400: []}
    for seed in range(300, 306):
        logits, labels = device(seed)
        window, rest, truth = logits[:300], logits[800:], labels[800:]
        alone = accuracy(align.observe(window)(rest), truth)
        for n, found in gains.items():
            correction = few_shot(align, window, logits[300 : 300 + n], labels[300 : 300 + n])
            found.append(accuracy(correction(rest), truth) - alone)
    assert np.mean(gains[10]) > -0.01
    assert np.mean(gains[50]) > 0.01
    assert np.mean(gains[400]) > np.mean(gains[50])


def test_labels_that_say_nothing_change_nothing(align: Corrector) -> None:
    logits, labels = device(400)
    window, shuffled = logits[:300], labels[300:350][torch.randperm(50, generator=torch.Generator().manual_seed(1))]
    correction = few_shot(align, window, logits[300:350], shuffled)
    assert correction.decision == "align"
    assert torch.equal(correction(logits), align.observe(window)(logits))


def test_a_streaming_corrector_takes_labels(align: Corrector) -> None:
    logits, labels = device(301)
    shown = logits[300:700].clone()
    shown[5] = torch.nan  # left out
    stream = StreamingCorrector(align, window=300, labelled=(shown, labels[300:700]))
    stream(logits[:300])
    assert stream.correction.decision == "align + 399 labels"
    expected = few_shot(align, logits[:300], shown, labels[300:700])
    assert torch.equal(stream.correction(logits[700:]), expected(logits[700:]))
    half = few_shot(align, logits[:300], shown, labels[300:700], strength=0.5)(logits)
    assert torch.allclose(half, (logits + expected(logits)) / 2, atol=1e-3)


def test_mistakes_are_explained(align: Corrector) -> None:
    logits, labels = device(302, 60)
    cases = [
        (logits, labels[:20], r"60 rows of logits, and labels of shape \[20\]"),
        (logits, labels.float(), "float32"),
        (logits, labels + 1, "do not lie between 0 and 5"),
        (logits[:9], labels[:9], "9 labelled inputs with finite logits, 10 or more"),
        (logits[:, :4], labels, "trained for 6 classes"),
    ]
    for bad_logits, bad_labels, message in cases:
        with pytest.raises(CorrectorError, match=message):
            StreamingCorrector(align, window=50, labelled=(bad_logits, bad_labels))
