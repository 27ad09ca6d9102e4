"""Arms as CSV: a header and one row per arm, the fields of the JSON document. Rates are fractions from 0 to 1, what is
undefined is empty, and numbers read back exactly."""

from __future__ import annotations

import csv
import io
from typing import Any

from faultcli.campaign.records import CampaignResult
from faultcli.report.document import campaign_document
from faultcli.report.text import shown

_NESTED = {
    "accuracy": ("mean", "low", "high", "worst"),
    "gain_over_none": ("mean", "low", "high"),
    "drop_from_baseline": ("mean", "low", "high"),
    "perplexity": ("mean", "low", "high"),
    "acc_norm": ("mean", "low", "high"),
}


def arm_rows(result: CampaignResult) -> list[dict[str, Any]]:
    """Return one row per arm: the fields of the JSON document, nested ones as `accuracy_mean`."""
    document = campaign_document(result, result.plan.confidence)
    rows = []
    for number, arm in enumerate(document["arms"]):
        row: dict[str, Any] = {"arm": number}
        for name, value in arm.items():
            if name in _NESTED:
                row |= {f"{name}_{key}": None if value is None else value[key] for key in _NESTED[name]}
            elif name == "scores":
                row |= {
                    f"{of}_{key}": one for of, all_ in value.items() for key, one in all_.items() if key != "trials"
                }
            elif not isinstance(value, list):
                row[name] = value
        gates = [gate for gate in document["gates"] if gate["arm"] == number]
        row["gates"] = "; ".join(f"{gate['name']} {gate['threshold']:g} {gate['verdict']}" for gate in gates)
        rows.append(row)
    return rows


def arms_csv(result: CampaignResult) -> bytes:
    """Return the rows of `arm_rows` as CSV."""
    rows = arm_rows(result)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(shown, rows))
    return text.getvalue().encode()
