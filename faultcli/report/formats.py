"""The kinds of report: one line per ending of a file's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from faultcli.campaign.curves import CurveResult
from faultcli.campaign.records import CampaignResult
from faultcli.campaign.safety import SafetyRates, SafetyResult, safety_of
from faultcli.errors import UsageError
from faultcli.report.arms import arms_csv
from faultcli.report.curve import curve_document
from faultcli.report.document import campaign_document, json_text
from faultcli.report.html import campaign_html, curve_html
from faultcli.report.junit import campaign_junit
from faultcli.report.markdown import campaign_markdown
from faultcli.report.safety import faults_csv, safety_csv
from faultcli.report.safety_page import safety_html
from faultcli.report.trials import trials_csv, trials_jsonl, trials_parquet
from faultcli.report.where_page import where_html, where_svg
from faultcli.report.where_report import WhereReport
from faultcli.report.where_rows import where_csv


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

# What figures of functional safety are written as, by the ending of a file's name.
SAFETY_REPORTS: dict[str, Callable[[SafetyResult], bytes]] = {
    ".html": lambda r: safety_html(r).encode(),
    ".faults.csv": faults_csv,
    ".csv": safety_csv,
}

# What `where` is written as, by the ending of a file's name.
WHERE_REPORTS: dict[str, Callable[[WhereReport], bytes]] = {
    ".html": lambda r: where_html(r).encode(),
    ".svg": lambda r: where_svg(r).encode(),
    ".csv": lambda r: where_csv(r.document),
    ".json": lambda r: json_text(r.document).encode(),
}

_Kind = TypeVar("_Kind")


def report_format(name: str) -> ReportFormat:
    """Return the kind of report that a file's name asks for.

    Raises:
        UsageError: no kind has this ending; says which there are.
    """
    return _named(name, REPORTS, "report")


def safety_format(name: str) -> Callable[[SafetyResult], bytes]:
    """Return the kind of safety report that a file's name asks for.

    Raises:
        UsageError: as `report_format`.
    """
    return _named(name, SAFETY_REPORTS, "report of safety figures")


def where_format(name: str) -> Callable[[WhereReport], bytes]:
    """Return the kind of report of `where` that a file's name asks for.

    Raises:
        UsageError: as `report_format`.
    """
    return _named(name, WHERE_REPORTS, "report of where")


def _named(name: str, table: Mapping[str, _Kind], what: str) -> _Kind:
    known = [suffix for suffix in table if name.lower().endswith(suffix)]
    if not known:
        raise UsageError(f"{name or 'a folder'}: is no kind of {what}", f"end the name in {', '.join(table)}")
    return table[max(known, key=len)]


def render(name: str, result: CampaignResult | CurveResult | WhereReport, safety: SafetyRates | None = None) -> bytes:
    """Return the report that a file's name asks for; figures of safety, if their rates are given.

    Raises:
        UsageError: no kind has this ending, it cannot show curves, or no figures of safety follow from the trials.
    """
    if safety is not None:
        if not isinstance(result, CampaignResult):
            problem = f"{name}: figures of safety follow from a campaign of single flips, evenly drawn"
            raise UsageError(problem, "faultcli campaign --fault flips:1 --trials 3000 --store singles.sqlite")
        return safety_format(name)(safety_of(result, safety))
    if isinstance(result, WhereReport):
        return where_format(name)(result)
    kind = report_format(name)
    if isinstance(result, CampaignResult):
        return kind.render(result)
    if kind.render_curves is None:
        known = [suffix for suffix, kind in REPORTS.items() if kind.render_curves]
        raise UsageError(f"{name}: cannot show curves over bit-error rates", f"end the name in {', '.join(known)}")
    return kind.render_curves(result)
