"""Which arms are best: a language model by perplexity, everything else by what its campaign is about."""

from __future__ import annotations

import math

from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.formats import parse_format
from faultcli.report.numbers import headline_text, percent, perplexity_interval


def by_perplexity(result: CampaignResult) -> bool:
    """Whether arms are compared by perplexity: of language models, unless gates ask for their accuracy alone."""
    asked = {gate.quantity for gate in result.plan.gates}
    return result.original.scored is not None and ("token probability" in asked or not asked & {"accuracy", "drop"})


def goodness(arm: ArmResult, result: CampaignResult) -> float:
    """Return how good an arm is: the larger the better; 0 for all where nobody said which scores are better."""
    mean = arm.headline()
    if mean is None:
        return -math.inf
    if by_perplexity(result):
        found = arm.perplexity()
        return 0.0 if found is None else 1 / found.mean
    return {"above": mean.mean, "below": -mean.mean, None: 0.0}[arm.measure.good]


def goodness_text(arm: ArmResult, result: CampaignResult, confidence: float) -> str:
    """Write what arms are compared by, with its interval."""
    return perplexity_interval(arm.perplexity(confidence)) if by_perplexity(result) else headline_text(arm, confidence)


def winners(result: CampaignResult, confidence: float) -> list[str]:
    """Say, for every fault law with several arms, which format and protection is best at which cost: every line takes
    more bits per weight of memory than the one before it and is better. A tie goes to the cheaper arm."""
    lines = []
    what = " in perplexity" if by_perplexity(result) else ""
    for law, front in fronts(result).items():
        lines.append(f"best{what} under {law}, by bits of memory per weight:")
        lines += [
            f"  {memory_bits(arm, result):8.4g}  {goodness_text(arm, result, confidence):>20}  "
            f"SDC {percent(arm.mean_rates().get('sdc')):>5}  {arm.arm.format}, {arm.arm.hardening}"
            for arm in front
        ]
    return lines


def fronts(result: CampaignResult) -> dict[str, list[ArmResult]]:
    """Return, by fault law with several arms, those that no cheaper arm equals (`goodness`), cheapest first; none where
    nobody said which scores are better, and where outputs of layers are at risk, whose memory no weight pays for."""
    if result.measure.good is None or result.plan.selection.layers is not None:
        return {}
    by_law: dict[str, list[ArmResult]] = {}
    for arm in result.arms:
        if arm.records:
            by_law.setdefault(arm.arm.fault.spec, []).append(arm)
    found = {}
    for law, arms in by_law.items():
        best, front = -math.inf, []
        for arm in sorted(arms, key=lambda a: (memory_bits(a, result), -goodness(a, result))):
            if goodness(arm, result) > best:
                best = goodness(arm, result)
                front.append(arm)
        if len(arms) > 1:
            found[law] = front
    return found


def memory_bits(arm: ArmResult, result: CampaignResult) -> float:
    """Return what a weight takes in all: its word, and what the format and the protections add."""
    if arm.arm.format != "native":
        return parse_format(arm.arm.format).bits + arm.overhead_bits_per_weight
    shapes = result.provenance.tensors.values() if result.provenance else ()
    weights = sum(math.prod(shape) for shape in shapes)
    return arm.bits / weights if weights else 32 + arm.overhead_bits_per_weight
