"""What a campaign says, in words and in one table: the part that all reports for people share."""

from __future__ import annotations

from functools import partial

from faultcli.campaign.baseline import paired_drop
from faultcli.campaign.curves import CurveResult
from faultcli.campaign.gates import GateResult, Verdict
from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.records import ArmResult, CampaignResult
from faultcli.report.best import by_perplexity, goodness, goodness_text
from faultcli.report.numbers import (
    flips_text,
    gain_text,
    headline_text,
    percent,
    percent_interval,
    perplexity,
    perplexity_interval,
    score_interval,
    stored_text,
    worst_text,
)
from faultcli.report.table import by_condition
from faultcli.report.text import counted
from faultcli.report.where_report import WhereReport

VERDICTS = {
    Verdict.PASS: "Pass",
    Verdict.FAIL: "Fail",
    Verdict.INCOMPLETE: "Incomplete",
    Verdict.INCONCLUSIVE: "Inconclusive",
    None: "No gate was set",
}
_ARM_COLUMNS = (
    "format",
    "fault",
    "protection",
    "bits per weight",
    "trials",
    "flips",
    "stored",
    "accuracy",
    "worst",
    "gain",
    "SDC",
    "DUE",
)
GATE_COLUMNS = ("arm", "gate", "measured", "trials", "verdict")


def headline(result: CampaignResult) -> str:
    """Say in one sentence what the verdict rests on."""
    gates = [gate for arm in result.arms for gate in arm.gates]
    rest = "" if result.complete else f" {_outstanding(result)}"
    if not gates:
        gate = "--max-drop 0.01" if result.measure.score is None else f"--gate '{result.measure.score}>=…'"
        gate = "--max-perplexity P" if by_perplexity(result) else gate
        return f"The campaign measures; add a gate such as {gate} to decide.{rest}"
    count = {verdict: sum(gate.verdict is verdict for gate in gates) for verdict in Verdict}
    parts = [
        f"{count[verdict]} {word}"
        for verdict, word in (
            (Verdict.PASS, "held"),
            (Verdict.FAIL, "failed"),
            (Verdict.INCONCLUSIVE, "not decided by the trials"),
        )
        if count[verdict]
    ]
    return f"{counted(len(gates), 'gate')}: {', '.join(parts)}.{rest}"


def _outstanding(result: CampaignResult) -> str:
    asked = len(result.arms) + len(result.missing)
    begun = sum(arm.outstanding > 0 for arm in result.arms)
    parts = [
        *([f"{len(result.missing)} of {counted(asked, 'arm')} not begun"] if result.missing else []),
        *([f"{begun} of {counted(asked, 'arm')} short of trials"] if begun else []),
    ]
    return f"Not all of it has been run: {' and '.join(parts)}."


def findings(result: CampaignResult) -> list[tuple[str, str]]:
    """Return, for every format and law, what it is and what happened: unprotected, and with what helps most."""
    said = []
    for arms in by_condition(result):
        known = [arm for arm in arms if arm.records]
        if not known:
            continue
        plain = next((arm for arm in known if _is_plain(arm.arm)), known[0])
        best = max(known, key=partial(goodness, result=result))
        likely = by_perplexity(result)
        worst = _worst(plain) + (" % of tokens right" if likely else "")
        text = f"{'perplexity ' if likely else ''}{_text(plain, result)} with {_named(plain)}{worst}"
        if best is not plain and goodness(best, result) > goodness(plain, result):
            text += (
                f"; {_text(best, result)} with {_named(best)} for {best.overhead_bits_per_weight:.3g} bits per weight"
            )
        said.append((plain.arm.condition, text))
    return said


def _text(arm: ArmResult, result: CampaignResult) -> str:
    return goodness_text(arm, result, result.plan.confidence)


def _worst(arm: ArmResult) -> str:
    return "" if arm.worst is None else f", worst map {worst_text(arm)}"


def _is_plain(arm: Arm) -> bool:
    return not (any(arm.protect.all_links) or arm.recalibrate or arm.correct or arm.guard)


def _named(arm: ArmResult) -> str:
    return "no protection" if _is_plain(arm.arm) else arm.arm.hardening


def arm_columns(result: CampaignResult) -> tuple[str, ...]:
    """Return the header of a table of arms; language models have their perplexity at the end, questions with
    choices the accuracy by score per character, tasks their scores beside the first."""
    named = tuple(result.measure.name if name == "accuracy" and result.measure.score else name for name in _ARM_COLUMNS)
    if result.original.acc_norm is not None:
        return (*named, "acc_norm")
    return (*named, "perplexity stored", "perplexity") if _is_language(result) else (*named, *_further(result))


def _further(result: CampaignResult) -> tuple[str, ...]:
    """Return the names of a task's scores after the first."""
    return tuple(result.original.scores or ())[1:]


def _is_language(result: CampaignResult) -> bool:
    return result.original.scored is not None


def arm_cells(arm: ArmResult, result: CampaignResult) -> tuple[str, ...]:
    """Return an arm's row under `arm_columns`; rates in percent, gain in points."""
    rates, confidence = arm.mean_rates(), result.plan.confidence
    return (
        arm.arm.format,
        arm.arm.fault.spec,
        arm.arm.hardening,
        f"{arm.overhead_bits_per_weight:.3g}",
        f"{len(arm.records):,}",
        flips_text(arm.flips_mean),
        stored_text(arm),
        headline_text(arm, confidence),
        worst_text(arm),
        gain_text(arm, result, confidence),
        percent(rates.get("sdc")),
        percent(rates.get("due")),
        *(
            [perplexity(arm.stored.perplexity), perplexity_interval(arm.perplexity(confidence))]
            if _is_language(result)
            else []
        ),
        *([percent_interval(arm.acc_norm(confidence))] if result.original.acc_norm is not None else []),
        *(score_interval(arm.score(name, confidence)) for name in _further(result)),
    )


def gate_cells(gate: GateResult, result: CampaignResult) -> tuple[str, ...]:
    """Return a gate's row under `GATE_COLUMNS`."""
    arm = result.arms[gate.arm]
    trials = f"{gate.trials:,}"
    if gate.verdict is Verdict.INCONCLUSIVE and gate.needed is not None:
        trials += f" of about {gate.needed:,}"
    return arm.arm.label, gate_text(gate), measured(gate, result), trials, str(gate.verdict)


def gate_text(gate: GateResult) -> str:
    """Return the gate as it was asked for, and what that means for the arm."""
    sign = "≥" if gate.gate.direction == "above" else "≤"
    if gate.gate.needs_baseline:
        return f"max-drop {gate.gate.threshold:g}: at most {percent(gate.limit, 2)} points below the baseline"
    if gate.gate.quantity == "token probability":
        return f"{gate.gate.name} {gate.gate.threshold:g}: perplexity ≤ {gate.gate.threshold:g}"
    if gate.gate.score is not None:
        return f"{gate.gate.text}: mean {gate.gate.score} {sign} {gate.gate.threshold:g}"
    quantity = {"accuracy": "accuracy", "sdc": "SDC"}[gate.gate.quantity]
    return f"{gate.gate.name} {gate.gate.threshold:g}: {quantity} {sign} {percent(gate.limit, 2)} %"


def unit(gate: GateResult) -> str:
    """Return the unit of what `measured` returns."""
    if gate.gate.score is not None or gate.gate.quantity == "token probability":
        return ""
    return " points" if gate.gate.needs_baseline else " %"


def measured(gate: GateResult, result: CampaignResult) -> str:
    """Return what the gate looks at as measured over all of the arm's trials, in percent, points or as it is."""
    arm = result.arms[gate.arm]
    if gate.gate.quantity == "token probability":
        return perplexity_interval(arm.perplexity(result.plan.confidence))
    if gate.gate.needs_baseline:
        return percent_interval(paired_drop(result, gate.arm), 2)
    if gate.gate.score is not None:
        return score_interval(arm.score(gate.gate.score, result.plan.confidence))
    if gate.gate.quantity == "accuracy":
        return headline_text(arm, result.plan.confidence)
    return percent(arm.mean_rates().get(gate.gate.quantity), 2)


def provenance_rows(result: CampaignResult) -> list[tuple[str, str]]:
    """Return what was tested, as pairs of name and value; what nobody recorded is left out."""
    arms = [
        ("Number formats", ", ".join(dict.fromkeys(arm.arm.format for arm in result.arms))),
        ("Fault laws", ", ".join(dict.fromkeys(arm.arm.fault.spec for arm in result.arms))),
        ("Bits at risk", f"{max(arm.bits for arm in result.arms):,} at the most"),
        ("Trials", f"{sum(len(arm.records) for arm in result.arms):,} in {counted(len(result.arms), 'arm')}"),
        *(
            []
            if result.plan.inputs_per_trial is None
            else [("Inputs per trial", f"{result.plan.inputs_per_trial:,} of {result.inputs:,}")]
        ),
    ]
    return tested_rows(result, arms)


def curve_provenance_rows(result: CurveResult) -> list[tuple[str, str]]:
    """Return what was tested, as `provenance_rows`."""
    arms = [
        ("Number formats", ", ".join(dict.fromkeys(arm.arm.format for arm in result.arms))),
        ("Bit-error rates", result.question.axis.asked),
        ("Bits at risk", f"{max(arm.memory.bits for arm in result.arms):,} at the most"),
        ("Trials", f"{sum(arm.curve.trials for arm in result.arms):,} on {counted(len(result.arms), 'curve')}"),
    ]
    return tested_rows(result, arms)


def tested_rows(
    result: CampaignResult | CurveResult | WhereReport, arms: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the model, its data and what a plan is, with rows about the arms between them."""
    plan, about = result.plan, result.provenance
    rows = [("Inputs", f"{result.inputs:,}")]
    if about is not None:
        rows = [
            ("Checkpoint", about.model),
            ("SHA-256 of the checkpoint", about.checkpoint_sha256),
            ("Architecture", about.architecture),
            ("Data", f"{about.data}, {counted(result.inputs, 'input')}"),
            ("SHA-256 of the data", about.data_sha256),
            *([("Preprocessing", about.preprocessing)] if about.preprocessing else []),
        ]
    rows += [
        *arms,
        ("Tensors at risk", _selection(plan)),
        ("Seed", str(plan.seed)),
        ("Confidence", f"{percent(plan.confidence, 0)} %"),
        ("Plan", result.plan_hash),
    ]
    if about is not None:
        rows += [(f"Memory {known['memory']}", f"{known['meaning']}; {known['source']}") for known in about.memories]
        rows += [
            ("Device", f"{about.device}, {counted(about.threads, 'thread')}, batches of {about.batch_size:,}"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in about.versions.items())),
        ]
    return rows


def _selection(plan: Plan) -> str:
    narrowed = [*(f"--include {glob}" for glob in plan.include), *(f"--exclude {glob}" for glob in plan.exclude)]
    return " ".join([plan.target, *narrowed])
