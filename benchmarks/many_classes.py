"""Logits correction with 100 and 1000 classes under Gaussian noise, as Markdown on stdout.

    python -m benchmarks.many_classes DATA [NETWORK...] [--kept DIR] [--results DIR] [--quick]

Networks: `squeezenet`, `mobilenet` (DATA/imagenet: `images/`, `classes.csv` and the checkpoints) and `digit-pairs`
(DATA/mnist; it is trained here), all if none is named. Correctors are trained with their defaults and judged on fault
maps, inputs and levels that they were not trained on; `adaptive` is `many` with so many classes. Of the 500 ImageNet
images five random splits into a window, a part to train on and a part to report on are made, which never meet.

Weights and logits are kept in DIR (default `correction-runs`), what correctors did in `--results` (default
DIR/results): the same command goes on where it stopped, and after a change of the method another `--results` takes
minutes. `--quick` is a look at whether it runs, not a result: the pairs of digits on few inputs and maps.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.correction.imagenet import IMAGENET, SPLITS, WINDOW, Pictured, Pictures, Split
from benchmarks.correction.logits import Lab
from benchmarks.correction.outcomes import (
    judge_of,
    kept,
    looked_at,
    mean,
    percent,
    points,
    share_back,
    table,
    trained,
)
from benchmarks.correction.pairs import PAIRS
from benchmarks.correction.settings import QUICK, arguments
from benchmarks.correction.windows import Judge, Outcome
from faultcli.errors import FaultcliError, unknown_name
from faultcli.recover.base import Card
from faultcli.recover.damaged_logits import Copy
from faultcli.recover.methods import TrainingOptions, train_corrector

METHODS = ("adaptive", "align")
SIZES = (200, 1000, 5000)  # of windows of pairs of digits
FAIR, MIXES = "as in training", ("half of the classes", "random shares")


def pictures(network: Pictured, directory: Path, logits: Path) -> Iterator[Outcome]:
    """Train on every split of the ImageNet images, and judge on every map."""
    lab = Pictures(network, directory, logits)
    data, clean, labels = lab.training_data(), lab.healthy.clean, lab.healthy.labels
    judged = [Copy("none", 0, clean), *(copy for sigma in network.judged for copy in lab.judged(sigma))]
    for number in range(SPLITS):
        split = Split.draw(len(labels), number)
        reported = labels[split.report].numpy()
        judge = Judge(network.name, reported, clean[split.report])
        for method in METHODS:
            card, options = Card(data.classes, seed=number), TrainingOptions(WINDOW)
            corrector = train_corrector(method, data.rows(split.training), card, options)
            for copy in judged:
                correction = corrector.observe(copy.logits[split.window])
                test = copy.logits[split.report]
                yield judge.outcome(copy.fault, copy.trial, method, FAIR, WINDOW, reported, correction, test)


def digits(lab: Lab, name: str, results: Path) -> Iterator[Outcome]:
    """Train for windows of every size, and judge on every map; on windows of other class mixes, too."""
    judge = judge_of(lab, name)
    sizes = [size for size in SIZES if size <= lab.sizes.largest]
    for size in sizes:
        correctors = {method: trained(lab, method, f"{name}-{size}", results, size) for method in METHODS}
        for level in ("none", *lab.levels.judged):
            for one in lab.judged(level):
                for method, corrector in correctors.items():
                    for mix in (FAIR, *MIXES) if method == "adaptive" else (FAIR,):
                        yield looked_at(lab, judge, corrector, method, level, one, mix, size)


def back(outcomes: Sequence[Outcome], end: str = "_all") -> str:
    """Return the share of the loss that is back, on all classes or (`end` empty) on inputs like the window's."""
    return percent(share_back(*([getattr(o, part + end) for o in outcomes] for part in _ACCURACIES)))


_ACCURACIES = ("clean", "corrupted", "corrected")


def by_map(outcomes: Sequence[Outcome]) -> str:
    """Return the gain in points with its interval over fault maps, each the mean of its splits."""
    gains: dict[int, list[float]] = {}
    for one in outcomes:
        gains.setdefault(one.trial, []).append(one.gain_all)
    return points([mean(some) for some in gains.values()])


def some(found: Sequence[Outcome], level: str, size: int, method: str, mix: str = FAIR) -> list[Outcome]:
    return [o for o in found if (o.level, o.size, o.method, o.mix) == (level, size, method, mix)]


def fair_rows(found: Sequence[Outcome], role: str) -> list[list[str]]:
    rows = []
    for level, size in dict.fromkeys((o.level, o.size) for o in found):
        own, aligned = (some(found, level, size, method) for method in METHODS)
        rows.append([
            own[0].network, role, str(size), level,
            *(f"{100 * mean([getattr(o, part) for o in own]):.1f}" for part in ("clean_all", "corrupted_all")),
            by_map(own), back(own), f"{100 * mean([o.predicted or 0.0 for o in own]):+.2f}",
            f"{sum(o.alone for o in own)} of {len(own)}", by_map(aligned), back(aligned),
        ])  # fmt: skip
    return rows


def mix_rows(found: Sequence[Outcome]) -> list[list[str]]:
    rows = []
    for level, size in dict.fromkeys((o.level, o.size) for o in found):
        for mix in (FAIR, *MIXES):
            own = some(found, level, size, "adaptive", mix)
            gains = [[getattr(o, gain) for o in own] for gain in ("gain", "gain_all")]
            rows.append([
                str(size), level, mix, points(gains[0]), back(own, ""), points(gains[1]), back(own),
                f"{100 * min(gains[0]):+.1f}", f"{sum(o.alone for o in own)} of {len(own)}",
            ])  # fmt: skip
    return rows


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    options = arguments(__doc__).parse_args()
    results, setting = options.results or options.kept / "results", PAIRS
    if options.quick:
        setting = replace(PAIRS, sizes=replace(QUICK, maps=2, mixed_maps=2, largest=200))
    torch.set_num_threads(1)
    by_name = {network.name: network for network in IMAGENET}
    rows, mixes = [], []
    for name in options.network or [*by_name, setting.name]:
        path = results / f"{name}-many.jsonl"
        if options.only_kept and not path.exists():
            print(f"{name}: not measured yet", file=sys.stderr)
        elif name == setting.name:
            lab = setting.lab(options.data, options.kept)
            found = kept(path, partial(digits, lab, name, results))
            rows += fair_rows(found, setting.network.role)
            mixes += mix_rows(found)
        elif name in by_name:
            lab_of = partial(pictures, by_name[name], options.data / "imagenet", options.kept / "logits" / "imagenet")
            rows += fair_rows(kept(path, lab_of), by_name[name].role)
        else:
            raise unknown_name("network", name, [*by_name, setting.name])
    print("# Logits correction with 100 and 1000 classes\n\nGains in points with 95 % intervals over fault maps.")
    columns = ["network", "role", "window", "level", "clean %", "corrupted %", "`many`: gain", "back", "predicted"]
    table("Windows with the class mix of training", [*columns, "left alone", "`align`: gain", "back"], rows)
    columns = ["window", "level", "class mix", "same classes: gain", "back", "all classes: gain", "back"]
    if mixes:
        table("Windows of pairs of digits, `many`", [*columns, "worst (same classes)", "left alone"], mixes)


if __name__ == "__main__":
    try:
        main()
    except FaultcliError as error:
        print(f"{error.message}: {error.remedy}", file=sys.stderr)
        sys.exit(2)
