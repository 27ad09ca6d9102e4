"""From a store to a result: what the records say, as a function of the store alone."""

from __future__ import annotations

from dataclasses import replace

from faultcli.campaign.gates import FaultFreeAccuracy, Verdict
from faultcli.campaign.plan import Identity, Plan
from faultcli.campaign.records import ArmResult, CampaignResult, Failure, Record
from faultcli.campaign.store import ArmMemory, Store, StoreError
from faultcli.campaign.watch import Watch
from faultcli.faults.laws import AnyFlips
from faultcli.faults.one_bit import BY_STRATA


def result_of(store: Store, plan: Plan | None = None, identity: Identity | None = None) -> CampaignResult:
    """Return what the trials of a store say.

    Args:
        store: holds at least the fault-free run of every arm of the plan.
        plan: what to conclude, and from which arms; None: what was asked for last, all arms.
        identity: of the plan.

    An arm without its fault-free run (it was interrupted before) is named among what is missing; curves are left out
    (`curves.curves_of`), and so are single flips of `where`.

    Raises:
        StoreError: the store is damaged, or nothing is left.
    """
    if plan is None or identity is None:
        plan, identity = store.plan(), Identity(store.base, tuple(store.arms))
    memories = {
        number: memory
        for number, arm in enumerate(identity.arms)
        if (memory := store.memory(arm)) is not None and not isinstance(plan.arms[number].fault, (AnyFlips, *BY_STRATA))
    }
    missing = tuple(
        arm.label
        for number, arm in enumerate(plan.arms)
        if number not in memories and not isinstance(arm.fault, (AnyFlips, *BY_STRATA))
    )
    if not memories:
        if any(isinstance(arm.fault, BY_STRATA) for arm in plan.arms):
            raise StoreError(
                f"{store.name}: holds single flips or layers of `faultcli where`, drawn by strata, and no campaign",
                "faultcli report shows single flips, as .html, .svg, .csv or .json; the `where` command layers",
            )
        raise no_trials(store)
    if len(memories) < len(identity.arms):
        baseline = tuple(plan.baseline[number] for number in memories) if plan.baseline else ()
        plan = replace(plan, arms=tuple(plan.arms[number] for number in memories), baseline=baseline)
        identity = replace(identity, arms=tuple(identity.arms[number] for number in memories))
    arms = []
    for number, (arm, memory) in enumerate(zip(identity.arms, memories.values(), strict=True)):
        records = store.records(arm, number)
        measure = plan.measure_in(store.original, memory.stored)
        watch = Watch(plan, number, FaultFreeAccuracy.of(store.original, memory.stored), measure)
        arms.append(_arm_result(plan, watch, memory, records, store.failures(arm, number)))
    seconds = sum(record.seconds for arm in arms for record in arm.records)
    found = (tuple(arms), seconds, store.provenance, missing)
    return CampaignResult(plan, identity.sha256, store.inputs, store.original, *found)


def no_trials(store: Store) -> StoreError:
    """Return the error for a store whose campaign was interrupted before it came to anything."""
    return StoreError(f"{store.name}: its campaign has not run anything yet", "let it get to its first trial")


def _arm_result(
    plan: Plan,
    watch: Watch,
    memory: ArmMemory,
    records: dict[int, Record],
    failures: dict[int, Failure],
) -> ArmResult:
    """Look at an arm's trials in the order of their numbers, up to where the campaign stops."""
    used = []
    enough = False
    for record in records.values():
        used.append(record)
        if watch.enough(record):
            enough = True
            break
    last = used[-1].trial if len(used) < len(records) else max(records | failures, default=-1)
    missing = tuple(failure for trial, failure in sorted(failures.items()) if trial <= last and trial not in records)
    gates = watch.gates
    if missing:  # nobody knows what these trials would have said
        gates = tuple(
            replace(gate, verdict=Verdict.INCONCLUSIVE) if gate.verdict is Verdict.PASS else gate for gate in gates
        )
    return ArmResult(
        plan.arms[watch.arm],
        memory.bits,
        memory.overhead_bits_per_weight,
        memory.stored,
        tuple(used),
        gates,
        watch.rule.sequential,
        missing,
        0 if enough else sum(trial not in records and trial not in failures for trial in range(plan.trials)),
        watch.measure,
    )
