"""A hundred classes out of MNIST: two digits side by side, class = 10 · left + right, and a network that reads them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.correction.logits import Levels, Sizes
from benchmarks.correction.networks import Network, layered, split_of
from benchmarks.correction.settings import Setting

_SEED = 20_419  # of which digit stands beside which


def pairs(directory: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return images [N, 1, 28, 56] and labels [N]; every digit stands once on either side."""
    digits, labels = split_of("mnist", directory, split)
    random = torch.Generator().manual_seed(_SEED)
    left, right = (torch.randperm(len(labels), generator=random) for _ in range(2))
    return torch.cat([digits[left], digits[right]], dim=3), 10 * labels[left] + labels[right]


def _build() -> nn.Module:
    return layered(
        ("conv1", nn.Conv2d(1, 12, 5)), ("p1", nn.MaxPool2d(2)), ("a1", nn.ReLU()),
        ("conv2", nn.Conv2d(12, 24, 5)), ("p2", nn.MaxPool2d(2)), ("a2", nn.ReLU()),
        ("fl", nn.Flatten()), ("fc1", nn.Linear(24 * 4 * 11, 160)), ("a3", nn.ReLU()), ("fc2", nn.Linear(160, 100)),
    )  # fmt: skip


PAIRS = Setting(
    Network(
        "digit-pairs", "12, 24 channels, 160 hidden, 100 classes", "mnist",
        build=_build, epochs=2, seed=9108, role="development", images=pairs,
    ),
    Levels(("gaussian:0.03", "gaussian:0.05", "gaussian:0.08"), ("gaussian:0.036", "gaussian:0.066")),
    Sizes(
        training=10_000, pool=25_000, test=2500, training_maps=6, maps=10, mixed_maps=10, largest=5000, known_maps=0
    ),
)  # fmt: skip
