"""Correctors trained and judged once per network, kept in files; and how means over fault maps are written down."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.correction.logits import JudgedMap, Lab
from benchmarks.correction.windows import Judge, Outcome
from faultcli.campaign.statistics import mean_interval
from faultcli.errors import FaultcliError
from faultcli.recover.base import Card, Corrector
from faultcli.recover.file import load_corrector, save_corrector
from faultcli.recover.methods import TrainingOptions, train_corrector


def trained(lab: Lab, method: str, name: str, results: Path, window: int | None = None) -> Corrector:
    """Return the corrector of a method for unseen damage, trained with its defaults; it is kept as a file.

    `window`: inputs per window that it is trained for, and a part of its `name`; None: as many as the lab says.
    """
    path = results / f"{name}-{method}.safetensors"
    try:
        return load_corrector(path)
    except FaultcliError:  # there is none yet, or one of another version
        started = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        data, options = lab.training_data(), TrainingOptions(window=window or lab.sizes.window)
        corrector = train_corrector(method, data, Card(data.classes), options)
        save_corrector(corrector, path, force=True)
        print(f"{name} {method} trained: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        return corrector


def kept(path: Path, measure: Callable[[], Iterator[Outcome]]) -> list[Outcome]:
    """Return what was measured into a file, or measure it now."""
    if not path.exists():
        started = time.perf_counter()
        found = [outcome.values() for outcome in measure()]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("\n".join(json.dumps(one) for one in found) + "\n")
        os.replace(part, path)
        print(f"{path.stem}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


def judge_of(lab: Lab, name: str) -> Judge:
    return Judge(name, lab.labels("test"), lab.healthy["test.logits"])


def looked_at(
    lab: Lab, judge: Judge, corrector: Corrector, method: str, level: str, one: JudgedMap, mix: str, size: int
) -> Outcome:
    """Show a corrector the first rows of a map's window of some class mix, and judge what it then does."""
    rows = lab.windows(level, one.trial)[mix][:size]
    correction = corrector.observe(one.window(rows) if corrector.needs_window else None)
    return judge.outcome(level, one.trial, method, mix, size, lab.labels("pool")[rows], correction, one.test)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def points(gains: Sequence[float]) -> str:
    """Return the mean gain in points with its 95 % interval over maps."""
    low, high = bounds(gains)
    if min(gains) == max(gains) or low is None:
        return f"{100 * mean(gains):+.2f}"
    return f"{100 * mean(gains):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def bounds(gains: Sequence[float]) -> tuple[float | None, float]:
    interval = mean_interval(gains, bounds=(-1, 1))
    return (None, 1.0) if interval is None or interval.low is None else (interval.low, interval.high)


def share_back(clean: Sequence[float], corrupted: Sequence[float], corrected: Sequence[float]) -> float | None:
    """Return (corrected − corrupted) / (clean − corrupted), of means; None where less than 0.05 points were lost."""
    lost = mean(clean) - mean(corrupted)
    return None if lost <= 5e-4 else (mean(corrected) - mean(corrupted)) / lost


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n### {title}\n\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()
