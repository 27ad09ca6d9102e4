"""What a campaign prints: what it would do, and what came out."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from faultcli.cli.console import note, say, stdout, write_json
from faultcli.cli.exit_codes import code_of

if TYPE_CHECKING:
    from faultcli.campaign.plan import Plan
    from faultcli.campaign.records import CampaignResult
    from faultcli.campaign.subject import Subject


def show_preview(plan: Plan, subject: Subject, store: Path | None, json: str | None) -> None:
    """Print what a campaign would do, going by the trials of its store if there is one."""
    from faultcli.campaign.preview import preview
    from faultcli.campaign.store import Store
    from faultcli.report.preview import preview_document, preview_lines, preview_table

    with closing(Store.read(store)) if store is not None and store.exists() else nullcontext() as known:
        found = preview(plan, subject, known)
    write_json(preview_document(found), json)
    if json != "-":
        stdout().print(preview_table(found))
        say(*preview_lines(found))


def show_result(result: CampaignResult, json: str | None, *, quiet: bool) -> None:
    """Print a result and end with the exit code of its gates."""
    from faultcli.report.best import winners
    from faultcli.report.document import campaign_document
    from faultcli.report.table import (
        campaign_tables,
        failure_lines,
        format_lines,
        gate_lines,
        interval_lines,
        labels_lines,
        language_lines,
    )

    confidence = result.plan.confidence
    write_json(campaign_document(result, confidence), json)
    if json != "-":
        for table in campaign_tables(result, confidence):
            stdout().print(table)
        say(*language_lines(result.original), *interval_lines(result, confidence), *winners(result, confidence))
        say(*labels_lines(result), *format_lines(result), *failure_lines(result), *gate_lines(result))
        note(f"seed {result.plan.seed}, plan {result.plan_hash[:12]}, {result.seconds:.1f} s", quiet=quiet)
    raise typer.Exit(code_of(result))
