"""EDMN: a small network beside the model that adds a learned correction to its logits.

Hwang and Ha, "Functional Recovery of Corrupted Deep Neural Networks via Logits-Based External Correction":
z_rec = z + Δ(z), Δ a perceptron K → 256 → 256 → K whose last layer starts at zero, trained with
α·KL(softmax(z_rec/T), softmax(z_clean/T))·T² + γ·CE(z_rec, y) + β·‖Δ‖².
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from faultcli.errors import UsageError
from faultcli.recover.align import SMALLEST_WINDOW, Alignment
from faultcli.recover.base import NOTHING_TO_LEARN, Array, Card, Correction, Corrector, CorrectorError, usable_rows
from faultcli.recover.damaged_logits import LabelledLogits
from faultcli.recover.reference import Reference
from faultcli.recover.threads import one_torch_thread

_WIDEST = 1 << 14  # of a hidden layer: two of them have 268 million weights


@dataclass(frozen=True)
class EdmnOptions:
    """How an EDMN is trained; the defaults are the published ones.

    Raises:
        UsageError: a number makes no sense.
    """

    hidden: tuple[int, ...] = (256, 256)
    alpha: float = 1.0  # weight of the distillation from the clean logits
    gamma: float = 1.0  # weight of the cross entropy with the labels
    beta: float = 1e-4  # weight of the squared correction
    temperature: float = 2.0
    clean_share: float = 0.2  # of the samples that are clean logits
    epochs: int = 15
    batch: int = 128
    learning_rate: float = 1e-3
    cosine: bool = False  # let the learning rate fall to 0 along a cosine
    aligned: bool = False  # correct aligned instead of raw logits

    def __post_init__(self) -> None:
        if min(self.hidden, default=0) < 1 or self.epochs < 1 or self.batch < 1:
            raise UsageError(
                "hidden sizes, epochs and the batch size of a corrector are 1 or more", "--hidden 256,256 --epochs 15"
            )
        if max(self.hidden) > _WIDEST:
            raise UsageError(
                f"a hidden size of {max(self.hidden)}: a layer has at most {_WIDEST} neurons", "--hidden 256,256"
            )
        if not 0 <= self.clean_share < 1 or self.temperature <= 0 or self.learning_rate <= 0:
            raise UsageError(
                "clean share lies in [0, 1); temperature and learning rate are positive",
                "--clean-share 0.2 --temperature 2",
            )
        if min(self.alpha, self.beta, self.gamma) < 0 or self.alpha + self.gamma == 0:
            raise UsageError(
                "loss weights are not negative, and alpha or gamma is positive", "--alpha 1 --gamma 1 --beta 1e-4"
            )


@dataclass(frozen=True)
class Perceptron:
    """Dense layers with ReLU between them. `weights` [out, in] and `biases` [out], first layer first, float32."""

    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]

    @property
    def numbers(self) -> int:
        return sum(w.size + b.size for w, b in zip(self.weights, self.biases, strict=True))

    def __call__(self, x: Array) -> Array:
        out = torch.from_numpy(np.ascontiguousarray(x)).float()
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = F.linear(F.relu(out) if number else out, torch.from_numpy(weight), torch.from_numpy(bias))
        result: Array = out.double().numpy()
        return result

    @classmethod
    def of(cls, network: nn.Sequential) -> Perceptron:
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        weights = tuple(layer.weight.detach().numpy().copy() for layer in layers)
        return cls(weights, tuple(layer.bias.detach().numpy().copy() for layer in layers))

    def arrays(self) -> dict[str, NDArray[Any]]:
        found = {f"network.{n}.weight": w for n, w in enumerate(self.weights)}
        return found | {f"network.{n}.bias": b for n, b in enumerate(self.biases)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Perceptron:
        count = sum(name.startswith("network.") for name in arrays) // 2
        if count < 1:
            raise ValueError("it has no layers")
        weights = tuple(arrays[f"network.{n}.weight"] for n in range(count))
        biases = tuple(arrays[f"network.{n}.bias"] for n in range(count))
        if any(part.dtype != np.float32 for part in (*weights, *biases)):
            raise ValueError("its network is not of float32")
        for n in range(count):
            if weights[n].ndim != 2 or biases[n].shape != weights[n].shape[:1]:
                raise ValueError(f"layer {n} has weights {weights[n].shape} and biases {biases[n].shape}")
            if n and weights[n].shape[1] != weights[n - 1].shape[0]:
                raise ValueError(f"layer {n} does not take what layer {n - 1} gives")
        return cls(weights, biases)


def train_perceptron(
    inputs: Tensor, base: Tensor, clean: Tensor, labels: Tensor, options: EdmnOptions, seed: int
) -> Perceptron:
    """Train Δ(inputs) to be added to `base`. The same arguments give the same network.

    It runs on one thread: the layers are too small to gain from more, and sums would depend on their number.

    Args:
        inputs: float32 [N, K], what the network sees.
        base: float32 [N, K], what its output is added to.
        clean: float32 [N, K], the clean model's logits of the same images.
        labels: int64 [N].
        options: how.
        seed: of the initial weights and the order of the samples.
    """
    with one_torch_thread():
        return _train(inputs, base, clean, labels, options, seed)


def _train(inputs: Tensor, base: Tensor, clean: Tensor, labels: Tensor, options: EdmnOptions, seed: int) -> Perceptron:
    generator = torch.Generator().manual_seed(seed)
    network = _new_network(inputs.shape[1], options.hidden, generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
    steps = options.epochs * -(-len(inputs) // options.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if options.cosine else None
    heat = options.temperature
    for _ in range(options.epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=generator), options.batch):
            delta = network(inputs[rows])
            recovered = base[rows] + delta
            ours, theirs = F.log_softmax(recovered / heat, 1), F.log_softmax(clean[rows] / heat, 1)
            divergence = (ours.exp() * (ours - theirs)).sum(1).mean() * heat**2
            loss = options.alpha * divergence + options.beta * delta.pow(2).sum(1).mean()
            loss = loss + options.gamma * F.cross_entropy(recovered, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
    return Perceptron.of(network)


def _new_network(classes: int, hidden: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    sizes = (classes, *hidden, classes)
    layers: list[nn.Module] = []
    for number, (inside, outside) in enumerate(pairwise(sizes)):
        if number:
            layers.append(nn.ReLU())
        with torch.random.fork_rng(devices=[]):
            layer = nn.Linear(inside, outside)
        bound = inside**-0.5  # PyTorch's own initialisation, from a generator of its own
        for tensor in (layer.weight, layer.bias):
            tensor.data.uniform_(-bound, bound, generator=generator)
        layers.append(layer)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Edmn(Corrector):
    """The published corrector, or (`aligned`) the same on logits that were aligned over a window."""

    name: ClassVar[str] = "edmn"
    summary: ClassVar[str] = "a perceptron adds a learned correction to the logits, as published by Hwang and Ha"

    network: Perceptron
    reference: Reference | None = None  # of an aligned one
    options: EdmnOptions = field(default_factory=EdmnOptions)

    @property
    def smallest_window(self) -> int:
        return SMALLEST_WINDOW if self.options.aligned else 0

    def adapt(self, window: Array) -> Correction:
        if self.reference is None:
            return Correction(lambda z: z + self.network(z), self.network.numbers, "edmn")
        alignment = Alignment.between(window, self.reference)

        def apply(logits: Array) -> Array:
            return alignment(logits) + self.network(alignment.standardise(logits))

        return Correction(apply, self.network.numbers + alignment.numbers, "edmn on aligned logits")

    @classmethod
    def train(cls, data: LabelledLogits, card: Card, options: EdmnOptions) -> Self:
        """Train on all copies together.

        Raises:
            CorrectorError: there is no copy with finite logits.
        """
        reference = None
        if options.aligned:
            reference = Reference.measure(data.clean.double().numpy(), data.labels.numpy())
        inputs, base, clean, labels = _samples(data, reference, options.clean_share, card.seed)
        network = train_perceptron(inputs, base, clean, labels, options, card.seed)
        return cls(network, reference, options, card=card)

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays = self.network.arrays() | (self.reference.arrays() if self.reference is not None else {})
        return arrays, {"options": asdict(self.options)}

    @classmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        options = EdmnOptions(**{**values["options"], "hidden": tuple(values["options"]["hidden"])})
        network = Perceptron.from_arrays(arrays)
        if network.weights[0].shape[1] != card.classes or len(network.biases[-1]) != card.classes:
            raise ValueError(f"its network is not one of {card.classes} classes")
        return cls(network, Reference.from_arrays(arrays) if options.aligned else None, options, card=card)


def _samples(
    data: LabelledLogits, reference: Reference | None, clean_share: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs, base, clean logits and labels of all finite rows, with `clean_share` of clean ones among them."""
    kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(logits: Tensor, rows: Tensor) -> None:
        inputs = base = logits[rows]
        if reference is not None:
            usable = usable_rows(logits.double().numpy())
            if len(usable) < SMALLEST_WINDOW:
                return
            alignment = Alignment.between(usable, reference)
            doubles = base.double().numpy()
            inputs, base = (torch.from_numpy(f(doubles)).float() for f in (alignment.standardise, alignment))
        kept.append((inputs, base, data.clean[rows], data.labels[rows]))

    for copy in data.copies:
        add(copy.logits, torch.isfinite(copy.logits).all(dim=1).nonzero().squeeze(1))
    damaged = sum(len(part[0]) for part in kept)
    if not damaged:
        raise CorrectorError("no damaged copy has finite logits to learn from", NOTHING_TO_LEARN)
    wanted = round(damaged * clean_share / (1 - clean_share))
    order = torch.from_numpy(np.random.default_rng(seed).integers(0, len(data.labels), wanted))
    if wanted:
        add(data.clean, order)
    inputs, base, clean, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return inputs, base, clean, labels


def known_damage_options(options: EdmnOptions) -> EdmnOptions:
    """Return the options under which one device's own logits are learned: larger batches, no clean samples."""
    return replace(options, aligned=True, clean_share=0.0, cosine=True, learning_rate=3e-3, batch=256, epochs=20)
