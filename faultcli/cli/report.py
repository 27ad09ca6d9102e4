"""faultcli report: render what a store holds, without running anything."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from faultcli.cli import options
from faultcli.cli.console import note
from faultcli.cli.places import READS, WRITES


def report(
    store: Annotated[
        Path,
        typer.Argument(
            metavar="STORE", help="What `campaign --store`, `curve --store` or `merge` wrote.", show_default=False
        ),
        READS,
    ],
    output: Annotated[
        list[Path],
        options.output(
            "FILE",
            "Its ending says what: .html, .md (for CI summaries), .xml (JUnit), .json, .arms.csv (a row per arm), "
            "or .csv, .jsonl, .parquet (a row per trial). Repeatable.",
            "--output",
            "-o",
        ),
        WRITES,
    ],
    force: options.Force = False,
    config: options.Config = None,
    quiet: options.Quiet = False,
) -> None:
    """Render a campaign as a page, a summary, JSON, CSV or JUnit XML, from its records alone.

    The same records give the same bytes. Nothing is run again, and a campaign that is still running can be looked at.

    Example: faultcli report results.db -o report.html -o junit.xml
    """
    from faultcli.api import write_report
    from faultcli.campaign.curves import curves_of
    from faultcli.campaign.result import result_of
    from faultcli.campaign.store import Store

    with closing(Store.read(store)) as kept:
        result = result_of(kept) if kept.plan().question is None else curves_of(kept)
    write_report(result, *output, force=force)
    for path in output:
        note(f"written to {path}", quiet=quiet)
