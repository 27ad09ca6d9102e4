"""Train `mnist-cnn`, two convolutions and two dense layers, to 99 % on MNIST: deterministic, minutes on one core.

    python examples/train_mnist.py DIR -o mnist-cnn.safetensors [--epochs N]

DIR holds the four IDX files of MNIST, gzipped or not.
"""

import argparse

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from faultcli import extend

BATCH, ARCHITECTURE = 128, extend.ARCHITECTURES["mnist-cnn"]


def tensors(data: extend.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images float32 [N, 1, 28, 28] and labels."""
    return ARCHITECTURE.preprocess.apply(data.inputs, data.layout), data.labels


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move every image by up to two pixels in each direction."""
    moves = torch.randint(0, 5, (2, len(images)), generator=generator)
    windows = F.pad(images, (2, 2, 2, 2)).unfold(2, 28, 1).unfold(3, 28, 1)  # [N, 1, 5, 5, 28, 28]
    return windows[torch.arange(len(images)), :, moves[0], moves[1]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("-o", "--output", default="mnist-cnn.safetensors")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums depend on the number of threads
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x, y = tensors(extend.load_data(f"mnist:{options.directory},split=train"))
    model = ARCHITECTURE.build()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    steps = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=options.epochs, steps_per_epoch=steps)
    for _ in range(options.epochs):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(shifted(x[batch], generator)), y[batch]).backward()
            optimizer.step()
            schedule.step()
    save_file(model.state_dict(), options.output, metadata={"faultcli.arch": ARCHITECTURE.name})
    x, y = tensors(extend.load_data(f"mnist:{options.directory}"))
    with torch.inference_mode():
        print(f"{options.output}: {(model(x).argmax(1) == y).float().mean():.2%} of {len(x)} test images")


if __name__ == "__main__":
    main()
