"""Small networks of two convolutions and two dense layers; all name them conv1, conv2, fc1 and fc2."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class DigitsCnn(nn.Module):
    """8×8 grey → conv 16@3×3 → conv 32@3×3 → maxpool 2 → dense 64 → logits; ReLU after all but the last.

    The network of the embedded demo, sized to train in seconds and to ship in the wheel (38,282 parameters).
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 1, 8, 8]."""
        x = F.relu(self.conv1(images))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)  # type: ignore[no-any-return]


class MnistCnn(nn.Module):
    """28×28 grey → conv 16@5×5 → maxpool 2 → conv 32@5×5 → maxpool 2 → dense 128 → logits; ReLU between all.

    The kind of network (two convolutions, two dense layers) on which the EDMN paper corrects logits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.fc1 = nn.Linear(32 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 1, 28, 28]."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)  # type: ignore[no-any-return]


class LeNet(nn.Module):
    """28×28 grey → conv 20@5×5 → maxpool 2 → conv 50@5×5 → maxpool 2 → dense 500 → ReLU → logits.

    The LeNet of Caffe's MNIST example (after LeCun et al., 1998): no activation follows the convolutions.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 1, 28, 28]."""
        x = F.max_pool2d(self.conv1(images), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)  # type: ignore[no-any-return]
