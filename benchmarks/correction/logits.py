"""What damaged copies of a network answer: worked out once, kept in files, so that correctors are judged in seconds.

Three sets of inputs never meet: those to train on, those of the windows, both from the training split, and test inputs
to judge by. Faults of the judged maps are never those of the training maps.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

import faultcli as fc
from benchmarks.correction.networks import Network, inputs, save_whole
from benchmarks.correction.windows import MIXES, draw_window
from faultcli.faults.laws import parse_law
from faultcli.recover.damaged_logits import Copy, LabelledLogits
from faultcli.recover.training.experiment import HELD_OUT_TRIALS

SEED = 20_416  # of the faults
INPUTS_SEED, WINDOWS_SEED = 20_417, 20_418
_BATCH = 250


@dataclass(frozen=True)
class Levels:
    """Fault laws in a memory; `{head}` stands for the last layer's weights. Others are judged than trained for."""

    trained: tuple[str, ...]
    judged: tuple[str, ...]
    format: str = "native"


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        training: inputs to train on.
        pool: inputs that windows are drawn from, per map anew.
        test: inputs to judge by, evenly spread over the test split.
        training_maps, maps: fault maps per level, to train on and to judge by.
        mixed_maps: of `maps`, how many are looked at with windows of every class mix and size.
        largest: of these windows.
        known_maps: of `maps`, on how many a corrector is trained that knows the damage.
    """

    training: int
    pool: int
    test: int
    training_maps: int
    maps: int
    mixed_maps: int
    largest: int
    known_maps: int
    window: int = 1000  # of the maps that have one size only


@dataclass(frozen=True)
class JudgedMap:
    """What a copy under one fault map answers on test inputs [T, K] and on rows of the pool."""

    trial: int
    test: Tensor
    rows: NDArray[np.int64]  # sorted
    pool: Tensor  # [rows, K]

    def window(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the logits of rows of the pool."""
        return self.pool[torch.from_numpy(np.searchsorted(self.rows, rows))]


class Lab:
    """One network with its inputs and its damaged copies.

    Args:
        network, levels, sizes: see there.
        directory: holds the data.
        kept: where weights and logits are kept.
    """

    def __init__(self, network: Network, levels: Levels, sizes: Sizes, directory: Path, kept: Path) -> None:
        self.network, self.levels, self.sizes = network, levels, sizes
        self._directory, self._weights = directory, kept / "weights"
        words = (sizes.training, sizes.pool, sizes.test, sizes.mixed_maps, sizes.largest, sizes.window)
        memory = "" if levels.format == "native" else f"-{levels.format}"
        self._logits = kept / "logits" / f"{network.name}{memory}-{'-'.join(map(str, words))}"

    @cached_property
    def _split(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Inputs and labels: `training`, `pool`, `test`."""
        x, y = inputs(self.network, self._directory, "train")
        order = torch.from_numpy(np.random.default_rng(INPUTS_SEED).permutation(len(x)))
        training, pool = order[: self.sizes.training], order[self.sizes.training :][: self.sizes.pool]
        tx, ty = inputs(self.network, self._directory, "test")
        every = max(1, len(tx) // self.sizes.test)
        test = torch.arange(0, len(tx), every)[: self.sizes.test]
        return {"training": (x[training], y[training]), "pool": (x[pool], y[pool]), "test": (tx[test], ty[test])}

    @cached_property
    def _model(self) -> nn.Module:
        return self.network.trained(self._directory, self._weights)

    @cached_property
    def _subject(self) -> fc.Subject:
        x, y = self._split["test"]
        return fc.Subject.of(self._model, (x[:8], y[:8]))

    @cached_property
    def _image(self) -> fc.MemoryImage:
        """The weights of all convolutions and dense layers, as a memory holds them."""
        image = self._subject.memory(self.levels.format)
        for name, values in image.values():
            self._subject.workload.load({name: values})
        return image

    @cached_property
    def healthy(self) -> dict[str, Tensor]:
        """Logits without faults, labels, and what the last layer is given, by set of inputs."""
        path = self._logits / "healthy.safetensors"
        if not path.exists():
            found: dict[str, Tensor] = {}
            _ = self._image
            for name, (x, y) in self._split.items():
                seen: list[Tensor] = []
                hook = self._head.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
                found |= {f"{name}.logits": self._run(x), f"{name}.labels": y}
                hook.remove()
                found[f"{name}.features"] = torch.cat(seen)
            save_whole(found, path)
        return load_file(path)

    def labels(self, name: str) -> NDArray[np.int64]:
        return self.healthy[f"{name}.labels"].numpy()

    @property
    def _head(self) -> nn.Module:
        return self._model.get_submodule(self.network.head)

    @torch.inference_mode()
    def _run(self, x: Tensor) -> Tensor:
        return torch.cat([self._model(batch) for batch in x.split(_BATCH)]).clone()

    def _damaged(self, level: str, trial: int, parts: Sequence[tuple[str, NDArray[np.int64] | None]]) -> list[Tensor]:
        """Return the logits of rows of sets of inputs (None: all of them) under one fault map."""
        healthy = self.healthy  # before the damage
        law = parse_law(level.format(head=f"{self.network.head}.weight"))
        patch = self._image.patch(self._image.draw(law, seed=SEED, trial=trial))
        only_head = all(name.startswith(f"{self.network.head}.") for name in patch.elements)
        found = []
        with patch.applied(self._subject.workload.parameters):
            for name, rows in parts:
                x = healthy[f"{name}.features"] if only_head else self._split[name][0]
                x = x if rows is None else x[torch.from_numpy(rows)]
                with torch.inference_mode():
                    found.append(self._head(x).clone() if only_head else self._run(x))
        return found

    def training_data(self) -> LabelledLogits:
        """Return what correctors are trained on."""
        copies = []
        for level in self.levels.trained:
            path = self._file("training", level)
            if not path.exists():
                started = time.perf_counter()
                maps = [self._damaged(level, t, [("training", None)])[0] for t in range(self.sizes.training_maps)]
                save_whole({"logits": torch.stack(maps)}, path)
                self._note("training", level, started)
            logits = load_file(path)["logits"]
            copies += [Copy(plain(level), trial, one) for trial, one in enumerate(logits)]
        return LabelledLogits(self.healthy["training.logits"], self.healthy["training.labels"], tuple(copies))

    def windows(self, level: str, trial: int) -> dict[str, NDArray[np.int64]]:
        """Return one window per class mix, as rows of the pool; the first so many of its rows are a smaller window."""
        number = self.levels.judged.index(level) if level != "none" else 1000
        labels = self.labels("pool")
        found = {}
        for mix in MIXES:
            random = np.random.default_rng([WINDOWS_SEED, number, trial, list(MIXES).index(mix)])
            found[mix] = draw_window(mix, labels, self.sizes.largest, random)
        if trial < self.sizes.mixed_maps:
            return found
        return {mix: found[mix][: self.sizes.window] for mix in ("as in training", "half of the classes")}

    def judged(self, level: str) -> Iterator[JudgedMap]:
        """Yield the maps of a level; `none` is the healthy model, once per map that has every mix."""
        if level == "none":
            test, pool = self.healthy["test.logits"], self.healthy["pool.logits"]
            for trial in range(self.sizes.mixed_maps):
                yield JudgedMap(trial, test, np.arange(len(pool)), pool)
            return
        path = self._file("judged", level)
        if not path.exists():
            started = time.perf_counter()
            found: dict[str, Tensor] = {}
            for trial in range(self.sizes.maps):
                rows = np.unique(np.concatenate(list(self.windows(level, trial).values())))
                test, pool = self._damaged(level, HELD_OUT_TRIALS + trial, [("test", None), ("pool", rows)])
                found |= {f"{trial}.test": test, f"{trial}.pool": pool, f"{trial}.rows": torch.from_numpy(rows)}
            save_whole(found, path)
            self._note("judged", level, started)
        kept = load_file(path)
        for trial in range(self.sizes.maps):
            yield JudgedMap(trial, kept[f"{trial}.test"], kept[f"{trial}.rows"].numpy(), kept[f"{trial}.pool"])

    def known(self, level: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training inputs' and the test inputs' logits under judged maps: the device itself is at hand."""
        path = self._file("known", level)
        if not path.exists():
            started = time.perf_counter()
            trials = range(HELD_OUT_TRIALS, HELD_OUT_TRIALS + self.sizes.known_maps)
            found = [self._damaged(level, trial, [("training", None)])[0] for trial in trials]
            save_whole({"logits": torch.stack(found)}, path)
            self._note("known", level, started)
        for training, judged in zip(load_file(path)["logits"], self.judged(level), strict=False):
            yield training, judged.test

    def _file(self, what: str, level: str) -> Path:
        sizes = self.sizes
        maps = {"training": sizes.training_maps, "judged": sizes.maps, "known": sizes.known_maps}[what]
        return self._logits / f"{what}-{maps}-{plain(level)}.safetensors"

    def _note(self, what: str, level: str, started: float) -> None:
        took = time.perf_counter() - started
        print(f"{self.network.name} {what} {plain(level)}: {took:.0f} s", file=sys.stderr, flush=True)


def plain(level: str) -> str:
    """Return a level without the tensors that it hits."""
    return level.split(",", maxsplit=1)[0]
