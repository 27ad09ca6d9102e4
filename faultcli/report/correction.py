"""What `train-corrector` found, as table, JSON, Markdown and plot: gain against severity, and where it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from faultcli.campaign.statistics import Interval, mean_interval
from faultcli.errors import UsageError
from faultcli.recover.base import Corrector
from faultcli.recover.training.assess import Level
from faultcli.recover.training.experiment import TrainedCorrector
from faultcli.report.layout import new_table
from faultcli.report.numbers import UNDEFINED, percent
from faultcli.report.text import counted, markdown, printable
from faultcli.workload.measures import UNBOUNDED

SCHEMA = "faultcli.corrector/1"
REPORT_SUFFIXES = (".md", ".svg", ".png")
_PREDICTED = 6  # place of the predicted gain among the cells of a level


def gain_interval(level: Level, confidence: float = 0.95) -> Interval | None:
    """Return the mean gain in top-1 accuracy over held-out maps with its interval."""
    return mean_interval(level.gains, confidence=confidence, bounds=(-1.0, 1.0))


def loss_interval(level: Level, confidence: float = 0.95) -> Interval | None:
    """Return the mean fall of the cross entropy in nats over held-out maps with its interval."""
    return mean_interval(level.loss_falls, confidence=confidence, bounds=UNBOUNDED)


def verdict(level: Level) -> str:
    """Say whether the gain is surely positive, surely negative, or neither; of a language model, the fall of its
    loss."""
    interval = loss_interval(level) if level.tokens else gain_interval(level)
    falls = level.loss_falls if level.tokens else level.gains
    if interval is None or interval.low is None or interval.high is None:
        return UNDEFINED
    if min(falls) == max(falls) == 0:
        return "left alone"
    return "helps" if interval.low > 0 else "harms" if interval.high < 0 else "not decided"


def correction_document(output: Path | None, trained: TrainedCorrector) -> dict[str, Any]:
    """Return the result as JSON takes it. Accuracies and gains are fractions; what is undefined is null."""
    corrector = trained.corrector
    numbers = [one.correction.numbers for level in trained.levels for one in level.maps]
    return {
        "schema": SCHEMA,
        "output": None if output is None else str(output),
        "method": corrector.name,
        "setting": corrector.card.setting,
        "model": corrector.card.model or None,
        "classes": corrector.card.classes,
        "parameters": max(numbers, default=0),
        "levels": [_level(level) for level in trained.levels],
        "remarks": list(trained.remarks),
    }


def _level(level: Level) -> dict[str, Any]:
    gain = gain_interval(level)
    corrupted, corrected = (
        mean_interval([getattr(one, w).top1 for one in level.maps]) for w in ("corrupted", "corrected")
    )
    decisions: dict[str, int] = {}
    for one in level.maps:
        decisions[one.correction.decision] = decisions.get(one.correction.decision, 0) + 1
    foreseen = level.predicted_interval
    return {
        "fault": level.fault,
        "maps": len(level.maps),
        "clean_accuracy": level.clean.top1,
        "corrupted": _interval(corrupted),
        "corrected": _interval(corrected),
        "gain": _interval(gain),
        "share_back": level.share_back,
        "verdict": verdict(level),
        "severity": level.severity,
        "predicted_gain": level.predicted_gain,
        "predicted_interval": None if foreseen is None else {"low": foreseen[0], "high": foreseen[1]},
        "predicted_covers": level.predicted_covers,
        "decisions": decisions,
        **({} if not level.tokens else {"tokens": _tokens(level)}),
    }


def _tokens(level: Level) -> dict[str, Any]:
    """What else there is of a language model."""
    return {
        "clean_perplexity": level.clean.perplexity,
        "corrupted_perplexity": level.perplexity("corrupted"),
        "corrected_perplexity": level.perplexity("corrected"),
        "loss_fall": _interval(loss_interval(level)),
    }


def _interval(interval: Interval | None) -> dict[str, float | None] | None:
    return None if interval is None else {"mean": interval.mean, "low": interval.low, "high": interval.high}


def correction_table(trained: TrainedCorrector) -> Table:
    """Return one row per level; accuracies in percent, gains in points, of a language model also perplexities."""
    levels, inputs = trained.levels, trained.inputs
    about = f"{trained.corrector.name}, {trained.corrector.card.setting}"
    if any(level.tokens for level in levels):
        return _token_table(f"{about}: next tokens, {counted(inputs, 'held-out token')}", levels)
    table = new_table(
        f"{about}: top-1 accuracy in % on {counted(inputs, 'held-out input')}",
        fault="left",
        maps="right",
        corrupted="right",
        corrected="right",
        **{"gain_[95_%]": "right"},
        back="right",
        predicted="right",
        verdict="left",
    )
    for level in levels:
        table.add_row(*_cells(level))
    return table


def _token_table(title: str, levels: Sequence[Level]) -> Table:
    columns = {"accuracy_%": "right", "gain_[95_%]": "right", "perplexity": "right", "nats_back_[95_%]": "right"}
    table = new_table(title, fault="left", maps="right", **columns, verdict="left")
    for level in levels:
        fault, maps, corrupted, corrected, gain, *_, perplexity, nats, said = _cells(level)
        table.add_row(fault, maps, f"{corrupted} → {corrected}", gain, perplexity, nats, said)
    return table


def _cells(level: Level) -> list[str]:
    gain, predicted, back = gain_interval(level), level.predicted_gain, level.share_back
    return [
        level.fault,
        str(len(level.maps)),
        percent(level.mean("corrupted"), 2),
        percent(level.mean("corrected"), 2),
        "+0.00" if verdict(level) == "left alone" else points(gain),
        UNDEFINED if back is None or abs(level.clean.top1 - level.mean("corrupted")) < 1e-4 else f"{100 * back:.0f} %",
        UNDEFINED if predicted is None else f"{100 * predicted:+.2f}",
        *(_token_cells(level) if level.tokens else ()),
        verdict(level),
    ]


def _token_cells(level: Level) -> tuple[str, str]:
    """Perplexity before and after, and by how many nats per token the loss fell."""
    shown = [level.perplexity(which) for which in ("corrupted", "corrected")]
    before, after = (UNDEFINED if value is None else f"{value:.4g}" for value in shown)
    fall = loss_interval(level)
    if fall is None:
        return f"{before} → {after}", UNDEFINED
    ends = "" if fall.low is None or fall.high is None else f" [{fall.low:+.3f}, {fall.high:+.3f}]"
    return f"{before} → {after}", "+0.000" if verdict(level) == "left alone" else f"{fall.mean:+.3f}{ends}"


def _predicted(gain: float, interval: tuple[float, float] | None) -> str:
    if interval is None or interval[0] == interval[1]:
        return f"{100 * gain:+.2f}"
    return f"{100 * gain:+.1f} [{100 * interval[0]:+.0f}, {100 * interval[1]:+.0f}]"


def points(interval: Interval | None) -> str:
    """Write a gain in percentage points with its interval."""
    if interval is None:
        return UNDEFINED
    if interval.low is None or interval.high is None:
        return f"{100 * interval.mean:+.2f}"
    return f"{100 * interval.mean:+.2f} [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"


def check_report(path: Path) -> None:
    """Refuse a report of a kind that is not known.

    Raises:
        UsageError: says which are.
    """
    if path.suffix not in REPORT_SUFFIXES:
        kind = path.suffix or "files without a suffix"
        raise UsageError(f"--report {path}: cannot write {kind}", f"end the name in {', '.join(REPORT_SUFFIXES)}")


def write_report(path: Path, trained: TrainedCorrector, *, force: bool = False) -> None:
    """Write gain against severity: `.md` as a table, `.svg` or `.png` as a plot. `force` replaces an existing file.

    Raises:
        UsageError: another suffix.
        OutputError: it cannot be written.
    """
    from faultcli.files import atomic_output

    check_report(path)
    with atomic_output(path, force=force) as partial:
        if path.suffix == ".md":
            partial.write_text(_markdown(trained), encoding="utf-8")
        else:
            _plot(partial, path.suffix[1:], trained.corrector, trained.levels)


def _markdown(trained: TrainedCorrector) -> str:
    corrector, levels, inputs = trained.corrector, trained.levels, trained.inputs
    tokens = any(level.tokens for level in levels)
    unit, more = ("token", ("perplexity", "nats back")) if tokens else ("input", ())
    head = ("fault", "maps", "severity", "corrupted %", "corrected %", "gain, points", "back", "predicted", *more)
    head = (*head, "verdict")
    lines = [
        f"# Logits correction: {markdown(corrector.name)}, {corrector.card.setting}",
        "",
        f"{counted(inputs, f'held-out {unit}')}, {_maps(corrector)}; intervals are 95 % over maps. Severity "
        "is what the corrector itself estimates from unlabelled logits; predicted is the gain that it expects, "
        "with the interval that it gives for one map.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for level in levels:
        cells = [markdown(level.fault), *_cells(level)[1:]]
        if level.predicted_gain is not None:
            cells[_PREDICTED] = _predicted(level.predicted_gain, level.predicted_interval)
        severity = UNDEFINED if level.severity is None else f"{level.severity:.3f}"
        lines.append("| " + " | ".join([*cells[:2], severity, *cells[2:]]) + " |")
    sure = [markdown(level.fault) for level in levels if verdict(level) == "helps"]
    foreseen = [markdown(level.fault) for level in levels if (level.predicted_gain or 0) > 0]
    lines += ["", f"The gain is surely positive at: {', '.join(sure) or 'no level'}."]
    if any(level.predicted_gain is not None for level in levels):
        lines.append(f"The corrector itself expected to help at: {', '.join(foreseen) or 'no level'}.")
    helped = [level for level in levels if level.predicted_covers is not None and (level.predicted_gain or 0) > 0]
    if helped:
        inside, maps = sum(level.predicted_covers or 0 for level in helped), sum(len(level.maps) for level in helped)
        lines.append(f"There, the gain of {inside} of {maps} maps lies in the interval that was predicted for it.")
    lines += [f"{remark[0].upper()}{remark[1:]}." for remark in trained.remarks]
    return "\n".join(lines) + "\n"


def _maps(corrector: Corrector) -> str:
    known = corrector.card.setting == "known damage"
    return "the very faults that it was trained on" if known else "fault maps that were not trained on"


def _plot(path: Path, kind: str, corrector: Corrector, levels: Sequence[Level]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "faultcli", "text.parse_math": False}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for number, level in enumerate(levels):
            lost = [100 * (level.clean.top1 - one.corrupted.top1) for one in level.maps]
            gains = [100 * gain for gain in level.gains]
            axes.scatter(lost, gains, s=14, alpha=0.6, color=f"C{number % 10}", label=printable(level.fault))
            known = [(x, 100 * one.correction.predicted_gain) for x, one in zip(lost, level.maps, strict=True)
                     if one.correction.predicted_gain is not None]  # fmt: skip
            if known:
                lost, gains = [x for x, _ in known], [y for _, y in known]
                axes.scatter(lost, gains, s=14, marker="x", alpha=0.4, color=f"C{number % 10}")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(
            xlabel="accuracy lost to the damage, points",
            ylabel="accuracy that comes back, points",
            title=f"{corrector.name}, {corrector.card.setting} (● measured, × predicted)",
        )
        axes.legend(fontsize="small")
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)
