"""faultcli where: which layers and bits carry the risk, from single flips; and the few that hurt most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from faultcli.cli import options
from faultcli.cli.campaign_options import SOME_INPUTS, Running, inputs_per_trial
from faultcli.cli.console import note, progress, say, stdout, write_json
from faultcli.cli.grouping import RARE, grouped
from faultcli.cli.places import READS, WRITES
from faultcli.cli.worst import Worst, check_alone, find
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.faults.law import FaultLaw
    from faultcli.where.allocation import Allocation
    from faultcli.where.running import WhereResult

strata = partial(options.option, "Strata and trials")
MOST = 20_000
_ROWS = 40  # of a table on a terminal
_BY = ("layer", "channel")


@dataclass(frozen=True)
class Sampled:
    """What is to be known, and when it is known well enough."""

    fault: Annotated[str, strata("SPEC", "flips:1, or by layer bitflip:P.", default=True), READS] = "flips:1"
    seed: options.Seed = 0
    critical: Annotated[
        str,
        strata(
            "C",
            "share of inputs changed or not finite; any of them; drop:X of accuracy.",
            default=True,
        ),
    ] = "share"
    half_width: Annotated[
        float | None,
        strata(
            "W",
            "Stop when the whole memory is known to ± W, a fraction.",
            default="0.005, by layer 0.02, without the next",
        ),
    ] = None
    stratum_half_width: Annotated[float | None, strata("W", "Stop when every stratum is known to ± W.")] = None
    by: Annotated[str, strata("layer|channel", "Bits of layers or channels.", default=True)] = "layer"
    trials: Annotated[int, strata("N", "Trials, at the most.", default=True)] = MOST
    budget: Annotated[float | None, strata("MINUTES", "Start no round later than this."), RARE] = None
    blind: Annotated[
        bool, strata("", "Predict nothing from the stored codes: every bit gets the same pilot.", "--blind"), RARE
    ] = False
    inputs_per_trial: Annotated[str | None, strata(*SOME_INPUTS), RARE] = None
    confidence: Annotated[float, strata("C", "Confidence of the intervals.", default=True), RARE] = 0.95
    output: Annotated[
        list[Path] | None,
        options.output("FILE", "The map, as .html, .svg, .csv, .json.", "--output", "-o"),
        WRITES,
    ] = None

    def check_output(self, law: FaultLaw, *, force: bool) -> None:
        """Refuse, before any work is done, what cannot be written.

        Raises:
            UsageError: no kind of report has this ending, or there is no map.
            OutputError: a file cannot be written.
        """
        from faultcli.faults.one_bit import AnyBit
        from faultcli.files import check_output
        from faultcli.report.formats import where_format

        if self.output and not isinstance(law, AnyBit):
            raise UsageError(
                f"{self.output[0]}: the map is of single flips, and --fault {self.fault} hits whole layers",
                "--json FILE has every layer",
            )
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
    law = _law(asked)
    asked.check_output(law, force=worst.force)
    if asked.by not in _BY:
        raise UsageError(f"--by {asked.by}: strata are of layers or of channels", "--by layer, or --by channel")
    half = asked.half_width
    if half is None and asked.stratum_half_width is None:
        half = 0.005 if isinstance(law, AnyBit) else 0.02
    aim = Aim(half, asked.stratum_half_width, asked.trials, Critical.parse(asked.critical))
    formats, chains = memories_of(model, [memory.format], [memory.protect] if memory.protect else [])
    arms = cross(formats, [law], chains)
    if law.ber is None and any(arm.protect.needs_ber for arm in arms):
        raise UsageError(
            f"{arms[0].protect.label}: depends on the bit-error rate, and a single flip has none",
            "name the rate it is designed for: posterior=P; scale=max or a number instead of scale=auto",
        )
    size = inputs_per_trial(asked.inputs_per_trial)
    plan = Plan(
        arms,
        asked.trials,
        asked.seed,
        *at_risk.selection,
        confidence=asked.confidence,
        inputs_per_trial=size,
    )
    aim.check(plan)
    threads = set_threads(running.threads, several=running.several)
    subject = opened_with_notes(model, workload, at_risk, arms, quiet=quiet)
    seconds, provenance = in_seconds(asked.budget), provenance_of(subject, command_line(), [])
    with (
        conducting(plan, subject, running, threads, seconds, provenance, quiet=quiet) as how,
        progress(quiet) as display,
    ):
        what = "single flips" if isinstance(law, AnyBit) else "fault maps"
        task = display.add_task(what, total=asked.trials, free=0)

        def look(trials: int, allocation: Allocation) -> None:
            if not display.disable:
                whole = allocation.estimate()
                width = "" if whole is None else f" ± {100 * (whole.half_width or 0.0):.2f}"
                display.update(task, completed=trials, description=f"{what}{width}")

        result = run_where(plan, subject, aim, channels=asked.by == "channel", blind=asked.blind, on_round=look, **how)
        found = WhereReport(where_document(result), result.plan, provenance)
        if (store := how.get("store")) is not None and isinstance(law, AnyBit):
            found.keep(store)
    show_where(result, found.document, shown.json, quiet=quiet)
    outputs = asked.output or []
    write_report(found, *outputs, force=worst.force)
    for path in outputs:
        note(f"written to {path}", quiet=quiet)


def _law(asked: Sampled) -> FaultLaw:
    """Read --fault: what the trials of all strata follow."""
    from faultcli.faults.laws import BitFlip, Flips, parse_law
    from faultcli.faults.one_bit import AnyBit, EachLayer

    law = parse_law(asked.fault)
    if law == Flips(1):
        return AnyBit()
    if not isinstance(law, BitFlip) or law != BitFlip(law.rate):
        raise UsageError(
            f"--fault {asked.fault}: where flips single bits, or the bits of one layer at a rate",
            "--fault flips:1, or --fault bitflip:1e-4; --include narrows it",
        )
    if asked.by != "layer" or asked.blind:
        given = "--blind" if asked.blind else f"--by {asked.by}"
        raise UsageError(f"{given}: is for single flips, and --fault {asked.fault} hits layers", "leave it out")
    return EachLayer(law.rate)


def show_where(result: WhereResult, document: Mapping[str, Any], json: str | None, *, quiet: bool) -> None:
    """Print where the risk lies."""
    from faultcli.report.where import where_lines, where_map, where_tables
    from faultcli.report.where_layers import layers_lines, layers_table

    write_json(document, json)
    if json != "-":
        if result.effects is None:
            tables, lines = (*where_tables(result, _ROWS), where_map(result, _ROWS)), where_lines(result)
        else:
            tables, lines = (layers_table(result, _ROWS),), layers_lines(result)
        for table in tables:
            stdout().print(table)
        say(*lines)
        note(f"seed {result.plan.seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
