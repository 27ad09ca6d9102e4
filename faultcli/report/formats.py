"""The kinds of report: one line per ending of a file's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from faultcli.campaign.records import CampaignResult
from faultcli.errors import UsageError
from faultcli.report.document import campaign_document, json_text
from faultcli.report.html import campaign_html
from faultcli.report.junit import campaign_junit
from faultcli.report.markdown import campaign_markdown
from faultcli.report.spreadsheet import arms_csv, trials_csv


@dataclass(frozen=True)
class ReportFormat:
    """A pure function from what trials left behind to a text: the same records give the same bytes."""

    summary: str
    render: Callable[[CampaignResult], str]


REPORTS = {
    ".html": ReportFormat("one self-contained page: plots with their numbers, light and dark, no script", campaign_html),
    ".md": ReportFormat("Markdown for a pull request or a CI summary, under 1 MB", campaign_markdown),
    ".json": ReportFormat("what `campaign --json` writes", lambda result: _json(result)),
    ".csv": ReportFormat("one row per arm", arms_csv),
    ".trials.csv": ReportFormat("one row per trial: everything that was recorded", trials_csv),
    ".xml": ReportFormat("JUnit XML: a test case per arm and gate", campaign_junit),
}


def report_format(name: str) -> ReportFormat:
    """Return the kind of report that a file's name asks for.

    Raises:
        UsageError: no kind has this ending; says which there are.
    """
    known = [suffix for suffix in REPORTS if name.lower().endswith(suffix)]
    if not known:
        raise UsageError(f"{name}: is no kind of report", f"end the name in {', '.join(REPORTS)}")
    return REPORTS[max(known, key=len)]


def _json(result: CampaignResult) -> str:
    return json_text(campaign_document(result, result.plan.confidence))
