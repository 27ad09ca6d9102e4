"""Logits that the benchmarks of correction keep are those of the damaged model, and the healthy ones are healthy."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import faultcli as fc
from benchmarks.correction import logits as module
from benchmarks.correction import pairs as pairs_module
from benchmarks.correction.imagenet import HALF, WINDOW, Split
from benchmarks.correction.logits import Lab, Levels, Sizes
from benchmarks.correction.networks import Network
from faultcli.faults.laws import parse_law

SIZES = Sizes(
    training=60, pool=200, test=30, training_maps=2, maps=2, mixed_maps=1, largest=50, known_maps=1, window=40
)
LEVELS = Levels(("zero:0.5,include={head}", "gaussian:0.3"), ("gaussian:0.3", "zero:0.8,include={head}"))


def _build() -> nn.Module:
    torch.manual_seed(0)
    layers = {"fl": nn.Flatten(), "fc1": nn.Linear(784, 6), "act": nn.ReLU(), "fc2": nn.Linear(6, 10)}
    return nn.Sequential(OrderedDict(layers))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    def images(network: Network, directory: Path, split: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(len(split))
        return torch.rand(300, 1, 28, 28, generator=generator), torch.arange(300) % 10

    monkeypatch.setattr(module, "inputs", images)
    network = Network("small", "a perceptron", "mnist", build=_build, epochs=0)
    monkeypatch.setattr(Network, "trained", lambda *_: _build().eval())
    return Lab(network, LEVELS, SIZES, tmp_path, tmp_path)


def test_kept_logits_are_those_of_the_damaged_model(lab: Lab) -> None:
    data = lab.training_data()  # first, so that the healthy logits are asked for between damaged ones
    model = _build().eval()
    x, y = lab._split["training"]
    with torch.inference_mode():
        assert torch.equal(data.clean, model(x))
    assert torch.equal(data.labels, y)
    memory = fc.Subject.of(model, (x, y)).memory()
    for copy in data.copies:
        spec = next(level for level in LEVELS.trained if level.startswith(copy.fault)).format(head="fc2.weight")
        with (
            memory.patch(memory.draw(parse_law(spec), seed=module.SEED, trial=copy.trial)).applied(
                dict(model.named_parameters())
            ),
            torch.inference_mode(),
        ):
            assert torch.allclose(copy.logits, model(x), atol=1e-6), copy.fault


def test_windows_are_rows_of_the_pool_and_kept_ones_are_the_same(lab: Lab) -> None:
    first = {level: list(lab.judged(level)) for level in ("none", *LEVELS.judged)}
    for level, maps in first.items():
        for one, again in zip(maps, lab.judged(level), strict=True):
            assert torch.equal(one.test, again.test)
            rows = lab.windows(level, one.trial)["half of the classes"]
            assert len(torch.unique(lab.healthy["pool.labels"][torch.from_numpy(rows)])) == 5
            if level == "none":
                assert torch.equal(one.window(rows), lab.healthy["pool.logits"][torch.from_numpy(rows)])
    assert len(lab.windows(LEVELS.judged[0], 0)) == 4
    assert len(lab.windows(LEVELS.judged[0], 1)) == 2  # of the other maps: fair and half


def test_splits_of_the_pictures_never_meet() -> None:
    first, second = Split.draw(500, 0), Split.draw(500, 1)
    for split in (first, second):
        parts = (split.window, split.training, split.report)
        assert [len(part) for part in parts] == [WINDOW, HALF - WINDOW, 500 - HALF]
        assert len(set().union(*(part.tolist() for part in parts))) == 500
    assert set(first.report.tolist()) != set(second.report.tolist())


def test_pairs_are_labelled_by_both_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits that are flat grey of their own number: a pair can be read off."""
    labels = torch.arange(40) % 10
    digits = labels.float()[:, None, None, None].expand(40, 1, 28, 28)
    monkeypatch.setattr(pairs_module, "split_of", lambda *_: (digits, labels))
    images, both = pairs_module.pairs(tmp_path, "train")
    assert images.shape == (40, 1, 28, 56)
    assert torch.equal(both, (10 * images[:, 0, 0, 0] + images[:, 0, 0, -1]).long())
    for digit in (both // 10, both % 10):  # every digit once on either side
        assert torch.equal(digit.bincount(minlength=10), labels.bincount())
