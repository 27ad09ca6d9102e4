"""Figures of functional safety as rows, and the list of faults. What no trial showed has a bound and no value: nobody
has measured a rate of 0."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from faultcli.campaign.safety import DANGEROUS, Coverage, FaultClass, SafetyFigures, SafetyResult, Share
from faultcli.errors import UsageError
from faultcli.report.numbers import UNDEFINED
from faultcli.report.text import shown

NAMES = {
    FaultClass.SDC: "SDC",
    FaultClass.DUE: "DUE",
    FaultClass.DETECTED: "detected",
    FaultClass.CORRECTED: "corrected",
    FaultClass.MASKED: "masked",
}


def digits(value: float, rounding: str | None = None) -> str:
    """Write a number with three digits; bounds are rounded to the safe side (`ROUND_CEILING`, `ROUND_FLOOR`)."""
    if not value:
        return "0"
    number = Decimal(value)
    step = Decimal(1).scaleb(max(number.adjusted() - 2, -9) if abs(number) < 1000 else 0)
    text = f"{number.quantize(step, rounding=rounding):,f}"
    return text.rstrip("0").rstrip(".") if "." in text and abs(number) < 1 else text


def share_text(share: Share) -> str:
    """Write a share in percent; of what was not seen, nothing."""
    return f"{digits(100 * share.value)} %" if share.count else UNDEFINED


def share_bound(share: Share) -> str:
    """Write the largest share that it can be, in percent."""
    return f"≤ {digits(100 * share.high, ROUND_CEILING)} %"


def fit_text(share: Share, total_fit: float) -> str:
    """Write the failure rate of a share; of what was not seen, nothing."""
    return digits(share.value * total_fit) if share.count else UNDEFINED


def fit_bound(share: Share, total_fit: float) -> str:
    """Write the largest failure rate that it can have."""
    return f"≤ {digits(share.high * total_fit, ROUND_CEILING)}"


def fit_cell(share: Share, total_fit: float) -> str:
    """Write a failure rate with its bound; of what was not seen, the bound alone."""
    bound = fit_bound(share, total_fit)
    return f"{fit_text(share, total_fit)} [{bound}]" if share.count else bound


def least_cell(share: Share) -> str:
    """Write a share that should be large with its lower bound, in percent; where no fault was of another kind, the
    bound alone."""
    bound = f"≥ {digits(100 * share.low, ROUND_FLOOR)} %"
    if not share.count:
        return UNDEFINED
    return bound if share.count == share.trials else f"{digits(100 * share.value)} % [{bound}]"


def coverage_cell(coverage: Coverage | None) -> str:
    """Write a coverage with its lower bound, in percent; a bound that is not above 0 shows none. Where no dangerous
    fault was left, the bound alone."""
    if coverage is None or coverage.value is None or coverage.low is None:
        return UNDEFINED
    low = f"≥ {digits(100 * coverage.low, ROUND_FLOOR)} %" if coverage.low > 0 else "none shown"
    return low if coverage.value == 1 else f"{digits(100 * coverage.value, ROUND_FLOOR)} % [{low}]"


ARM_COLUMNS = (
    "arm",
    "faults",
    "all, FIT",
    *(f"{NAMES[one]}, FIT" for one in FaultClass if one is not FaultClass.MASKED),
    "safe",
    "not dangerous",
    "coverage",
)


def arm_cells(figures: SafetyFigures, result: SafetyResult) -> list[str]:
    """Return the row of an arm: rates, and shares that should be large."""
    total = figures.total_fit
    rated = [one for one in FaultClass if one is not FaultClass.MASKED]
    harmless = [one for one in FaultClass if one not in DANGEROUS]
    arm = figures.result.arm
    return [
        f"{arm.format} {arm.hardening}",
        f"{figures.trials:,}",
        digits(total),
        *(fit_cell(figures.share(one), total) for one in rated),
        least_cell(figures.share(FaultClass.MASKED)),
        least_cell(figures.share(*harmless)),
        coverage_cell(result.coverage(figures)),
    ]


CLASS_COLUMNS = ("class", "faults", "share", "at most", "FIT", "FIT at most", "what it is")


def class_rows(figures: SafetyFigures, meanings: Mapping[FaultClass, str]) -> list[list[str]]:
    """Return a row per class."""
    total, rows = figures.total_fit, []
    for one in FaultClass:
        share = figures.share(one)
        said = (share_text(share), share_bound(share), fit_text(share, total), fit_bound(share, total))
        rows.append([NAMES[one], f"{share.count:,}", *said, meanings[one]])
    return rows


@dataclass(frozen=True)
class Place:
    """The faults of one region, or of one bit of it."""

    faults: int
    dangerous: int


Places = dict[str, dict[int, Place]]


def places_of(figures: SafetyFigures) -> Places:
    """Return where the faults of an arm fell, by region and bit, regions with the most dangerous faults first; nothing
    for trials that do not say where."""
    found: Places = {}
    for record, one in zip(figures.result.records, figures.classes, strict=True):
        if record.flip is not None:
            row = found.setdefault(record.flip.region, {})
            old = row.get(record.flip.bit, Place(0, 0))
            row[record.flip.bit] = Place(old.faults + 1, old.dangerous + (one in DANGEROUS))
    return dict(sorted(found.items(), key=lambda item: (-together(item[1]).dangerous, item[0])))


def together(row: Mapping[int, Place]) -> Place:
    """Return the faults of all bits of a region."""
    return Place(sum(place.faults for place in row.values()), sum(place.dangerous for place in row.values()))


def safety_csv(result: SafetyResult) -> bytes:
    """Return a row per arm: counts, shares, rates in FIT and their bounds as numbers; what was not seen is empty."""
    return _csv([_row(figures, result) for figures in result.arms])


def _row(figures: SafetyFigures, result: SafetyResult) -> dict[str, Any]:
    coverage, total = result.coverage(figures), figures.total_fit
    row: dict[str, Any] = {
        "arm": figures.number,
        **figures.result.arm.texts,
        "bits": figures.result.bits,
        "faults": figures.trials,
        "fit_per_mbit": result.rates.fit_per_mbit,
        "confidence": result.rates.confidence,
        "fit": total,
    }
    for one in FaultClass:
        share = figures.share(one)
        seen = bool(share.count)
        row |= {
            f"{one}": share.count,
            f"{one}_share": share.value if seen else None,
            f"{one}_share_at_most": share.high,
            f"{one}_fit": share.value * total if seen else None,
            f"{one}_fit_at_most": share.high * total,
        }
    harmless = figures.share(*(one for one in FaultClass if one not in DANGEROUS))
    safe = figures.share(FaultClass.MASKED)
    return row | {
        "safe": safe.value,
        "safe_at_least": safe.low,
        "not_dangerous": harmless.value,
        "not_dangerous_at_least": harmless.low,
        "coverage": coverage.value if coverage else None,
        "coverage_at_least": coverage.low if coverage else None,
    }


def faults_csv(result: SafetyResult) -> bytes:
    """Return the list of faults: a row per trial that says where its flip is.

    Raises:
        UsageError: none does.
    """
    rows = [row for figures in result.arms for row in _faults(figures)]
    if not rows:
        raise UsageError(
            "the trials are of an older faultcli, which did not keep where a flip is",
            "run the campaign again with another --store",
        )
    return _csv(rows)


def _faults(figures: SafetyFigures) -> Iterator[dict[str, Any]]:
    arm = figures.result.arm
    for record, one in zip(figures.result.records, figures.classes, strict=True):
        flip = record.flip
        if flip is None:
            continue
        before, after = flip.values or (None, None)
        yield {
            "id": f"{figures.number}-{record.trial}",
            "format": arm.format,
            "protect": arm.protect.text,
            "tensor": flip.region,
            "index": flip.word,
            "bit": flip.bit,
            "word_before": f"{flip.before:#x}",
            "word_after": f"{flip.after:#x}",
            "value_before": before,
            "value_after": after,
            "values_changed": record.values_changed,
            "class": str(one),
            "inputs_changed": record.outcome.sdc,
            "inputs_not_finite": record.outcome.due,
            "inputs": record.outcome.n,
        }


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(shown, rows))
    return text.getvalue().encode()
