"""Results as JSON documents. Rates are fractions from 0 to 1; what is undefined is null."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from faultcli.campaign.baseline import paired_drop
from faultcli.campaign.plan import RESULT_SCHEMA
from faultcli.campaign.records import ArmResult, CampaignResult, trials_using_labels
from faultcli.campaign.without_faults import LibraryRun
from faultcli.faults.memories import Rate
from faultcli.workload.metrics import Outcome

_NUMBER = r"(?:-?[\d.e+-]+|null)"
_NUMBERS = re.compile(rf"\[\s+(?:{_NUMBER},\s+)*{_NUMBER}\s+\]")


def json_text(document: Mapping[str, object]) -> str:
    """Return a document as JSON text, indented, lists of numbers in one line.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    return _NUMBERS.sub(lambda match: "[" + " ".join(match[0][1:-1].split()) + "]", text)


def campaign_document(result: CampaignResult, confidence: float) -> dict[str, Any]:
    """Return a campaign's result. Everything outside of `timing` is the same for the same plan.

    Args:
        result: the campaign.
        confidence: of the intervals.
    """
    about = None if result.provenance is None else asdict(result.provenance)
    memories = about.pop("memories") if about else ()
    return {
        "schema": RESULT_SCHEMA,
        "plan_hash": result.plan_hash,
        "seed": result.plan.seed,
        "selection": {
            "target": result.plan.target,
            "include": list(result.plan.include),
            "exclude": list(result.plan.exclude),
        },
        "confidence": confidence,
        "inputs": result.inputs,
        "inputs_per_trial": result.plan.inputs_per_trial,
        "bits": max(arm.bits for arm in result.arms),
        "arms": [_arm(number, result, confidence) for number in range(len(result.arms))],
        "gates": [
            {
                "name": gate.gate.name,
                "threshold": gate.gate.threshold,
                "arm": gate.arm,
                "verdict": str(gate.verdict),
                "trials": gate.trials,
                "trials_needed": gate.needed,
            }
            for arm in result.arms
            for gate in arm.gates
        ],
        "verdict": None if result.verdict is None else str(result.verdict),
        "complete": result.complete,
        "missing": list(result.missing),
        "memories": list(memories),
        "provenance": about,
        "timing": {"seconds": round(result.seconds, 3)},
    }


def _arm(number: int, result: CampaignResult, confidence: float) -> dict[str, Any]:
    arm = result.arms[number]
    measure, rates = arm.measure, arm.mean_rates()
    accuracy = arm.headline(confidence) if measure.score is None else None
    gain, drop = result.gain_over_none(arm, confidence), paired_drop(result, number)
    return {
        **arm.arm.texts,
        "trials": len(arm.records),
        "trials_outstanding": arm.outstanding,
        "trials_using_labels": trials_using_labels(record.outcome.labels_used for record in arm.records),
        "interval": "at every look" if arm.sequential else "fixed number of trials",
        "unseen_share": arm.unseen(confidence),
        "bits": arm.bits,
        "original_accuracy": result.original.top1 if measure.score is None else None,
        "stored_accuracy": arm.stored.top1 if measure.score is None else None,
        "accuracy": None
        if accuracy is None
        else {"mean": accuracy.mean, "low": accuracy.low, "high": accuracy.high, "worst": arm.worst},
        "gain_over_none": None if gain is None else {"mean": gain.mean, "low": gain.low, "high": gain.high},
        "drop_from_baseline": None if drop is None else {"mean": drop.mean, "low": drop.low, "high": drop.high},
        **{name: rates.get(name) for name in _RATES},
        **_perplexity(arm, confidence),
        **_acc_norm(arm, confidence),
        **_scores(arm, result, confidence),
        "flips_mean": arm.flips_mean,
        "overhead_bits_per_weight": arm.overhead_bits_per_weight,
        "trial_accuracies": trial_accuracies(arm) if measure.score is None else [],
    }


def rates_document(rates: Sequence[Rate]) -> list[dict[str, Any]]:
    """Return what the rates of memories stand for and where they come from; plain numbers are left out."""
    return [
        {
            "memory": rate.asked,
            "fault": rate.law.spec,
            "ber": rate.ber_per_bit,
            "meaning": rate.meaning,
            "caveat": rate.caveat,
            "source": rate.source,
        }
        for rate in rates
        if rate.meaning is not None
    ]


def trial_accuracies(arm: ArmResult) -> list[float | None]:
    """Return the accuracy of every trial by its number; None for one that could not be run."""
    found = {record.trial: record.outcome.top1 for record in arm.records}
    return [found.get(trial) for trial in range(max(found, default=-1) + 1)]


def _perplexity(arm: ArmResult, confidence: float) -> dict[str, Any]:
    """Return nothing for classifiers."""
    if arm.stored.scored is None:
        return {}
    mean = arm.perplexity(confidence)
    return {
        "agreement": arm.mean_rates().get("agreement"),
        "stored_perplexity": arm.stored.perplexity,
        "perplexity": None if mean is None else {"mean": mean.mean, "low": mean.low, "high": mean.high},
    }


def _acc_norm(arm: ArmResult, confidence: float) -> dict[str, Any]:
    """Return nothing but for questions with choices."""
    if arm.stored.acc_norm is None:
        return {}
    mean = arm.acc_norm(confidence)
    return {
        "stored_acc_norm": arm.stored.acc_norm,
        "acc_norm": None if mean is None else {"mean": mean.mean, "low": mean.low, "high": mean.high},
    }


def _scores(arm: ArmResult, result: CampaignResult, confidence: float) -> dict[str, Any]:
    """Return nothing for models whose answers are classes or tokens."""
    if result.original.scores is None:
        return {}
    found = {}
    for name, original in result.original.scores.items():
        mean = arm.score(name, confidence)
        values = [(record.outcome.scores or {}).get(name) for record in arm.records]
        known = [value for value in values if value is not None]
        found[name] = {
            "original": original,
            "stored": (arm.stored.scores or {}).get(name),
            "mean": None if mean is None else mean.mean,
            "low": None if mean is None else mean.low,
            "high": None if mean is None else mean.high,
            "least": min(known, default=None),
            "largest": max(known, default=None),
            "trials": values,
        }
    return {"scores": found}


_RATES = ("top5", "loss", "masked", "sdc", "due", "sdc1", "sdc5", "sdc10pct", "sdc20pct")


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """Return one evaluation's rates, with what is null for a run that is compared with nothing left out."""
    rates = outcome.rates() | {"perplexity": outcome.perplexity}
    if outcome.scores is not None:
        return {"scores": dict(outcome.scores), "due": rates["due"], "sdc": rates["sdc"], "masked": rates["masked"]}
    return {name: rates[name] for name in ("top1", "top5", "loss", "due")} | {
        name: value for name, value in rates.items() if value is not None
    }


def library_document(run: LibraryRun) -> dict[str, Any]:
    """Return what a library made of a quantised checkpoint: rates, and by how much logits differ from decoded ones."""
    own = {"largest_logit_difference": run.largest_difference, "layers": list(run.layers)}
    return outcome_document(run.outcome) | own
