"""Documents of `where` that nothing was run for."""

from __future__ import annotations

from typing import Any

from faultcli.campaign.plan import Arm, Plan
from faultcli.faults.one_bit import AnyBit
from faultcli.report.where_report import WhereReport

GROUPS = {4: (1, 2, 1), 8: (1, 4, 3), 16: (1, 5, 10), 32: (1, 8, 23), 64: (1, 11, 52)}  # sign, exponent, mantissa


def rates(mean: float | None, half: float = 0.02) -> dict[str, float | None]:
    if mean is None:
        return {"mean": None, "low": None, "high": None}
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}


def document(regions: dict[str, int], channels: int = 0) -> dict[str, Any]:
    """Return one with so many bits per word of each region, and risks that differ from cell to cell."""
    strata, layers, whole_layers = [], [], []
    for number, (name, word_bits) in enumerate(regions.items()):
        sign, exponent, mantissa = GROUPS[word_bits]
        groups = ["mantissa"] * mantissa + ["exponent"] * exponent + ["sign"] * sign
        found = []
        for channel in range(channels) if channels else [None]:
            counts = {"sites": 10, "trials": 7}
            for bit in range(word_bits):
                mean = 0.0 if bit < word_bits // 2 else (0.0005, 0.005, 0.05, 0.3, 0.9)[(bit + number) % 5]
                mean = mean / (channel + 1) if channel is not None else mean
                about = {"region": name, "channel": channel, "bit": bit, "word_bits": word_bits}
                half = (0.02, 0.1, 0.3)[bit % 3]
                found.append(about | {"group": groups[bit]} | counts | rates(mean, half))
            if channel is not None:
                one = sum(s["mean"] for s in found[-word_bits:]) / word_bits
                layers.append({"name": f"{name}[{channel}]", "sites": 10 * word_bits, "trials": 70} | rates(one))
        strata += found
        total = sum(stratum["mean"] for stratum in found) / len(found)
        whole = {"name": name, "sites": 10 * len(found), "trials": 7 * len(found)} | rates(total)
        bits = [
            {"bit": bit, "sites": 10, "trials": 7} | rates(sum(s["mean"] for s in found if s["bit"] == bit) / channels)
            for bit in range(word_bits if channels else 0)
        ]
        (whole_layers if channels else layers).append({**whole, "bits": bits} if channels else whole)
    kinds = sorted({(s["word_bits"], s["bit"]) for s in strata}, reverse=True)
    return {
        "schema": "faultcli.where/1",
        "plan_hash": "0123456789abcdef",
        "seed": 0,
        "confidence": 0.95,
        "inputs": 50,
        "format": "fp32",
        "protect": "none",
        "critical": "share, the part of the inputs",
        "bits": sum(s["sites"] for s in strata),
        "trials": sum(s["trials"] for s in strata),
        "failed_trials": 0,
        "half_width": 0.005,
        "stratum_half_width": None,
        "reached": True,
        "stored_accuracy": 0.9,
        "network": rates(0.0133, 0.002),
        "means": {"sdc": 0.0086, "due": 0.0047, "drop": 0.013},
        "layers": layers,
        "bit_positions": [{"bit": str(bit), "sites": 10, "trials": 7} | rates(0.1) for _, bit in kinds],
        "whole_layers": whole_layers,
        "strata": strata,
        "sample_sizes": {},
        "timing": {"seconds": 1.0},
    }


def report(regions: dict[str, int], channels: int = 0) -> WhereReport:
    """Return a report of such a document."""
    plan = Plan((Arm("fp32", AnyBit()),), 10, 0)
    return WhereReport(document(regions, channels), plan)
