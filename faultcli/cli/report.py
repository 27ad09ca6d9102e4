"""faultcli report: render what a store holds, without running anything."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note
from faultcli.cli.places import READS, WRITES
from faultcli.errors import UsageError

if TYPE_CHECKING:
    from faultcli.campaign.curves import CurveResult
    from faultcli.campaign.records import CampaignResult

safety = partial(options.option, "Functional safety")


def report(
    store: Annotated[
        Path,
        typer.Argument(
            metavar="STORE", help="What `campaign`, `curve`, `where` (--store) or `merge` wrote.", show_default=False
        ),
        READS,
    ],
    output: Annotated[
        list[Path],
        options.output(
            "FILE",
            "Its ending says what: .html, .md (for CI summaries), .xml (JUnit), .json, .arms.csv (a row per arm), "
            "or .csv, .jsonl, .parquet (a row per trial). Of `where`: .html, .svg, .csv, .json. Repeatable.",
            "--output",
            "-o",
        ),
        WRITES,
    ],
    fit_per_mbit: Annotated[
        float | None,
        safety(
            "FIT",
            "Figures of functional safety instead, for a memory with this failure rate per Mbit: .html, .csv (a row "
            "per arm) or .faults.csv (the list of faults). From trials of --fault flips:1.",
        ),
    ] = None,
    confidence: Annotated[float | None, safety("C", "Confidence of their one-sided bounds.", default="0.95")] = None,
    force: options.Force = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
) -> None:
    """Render a campaign as a page, a summary, JSON, CSV or JUnit XML, from its records alone.

    The same records give the same bytes. Nothing is run again, and a campaign that is still running can be looked at.

    Example: faultcli report results.db -o report.html -o junit.xml

    Example: faultcli report singles.db --fit-per-mbit 700 --confidence 0.99 -o safety.html -o list.faults.csv
    """
    from faultcli.api import write_report
    from faultcli.campaign.curves import curves_of
    from faultcli.campaign.result import result_of
    from faultcli.campaign.safety import SafetyRates
    from faultcli.campaign.store import Store
    from faultcli.report.where_report import WhereReport

    if fit_per_mbit is None and confidence is not None:
        raise UsageError("--confidence: is of figures of safety", "add --fit-per-mbit FIT, or leave it out")
    rates = None if fit_per_mbit is None else SafetyRates(fit_per_mbit, 0.95 if confidence is None else confidence)
    result: CampaignResult | CurveResult | WhereReport | None
    with closing(Store.read(store)) as kept:
        result = WhereReport.kept(kept)
        if result is None:
            result = result_of(kept) if kept.plan().question is None else curves_of(kept)
    write_report(result, *output, force=force, safety=rates)
    for path in output:
        note(f"written to {path}", quiet=quiet)
