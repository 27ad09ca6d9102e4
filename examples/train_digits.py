"""Train the network of the embedded demo, and pack its images: deterministic, about 20 seconds on one core.

    python examples/train_digits.py [OUTPUT_DIRECTORY]

Needs scikit-learn, which brings the images; running the demo does not.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import functional as F

from faultcli import extend

EPOCHS, BATCH = 60, 64


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move every image [N, 1, 8, 8] by -1, 0 or 1 pixel in each direction."""
    moves = torch.randint(0, 3, (2, len(images)), generator=generator)
    windows = F.pad(images, (1, 1, 1, 1)).unfold(2, 8, 1).unfold(3, 8, 1)  # [N, 1, 3, 3, 8, 8]
    return windows[torch.arange(len(images)), :, moves[0], moves[1]]


def main(output: Path) -> None:
    """Write `digits.npz` and `digits-cnn.safetensors` into `output`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images, labels = images.reshape(-1, 8, 8).astype(np.uint8), labels.astype(np.uint8)
    is_test = np.arange(len(images)) >= len(images) - 500  # the last 500, as they lie
    np.savez_compressed(output / "digits.npz", images=images, labels=labels, is_test=is_test)

    architecture = extend.ARCHITECTURES["digits-cnn"]
    model = architecture.build()
    x = architecture.preprocess.apply(torch.from_numpy(images), "NHW")
    y, train, test = (
        torch.from_numpy(labels).long(),
        torch.from_numpy(~is_test).nonzero().flatten(),
        torch.from_numpy(is_test),
    )
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in train[torch.randperm(len(train), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(shifted(x[batch], generator)), y[batch], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    save_file(model.state_dict(), output / "digits-cnn.safetensors", metadata={"faultcli.arch": architecture.name})
    (output / "digits-cnn.safetensors").chmod(0o644)  # safetensors makes it private; it is packed into the wheel
    accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    print(f"{output / 'digits-cnn.safetensors'}: {accuracy:.1%} of 500 test images")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "faultcli/workload/demo")
