"""What the cells of a store may hold: from columns and JSON to checked values.

A store comes from a disk, so nothing in it is believed: every type, every range and every name is checked where it is
read, and what is behind this module counts on it. Whatever is wrong is `Damaged`; the store says of which file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from faultcli.campaign.gates import GATES, Gate
from faultcli.campaign.plan import MOST_TRIALS, RESULT_SCHEMA, Arm, ArmTexts, Plan, Question, read_arm
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import Failure
from faultcli.errors import FaultcliError
from faultcli.faults.laws import AnyFlips
from faultcli.faults.memories import parse_range
from faultcli.faults.one_bit import AnyBit, EachLayer
from faultcli.workload.measures import Bounds

MOST_REPEATS = 1_000_000  # trials of a curve with one number of flips: they are numbered flips · MOST_REPEATS + repeat
MOST_BITS = 1 << 50  # of a memory: 140 TB
MOST_OVERHEAD = 1e6  # bits per weight
MOST_SECONDS = 1e9  # of a trial: 30 years
_LARGEST = (1 << 63) - 1  # integer that a database holds
LARGEST_FLOAT = 1.7e308
_BASE = {"schema", "checkpoint", "workload", "seed", "selection"}
_ARM = set(ArmTexts.__annotations__) - {"guard_activations"}  # arms without one do not name it
_MEMORY = ("memory", "meaning", "source")  # what reports say of one


class Damaged(Exception):  # noqa: N818
    """A cell holds what no campaign writes; the message says which, and what."""


def decode(cell: object, what: str) -> Any:
    """Return the JSON that a cell holds.

    Raises:
        Damaged: it holds none, or a number that is none.
    """
    try:
        return json.loads(text(cell, what), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{what} is no JSON: {_first_line(error)}") from None


def whole(value: object, what: str, least: int = 0, most: int = _LARGEST) -> int:
    """Return a whole number in a range.

    Raises:
        Damaged: it is something else.
    """
    if type(value) is not int or not least <= value <= most:
        raise Damaged(f"{what} is {shown(value)}, not a whole number from {least} to {most}")
    return value


def real(value: object, what: str, least: float = 0.0, most: float = math.inf) -> float:
    """Return a finite number in a range.

    Raises:
        Damaged: it is something else.
    """
    # Compared before it is converted: an integer may be larger than any float.
    if type(value) not in (int, float) or not least <= value <= min(most, LARGEST_FLOAT):  # type: ignore[operator]
        raise Damaged(f"{what} is {shown(value)}, not a number from {least:g} to {most:g}")
    return float(value)  # type: ignore[arg-type]


def text(value: object, what: str) -> str:
    """Return text; bytes of a path that are no UTF-8 are escaped, so that it can be written anywhere.

    Raises:
        Damaged: it is something else.
    """
    if not isinstance(value, str):
        raise Damaged(f"{what} is {shown(value)}, not text")
    return value.encode("utf-8", "backslashreplace").decode()


def read_base(cell: object) -> dict[str, Any]:
    """Return what all arms share (`Plan.identity`), checked.

    Raises:
        Damaged: it is none, or one of another schema.
    """
    base = table_of(decode(cell, "the campaign"), "the campaign", _BASE)
    if base["schema"] != RESULT_SCHEMA:
        raise Damaged(f"the campaign is {shown(base['schema'])}, not {RESULT_SCHEMA}")
    text(base["checkpoint"], "its checkpoint")
    if type(base["seed"]) is not int or base["seed"] < 0:
        raise Damaged(f"its seed is {shown(base['seed'])}, not a whole number from 0")
    target, include, exclude = _list(base["selection"], "its selection", 3)
    text(target, "its target")
    for globs in (include, exclude):
        for glob in _list(globs, "its selection"):
            text(glob, "a name in its selection")
    if "inputs_per_trial" in base:
        whole(base["inputs_per_trial"], "its inputs per trial", 1)
    return base


def read_arm_cell(cell: object) -> Arm:
    """Return an arm from its identity.

    Raises:
        Damaged: it is none, or one that this version does not know.
    """
    arm = table_of(decode(cell, "an arm"), "an arm", _ARM)
    for name in ("format", "protect", "fault", *(["recalibrate"] if arm["recalibrate"] is not None else [])):
        text(arm[name], f"the {name} of an arm")
    if arm["corrector"] is not None:
        name, window, sha256, *labelled = _list(arm["corrector"], "the corrector of an arm", 3, 4)
        whole(window, "the window of a corrector")
        named = [text(name, "the name of a corrector"), window, text(sha256, "the hash of a corrector")]
        arm["corrector"] = [*named, *(whole(count, "the labels of a corrector", 1) for count in labelled)]
    if guard := arm.get("guard_activations"):
        mode, sha256 = _list(guard, "the guard of an arm", 2)
        arm["guard_activations"] = [text(mode, "a guard"), None if sha256 is None else text(sha256, "a guard")]
    try:
        return read_arm(arm)
    except FaultcliError as error:
        raise Damaged(f"an arm is not known here: {error.message}") from None


def of_where(arm: Arm) -> bool:
    """Whether trials of `faultcli where` are an arm's, each by a law of its own."""
    return isinstance(arm.fault, AnyBit | EachLayer)


def read_failure(row: Sequence[object], number: int, arm: Arm, bits: int) -> Failure:
    """Return a trial that could not be run, from its number and the cause.

    Raises:
        Damaged: it cannot be.
    """
    return Failure(number, read_trial(row[0], arm, bits), text(row[1], "the cause of a failure"))


def read_trial(cell: object, arm: Arm, bits: int) -> int:
    """Return the number of a trial.

    Raises:
        Damaged: the arm cannot have it.
    """
    most = MOST_TRIALS
    if isinstance(arm.fault, AnyFlips):
        most = (bits + 1) * MOST_REPEATS
    elif isinstance(arm.fault, AnyBit):
        most = bits
    return whole(cell, "the number of a trial", 0, most - 1)


def read_provenance(cell: object) -> Provenance | None:
    """Return where the numbers come from; None if nobody said.

    Raises:
        Damaged: it is none.
    """
    if cell is None:
        return None
    about = table_of(decode(cell, "the provenance"), "the provenance", set())
    named = {field.name for field in fields(Provenance)}
    if about.keys() - named or named - about.keys() - {"tensors", "memories", "preprocessing"}:
        raise Damaged("the provenance has other entries than it should")
    for name, value in about.items():
        what = f"{name} of the provenance"
        if name in ("batch_size", "threads"):
            whole(value, what, 1)
        elif name == "versions":
            about[name] = {text(key, what): text(item, what) for key, item in table_of(value, what, set()).items()}
        elif name == "tensors":
            about[name] = {
                text(key, what): [whole(size, what) for size in _list(shape, what)]
                for key, shape in table_of(value, what, set()).items()
            }
        elif name == "memories":
            about[name] = tuple(_explained(item, what) for item in _list(value, what))
        else:
            about[name] = text(value, what)
    return Provenance(**about)


def _explained(item: object, what: str) -> dict[str, object]:
    found = table_of(item, what, set(_MEMORY))
    for key, value in found.items():
        if type(value) in (int, float):
            real(value, what)
        elif key in _MEMORY or value is not None:
            found[key] = text(value, what)
    return found


def read_plan(cell: object, base: Mapping[str, Any], arms: Mapping[str, Arm]) -> Plan:
    """Return the plan with all arms and what was asked for last.

    Args:
        cell: JSON, as `store.Store.join` writes it.
        base: what `read_base` gave.
        arms: by identity, in order.

    Raises:
        Damaged: it asks for what cannot be asked for.
    """
    asked = table_of(
        decode(cell, "what was asked for"), "what was asked for", {"trials", "until_half_width", "confidence", "gates"}
    )
    target, include, exclude = base["selection"]
    trials = whole(asked["trials"], "the trials asked for", 1, MOST_TRIALS)
    width, baseline = asked["until_half_width"], asked.get("baseline")
    gates = (_list(gate, "a gate", 2) for gate in _list(asked["gates"], "the gates"))
    bounds = [_bounds(item) for item in _list(asked.get("bounds", []), "the bounds of scores")]
    between = {name: (low, high) for name, low, high in bounds}
    try:
        return Plan(
            tuple(arms.values()),
            trials,
            base["seed"],
            text(target, "its target"),
            tuple(text(glob, "a name") for glob in include),
            tuple(text(glob, "a name") for glob in exclude),
            gates=tuple(_gate(text(name, "a gate"), limit, between) for name, limit in gates),
            until_half_width=None if width is None else real(width, "the width asked for"),
            confidence=real(asked["confidence"], "the confidence"),
            question=_question(asked.get("question")),
            baseline=() if not baseline else _baseline(table_of(baseline, "the baseline", set()), arms, trials),
            bounds=tuple(bounds),
            inputs_per_trial=base.get("inputs_per_trial"),
        )
    except FaultcliError as error:
        raise Damaged(f"what was asked for makes no sense: {error.message}") from None


def _bounds(item: object) -> tuple[str | None, float, float]:
    name, low, high = _list(item, "the bounds of a score", 3)
    ends = [real(end, "the bound of a score", -LARGEST_FLOAT) for end in (low, high)]
    return None if name is None else text(name, "the name of a score"), ends[0], ends[1]


def _gate(name: str, limit: object, bounds: Mapping[str | None, Bounds]) -> Gate:
    if name in GATES:
        return Gate(name, real(limit, "a threshold"))
    score = name[:-2]
    return Gate(name, real(limit, "a threshold", -LARGEST_FLOAT), bounds.get(score, bounds.get(None)))


def _question(asked: object) -> Question | None:
    if asked is None:
        return None
    rates, hold = _list(asked, "the question", 2)
    axis = parse_range(text(rates, "the range of rates"))
    return Question(axis, None if hold is None else real(hold, "the accuracy to hold"))


def _baseline(
    baseline: Mapping[str, object], arms: Mapping[str, Arm], trials: int
) -> tuple[tuple[float | None, ...], ...]:
    found = tuple(
        tuple(
            None if value is None else real(value, "an accuracy of the baseline", 0, 1)
            for value in _list(baseline.get(arm, []), "the baseline")
        )
        for arm in arms
    )
    if any(values and len(values) < trials for values in found):
        raise Damaged(f"the baseline has fewer than {trials} trials")
    return found


def table_of(value: object, what: str, keys: set[str]) -> dict[str, Any]:
    """Return an object that has these keys.

    Raises:
        Damaged: it is something else, or lacks one.
    """
    if not isinstance(value, dict):
        raise Damaged(f"{what} is {shown(value)}, not an object")
    missing = keys - value.keys()
    if missing:
        raise Damaged(f"{what} has no {min(missing)!r}")
    return value


def _list(value: object, what: str, *lengths: int) -> list[Any]:
    if not isinstance(value, list) or (lengths and len(value) not in lengths):
        of = f" of {' or '.join(map(str, lengths))}" if lengths else ""
        raise Damaged(f"{what} is {shown(value)}, not a list{of}")
    return value


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def shown(value: object) -> str:
    """Return a value as a message has it."""
    if isinstance(value, (dict, list, bytes)):
        return {dict: "an object", list: "a list", bytes: "bytes"}[type(value)]
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "a number of too many digits"
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:30]}…"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
