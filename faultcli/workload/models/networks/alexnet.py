"""AlexNet as one column (Krizhevsky, "One weird trick", arXiv 1404.5997), keys named as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class AlexNet(nn.Module):
    """224×224 RGB → five convolutions → two dense layers of 4096 → logits; no batch norm."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        # Numbers 0 and 3 are dropout in the checkpoints, which inference does without.
        self.classifier = nn.Sequential(
            nn.Identity(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Identity(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, 224, 224]."""
        x = F.adaptive_avg_pool2d(self.features(images), 6)  # which is as large already, for images of 224×224
        return self.classifier(x.flatten(1))  # type: ignore[no-any-return]
