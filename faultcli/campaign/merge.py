"""Join the stores of a campaign's parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from faultcli.campaign.plan import Identity
from faultcli.campaign.records import Failure, Record
from faultcli.campaign.store import Store, StoreError, describe_difference


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    arms: int
    trials: int  # in the result
    repeats: int  # trials that several stores hold, with the same outcome


def merge(sources: Sequence[Path], target: Path, name: str | None = None) -> Merged:
    """Write the trials of all sources into a new store.

    Trials that several stores hold are kept once. The arms come in the order of the first store, then of the next ones;
    what was asked for (gates, trials) and the provenance are those of the first store, for all of its trials.

    Args:
        sources: stores, at least one; they stay as they are.
        target: where there is no file, or an empty one.
        name: what messages call the target; None: its path.

    Raises:
        StoreError: a source is no store, the campaigns are not the same, or a trial has two outcomes.
        OutputError: the target cannot be written.
    """
    with ExitStack() as opened:
        stores = [opened.enter_context(closing(Store.read(path))) for path in sources]
        return _merge(stores, sources, opened.enter_context(closing(Store.open(target, name))))


def _merge(stores: Sequence[Store], sources: Sequence[Path], out: Store) -> Merged:
    first = stores[0]
    for path, store in zip(sources[1:], stores[1:], strict=True):
        if store.base != first.base:
            difference = describe_difference(json.loads(first.base), json.loads(store.base))
            problem = f"{path}: holds another campaign than {sources[0]}: {difference}"
            raise StoreError(problem.replace(" there and ", " in the first and "), "merge parts of one campaign")
        if (store.original, store.inputs) != (first.original, first.inputs):
            raise StoreError(
                f"{path}: the fault-free model answers otherwise than in {sources[0]}", _DIFFERENT_MACHINES
            )
    arms = list(dict.fromkeys(arm for store in stores for arm in store.arms))
    plan = first.plan()
    if plan.baseline:  # of the arms of the first store
        baseline = dict(zip(first.arms, plan.baseline, strict=True))
        plan = replace(plan, baseline=tuple(baseline.get(arm, ()) for arm in arms))
    plan = replace(plan, trials=max(store.plan().trials for store in stores))
    identity = Identity(first.base, tuple(arms))
    out.join(identity, plan, inputs=first.inputs, original=first.original, provenance=first.provenance)
    repeats = sum(_join_arm(arm, stores, sources, out) for arm in arms)
    return Merged(len(arms), out.trials, repeats)


def _join_arm(arm: str, stores: Sequence[Store], sources: Sequence[Path], out: Store) -> int:
    """Write an arm's trials; return how many came more than once."""
    records: dict[int, Record] = {}
    failures: dict[int, Failure] = {}
    repeats = 0
    for path, store in zip(sources, stores, strict=True):
        if arm not in store.arms:
            continue
        memory, known = store.memory(arm), out.memory(arm)
        if memory is not None and known is None:
            out.keep_memory(arm, memory)
        elif memory is not None and memory != known:
            raise StoreError(f"{path}: an arm's fault-free run differs: {_name(arm)}", _DIFFERENT_MACHINES)
        failures |= store.failures(arm, 0)
        for trial, record in store.records(arm, 0).items():
            other = records.setdefault(trial, record)
            repeats += other is not record
            if other.flip is None:  # of a version that did not keep it
                records[trial] = other = replace(other, flip=record.flip)
            if replace(other, seconds=0.0) != replace(record, seconds=0.0, flip=record.flip or other.flip):
                what = f"trial {trial} of {_name(arm)}"
                raise StoreError(f"{path}: {what} has another outcome than before", _DIFFERENT_MACHINES)
    left = (failure for trial, failure in sorted(failures.items()) if trial not in records)
    out.add(arm, *(records[trial] for trial in sorted(records)), *left)
    return repeats


_DIFFERENT_MACHINES = "floating-point results differ between machines; run the parts on machines that agree"


def _name(arm: str) -> str:
    content = json.loads(arm)
    return " ".join(str(content[part]) for part in ("format", "fault", "protect"))
