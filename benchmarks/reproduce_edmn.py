"""Both tables of the EDMN paper, with EDMN as published and with `adaptive`, as Markdown on stdout.

    python -m benchmarks.reproduce_edmn MNIST_DIR mnist-cnn.safetensors [--maps 20] [--known-maps 5] [--processes 2]

MNIST_DIR holds the four IDX files, the checkpoint comes from examples/train_mnist.py. Accuracy is measured on all
10,000 test images, on fault maps that nothing was trained on; correctors are trained, and windows of unlabelled inputs
taken, on 5,000 training images. `--cache DIR` keeps the logits for the next run. Systems that cannot fork need
`--processes 1`.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from faultcli.campaign.statistics import mean_interval
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.memory import MemoryImage
from faultcli.recover.adaptive.corrector import unfair_windows
from faultcli.recover.base import Card, Corrector
from faultcli.recover.damaged_logits import Copy, LabelledLogits
from faultcli.recover.edmn import EdmnOptions
from faultcli.recover.methods import TrainingOptions, train_corrector
from faultcli.workload.classifier import Workload
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import make_dataset
from faultcli.workload.models.architectures import ARCHITECTURES
from faultcli.workload.models.loading import load_model

GAUSSIAN = [f"gaussian:{sigma}" for sigma in (0.05, 0.1, 0.15, 0.2)]  # on every tensor
ZERO = [f"zero:{rho},include=fc2.weight" for rho in (0.2, 0.5, 0.8, 0.9)]
LEVELS = GAUSSIAN + ZERO
POOL, WINDOW, KNOWN = 5000, 1000, 20_000  # training images: drawn at random; of these, the window; the first ones
TRAINING_SEED, TRAINING_MAPS, REPORT_SEED, KNOWN_SEED = 1000, 6, 8, 0

Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (window, logits) → corrected logits
Way = Callable[[str], Scores]  # level → how logits are corrected there


class Lab:
    """The model in its memory, and its logits under fault maps."""

    def __init__(self, directory: str, path: Path, cache: Path | None) -> None:
        checkpoint, self.cache = Checkpoint.open(path), cache
        test, train = load_data(f"mnist:{directory}"), load_data(f"mnist:{directory},split=train")
        self.pool = torch.from_numpy(np.random.default_rng(123).permutation(len(train))[:POOL])
        architecture = ARCHITECTURES["mnist-cnn"]
        model = load_model(architecture, checkpoint.state())

        def workload(images: torch.Tensor, labels: torch.Tensor) -> Workload:
            return Workload(architecture, model, make_dataset(images, labels, "MNIST", layout="NHW"))

        self.test = workload(test.inputs, test.labels)
        self.window = workload(train.inputs[self.pool], train.labels[self.pool])
        self.known = workload(train.inputs[:KNOWN], train.labels[:KNOWN])
        names = select(checkpoint.tensors.values(), target="all")
        self.image = MemoryImage({name: checkpoint.read(name) for name in names})

    def logits(self, spec: str, seed: int, maps: int, workload: Workload, what: str) -> torch.Tensor:
        """Return [maps, N, 10]; `none` is the healthy model, once."""
        file = self.cache / f"{what}-{seed}-{spec}.safetensors" if self.cache else None
        if file is not None and file.exists():
            return load_file(file)["logits"][:maps]
        found = []
        for trial in range(maps if spec != "none" else 1):
            patch = (
                self.image.patch(self.image.draw(parse_law(spec), seed=seed, trial=trial)) if spec != "none" else None
            )
            if patch is None:
                found.append(workload.logits())
                continue
            with patch.applied(workload.parameters):
                found.append(workload.logits())
        print(f"{what} {spec}", file=sys.stderr)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"logits": torch.stack(found)}, file)
        return torch.stack(found)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def cell(corrupted: list[float], corrected: list[float], clean: float) -> str:
    """Mean gain in points with its 95 % interval over maps, and the share of the lost accuracy that is back."""
    gains = [b - a for a, b in zip(corrupted, corrected, strict=True)]
    interval = mean_interval(gains, bounds=(-1, 1))
    lost = clean - float(np.mean(corrupted))
    share = f", {100 * float(np.mean(gains)) / lost:.0f} %" if lost > 5e-4 else ""
    if interval.low is None or min(gains) == max(gains):
        return f"{100 * interval.mean:+.2f}{share}"
    return f"{100 * interval.mean:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]{share}"


def side_by_side(function: Callable[[Any], Any], items: Sequence[Any], processes: int) -> list[Any]:
    """Return function(item) of every item, worked out by forked processes."""
    if processes == 1:
        return [function(item) for item in items]
    _work[:] = [function, items]
    sys.stdout.flush()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return pool.map(_one, range(len(items)), chunksize=1)


_work: list[Any] = []  # what forked processes find: a function of the parent, and what to apply it to


def _one(index: int) -> Any:
    function, items = _work
    return function(items[index])


def trained(lab: Lab, processes: int) -> dict[str, Corrector]:
    """Train every corrector for unseen damage: by method, and `edmn` once more per level."""
    clean = lab.logits("none", 0, 1, lab.window, "window")[0]
    copies = [
        Copy(level, trial, logits)
        for level in LEVELS
        for trial, logits in enumerate(lab.logits(level, TRAINING_SEED, TRAINING_MAPS, lab.window, "window"))
    ]
    rows = np.arange(WINDOW, POOL)  # what is trained on is not in the window
    data = LabelledLogits(clean, lab.window.labels, tuple(copies)).rows(rows)

    def train(name: str) -> Corrector:
        started = time.perf_counter()
        if name in LEVELS:
            own = replace(data, copies=tuple(c for c in data.copies if c.fault == name))
            found = train_corrector("edmn", own, Card(10))
        else:
            options = TrainingOptions(edmn=EdmnOptions(aligned=name == "edmn on aligned"))
            found = train_corrector(name.split(maxsplit=1)[0], data, Card(10), options)
        print(f"trained {name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        return found

    names = ["adaptive", "edmn", "edmn on aligned", "mixture", "align", *LEVELS]
    return dict(zip(names, side_by_side(train, names, processes), strict=True))


def ways_to_correct(lab: Lab, correctors: dict[str, Corrector]) -> dict[str, Way]:
    """Return every column of the tables of unseen damage."""
    centre = lab.logits("none", 0, 1, lab.window, "window")[0][WINDOW:].mean(0)

    def windowed(name: str, size: int = WINDOW) -> Way:
        return lambda level: lambda window, logits: correctors[name].observe(window[:size])(logits)

    def learned(name: str | None = None) -> Way:
        def way(level: str) -> Scores:
            correction = correctors[name or (level if level in LEVELS else "edmn")].observe()
            return lambda window, logits: correction(logits)

        return way

    def of_other_mix(kind: int) -> Way:
        def way(level: str) -> Scores:
            random = np.random.default_rng(LEVELS.index(level) if level in LEVELS else 99)

            def correct(window: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
                rows = list(unfair_windows(lab.window.labels.numpy(), WINDOW, random))[kind]
                return correctors["adaptive"].observe(window[rows])(logits)

            return correct

        return way

    return {
        "edmn, one per level": learned(),
        "edmn, one for all": learned("edmn"),
        "temperature": lambda level: lambda window, logits: logits / 2,
        "bias": lambda level: lambda window, logits: logits - window[:WINDOW].mean(0) + centre,
        **{name: windowed(name) for name in ("align", "mixture", "edmn on aligned", "adaptive")},
        **{f"window of {size}": windowed("adaptive", size) for size in (50, 200, 5000)},
        "half of the classes": of_other_mix(0),
        "every class at its own rate": of_other_mix(2),
    }


def unseen(lab: Lab, maps: int, processes: int) -> None:
    """Print what comes back on fault maps that nothing was trained on."""
    ways = ways_to_correct(lab, trained(lab, processes))
    labels = lab.test.labels

    def measure(level: str) -> dict[str, list[float]]:
        started = time.perf_counter()
        test = lab.logits(level, REPORT_SEED, maps, lab.test, "test")
        windows = lab.logits(level, REPORT_SEED, maps, lab.window, "window")
        found = {"corrupted": [accuracy(logits, labels) for logits in test]}
        for name, way in ways.items():
            correct = way(level)
            found[name] = [accuracy(correct(w, z), labels) for w, z in zip(windows, test, strict=True)]
        print(f"{level}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        return found

    levels = ["none", *LEVELS]
    measured = dict(zip(levels, side_by_side(measure, levels, processes), strict=True))
    clean = measured["none"]["corrupted"][0]

    def compare(title: str, levels: list[str], columns: list[str], heads: dict[str, str] | None = None) -> None:
        rows = []
        for level in ["none", *levels]:
            found = measured[level]
            row = [level.removesuffix(",include=fc2.weight"), f"{100 * float(np.mean(found['corrupted'])):.2f}"]
            rows.append(row + [cell(found["corrupted"], found[name], clean) for name in columns])
        table(title, ["fault", "corrupted %", *((heads or {}).get(name, name) for name in columns)], rows)

    main_columns = ["edmn, one per level", "adaptive"]
    compare("Unseen damage: Gaussian noise on all tensors", GAUSSIAN, main_columns)
    compare("Unseen damage: zeroed weights of fc2", ZERO, main_columns)
    methods = ["temperature", "bias", "align", "mixture", "edmn, one for all", "edmn on aligned", "adaptive"]
    compare("Ablation", LEVELS, methods)
    sizes = ["window of 50", "window of 200", "adaptive", "window of 5000"]
    compare("Adaptive: size of the window", LEVELS, sizes, {"adaptive": f"window of {WINDOW}"})
    mixes = ["adaptive", "half of the classes", "every class at its own rate"]
    compare("Adaptive: class mix of the window", LEVELS, mixes, {"adaptive": "as in training"})


def known(lab: Lab, maps: int, processes: int) -> None:
    """Print what comes back when the device itself is at hand: trained on its logits of 20,000 training images."""
    labels, card = lab.test.labels, Card(10, "known damage")
    clean_known = lab.logits("none", 0, 1, lab.known, "known")[0]
    clean = accuracy(lab.logits("none", 0, 1, lab.test, "test")[0], labels)

    def measure(level: str) -> list[str]:
        corrupted, found = [], {"edmn": [], "adaptive": []}
        test = lab.logits(level, KNOWN_SEED, maps, lab.test, "test")
        for trial, logits in enumerate(lab.logits(level, KNOWN_SEED, maps, lab.known, "known")):
            data = LabelledLogits(clean_known, lab.known.labels, (Copy(level, trial, logits),))
            corrupted.append(accuracy(test[trial], labels))
            for name, accuracies in found.items():
                accuracies.append(accuracy(train_corrector(name, data, card).observe()(test[trial]), labels))
        print(f"known damage: {level}", file=sys.stderr)
        row = [level.removesuffix(",include=fc2.weight"), f"{100 * float(np.mean(corrupted)):.2f}"]
        return row + [cell(corrupted, accuracies, clean) for accuracies in found.values()]

    rows = side_by_side(measure, LEVELS, processes)
    table(f"Known damage, {maps} devices per level", ["fault", "corrupted %", "edmn", "adaptive"], rows)


def main() -> None:
    """Collect logits, train, and print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("model", type=Path)
    parser.add_argument("--maps", type=int, default=20)
    parser.add_argument("--known-maps", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = Lab(options.directory, options.model, options.cache)
    print(f"# MNIST, {options.maps} fault maps per level, 10,000 test images\n")
    print("Gain in points with its 95 % interval over maps, and the share of the lost accuracy that is back.")
    unseen(lab, options.maps, options.processes)
    if options.known_maps:
        known(lab, options.known_maps, options.processes)


if __name__ == "__main__":
    main()
