"""A regression gate: is this checkpoint worse than an earlier one, on the same inputs under the same fault maps?

The earlier campaign's JSON holds the accuracy of every trial. Differences are taken trial by trial, so what a fault map
does to both cancels, and the gate is a test on their mean (see `faultcli.campaign.gates`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faultcli.campaign.plan import RESULT_SCHEMA, Arm, Plan
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import CampaignResult
from faultcli.campaign.statistics import ConfidenceSequence, Interval, mean_interval
from faultcli.errors import FaultcliError
from faultcli.foreign import ForeignError, is_number, parse_json, read_text

_DIFFERENCE = (-1.0, 1.0)


class BaselineError(FaultcliError):
    """A baseline cannot be read, or was measured under another plan."""


class Baseline:
    """An earlier campaign, as `campaign --json` wrote it.

    Args:
        path: the file.

    Raises:
        BaselineError: it is no result of a campaign, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        remedy = "name what campaign --json FILE wrote"
        try:
            text = read_text(path)
        except ForeignError as error:
            raise BaselineError(f"{path}: {error}", remedy) from None
        try:
            document = parse_json(text)
            schema = document["schema"]
        except (ForeignError, KeyError, TypeError):
            raise BaselineError(f"{path}: is no result of a campaign", remedy) from None
        if schema != RESULT_SCHEMA:
            found = schema if isinstance(schema, str) else "something else"
            raise BaselineError(f"{path}: is {found}, a baseline is {RESULT_SCHEMA}", remedy)
        if (size := document.get("inputs_per_trial")) is not None:
            problem = f"{path}: its trials ran {_short(size)} of the inputs each, and pairs are of all inputs"
            raise BaselineError(problem, "measure the baseline without --inputs-per-trial")
        again = "measure it again with this faultcli"
        try:
            self._arms = {_key(arm): _accuracies(arm["trial_accuracies"]) for arm in document["arms"]}
        except (KeyError, TypeError, ValueError):
            raise BaselineError(f"{path}: does not hold the accuracy of every trial", again) from None
        try:
            self._there = _stated(document)
        except (KeyError, TypeError, AttributeError):
            raise BaselineError(f"{path}: does not say what it was measured on", again) from None

    def trials(self, arms: tuple[Arm, ...]) -> int:
        """Return how many trials it has of each of these arms, at the least."""
        return min(len(self._of(arm)) for arm in arms)

    def accuracies(self, plan: Plan, provenance: Provenance, inputs: int) -> tuple[tuple[float | None, ...], ...]:
        """Return the accuracy of every trial, by trial number, for every arm of a plan; None for one that could not be
        run.

        Args:
            plan: of the campaign to compare.
            provenance: what it runs on.
            inputs: how many inputs it evaluates.

        Raises:
            BaselineError: faults or inputs are not the same; says what differs.
        """
        there, here = self._there, _conditions(plan, provenance, inputs)
        different = [name for name in here if here[name] != there.get(name)]
        if different:
            what = ", ".join(
                f"{name} is {_short(there.get(name))} there and {_short(here[name])} here" for name in different
            )
            more = f"{self._name}: is no baseline for this campaign: {what}"
            raise BaselineError(more, "run both with the same options; only the values of the weights may differ")
        found = tuple(self._of(arm) for arm in plan.arms)
        short = min(map(len, found))
        if plan.trials > short:
            raise BaselineError(
                f"{self._name}: has {short} trials, --trials {plan.trials} asks for more",
                f"try: --trials {short}, or measure the baseline with more",
            )
        return found

    def _of(self, arm: Arm) -> tuple[float | None, ...]:
        found = self._arms.get(_key(arm.texts))
        if not found:
            known = "; ".join(" ".join(part for part in key if part) for key in self._arms)
            raise BaselineError(f"{self._name}: has no trials of the arm {arm.label}", f"its arms are: {known}")
        return found


def _stated(document: Mapping[str, Any]) -> dict[str, object]:
    """What a document says of that which `_conditions` compares. KeyError, TypeError, AttributeError: it is damaged."""
    about, selection = document["provenance"], document["selection"]
    found = {
        "seed": document["seed"],
        "inputs": document["inputs"],
        "data": about["data_sha256"],
        **{name: selection[name] for name in ("target", "include", "exclude")},
        "tensors": sorted(about["tensors"]),
        **{f"shape of {name}": shape for name, shape in about["tensors"].items()},
    }
    if not all(_is_plain(value) for value in found.values()):
        raise TypeError("a condition is a number, a text or a list of these")
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(part, int | str) for part in value)
    return isinstance(value, int | str)


def _conditions(plan: Plan, provenance: Provenance, inputs: int) -> dict[str, object]:
    """What decides the faults and the inputs, apart from the arms."""
    shapes = {f"shape of {name}": list(shape) for name, shape in provenance.tensors.items()}
    return {
        "seed": plan.seed,
        "inputs": inputs,
        "data": provenance.data_sha256,
        "target": plan.target,
        "include": list(plan.include),
        "exclude": list(plan.exclude),
        "tensors": sorted(provenance.tensors),
        **shapes,
    }


def paired_drop(result: CampaignResult, number: int) -> Interval | None:
    """Return the mean of baseline − accuracy over the trials of an arm with its interval; None without a baseline."""
    baseline, arm = result.plan.baseline, result.arms[number]
    if not baseline or not baseline[number]:
        return None
    pairs = ((baseline[number][record.trial], record.outcome.top1) for record in arm.records)
    drops = [old - new for old, new in pairs if old is not None]
    if not arm.sequential:
        return mean_interval(drops, confidence=result.plan.confidence, bounds=_DIFFERENCE)
    sequence = ConfidenceSequence(confidence=result.plan.confidence, bounds=_DIFFERENCE)
    for drop in drops:
        sequence.add(drop)
    return sequence.interval


def _key(arm: Mapping[str, Any]) -> tuple[str | None, ...]:
    key = tuple(arm[part] for part in ("format", "fault", "protect", "recalibrate", "corrector"))
    key = (*key, arm.get("guard_activations"))
    if not all(isinstance(part, str) or (part is None and place > 2) for place, part in enumerate(key)):
        raise TypeError("an arm is named by texts")
    return key


def _accuracies(values: list[Any]) -> tuple[float | None, ...]:
    """Check the accuracies of an arm's trials, None for one that could not be run."""
    if not isinstance(values, list) or not all(value is None or is_number(value, 0, 1) for value in values):
        raise ValueError("an accuracy is a number from 0 to 1")
    return tuple(values)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}…"
