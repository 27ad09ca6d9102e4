"""faultcli curve: every bit-error rate from one set of trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note
from faultcli.cli.grouping import grouped
from faultcli.cli.groups import AtRisk, Configured, Hardening, Judged, Running, Stopping
from faultcli.cli.places import READS
from faultcli.errors import UsageError

WIDEST = "1e-8:1e-2"  # what --find-max-ber looks through if no range is named
CURVE_TRIALS = 300
MOST_TRIALS = 5000  # where the curve itself says when it has enough

RARE = (
    *("target", "include", "exclude", "window", "unlabelled", "batch_size", "device", "mean", "std", "answer", "score"),
    *("ray", "threads", "confidence"),
)
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] LOW:HIGH",
        help="Checkpoint (left out: the embedded demo), and the range of bit-error rates, or of the years of a memory: "
        "sram:years=1:20.",
        show_default=False,
    ),
    READS,
]


@dataclass(frozen=True)
class Asked:
    """What the curve is to tell."""

    seed: options.Seed = 0
    find_max_ber: Annotated[
        bool,
        typer.Option(
            "--find-max-ber",
            metavar="",
            help="The highest bit-error rate at which the accuracy --min-accuracy holds.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = False
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="The accuracy (a fraction) that --find-max-ber looks for.",
            rich_help_panel=options.STOPPING,
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class Rounds(Stopping):
    """How many trials there are."""

    trials: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Trials per arm, at the most.",
            rich_help_panel=options.STOPPING,
            show_default="300; 5000 with --until-ci",
        ),
    ] = None


@grouped(rare=RARE)
def curve(
    asked: Asked,
    opened: Judged,
    hardening: Hardening,
    at_risk: AtRisk,
    stopping: Rounds,
    running: Running,
    output: Configured,
    words: Words = None,
) -> None:
    """Measure accuracy, SDC and DUE at every bit-error rate from LOW to HIGH, from one set of trials.

    Trials run at chosen numbers of flips; given these, which bits flip does not depend on the rate. The band holds at
    all rates at once.

    Example: faultcli curve 1e-6:1e-2 --format q2.5 --protect none --protect scale=max
    """
    from faultcli.campaign.plan import Plan, Question
    from faultcli.cli.conduct import Conduct, arms_of
    from faultcli.faults.laws import AnyFlips
    from faultcli.faults.memories import parse_range

    model, rates = _split(words or [], asked)
    question = Question(parse_range(rates), asked.min_accuracy)
    memory = question.axis.memory
    if memory is not None and memory.explanation is not None:
        note(f"at the end of the range, {memory.explanation}", quiet=output.quiet)
    correct = hardening.load()
    usual = CURVE_TRIALS if stopping.until_ci is None else MOST_TRIALS
    plan = Plan(
        arms_of(hardening, [AnyFlips()], correct),
        usual if stopping.trials is None else stopping.trials,
        asked.seed,
        at_risk.target,
        tuple(at_risk.include or ()),
        tuple(at_risk.exclude or ()),
        (),
        stopping.until_ci,
        stopping.confidence,
        question,
    )
    Conduct(model, opened, at_risk, running, output, None).run(plan, hardening, correct, stopping)


def _split(words: list[str], asked: Asked) -> tuple[str | None, str]:
    """Return the model, if one is named, and the range of rates."""
    if asked.find_max_ber and asked.min_accuracy is None:
        raise UsageError("--find-max-ber: of which accuracy?", "name it: --find-max-ber --min-accuracy 0.9")
    if asked.min_accuracy is not None and not asked.find_max_ber:
        raise UsageError("--min-accuracy: is no gate of a curve", "ask for the rate: --find-max-ber --min-accuracy A")
    if len(words) > 2:
        raise UsageError(f"{words[2]}: is one word too many", "faultcli curve [MODEL] LOW:HIGH")
    if len(words) == 2:
        return words[0], words[1]
    if words and (":" in words[0] or not asked.find_max_ber) and not Path(words[0]).exists():
        return None, words[0]
    if asked.find_max_ber:
        return words[0] if words else None, WIDEST
    raise UsageError("there is no range of rates", "name one: faultcli curve 1e-6:1e-2")
