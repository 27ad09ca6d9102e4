"""The densely connected networks for ImageNet of Huang et al., 2017 (DenseNet-BC, table 1), keys as in torchvision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NARROW = 4  # the 1×1 convolution of a layer leaves so many channels per channel that the layer adds


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 1×1 convolution that narrows, then the same with 3×3; the result joins the input.

    The four parts are `norm1`, `conv1`, `norm2` and `conv2`; with `dotted` they are `norm.1`, `conv.1`, `norm.2` and
    `conv.2`, as in the files that torchvision downloads, whose keys it renames on loading.
    """

    def __init__(self, channels_in: int, growth: int, *, dotted: bool) -> None:
        super().__init__()
        narrow = _NARROW * growth
        norm1, conv1 = nn.BatchNorm2d(channels_in), nn.Conv2d(channels_in, narrow, 1, bias=False)
        norm2, conv2 = nn.BatchNorm2d(narrow), nn.Conv2d(narrow, growth, 3, padding=1, bias=False)
        self.dotted = dotted
        if dotted:
            self.norm = nn.ModuleDict({"1": norm1, "2": norm2})
            self.conv = nn.ModuleDict({"1": conv1, "2": conv2})
        else:
            self.norm1, self.conv1, self.norm2, self.conv2 = norm1, conv1, norm2, conv2

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, channels_in + growth, H, W]."""
        if self.dotted:
            (norm1, norm2), (conv1, conv2) = self.norm.values(), self.conv.values()
        else:
            norm1, norm2, conv1, conv2 = self.norm1, self.norm2, self.conv1, self.conv2
        y = conv1(F.relu(norm1(x), inplace=True))
        y = conv2(F.relu(norm2(y), inplace=True))
        return torch.cat((x, y), dim=1)


class Transition(nn.Module):
    """Batch norm, ReLU and a 1×1 convolution to half the channels, then half the resolution by means."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_in // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, channels_in / 2, H / 2, W / 2]."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x), inplace=True)), 2)


class DenseNet(nn.Module):
    """224×224 RGB → 7×7 convolution → maxpool → blocks of layers, transitions between them → global mean → logits.

    Args:
        layers: how many, per block.
        growth: channels that a layer adds; the first convolution makes twice as many.
        num_classes: how many logits.
        dotted: how the parts of layers are named, see `DenseLayer`.
    """

    def __init__(
        self, layers: Sequence[int], growth: int = 32, num_classes: int = 1000, *, dotted: bool = False
    ) -> None:
        super().__init__()
        channels = 2 * growth
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(channels),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
        for number, count in enumerate(layers, start=1):
            block: OrderedDict[str, nn.Module] = OrderedDict()
            for layer in range(1, count + 1):
                block[f"denselayer{layer}"] = DenseLayer(channels, growth, dotted=dotted)
                channels += growth
            parts[f"denseblock{number}"] = nn.Sequential(block)
            if number < len(layers):
                parts[f"transition{number}"] = Transition(channels)
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(parts)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, 224, 224]."""
        x = F.relu(self.features(images), inplace=True)
        return self.classifier(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]
