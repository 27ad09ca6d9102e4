"""The networks that logits correction is judged on: those it was developed on, and those that nothing was tuned on.

Weights are made here in minutes on one core, or come from a checkpoint. A network is one entry of `ALL`.
"""

from __future__ import annotations

import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from faultcli.checkpoint import Checkpoint
from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.data.datasets import load_data
from faultcli.workload.models.architectures import recognise
from faultcli.workload.models.loading import load_model

BATCH, RATE, WEIGHT_DECAY = 128, 3e-3, 0.01
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Role = Literal["development", "held out", "given"]
Layers = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Network:
    """How one is made. `head` is its last layer, whose weights the zeroing law hits.

    `role`: correction was developed with a look at it, or it is held out, or a user's. `file`: a checkpoint below the
    data, or anywhere, in place of `build`, `epochs` and `seed`. `images`: from the data and the name of a split to
    inputs and labels, where these are made out of the data.
    """

    name: str
    what: str
    data: str  # a folder below the data: mnist or cifar10
    role: Role = "held out"
    build: Callable[[], nn.Module] | None = None
    epochs: int = 0
    seed: int = 0
    head: str = "fc2"
    file: str = ""
    images: Callable[[Path, str], tuple[Tensor, Tensor]] | None = None

    def trained(self, directory: Path, kept: Path) -> nn.Module:
        """Return it ready to run; what has to be trained is kept as a checkpoint."""
        if self.build is None:
            checkpoint = Checkpoint.open(directory / self.data / self.file)
            architecture = recognise(_shapes(checkpoint), checkpoint.metadata, ())
            return load_model(architecture, checkpoint.state()).eval()
        path = kept / f"{self.name}.safetensors"
        if not path.exists():
            save_whole(_train(self, directory).state_dict(), path)
        model = self.build()
        model.load_state_dict(load_file(path))
        return model.eval()


def save_whole(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    os.replace(part, path)


def inputs(network: Network, directory: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return preprocessed images, float32 [N, C, H, W], and labels."""
    return split_of(network.data, directory, split) if network.images is None else network.images(directory, split)


def split_of(name: str, directory: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return what `inputs` does, of a data set as it is."""
    data = load_data(f"{name}:{directory / name}" + (",split=train" if split == "train" else ""))
    images = data.inputs.float() / 255 if data.inputs.dtype == torch.uint8 else data.inputs.float()
    if images.dim() == 3:
        return images[:, None], data.labels
    images = images.permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CIFAR_MEAN, CIFAR_STD))
    return (images - mean) / std, data.labels


def given(path: Path) -> Network:
    """Return the network of a checkpoint: a built-in architecture on images of MNIST's or CIFAR's size.

    Raises:
        CheckpointError: it is missing or damaged.
        UsageError: it is of another architecture, made for other images, or has no dense layer at its end.
    """
    checkpoint = Checkpoint.open(path)
    try:
        architecture = recognise(_shapes(checkpoint), checkpoint.metadata, ())
    except WorkloadError as error:
        raise UsageError(f"{path}: {error.message}", "give a built-in one: faultcli inspect --archs") from None
    data = {(1, 28, 28): "mnist", (3, 32, 32): "cifar10"}.get(architecture.input_shape or ())
    layers = [name for name, layer in architecture.build().named_modules() if isinstance(layer, nn.Linear)]
    if data is None or not layers:
        raise UsageError(
            f"{path}: {architecture.name} is no classifier of MNIST's or CIFAR's images that ends in a dense layer",
            "give one that is, or one of the names in benchmarks/correction/networks.py",
        )
    return Network(path.stem, architecture.name, data, "given", head=layers[-1], file=str(path.resolve()))


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tuple(info.shape) for name, info in checkpoint.tensors.items()}


def _train(network: Network, directory: Path) -> nn.Module:
    assert network.build is not None
    started = time.perf_counter()
    torch.manual_seed(network.seed)
    x, y = inputs(network, directory, "train")
    model = network.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs=network.epochs, steps_per_epoch=steps)
    for _ in range(network.epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    print(f"trained {network.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return model.eval()


def layered(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _cnn(
    first: int, second: int, hidden: int, act: Callable[[], nn.Module] = nn.ReLU, *, norm: bool = False, kernel: int = 5
) -> nn.Module:
    """Return two convolutions with pooling and two dense layers; 3×3 kernels keep the size, 5×5 ones do not."""
    padding = 0 if kernel == 5 else 1
    side = ((28 - kernel + 1 + 2 * padding) // 2 - kernel + 1 + 2 * padding) // 2

    def block(n: int, before: int, after: int) -> Layers:
        convolution = (f"conv{n}", nn.Conv2d(before, after, kernel, padding=padding))
        normed = [(f"bn{n}", nn.BatchNorm2d(after))] if norm else []
        return [convolution, *normed, (f"p{n}", nn.MaxPool2d(2)), (f"a{n}", act())]

    dense = [("fl", nn.Flatten()), ("fc1", nn.Linear(second * side * side, hidden)), ("a3", act())]
    return layered(*block(1, 1, first), *block(2, first, second), *dense, ("fc2", nn.Linear(hidden, 10)))


def _strided(
    channels: tuple[int, ...], colours: int, side: int, hidden: int, act: Callable[[], nn.Module], *, norm: bool
) -> nn.Module:
    """Return 3×3 convolutions, every other one of stride 2, and two dense layers."""
    layers: Layers = []
    before = colours
    for n, after in enumerate(channels):
        stride = 2 - n % 2
        side = -(-side // stride)
        layers.append((f"conv{n}", nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=not norm)))
        layers += [(f"bn{n}", nn.BatchNorm2d(after))] if norm else []
        layers.append((f"a{n}", act()))
        before = after
    layers += [("fl", nn.Flatten()), ("fc1", nn.Linear(before * side * side, hidden)), ("ah", act())]
    return layered(*layers, ("fc2", nn.Linear(hidden, 10)))


def _mlp(*hidden: int, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Module:
    layers: Layers = [("fl", nn.Flatten())]
    before = 784
    for n, after in enumerate(hidden):
        layers.append((f"d{n}", nn.Linear(before, after)))
        layers += [(f"b{n}", nn.BatchNorm1d(after))] if norm else []
        layers.append((f"a{n}", act()))
        before = after
    return layered(*layers, ("fc2", nn.Linear(before, 10)))


def _mnist(
    name: str, what: str, build: Callable[[], nn.Module], epochs: int, seed: int, role: Role = "held out"
) -> Network:  # fmt: skip
    return Network(name, what, "mnist", role=role, build=build, epochs=epochs, seed=seed)


ALL = (
    _mnist("cnn", "16, 32 channels, 128 hidden", lambda: _cnn(16, 32, 128), 2, 5, role="development"),
    _mnist("cnn-narrow", "8, 16 channels, 48 hidden", lambda: _cnn(8, 16, 48), 2, 8, role="development"),
    _mnist(
        "cnn-bn-gelu", "12, 24 channels, 96 hidden, batch norm, GELU",
        lambda: _cnn(12, 24, 96, nn.GELU, norm=True), 2, 7, role="development",
    ),
    _mnist("mlp-gelu", "256, 128 hidden, GELU", lambda: _mlp(256, 128, act=nn.GELU), 3, 6, role="development"),
    _mnist("mlp-300", "300 hidden", lambda: _mlp(300), 4, 72, role="development"),
    _mnist("mlp-deep", "160, 160, 80 hidden", lambda: _mlp(160, 160, 80), 3, 9101),
    _mnist("mlp-bn", "500 hidden, batch norm, GELU", lambda: _mlp(500, act=nn.GELU, norm=True), 2, 9102),
    _mnist("cnn-thin", "6, 12 channels, 40 hidden, GELU", lambda: _cnn(6, 12, 40, nn.GELU), 3, 9103),
    _mnist("cnn-wide", "24, 48 channels, 192 hidden", lambda: _cnn(24, 48, 192), 1, 9104),
    _mnist(
        "cnn-bn", "10, 20 channels of 3×3, 64 hidden, batch norm",
        lambda: _cnn(10, 20, 64, norm=True, kernel=3), 2, 9105,
    ),
    _mnist(
        "cnn-deep", "4 convolutions of 8 to 32 channels, 64 hidden",
        lambda: _strided((8, 16, 24, 32), 1, 28, 64, nn.ReLU, norm=False), 3, 9106,
    ),
    Network("lenet", "Caffe's LeNet, weights of others", "mnist", file="lenet.safetensors"),
    Network(
        "cifar-cnn", "4 convolutions of 16 to 64 channels, batch norm, 64 hidden", "cifar10",
        build=lambda: _strided((16, 32, 48, 64), 3, 32, 64, nn.ReLU, norm=True), epochs=12, seed=9107,
    ),
    Network("resnet20", "weights of others", "cifar10", head="linear", file="resnet20.safetensors"),
    Network("resnet56", "weights of others", "cifar10", head="linear", file="resnet56.safetensors"),
)  # fmt: skip
