"""A detector judged by COCO's average precision under bit flips; run `python examples/score_detection.py`."""

import contextlib
import io

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

import faultcli as fc


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images [N, 1, 32, 32] of a bright box each, and the boxes [N, 4]: left, top, width, height."""
    generator = torch.Generator().manual_seed(seed)
    corner, size = (torch.randint(low, high, (count, 2), generator=generator) for low, high in ((1, 19), (6, 12)))
    at = [torch.arange(32.0).view(shape) for shape in ((1, 1, 32), (1, 32, 1))]
    inside = [(at[k] >= corner[:, k, None, None]) & (at[k] < (corner + size)[:, k, None, None]) for k in (0, 1)]
    images = (inside[0] & inside[1]) + 0.3 * torch.randn(count, 32, 32, generator=generator)
    return images[:, None], torch.cat([corner, size], 1).float()


def train() -> nn.Module:
    """Return a network that says the box in pixels and how sure it is; takes some seconds."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 16, 5, 2, 2), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 5))
    optimizer, (images, boxes) = torch.optim.Adam(model.parameters(), lr=0.002), scenes(2048, seed=1)
    for step in range(200):
        part = slice(step % 16 * 128, step % 16 * 128 + 128)
        optimizer.zero_grad()
        *_, sure = (said := model(images[part])).unbind(1)
        error = (said[:, :4] - boxes[part]).abs().mean(1)
        (error.mean() + (sure + error.detach()).abs().mean() / 10).backward()
        optimizer.step()
    return model


def score(model: nn.Module) -> dict[str, float]:
    """Average precision over COCO's thresholds of overlap, and at one half."""
    images, boxes = scenes(64, seed=2)
    truth, said = COCO(), model(images)
    keys = [{"id": n, "image_id": n, "category_id": 1, "iscrowd": 0} for n in range(1, len(images) + 1)]
    real = [key | {"bbox": box, "area": box[2] * box[3]} for key, box in zip(keys, boxes.tolist(), strict=True)]
    found = [key | {"bbox": box, "score": sure} for key, (*box, sure) in zip(keys, said.tolist(), strict=True)]
    truth.dataset = {"images": keys, "categories": [{"id": 1}], "annotations": real}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), "bbox")
        judged.evaluate(), judged.accumulate(), judged.summarize()
    return {"mAP": max(0.0, judged.stats[0]), "mAP_50": max(0.0, judged.stats[1])}


if __name__ == "__main__":
    how = {"formats": ["int8-channel"], "protect": ["none", "inplace=1"], "bounds": {"mAP": (0.0, 1.0)}}
    for arm in fc.run_campaign(fc.Subject.of(train(), score=score), "bitflip:1e-3", gates=["mAP>=0.3"], **how).arms:
        print(f"{arm.arm.label}: mAP {arm.score('mAP')}, at half overlap {arm.score('mAP_50')}: {arm.gates[0].verdict}")
