"""faultcli where: which layers and bits carry the risk, from single flips; and the few that hurt most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from faultcli.cli import options
from faultcli.cli.campaign_options import Running
from faultcli.cli.console import note, progress, say, stdout, write_json
from faultcli.cli.grouping import RARE, grouped
from faultcli.cli.places import WRITES
from faultcli.cli.worst import Worst, check_alone, find
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.report.where_report import WhereReport
    from faultcli.where.allocation import Allocation
    from faultcli.where.running import WhereResult

strata = partial(options.option, "Strata and trials")
MOST = 20_000
_ROWS = 40  # of a table on a terminal
_BY = ("layer", "channel")


@dataclass(frozen=True)
class Sampled:
    """What is to be known, and when it is known well enough."""

    seed: options.Seed = 0
    critical: Annotated[
        str,
        strata(
            "C",
            "What is critical: share, the inputs whose top-1 answer changes or is not finite; any, if one does; drop:X, if"
            " accuracy falls by over X.",
            default=True,
        ),
    ] = "share"
    half_width: Annotated[
        float | None,
        strata("W", "Stop when the whole memory is known to ± W, a fraction.", default="0.005 without the next"),
    ] = None
    stratum_half_width: Annotated[float | None, strata("W", "Stop when every stratum is known to ± W.")] = None
    by: Annotated[str, strata("layer|channel", "Strata: bits of layers or of channels.", default=True)] = "layer"
    trials: Annotated[int, strata("N", "Single flips, at the most.", default=True)] = MOST
    budget: Annotated[float | None, strata("MINUTES", "Start no round later than this."), RARE] = None
    blind: Annotated[
        bool, strata("", "Predict nothing from the stored codes: every bit gets the same pilot.", "--blind"), RARE
    ] = False
    confidence: Annotated[float, strata("C", "Confidence of the intervals.", default=True), RARE] = 0.95
    output: Annotated[
        list[Path] | None,
        options.output("FILE", "The map, as .html, .svg, .csv, .json.", "--output", "-o"),
        WRITES,
    ] = None

    def check_output(self, *, force: bool) -> None:
        """Refuse, before any work is done, what cannot be written.

        Raises:
            UsageError: no kind of report has this ending.
            OutputError: a file cannot be written.
        """
        from faultcli.files import check_output
        from faultcli.report.formats import where_format

        for path in self.output or ():
            where_format(path.name)
            check_output(path, force=force)


@grouped
def where(
    *,
    model: options.OptionalModel = None,
    memory: options.OneMemory,
    at_risk: options.AtRisk,
    workload: options.Answering,
    asked: Sampled,
    worst: Worst,
    running: Running,
    shown: options.Configured,
) -> None:
    """Find which layers and bits carry the risk: flip single bits, drawn by strata of layer and bit.

    A few flips per stratum, then most where they narrow the answer most. --plan: as `faultcli plan`, what to protect.

    Example: faultcli where --include "*fc*" --half-width 0.01 -o map.html
    """
    from faultcli.api import write_report
    from faultcli.campaign.plan import Plan, cross
    from faultcli.cli.session import (
        command_line,
        conducting,
        in_seconds,
        memories_of,
        opened_with_notes,
        provenance_of,
        set_threads,
    )
    from faultcli.faults.one_bit import AnyBit
    from faultcli.report.where import where_document
    from faultcli.report.where_report import WhereReport
    from faultcli.where.running import Aim, Critical, run_where

    quiet = shown.quiet
    check_alone(worst, asked, running)
    if worst.worst is not None:
        find(model, memory, at_risk, workload, worst, asked.seed, running.threads, shown)
        return
    asked.check_output(force=worst.force)
    if asked.by not in _BY:
        raise UsageError(f"--by {asked.by}: strata are of layers or of channels", "--by layer, or --by channel")
    if running.plan_only:
        raise UsageError("--plan-only: the trials of where follow from one another", "--trials 1000 bounds them")
    half = asked.half_width
    if half is None and asked.stratum_half_width is None:
        half = 0.005
    aim = Aim(half, asked.stratum_half_width, asked.trials, Critical.parse(asked.critical))
    formats, chains = memories_of(model, [memory.format], [memory.protect] if memory.protect else [])
    arms = cross(formats, [AnyBit()], chains)
    if any(arm.protect.needs_ber for arm in arms):
        raise UsageError(
            f"{arms[0].protect.label}: depends on the bit-error rate, and a single flip has none",
            "name the rate it is designed for: posterior=P; scale=max or a number instead of scale=auto",
        )
    plan = Plan(arms, asked.trials, asked.seed, *at_risk.selection, confidence=asked.confidence)
    threads = set_threads(running.threads, several=running.several)
    subject = opened_with_notes(model, workload, at_risk, arms, quiet=quiet)
    seconds, provenance = in_seconds(asked.budget), provenance_of(subject, command_line(), [])
    with (
        conducting(subject, running, threads, seconds, provenance, quiet=quiet) as how,
        progress(quiet) as display,
    ):
        task = display.add_task("single flips", total=asked.trials, free=0)

        def look(trials: int, allocation: Allocation) -> None:
            if not display.disable:
                whole = allocation.estimate()
                width = "" if whole is None else f" ± {100 * (whole.half_width or 0.0):.2f}"
                display.update(task, completed=trials, description=f"single flips{width}")

        result = run_where(plan, subject, aim, channels=asked.by == "channel", blind=asked.blind, on_round=look, **how)
        found = WhereReport(where_document(result), plan, provenance)
        if (store := how.get("store")) is not None:
            found.keep(store)
    show_where(result, found, shown.json, quiet=quiet)
    outputs = asked.output or []
    write_report(found, *outputs, force=worst.force)
    for path in outputs:
        note(f"written to {path}", quiet=quiet)


def show_where(result: WhereResult, found: WhereReport, json: str | None, *, quiet: bool) -> None:
    """Print where the risk lies."""
    from faultcli.report.where import where_lines, where_map, where_tables

    write_json(found.document, json)
    if json != "-":
        for table in (*where_tables(result, _ROWS), where_map(result, _ROWS)):
            stdout().print(table)
        say(*where_lines(result))
        note(f"seed {result.plan.seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
