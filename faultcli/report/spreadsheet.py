"""A campaign as CSV (RFC 4180, UTF-8, a header): one row per arm, or one per trial. Rates are fractions from 0 to 1, what
is undefined is empty, numbers are written so that they read back exactly."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

from faultcli.campaign.records import CampaignResult
from faultcli.report.document import campaign_document

_ARM = ("format", "protect", "fault", "corrector", "recalibrate")
_NESTED = {"accuracy": ("mean", "low", "high", "worst"), "gain_over_none": ("mean", "low", "high")}
_COUNTS = ("correct1", "correct5", "masked", "sdc", "due", "sdc1", "sdc5", "sdc10pct", "sdc20pct")
_TRIAL = ("trial", "flips", "values_changed", "inputs", *_COUNTS, "top1", "loss", "seconds")


def arms_csv(result: CampaignResult) -> str:
    """Return one row per arm: the fields of the JSON document, nested ones as `accuracy_mean`."""
    document = campaign_document(result, result.plan.confidence)
    rows = []
    for number, arm in enumerate(document["arms"]):
        row: dict[str, object] = {"arm": number}
        for name, value in arm.items():
            if name in _NESTED:
                row |= {f"{name}_{key}": None if value is None else value[key] for key in _NESTED[name]}
            elif not isinstance(value, list):
                row[name] = value
        gates = [gate for gate in document["gates"] if gate["arm"] == number]
        row["gates"] = "; ".join(f"{gate['name']} {gate['threshold']:g} {gate['verdict']}" for gate in gates)
        rows.append(row)
    return _csv(list(rows[0]), rows)


def trials_csv(result: CampaignResult) -> str:
    """Return one row per trial, arms in the order of the plan: everything that was recorded. Counts are of inputs."""
    rows = []
    for number, arm in enumerate(result.arms):
        law = arm.arm
        names = (
            law.format,
            law.protect.text,
            law.fault.spec,
            law.correct.text if law.correct else None,
            law.recalibrate.text if law.recalibrate else None,
        )
        for record in arm.records:
            outcome = record.outcome
            rows.append(
                {"arm": number, **dict(zip(_ARM, names, strict=True))}
                | {name: getattr(record, name) for name in ("trial", "flips", "values_changed", "seconds")}
                | {"inputs": outcome.n, "top1": outcome.top1, "loss": outcome.loss}
                | {name: getattr(outcome, name) for name in _COUNTS}
            )
    return _csv(["arm", *_ARM, *_TRIAL], rows)


def _csv(columns: list[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
