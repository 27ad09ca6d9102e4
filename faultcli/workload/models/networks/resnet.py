"""The residual networks of He et al., 2016: for CIFAR-10 (section 4.2) and for ImageNet (table 1).

Those for ImageNet have their keys named as in torchvision, and as there (and in the authors' later code) a bottleneck
halves the resolution in its 3×3 convolution, not in the 1×1 convolution before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module, ABC):
    """Two 3×3 convolutions with batch norm, added to what `shortcut` makes of the input."""

    widening = 1  # channels that come out, per channel inside

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, channels, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)

    @abstractmethod
    def shortcut(self, x: Tensor) -> Tensor:
        """Return the input as it is added to the output."""


class PaddedBlock(BasicBlock):
    """A block with a shortcut without parameters.

    Where the block halves the resolution, the shortcut is option A of the paper: every second pixel, and the new
    channels filled with zeros, half of them before and half after the old ones.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(channels_in, channels, stride)
        self.stride = stride
        self.new_channels = channels - channels_in

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the input, smaller and with zeros where the block changes its shape."""
        if not self.new_channels:
            return x
        before = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))


class ProjectedBlock(BasicBlock):
    """A block whose shortcut is a 1×1 convolution where the block changes the input's shape (option B of the paper)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(channels_in, channels, stride)
        self.downsample = _projection(channels_in, channels, stride)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the input, or its projection."""
        return self.downsample(x)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 1×1 convolution that narrows, a 3×3 one and a 1×1 one that widens, added to a shortcut of option B."""

    widening = 4  # channels that come out, per channel inside

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = self.widening * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _projection(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, 4 * channels, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


class CifarResNet(nn.Module):
    """32×32 RGB → 3×3 convolution → three stages of n blocks → global mean → logits; the depth is 6n + 2."""

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(PaddedBlock, 16, 16, blocks, stride=1)
        self.layer2 = _stage(PaddedBlock, 16, 32, blocks, stride=2)
        self.layer3 = _stage(PaddedBlock, 32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, 32, 32]."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """224×224 RGB → 7×7 convolution → maxpool → four stages → global mean → logits; widths 64 to 512.

    Args:
        block: what the stages are made of.
        blocks: how many of them, per stage.
        num_classes: how many logits.
    """

    def __init__(
        self, block: type[ProjectedBlock] | type[Bottleneck], blocks: Sequence[int], num_classes: int = 1000
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        wide = block.widening
        self.layer1 = _stage(block, 64, 64, blocks[0], stride=1)
        self.layer2 = _stage(block, 64 * wide, 128, blocks[1], stride=2)
        self.layer3 = _stage(block, 128 * wide, 256, blocks[2], stride=2)
        self.layer4 = _stage(block, 256 * wide, 512, blocks[3], stride=2)
        self.fc = nn.Linear(512 * wide, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, 224, 224]."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def _stage(
    block: type[PaddedBlock] | type[ProjectedBlock] | type[Bottleneck],
    channels_in: int,
    channels: int,
    blocks: int,
    stride: int,
) -> nn.Sequential:
    first = block(channels_in, channels, stride)
    channels_out = channels * block.widening
    return nn.Sequential(first, *(block(channels_out, channels, 1) for _ in range(blocks - 1)))


def _projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """Return a 1×1 convolution with batch norm, or what leaves everything as it is where the shape stays."""
    if stride == 1 and channels_in == channels_out:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
    )
