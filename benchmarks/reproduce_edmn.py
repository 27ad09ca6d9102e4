"""Logits correction over many networks, as Markdown on stdout: EDMN as published beside the methods of this package.

    python -m benchmarks.reproduce_edmn DATA [NETWORK...] [--kept DIR] [--results DIR] [--quick]

DATA holds `mnist/` (the four IDX files) and `cifar10/` (the two .npz files and, for the networks that are not trained
here, their checkpoints). Networks are those of benchmarks/correction/networks.py, all if none is named; the tables say
which the method was developed on and which are held out. FILE.safetensors is a network, too, if its architecture is
built in. Everything is trained with its defaults, and judged on fault maps, inputs and, but for one, levels that it was
not trained on.

Weights, logits and what published methods did are kept in DIR (default `correction-runs`), what `mixture` and
`adaptive` did in `--results` (default DIR/results): the same command goes on where it stopped, and after a change of
the method another `--results` costs minutes. Processes may share a DIR if they work on different networks. `--quick` is
a look at whether it runs, not a result.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.correction.logits import Lab, plain
from benchmarks.correction.outcomes import (
    bounds,
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
from benchmarks.correction.settings import Setting, arguments, asked
from benchmarks.correction.windows import Outcome
from faultcli.recover.base import Card
from faultcli.recover.damaged_logits import Copy, LabelledLogits
from faultcli.recover.methods import train_corrector

OWN = ("mixture", "adaptive")
METHODS = ("edmn", "align", *OWN)
KNOWN = "known damage: "
LEAST_FAIR = 0.05  # share back by a fair window, below which there is nothing to compare half a window with
FAIR, HALF = "as in training", "half of the classes"


@dataclass(frozen=True)
class Measured:
    """What one network gave."""

    setting: Setting
    outcomes: Sequence[Outcome]

    @property
    def role(self) -> str:
        return self.setting.network.role

    @property
    def levels(self) -> list[str]:
        return list(self.setting.levels.judged)

    def of(self, level: str, method: str = "adaptive", mix: str = FAIR) -> list[Outcome]:
        return [o for o in self.outcomes if (o.level, o.method, o.mix) == (level, method, mix)]

    def back(self, level: str, method: str = "adaptive", mix: str = FAIR, *, everything: bool = False) -> float | None:
        """Return the share of the loss that is back, on inputs like the window's or on all classes."""
        found, end = self.of(level, method, mix), "_all" if everything else ""
        if not found:
            return None
        return share_back(*([getattr(o, part + end) for o in found] for part in ("clean", "corrupted", "corrected")))


def own_methods(lab: Lab, name: str, results: Path) -> Iterator[Outcome]:
    """Judge them on every map, for windows of the class mix of training; `adaptive` for half of the classes, too."""
    judge = judge_of(lab, name)
    methods = OWN if lab.sizes.known_maps else OWN[-1:]
    correctors = {method: trained(lab, method, name, results) for method in methods}
    for level in ("none", *lab.levels.judged):
        for one in lab.judged(level):
            for method, corrector in correctors.items():
                for mix in (FAIR, HALF) if method == "adaptive" else (FAIR,):
                    yield looked_at(lab, judge, corrector, method, level, one, mix, lab.sizes.window)


def other_methods(lab: Lab, name: str, results: Path) -> Iterator[Outcome]:
    """Judge `align`, and where known damage is looked at, EDMN for unseen damage and both methods for known damage."""
    judge = judge_of(lab, name)
    methods = ("edmn", "align") if lab.sizes.known_maps else ("align",)
    correctors = {method: trained(lab, method, name, results) for method in methods}
    for level in ("none", *lab.levels.judged):
        for one in lab.judged(level):
            for method, corrector in correctors.items():
                yield looked_at(lab, judge, corrector, method, level, one, FAIR, lab.sizes.window)
    if not lab.sizes.known_maps:
        return
    clean, labels = lab.healthy["training.logits"], lab.healthy["training.labels"]
    for level in lab.levels.judged:
        for trial, (training, test) in enumerate(lab.known(level)):
            data = LabelledLogits(clean, labels, (Copy(plain(level), trial, training),))
            for method in ("edmn", "adaptive"):
                correction = train_corrector(method, data, Card(10, "known damage")).observe()
                yield judge.outcome(level, trial, KNOWN + method, FAIR, 0, labels.numpy(), correction, test)


def main_table(found: Sequence[Measured]) -> None:
    rows = []
    for one in found:
        for level in one.levels:
            fair, half = one.of(level), one.of(level, mix=HALF)
            gains = [o.gain_all for o in fair]
            predicted = mean([o.predicted or 0.0 for o in fair])
            rows.append([
                one.setting.name, one.role, plain(level), f"{100 * mean([o.corrupted_all for o in fair]):.2f}",
                points(gains), percent(one.back(level, everything=True)), f"{100 * predicted:+.2f}",
                f"{sum(bool(o.covered) for o in fair)} of {sum(o.covered is not None for o in fair)}",
                f"{sum(o.refused for o in fair)} of {len(fair)}",
                points([o.gain for o in half]), percent(one.back(level, mix=HALF)),
                points([o.gain_all for o in half]), percent(one.back(level, mix=HALF, everything=True)),
            ])  # fmt: skip
    columns = [
        "network",
        "role",
        "fault",
        "corrupted %",
        "fair window: gain",
        "back",
        "predicted",
        "covered",
        "refused",
    ]
    columns += ["half, same classes: gain", "back", "half, all classes: gain", "back"]
    table("Adaptive on unseen damage", columns, rows)


def healthy_table(found: Sequence[Measured]) -> None:
    rows = []
    for one in found:
        healthy = one.of("none")
        if healthy:
            gains = [[o.gain_all for o in one.of("none", method)] for method in METHODS]
            cells = [points(some) if some else "" for some in gains]
            rows.append([one.setting.name, one.role, f"{100 * healthy[0].clean_all:.2f}", *cells])
    table("The healthy model: change in points", ["network", "role", "accuracy %", *METHODS], rows)


def methods_table(found: Sequence[Measured]) -> None:
    rows = []
    for one in found:
        for level in one.levels:
            cells = []
            for method in METHODS:
                gains = [o.gain_all for o in one.of(level, method)]
                share = percent(one.back(level, method, everything=True))
                cells.append(f"{100 * mean(gains):+.2f}, {share}".removesuffix(", ") if gains else "")
            rows.append([one.setting.name, one.role, plain(level), *cells])
    table("Methods on unseen damage: gain in points, share back", ["network", "role", "fault", *METHODS], rows)


def known_table(found: Sequence[Measured]) -> None:
    rows = []
    for one in found:
        for level in one.levels:
            devices = one.of(level, KNOWN + "edmn")
            if devices:
                back = [percent(one.back(level, KNOWN + method)) for method in ("edmn", "adaptive")]
                corrupted = f"{100 * mean([o.corrupted for o in devices]):.2f}"
                rows.append([one.setting.name, one.role, plain(level), str(len(devices)), corrupted, *back])
    columns = ["network", "role", "fault", "devices", "corrupted %", "edmn: back", "adaptive: back"]
    if rows:
        table("Known damage: trained on the device's own logits, with labels", columns, rows)


@dataclass(frozen=True)
class Goal:
    """A number per network and level, and what it should reach; `at` None: on every level."""

    what: str
    at: str | None
    least: float
    value: Callable[[Measured, str], float | None]


def _low(one: Measured, level: str) -> float | None:
    low = bounds([o.gain_all for o in one.of(level)])[0]
    return None if low is None else 100 * low


def _back(one: Measured, level: str) -> float | None:
    share = one.back(level, everything=True)
    return None if share is None else 100 * share


def _accepted(one: Measured, level: str) -> float | None:
    return 100 * mean([not o.refused for o in one.of(level)])


def _half_beside_fair(one: Measured, level: str) -> float | None:
    """Return what half windows give back, of what fair ones do, in %; both on inputs like their own."""
    half, fair = one.back(level, mix=HALF), one.back(level)
    return None if half is None or fair is None or fair < LEAST_FAIR else 100 * half / fair


def _miscalibrated(one: Measured, level: str) -> float | None:
    """Return minus the distance between predicted and real gain, in points."""
    fair = one.of(level)
    return -100 * abs(mean([o.predicted or 0.0 for o in fair]) - mean([o.gain_all for o in fair]))


GOALS = (
    Goal("lower bound of the gain, points", None, -0.15, _low),
    *(Goal(f"share back at {level}, %", level, least, _back) for level, least in (
        ("gaussian:0.05", 65), ("gaussian:0.07", 90), ("gaussian:0.12", 80), ("zero:0.7", 93), ("zero:0.85", 90),
        ("bitflip:3e-5", 65), ("bitflip:1e-4", 60), ("bitflip:2e-4", 40),
    )),
    Goal("fair windows accepted, %", None, 97, _accepted),
    Goal("half windows beside fair ones, %", None, 80, _half_beside_fair),
    Goal("minus |predicted − real gain|, points", None, -2, _miscalibrated),
)  # fmt: skip


def goals_table(found: Sequence[Measured]) -> None:
    rows = []
    for role in ("development", "held out", "given"):
        for goal in GOALS:
            values = [
                (value, one.setting.name, plain(level))
                for one in found
                for level in one.levels
                if one.role == role and goal.at in (None, plain(level))
                if (value := goal.value(one, level)) is not None
            ]
            if values:
                met = sum(value >= goal.least for value, _, _ in values)
                worst, name, level = min(values)
                where = f"{worst:.2f} ({name}, {level})"
                rows.append([role, goal.what, f"{goal.least:g}", f"{met} of {len(values)}", where])
    columns = ["networks", "goal", "at least", "met, of networks × levels", "worst"]
    table("Goals", columns, rows)


def main() -> None:
    """Measure what is not measured yet, and print every table."""
    parser = arguments(__doc__)
    parser.add_argument("--adaptive-only", action="store_true", help="leave out other methods and known damage")
    options = parser.parse_args()
    results = options.results or options.kept / "results"
    torch.set_num_threads(1)
    found = []
    for setting in asked(options.network, quick=options.quick):
        path = results / f"{setting.name}.jsonl"
        if options.only_kept and not path.exists():
            print(f"{setting.name}: not measured yet", file=sys.stderr)
            continue
        lab, others = setting.lab(options.data, options.kept), options.kept / "others"
        own = kept(path, partial(own_methods, lab, setting.name, results))
        beside = others / ("quick" if options.quick else "") / f"{setting.name}.jsonl"
        left_out = (options.only_kept or options.adaptive_only) and not beside.exists()
        more = [] if left_out else kept(beside, partial(other_methods, lab, setting.name, beside.parent))
        found.append(Measured(setting, [*own, *more]))
    if not found:
        sys.exit(f"{results}: nothing was measured yet; leave out --only-kept")
    sizes = found[0].setting.sizes
    print(f"# Logits correction on {len({one.setting.network.name for one in found})} networks")
    print(
        f"\n{sizes.maps} fault maps per level, {sizes.test} test images, windows of {sizes.window}, unless said;"
        "\nmean gain in points with its 95 % interval over maps, and the share of the lost accuracy that is back."
    )
    for show in (goals_table, main_table, healthy_table, methods_table, known_table):
        show(found)


if __name__ == "__main__":
    main()
