"""Both tables of the EDMN paper, with EDMN as published and with `adaptive`, as Markdown on stdout.

    python examples/reproduce_edmn.py MNIST_DIR mnist-cnn.safetensors [--maps 20] [--known-maps 5] [--cache DIR]

MNIST_DIR holds the four IDX files, the checkpoint comes from examples/train_mnist.py. Minutes on two cores. Accuracy is
measured on all 10,000 test images, on fault maps that nothing was trained on; correctors are trained, and windows of
unlabelled inputs taken, on 5,000 training images. `--cache` keeps the logits for the next run.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from faultcli.campaign.statistics import mean_interval
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.memory import MemoryImage
from faultcli.recover.adaptive import unfair_windows
from faultcli.recover.base import Card, Corrector
from faultcli.recover.edmn import EdmnOptions
from faultcli.recover.logits import Copy, LabelledLogits
from faultcli.recover.methods import TrainingOptions, train_corrector
from faultcli.workload.architectures import ARCHITECTURES
from faultcli.workload.data import load_data, make_dataset
from faultcli.workload.evaluate import Workload
from faultcli.workload.models import load_model

GAUSSIAN = [f"gaussian:{sigma}" for sigma in (0.05, 0.1, 0.15, 0.2)]  # on every tensor
ZERO = [f"zero:{rho},include=fc2.weight" for rho in (0.2, 0.5, 0.8, 0.9)]
LEVELS = GAUSSIAN + ZERO
POOL, WINDOW, KNOWN = 5000, 1000, 20_000  # training images: drawn at random; of these, the window; the first ones
TRAINING_SEED, TRAINING_MAPS, REPORT_SEED, KNOWN_SEED = 1000, 6, 7, 0

Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (window, logits) → corrected logits
Way = Callable[[str], Scores]  # level → how logits are corrected there


class Lab:
    """The model in its memory, and its logits under fault maps."""

    def __init__(self, directory: str, path: Path, cache: Path | None) -> None:
        checkpoint, self.cache = Checkpoint.open(path), cache
        self.measured: dict[tuple[Way, str], list[float]] = {}
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


def compare(lab: Lab, title: str, levels: list[str], maps: int, columns: dict[str, Way]) -> None:
    """Print one row per level and one column per way to correct, all on the same fault maps. A way that is in several
    tables is measured once."""
    labels, clean = lab.test.labels, accuracy(lab.logits("none", 0, 1, lab.test, "test")[0], lab.test.labels)
    rows = []
    for level in ["none", *levels]:
        test = lab.logits(level, REPORT_SEED, maps, lab.test, "test")
        windows = lab.logits(level, REPORT_SEED, maps, lab.window, "window")
        corrupted = [accuracy(logits, labels) for logits in test]
        row = [level.removesuffix(",include=fc2.weight"), f"{100 * float(np.mean(corrupted)):.2f}"]
        for way in columns.values():
            if (way, level) not in lab.measured:
                correct = way(level)
                lab.measured[way, level] = [accuracy(correct(w, z), labels) for w, z in zip(windows, test, strict=True)]
            row.append(cell(corrupted, lab.measured[way, level], clean))
        rows.append(row)
        print(f"{title}: {level}", file=sys.stderr)
    table(title, ["fault", "corrupted %", *columns], rows)


def main() -> None:
    """Collect logits, train, and print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("model", type=Path)
    parser.add_argument("--maps", type=int, default=20)
    parser.add_argument("--known-maps", type=int, default=5)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    lab = Lab(options.directory, options.model, options.cache)
    clean = lab.logits("none", 0, 1, lab.window, "window")[0]
    copies = [
        Copy(level, trial, logits)
        for level in LEVELS
        for trial, logits in enumerate(lab.logits(level, TRAINING_SEED, TRAINING_MAPS, lab.window, "window"))
    ]
    rows = np.arange(WINDOW, POOL)  # what is trained on is not in the window
    data = LabelledLogits(clean, lab.window.labels, tuple(copies)).rows(rows)
    card = Card(10)
    align, mixture, adaptive = (train_corrector(name, data, card) for name in ("align", "mixture", "adaptive"))
    edmn = train_corrector("edmn", data, card)
    on_aligned = train_corrector("edmn", data, card, TrainingOptions(edmn=EdmnOptions(aligned=True)))
    per_level = {
        level: train_corrector("edmn", replace(data, copies=tuple(c for c in data.copies if c.fault == level)), card)
        for level in LEVELS
    }
    centre = data.clean.mean(0)

    def window_of(corrector: Corrector, size: int = WINDOW) -> Way:
        return lambda level: lambda window, logits: corrector.observe(window[:size])(logits)

    def chosen(kind: int) -> Way:
        def make(level: str) -> Scores:
            random = np.random.default_rng(LEVELS.index(level) if level in LEVELS else 99)

            def correct(window: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
                rows = list(unfair_windows(lab.window.labels.numpy(), WINDOW, random))[kind]
                return adaptive.observe(window[rows])(logits)

            return correct

        return make

    maps, at_hand = options.maps, window_of(adaptive)
    print(f"# MNIST, {maps} fault maps per level, 10,000 test images\n")
    print("Gain in points with its 95 % interval over maps, and the share of the lost accuracy that is back.")

    def one_per_level(level: str) -> Scores:
        correction = per_level.get(level, edmn).observe()
        return lambda window, logits: correction(logits)

    main_columns = {"edmn, one per level": one_per_level, "adaptive": at_hand}
    compare(lab, "Unseen damage: Gaussian noise on all tensors", GAUSSIAN, maps, main_columns)
    compare(lab, "Unseen damage: zeroed weights of fc2", ZERO, maps, main_columns)
    once = edmn.observe()
    compare(lab, "Ablation", LEVELS, maps, {
        "temperature": lambda level: lambda window, logits: logits / 2,
        "bias": lambda level: lambda window, logits: logits - window[:WINDOW].mean(0) + centre,
        "align": window_of(align),
        "mixture": window_of(mixture),
        "edmn, one for all": lambda level: lambda window, logits: once(logits),
        "edmn on aligned": window_of(on_aligned),
        "adaptive": at_hand,
    })  # fmt: skip
    compare(lab, "Adaptive: size of the window", LEVELS, maps, {
        str(size): at_hand if size == WINDOW else window_of(adaptive, size) for size in (50, 200, 1000, 5000)
    })  # fmt: skip
    compare(lab, "Adaptive: class mix of the window", LEVELS, maps, {
        "as in training": at_hand,
        "half of the classes": chosen(0),
        "every class at its own rate": chosen(2),
    })  # fmt: skip
    known(lab, options.known_maps)


def known(lab: Lab, maps: int) -> None:
    """Print what comes back when the device itself is at hand: trained on its logits of 20,000 training images."""
    labels, card, rows = lab.test.labels, Card(10, "known damage"), []
    clean_known = lab.logits("none", 0, 1, lab.known, "known")[0]
    clean = accuracy(lab.logits("none", 0, 1, lab.test, "test")[0], labels)
    for level in LEVELS if maps else []:
        corrupted, found = [], {"edmn": [], "adaptive": []}
        test = lab.logits(level, KNOWN_SEED, maps, lab.test, "test")
        for trial, logits in enumerate(lab.logits(level, KNOWN_SEED, maps, lab.known, "known")):
            data = LabelledLogits(clean_known, lab.known.labels, (Copy(level, trial, logits),))
            corrupted.append(accuracy(test[trial], labels))
            for name, accuracies in found.items():
                accuracies.append(accuracy(train_corrector(name, data, card).observe()(test[trial]), labels))
        row = [level.removesuffix(",include=fc2.weight"), f"{100 * float(np.mean(corrupted)):.2f}"]
        rows.append(row + [cell(corrupted, accuracies, clean) for accuracies in found.values()])
        print(f"known damage: {level}", file=sys.stderr)
    table(f"Known damage, {maps} devices per level", ["fault", "corrupted %", "edmn", "adaptive"], rows)


if __name__ == "__main__":
    main()
