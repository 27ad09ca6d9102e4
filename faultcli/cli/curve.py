"""What `campaign --curve` and `--find-max-ber` show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from faultcli.cli.console import note, progress, say, stdout, write_json
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.campaign.curves import CurveResult, Look
    from faultcli.campaign.plan import Plan, Question
    from faultcli.campaign.records import Failure, Record
    from faultcli.campaign.strata import FlipCurve

WIDEST = "1e-8:1e-2"  # what --find-max-ber looks through if no range is named
CURVE_TRIALS = 300
MOST_TRIALS = 5000  # where the curve itself says when it has enough


def ask(
    curve: str | None, find_max_ber: bool, min_accuracy: float | None, others: Mapping[str, object], *, quiet: bool
) -> Question | None:
    """Return what is asked of a curve, None if there is to be none, and say where its rates come from.

    Args:
        curve, find_max_ber, min_accuracy: the options of these names.
        others: by option, what is given for those that mean nothing beside a curve; None if nothing is.
        quiet: say nothing.
    """
    from faultcli.campaign.plan import Question
    from faultcli.faults.memories import parse_range

    if curve is None and not find_max_ber:
        return None
    option = "--find-max-ber" if find_max_ber else "--curve"
    if find_max_ber and min_accuracy is None:
        raise UsageError("--find-max-ber: of which accuracy?", "name it: --find-max-ber --min-accuracy 0.9")
    if min_accuracy is not None and not find_max_ber:
        raise UsageError("--min-accuracy: is no gate of a curve", "ask for the rate: --find-max-ber --min-accuracy A")
    if others["--shard"]:
        problem = f"--shard: the trials of {option} depend on those before, so that no part runs alone"
        raise UsageError(problem, "share them out with --workers or --ray")
    for name, given in others.items():
        if given:
            raise UsageError(f"{name}: means nothing beside {option}, which measures all rates", f"leave {name} out")
    question = Question(parse_range(curve or WIDEST), min_accuracy)
    memory = question.axis.memory
    if memory is not None and memory.explanation is not None:
        note(f"at the end of the range, {memory.explanation}", quiet=quiet)
    return question


@contextmanager
def watching_curves(plan: Plan, quiet: bool) -> Iterator[Look]:
    """Give what is to be called with every trial: it moves a bar on a terminal."""
    from faultcli.cli.running import Tally

    with progress(quiet) as display:
        tally = Tally(display, len(plan.arms), plan.trials)
        said: tuple[int, int] | None = None

        def look(found: Record | Failure, curve: FlipCurve, kept: bool) -> None:
            nonlocal said
            tally.count(found.arm, kept=kept)
            if said != (found.arm, curve.trials) and not display.disable:
                said = found.arm, curve.trials
                width = f" ± {100 * curve.half_width():.1f}" if curve.trials else ""
                tally.say(f"{plan.arms[found.arm].label}{width}")

        yield look


def show_curves(result: CurveResult, json: str | None, *, quiet: bool) -> None:
    """Print curves."""
    from faultcli.report.curve import curve_document, curve_lines, curve_tables

    write_json(curve_document(result), json)
    if json != "-":
        for table in curve_tables(result):
            stdout().print(table)
        say(*curve_lines(result))
        note(f"seed {result.plan.seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
