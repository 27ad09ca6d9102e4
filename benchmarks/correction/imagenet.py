"""ImageNet networks and what their damaged copies answer on a few hundred images: worked out once, kept in files.

There is no split to train on, and one image per class or none: random splits of the images into a window, a part to
train on and a part to report on, which never meet, stand in for it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import faultcli as fc
from benchmarks.correction.networks import Role, save_whole
from faultcli.faults.laws import parse_law
from faultcli.recover.damaged_logits import Copy, LabelledLogits, damaged_copies
from faultcli.recover.training.experiment import HELD_OUT_TRIALS

TRAINED_SEED, JUDGED_SEED, SPLITS_SEED = 0, 7, 1000
TRAINING_MAPS, MAPS, SPLITS = 4, 10, 5
WINDOW, HALF = 62, 250  # of 500 images: a window, the rest of this half to train on, the others to report on


@dataclass(frozen=True)
class Pictured:
    """A network, and the levels of noise that correctors are trained for and judged by."""

    name: str
    role: Role
    file: str
    trained: tuple[float, ...]
    judged: tuple[float, ...]


IMAGENET = (
    Pictured("squeezenet", "development", "squeezenet1_1.safetensors", (0.01, 0.013, 0.02), (0.012, 0.018)),
    Pictured("mobilenet", "held out", "mobilenet_v2-hf", (0.0065, 0.009, 0.013), (0.0078, 0.0102)),
)


@dataclass(frozen=True)
class Pictures:
    """What copies of one network answer on all images.

    Args:
        network: see there.
        directory: holds `images/` (a folder per class), `classes.csv` and the checkpoints.
        kept: where logits are kept.
    """

    network: Pictured
    directory: Path
    kept: Path

    @cached_property
    def _subject(self) -> fc.Subject:
        data = f"images:{self.directory}/images,classes={self.directory}/classes.csv"
        return fc.Subject.open(str(self.directory / self.network.file), data=data)

    @cached_property
    def healthy(self) -> LabelledLogits:
        path = self.kept / f"{self.network.name}-healthy.safetensors"
        if not path.exists():
            workload = self._subject.classifier("logits correction")
            save_whole({"logits": workload.logits(), "labels": workload.labels}, path)
        found = load_file(path)
        return LabelledLogits(found["logits"], found["labels"])

    def training_data(self) -> LabelledLogits:
        """Return what correctors are trained on; a split's own part of it is `rows`."""
        copies = [self._copies(sigma, TRAINING_MAPS, TRAINED_SEED, 0) for sigma in self.network.trained]
        return LabelledLogits(self.healthy.clean, self.healthy.labels, tuple(copy for some in copies for copy in some))

    def judged(self, sigma: float) -> tuple[Copy, ...]:
        """Return copies under other fault maps than those of training."""
        return self._copies(sigma, MAPS, JUDGED_SEED, HELD_OUT_TRIALS)

    def _copies(self, sigma: float, maps: int, seed: int, first: int) -> tuple[Copy, ...]:
        level = f"gaussian:{sigma:g}"
        path = self.kept / f"{self.network.name}-{level.replace(':', '')}-{seed}-{first}-{maps}.safetensors"
        if not path.exists():
            started, workload = time.perf_counter(), self._subject.classifier("logits correction")
            image = self._subject.memory()
            drawn = damaged_copies(image, [parse_law(level)], maps, [workload], seed=seed, first_trial=first)
            save_whole({"logits": torch.stack([one.logits for (one,) in drawn])}, path)
            print(f"{self.network.name} {level}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        return tuple(Copy(level, first + trial, one) for trial, one in enumerate(load_file(path)["logits"]))


@dataclass(frozen=True)
class Split:
    """Rows of the images: of the window, to train on, to report on."""

    window: NDArray[np.int64]
    training: NDArray[np.int64]
    report: NDArray[np.int64]

    @classmethod
    def draw(cls, images: int, number: int) -> Self:
        """Return the split of a number; the same one for every network."""
        order = np.random.default_rng(SPLITS_SEED + number).permutation(images)
        return cls(*np.split(order, [WINDOW, HALF]))
