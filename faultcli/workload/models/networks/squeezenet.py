"""SqueezeNet 1.1 (Iandola et al., 2016; version 1.1 of the authors' repository), keys named as in torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fire(nn.Module):
    """A 1×1 convolution that narrows, then a 1×1 and a 3×3 convolution side by side that widen."""

    def __init__(self, channels_in: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, 2 * wide, H, W]."""
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), dim=1)


class SqueezeNet(nn.Module):
    """224×224 RGB → logits, without a dense layer and without batch norm."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        # The convolution is number 1 because dropout, which inference does without, is number 0 in the checkpoints.
        self.classifier = nn.Sequential(nn.Identity(), nn.Conv2d(512, num_classes, 1), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, 224, 224]."""
        return self.classifier(self.features(images)).mean(dim=(2, 3))  # type: ignore[no-any-return]
