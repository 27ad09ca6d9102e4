"""Which windows `adaptive` refuses, and which it should have: networks, levels, sizes and class mixes, as Markdown.

    python -m benchmarks.window_mixes DATA [NETWORK...] [--kept DIR] [--results DIR] [--quick]

DATA, networks and folders are those of `python -m benchmarks.reproduce_edmn`, and both share what they keep. A false
alarm is a window with the class mix of training that is refused. A miss is a window that is not refused and costs more
than 0.5 points, on test inputs of the window's own mix, or on test inputs of all classes. What a refused window would
have gained is measured without the test.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.correction.logits import Lab, plain
from benchmarks.correction.outcomes import judge_of, kept, looked_at, mean, table, trained
from benchmarks.correction.settings import arguments, asked
from benchmarks.correction.windows import MIXES, Outcome
from faultcli.recover.adaptive.corrector import Adaptive
from faultcli.recover.base import Corrector

SIZES = (200, 500, 1000, 5000)
COST = 0.005  # of accuracy: a correction that costs more should have been refused
FAIR = "as in training"
TRUSTING = "adaptive without the test"


def trusting(corrector: Corrector) -> Corrector:
    """Return the corrector without the test that refuses windows."""
    assert isinstance(corrector, Adaptive)
    return replace(corrector, trust=None)


def measure(lab: Lab, name: str, results: Path) -> Iterator[Outcome]:
    """Show `adaptive` windows of every mix and size; those that it refuses once more without the test."""
    judge, corrector = judge_of(lab, name), trained(lab, "adaptive", name, results)
    for level in ("none", *lab.levels.judged):
        for one in lab.judged(level):
            if one.trial >= lab.sizes.mixed_maps:
                break
            for mix in MIXES:
                for size in (size for size in SIZES if size <= lab.sizes.largest):
                    found = looked_at(lab, judge, corrector, "adaptive", level, one, mix, size)
                    yield found
                    if found.refused:
                        yield looked_at(lab, judge, trusting(corrector), TRUSTING, level, one, mix, size)


def counted(windows: Sequence[Outcome], without: Sequence[Outcome]) -> list[str]:
    """Return the cells on some windows, and on what those that are refused do without the test."""
    n = len(windows)
    refused = sum(o.refused for o in windows)
    missed = [
        sum(gain < -COST for gain in gains) for gains in ([o.gain for o in windows], [o.gain_all for o in windows])
    ]
    cells = [str(n), f"{100 * refused / n:.1f}", *(f"{100 * count / n:.1f}" for count in missed)]
    worst = 100 * min(o.gain for o in windows)
    needless = str(sum(o.gain > COST for o in without))
    rightly = str(sum(o.gain < -COST for o in without))
    return [*cells, f"{worst:+.1f}", f"{100 * mean([o.gain for o in windows]):+.2f}", needless, rightly]


COUNTED = ["windows", "refused %", "missed %", "missed % (all classes)", "worst, points", "mean gain, points"]
COUNTED += ["refused, would gain", "refused, would cost"]


def tables(found: Sequence[Outcome], role: str) -> None:
    """Print the counts by mix and size, and by network and level."""
    windows = [o for o in found if o.method == "adaptive" and o.level != "none"]
    without = [o for o in found if o.method == TRUSTING]

    def rows(keys: Sequence[tuple[str, ...]], key: Callable[[Outcome], tuple[str, ...]]) -> list[list[str]]:
        return [
            [*one, *counted(some, [o for o in without if key(o) == one])]
            for one in keys
            if (some := [o for o in windows if key(o) == one])
        ]

    mixes = [(mix, str(size)) for mix in MIXES for size in SIZES]
    by_mix = rows(mixes, lambda o: (o.mix, str(o.size)))
    table(f"{role}: by class mix and size of the window", ["class mix", "size", *COUNTED], by_mix)
    kinds = (FAIR, "other mixes")
    names = list(dict.fromkeys((o.network, plain(o.level)) for o in windows))
    keys = [(*name, kind) for name in names for kind in kinds]
    by_network = rows(keys, lambda o: (o.network, plain(o.level), FAIR if o.mix == FAIR else kinds[1]))
    table(f"{role}: by network and level", ["network", "fault", "class mix", *COUNTED], by_network)
    healthy = [o for o in found if o.level == "none"]
    touched = sum(not o.alone for o in healthy)
    print(f"\nOf {len(healthy)} windows of healthy models {touched} were corrected.")


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    options = arguments(__doc__).parse_args()
    results = options.results or options.kept / "results"
    torch.set_num_threads(1)
    found: dict[str, list[Outcome]] = {"development": [], "held out": [], "given": []}
    for setting in asked(options.network, quick=options.quick):
        path = results / f"{setting.name}-mixes.jsonl"
        if not setting.sizes.mixed_maps or (options.only_kept and not path.exists()):
            print(f"{setting.name}: not measured", file=sys.stderr)
            continue
        lab = setting.lab(options.data, options.kept)
        found[setting.network.role] += kept(path, partial(measure, lab, setting.name, results))
    print("# Windows of other class mixes\n\nA window that a class runs short for is smaller than said.")
    for role, outcomes in found.items():
        if outcomes:
            tables(outcomes, role.capitalize())


if __name__ == "__main__":
    main()
