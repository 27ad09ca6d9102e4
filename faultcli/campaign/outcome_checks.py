"""What a store may hold of runs of the model: outcomes, and the memories and trials that they are of; see
`store_checks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypedDict, Unpack

from faultcli.campaign.plan import Arm
from faultcli.campaign.records import Record
from faultcli.campaign.store_checks import (
    LARGEST_FLOAT,
    MOST_BITS,
    MOST_OVERHEAD,
    MOST_REPEATS,
    MOST_SECONDS,
    Damaged,
    decode,
    read_trial,
    real,
    shown,
    table_of,
    text,
    whole,
)
from faultcli.faults.laws import AnyFlips
from faultcli.workload.metrics import Outcome, Sample

_OF_TOKENS = (
    "correct1",
    "correct5",
    "agreed",
)  # counts of a language model that are of scored positions, not of inputs


@dataclass(frozen=True)
class ArmMemory:
    """What is known of the memory of an arm before its first trial."""

    bits: int
    overhead_bits_per_weight: float
    stored: Outcome


class EvaluatedOn(TypedDict):
    """What `read_outcome` is told of trials."""

    inputs: int
    like: Outcome
    size: int | None


def read_outcome(
    cell: object, what: str, *, inputs: int, like: Outcome | None = None, size: int | None = None
) -> Outcome:
    """Return an outcome.

    Args:
        cell: JSON of `Outcome`.
        what: for messages.
        inputs: how many the campaign evaluates.
        like: another outcome of the same model on the same inputs; None: there is none yet.
        size: how many of the inputs it evaluates; None: all.

    Raises:
        Damaged: counts that are none, exceed what they are counts of, or do not add up; a kind of model other than
            that of `like`.
    """
    found = table_of(decode(cell, what), what, {"n", "correct1", "correct5", "loss", "due"})
    unknown = found.keys() - {field.name for field in fields(Outcome)}
    if unknown:
        raise Damaged(f"{what} has {shown(min(unknown))}, which no outcome has")
    sample = _sample(found.pop("sample", None), what, inputs, size)
    inputs = size or inputs
    labels_used = found.pop("labels_used", None)
    if labels_used not in (None, True, False):
        raise Damaged(f"whether {what} used labels is {shown(labels_used)}")
    whole(found["n"], f"the inputs of {what}", inputs, inputs)
    scored = found.get("scored")
    if scored is not None:
        whole(scored, f"the positions of {what}", 1)
    scores = found.get("scores")
    if scores is not None:
        for name, value in table_of(scores, f"the scores of {what}", set()).items():
            if value is not None:
                real(value, f"{text(name, 'the name of a score')} of {what}", -LARGEST_FLOAT)
    for name, value in found.items():
        if name == "loss":
            if value is not None:
                real(value, f"the loss of {what}")
        elif name not in ("scored", "scores") and (value is not None or name in _certain(scores)):
            most = inputs if scored is None or name not in _OF_TOKENS else scored
            whole(value, f"{name} of {what}", 0, most)
    outcome = Outcome(**found, sample=sample, labels_used=labels_used)
    parts = (outcome.masked, outcome.sdc)
    if parts != (None, None) and (None in parts or sum(map(int, parts)) + outcome.due != inputs):  # type: ignore[arg-type]
        raise Damaged(f"{what}: masked, SDC and DUE do not add up to the {inputs} inputs")
    if like is not None and _kind(outcome) != _kind(like):
        raise Damaged(f"{what} is of another kind of model than the fault-free run")
    return outcome


def _sample(cell: object, what: str, inputs: int, size: int | None) -> Sample | None:
    """Return what is known of all inputs, of an outcome of `size` of them."""
    if (cell is None) != (size is None):
        raise Damaged(f"{what} is of {'all inputs' if cell is None else 'a part of the inputs'}, unlike the campaign")
    if size is None:
        return None
    found = table_of(cell, f"the inputs of {what}", {"inputs", "right", "right_here"})
    whole(found["inputs"], f"the inputs of {what}", inputs, inputs)
    right = whole(found["right"], f"the right answers of {what}", 0, inputs)
    here = whole(found["right_here"], f"the right answers of {what}", 0, min(size, right))
    return Sample(inputs, right, here)


def _certain(scores: object) -> tuple[str, ...]:
    """The counts that every outcome has."""
    return ("correct1", "due") if scores is None else ("due",)


def _kind(outcome: Outcome) -> tuple[object, ...]:
    counts = outcome.correct1, outcome.correct5, outcome.correct_norm, outcome.masked, outcome.sdc5
    return outcome.scored, [count is None for count in counts], sorted(outcome.scores or ())


def read_memory(row: Sequence[object], *, inputs: int, like: Outcome) -> ArmMemory:
    """Return what is known of an arm from bits, overhead and fault-free run.

    Raises:
        Damaged: they cannot be.
    """
    bits, overhead, stored = row
    return ArmMemory(
        whole(bits, "the bits of an arm", 1, MOST_BITS),
        real(overhead, "the overhead of an arm", 0, MOST_OVERHEAD),
        read_outcome(stored, "the fault-free run of an arm", inputs=inputs, like=like),
    )


def read_record(row: Sequence[object], number: int, arm: Arm, bits: int, **given: Unpack[EvaluatedOn]) -> Record:
    """Return a trial.

    Args:
        row: trial, flips, changed values, outcome, seconds.
        number: position of the arm in the plan.
        arm: whose trial it is.
        bits: of its memory.
        given: as `read_outcome`.

    Raises:
        Damaged: it cannot be.
    """
    trial = read_trial(row[0], arm, bits)
    what = f"trial {trial}"
    flips = whole(row[1], f"the flips of {what}", 0, bits)
    if isinstance(arm.fault, AnyFlips) and flips != trial // MOST_REPEATS:
        raise Damaged(f"{what} has {flips} flips; by its number it has {trial // MOST_REPEATS}")
    changed = whole(row[2], f"the changed values of {what}", 0, bits)
    outcome = read_outcome(row[3], what, **given)
    return Record(number, trial, flips, changed, outcome, real(row[4], f"the time of {what}", 0, MOST_SECONDS))
