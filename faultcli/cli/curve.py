"""faultcli curve: every bit-error rate from one set of trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.campaign_options import Previewed, Stopping, trials
from faultcli.cli.console import note, say, stdout, write_json
from faultcli.cli.grouping import grouped
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.campaign.curves import CurveResult

WIDEST = "1e-8:1e-2"  # what --find-max-ber looks through if no range is named
CURVE_TRIALS = 300
MOST_TRIALS = 5000  # where the curve itself says when it has enough


@dataclass(frozen=True)
class Asked:
    """What the curve is to tell."""

    rates: Annotated[
        str | None,
        typer.Argument(
            metavar="LOW:HIGH",
            help="Bit-error rates, from LOW to HIGH; or the years of a memory, sram:years=1:20. With --find-max-ber "
            f"it narrows the search, {WIDEST} if left out.",
            show_default=False,
        ),
    ] = None
    seed: options.Seed = 0
    find_max_ber: Annotated[
        bool,
        trials("", "The highest bit-error rate at which the accuracy --min-accuracy holds.", "--find-max-ber"),
    ] = False
    min_accuracy: Annotated[float | None, trials("A", "The accuracy (a fraction) that --find-max-ber is about.")] = None


@grouped
def curve(
    *,
    model: options.OptionalModel = None,
    hardening: options.Hardening,
    at_risk: options.AtRisk,
    workload: options.Answering,
    asked: Asked,
    stopping: Stopping,
    running: Previewed,
    shown: options.Configured,
) -> None:
    """Measure accuracy, SDC and DUE at every bit-error rate from LOW to HIGH, from one set of trials.

    Trials run at chosen numbers of flips; given these, which bits flip does not depend on the rate.
    The band holds at all rates at once.

    Example: faultcli curve 1e-6:1e-2 --format q2.5 --protect none --protect scale=max
    """
    from faultcli.campaign.curves import run_curves
    from faultcli.campaign.plan import Plan, Question
    from faultcli.cli.progress import watching_curves
    from faultcli.cli.results import show_preview
    from faultcli.cli.session import (
        arms_of,
        command_line,
        conducting,
        corrector_of,
        in_seconds,
        looking,
        opened_with_notes,
        provenance_of,
        set_threads,
    )
    from faultcli.faults.laws import AnyFlips
    from faultcli.faults.memories import parse_range

    quiet = shown.quiet
    model, rates = _model_and_rates(model, asked)
    question = Question(parse_range(rates), asked.min_accuracy)
    memory = question.axis.memory
    if memory is not None and memory.explanation is not None:
        note(f"at the end of the range, {memory.explanation}", quiet=quiet)
    seconds = in_seconds(stopping.budget)
    correct = corrector_of(hardening)
    arms = arms_of(model, hardening, [AnyFlips()], correct)
    most = stopping.trials
    if most is None:
        most = CURVE_TRIALS if stopping.until_ci is None else MOST_TRIALS
    plan = Plan(arms, most, asked.seed, *at_risk.selection, (), stopping.until_ci, stopping.confidence, question)
    threads = set_threads(running.threads, several=running.several)
    subject = opened_with_notes(model, workload, at_risk, arms, correct, quiet=quiet)
    provenance = provenance_of(subject, command_line(), [])
    subject = looking(subject, arms, correct, hardening.unlabelled)
    if running.plan_only:
        show_preview(plan, subject, running.store, shown.json)
        return
    with (
        conducting(plan, subject, running, threads, seconds, provenance, quiet=quiet) as how,
        watching_curves(plan, quiet) as look,
    ):
        result = run_curves(plan, subject, on_record=look, **how)
    show_curves(result, shown.json, quiet=quiet)


def _model_and_rates(model: str | None, asked: Asked) -> tuple[str | None, str]:
    """Return the model, if one is named, and the range of rates: one word alone is either."""
    if asked.find_max_ber and asked.min_accuracy is None:
        raise UsageError("--find-max-ber: of which accuracy?", "name it: --find-max-ber --min-accuracy 0.9")
    if asked.min_accuracy is not None and not asked.find_max_ber:
        raise UsageError("--min-accuracy: is no gate of a curve", "ask for the rate: --find-max-ber --min-accuracy A")
    if asked.rates is not None:
        return model, asked.rates
    if model is not None and not Path(model).exists() and (":" in model or not asked.find_max_ber):
        return None, model
    if asked.find_max_ber:
        return model, WIDEST
    raise UsageError("there is no range of rates", "name one: faultcli curve 1e-6:1e-2")


def show_curves(result: CurveResult, json: str | None, *, quiet: bool) -> None:
    """Print curves."""
    from faultcli.report.curve import curve_document, curve_lines, curve_tables

    write_json(curve_document(result), json)
    if json != "-":
        for table in curve_tables(result):
            stdout().print(table)
        say(*curve_lines(result))
        note(f"seed {result.plan.seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
