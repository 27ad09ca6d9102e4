"""Trials as rows: one per finished trial, arms outermost, the same for the same records whoever ran them and when."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from faultcli.campaign.records import CampaignResult, Record
from faultcli.campaign.subsets import rows_of
from faultcli.errors import UsageError, install
from faultcli.report.text import shown


def trial_rows(result: CampaignResult) -> list[dict[str, Any]]:
    """Return one row per trial: its arm in words, flips, values changed, and the rates of its outcome as fractions.

    How long a trial took is left out: it is no result.
    """
    rows = []
    for arm in result.arms:
        identity: dict[str, Any] = {**arm.arm.texts}
        identity["corrector"] = identity.pop("corrector")  # the last of an arm's columns, in CSV too
        for record in arm.records:
            counts: dict[str, Any] = {
                "trial": record.trial,
                "flips": record.flips,
                "values_changed": record.values_changed,
            }
            rows.append(identity | counts | _inputs(record, result.plan.seed) | record.outcome.rates())
    return rows


def _inputs(record: Record, seed: int) -> dict[str, Any]:
    """Return how many inputs a trial ran; where it were not all, which, and how many of them are right without faults
    (`top1` is the estimate for all of them)."""
    outcome = record.outcome
    if outcome.sample is None:
        return {"inputs": outcome.n}
    rows = rows_of(seed, record.trial, outcome.sample.inputs, outcome.n)
    return {"inputs": outcome.n, "input_positions": rows.tolist(), "right_without_faults": outcome.sample.right_here}


def trials_jsonl(result: CampaignResult) -> bytes:
    """Return one JSON object per line and trial."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in trial_rows(result)).encode()


def trials_csv(result: CampaignResult) -> bytes:
    """Return a header and one line per trial; what is undefined is empty."""
    rows = trial_rows(result)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(shown, rows))
    return stream.getvalue().encode()


def trials_parquet(result: CampaignResult) -> bytes:
    """Return a Parquet file with one row per trial.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow, which is not installed", install("parquet")) from None
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(trial_rows(result)), sink)
    return bytes(sink.getvalue().to_pybytes())
