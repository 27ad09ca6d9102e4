"""The kinds of report: one line per ending of a file's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faultcli.campaign.records import CampaignResult
from faultcli.errors import UsageError
from faultcli.report.arms import arms_csv
from faultcli.report.document import campaign_document, json_text
from faultcli.report.html import campaign_html
from faultcli.report.junit import campaign_junit
from faultcli.report.markdown import campaign_markdown
from faultcli.report.trials import trials_csv, trials_jsonl, trials_parquet


@dataclass(frozen=True)
class ReportFormat:
    """A pure function from what trials left behind to bytes: the same records give the same bytes."""

    summary: str
    render: Callable[[CampaignResult], bytes]


REPORTS = {
    ".html": ReportFormat("one self-contained page: plots with their numbers", lambda r: campaign_html(r).encode()),
    ".md": ReportFormat("Markdown for a CI summary, under 1 MB", lambda r: campaign_markdown(r).encode()),
    ".xml": ReportFormat("JUnit XML: a test case per arm and gate", lambda r: campaign_junit(r).encode()),
    ".json": ReportFormat("what `campaign --json` writes", lambda r: _json(r).encode()),
    ".arms.csv": ReportFormat("one row per arm", arms_csv),
    ".csv": ReportFormat("one row per trial", trials_csv),
    ".jsonl": ReportFormat("one JSON object per trial", trials_jsonl),
    ".parquet": ReportFormat("one row per trial; needs pyarrow", trials_parquet),
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
