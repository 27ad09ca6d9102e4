"""A segmentation network under bit flips, judged by a metric of torchmetrics on a DataLoader.

python examples/score_segmentation.py
"""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import JaccardIndex

import faultcli as fc


def shapes(count: int, seed: int) -> TensorDataset:
    """Noisy images [N, 1, 24, 24] of a bright disc each, and where it is [N, 24, 24]: 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    centre, radius = torch.rand(count, 2, generator=generator) * 12 + 6, torch.rand(count, generator=generator) * 4 + 3
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    away = (rows - centre[:, 0, None, None]).square() + (columns - centre[:, 1, None, None]).square()
    masks = away < radius[:, None, None].square()
    images = masks + 0.5 * torch.randn(count, 24, 24, generator=generator)
    return TensorDataset(images[:, None], masks.long())


def train() -> nn.Module:
    """Return a small convolutional network: logits [N, 2, 24, 24], of background and disc."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 2, 1)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(4):
        for images, masks in DataLoader(shapes(256, seed=1), batch_size=32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), masks).backward()
            optimizer.step()
    return model


def changed(golden: Tensor, now: Tensor) -> Tensor:
    """Say for every image whether more than 1 % of its pixels have another class."""
    return (golden.argmax(1) != now.argmax(1)).flatten(1).float().mean(1) > 0.01


def main() -> None:
    """Measure the intersection over union of two memories on the same faults."""
    loader = DataLoader(shapes(64, seed=2), batch_size=32)
    metric = JaccardIndex(task="multiclass", num_classes=2)
    subject = fc.Subject.of(train(), loader, metric=metric, changed=changed)
    result = fc.run_campaign(subject, "bitflip:1e-3", formats=["fp16"], protect=["none", "scale=max,guard"], trials=20)
    for arm in result.arms:
        rates = arm.mean_rates()
        print(f"{arm.arm.label}: IoU {arm.headline()}, SDC {rates['sdc']:.1%}, DUE {rates['due']:.1%} of the images")


if __name__ == "__main__":
    main()
