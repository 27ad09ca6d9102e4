"""The kinds of report: one line per ending of a file's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faultcli.campaign.curves import CurveResult
from faultcli.campaign.records import CampaignResult
from faultcli.errors import UsageError
from faultcli.report.arms import arms_csv
from faultcli.report.curve import curve_document
from faultcli.report.document import campaign_document, json_text
from faultcli.report.html import campaign_html, curve_html
from faultcli.report.junit import campaign_junit
from faultcli.report.markdown import campaign_markdown
from faultcli.report.trials import trials_csv, trials_jsonl, trials_parquet


@dataclass(frozen=True)
class ReportFormat:
    """A pure function from what trials left behind to bytes: the same records give the same bytes."""

    summary: str
    render: Callable[[CampaignResult], bytes]
    render_curves: Callable[[CurveResult], bytes] | None = None  # None: it cannot show curves


def _json_bytes(result: CampaignResult) -> bytes:
    return json_text(campaign_document(result, result.plan.confidence)).encode()


def _curve_bytes(result: CurveResult) -> bytes:
    return json_text(curve_document(result)).encode()


REPORTS = {
    ".html": ReportFormat(
        "one self-contained page: plots with their numbers",
        lambda r: campaign_html(r).encode(),
        lambda r: curve_html(r).encode(),
    ),
    ".md": ReportFormat("Markdown for a CI summary, under 1 MB", lambda r: campaign_markdown(r).encode()),
    ".xml": ReportFormat("JUnit XML: a test case per arm and gate", lambda r: campaign_junit(r).encode()),
    ".json": ReportFormat("what `campaign --json` writes", _json_bytes, _curve_bytes),
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


def render(name: str, result: CampaignResult | CurveResult) -> bytes:
    """Return the report that a file's name asks for.

    Raises:
        UsageError: no kind has this ending, or it cannot show curves.
    """
    kind = report_format(name)
    if isinstance(result, CampaignResult):
        return kind.render(result)
    if kind.render_curves is None:
        known = [suffix for suffix, kind in REPORTS.items() if kind.render_curves]
        raise UsageError(f"{name}: cannot show curves over bit-error rates", f"end the name in {', '.join(known)}")
    return kind.render_curves(result)
