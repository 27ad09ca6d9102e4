"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rich.table import Table

from faultcli.campaign.gates import GateResult, Verdict
from faultcli.campaign.records import ArmResult, CampaignResult, trials_using_labels
from faultcli.campaign.without_faults import LibraryRun
from faultcli.protect.chain import UNPROTECTED
from faultcli.report.layout import FittedTable, in_lines, new_table, wrapped
from faultcli.report.numbers import (
    NO_USE,
    UNDEFINED,
    answers_counted,
    answers_text,
    flips_text,
    gain_text,
    headline_text,
    labels_text,
    original_text,
    percent,
    percent_interval,
    perplexity,
    perplexity_interval,
    score,
    score_interval,
    stored_text,
    worst_text,
)
from faultcli.report.text import counted
from faultcli.workload.metrics import Outcome

LIBRARY = "library kernel"  # the row of a run by the library of a quantised checkpoint's layout


def campaign_tables(result: CampaignResult, confidence: float) -> list[FittedTable]:
    """Return one table of all arms; or, with several protections, one per format and law.

    All rates are in percent of the inputs, averaged over trials; gains are in points over the unprotected arm on the
    same faults, overhead in bits per weight. For language models top-1 is that of the next token, masked, SDC and DUE
    count sequences, and perplexity is the harmonic mean over trials. Scores of a task of the user's own are as they
    are, each in columns of its own.
    """
    trials = trials_text(result.arms)
    language = result.original.scored is not None
    what = f"{_subject(result)}, {trials}, {answers_text(result)}, original {original_text(result)}"
    if language:
        what = f"next token: {what}, perplexity {perplexity(result.original.perplexity)}"
    condition: Columns = {"format": lambda arm: arm.arm.format, "fault": lambda arm: arm.arm.fault.spec}
    flips: Columns = {"flips": lambda arm: flips_text(arm.flips_mean)}
    differ = len({len(arm.records) for arm in result.arms}) > 1
    if differ:
        flips = {"trials": lambda arm: f"{len(arm.records):,}"} | flips
    protection: Columns = {
        "protect": lambda arm: arm.arm.hardening,
        "overhead": lambda arm: f"{arm.overhead_bits_per_weight:.3g}",
        **({"trials": lambda arm: f"{len(arm.records):,}"} if differ else {}),
    }
    accuracy = _headline_columns(result, confidence)
    if result.original.acc_norm is not None:
        accuracy["acc_norm"] = lambda arm: percent_interval(arm.acc_norm(confidence))
    gain: Columns = {"gain": lambda arm: gain_text(arm, result, confidence)} if result.measure.good else {}
    likely: Columns = {}
    if language:
        likely["perplexity stored"] = lambda arm: perplexity(arm.stored.perplexity)
        likely[f"perplexity [{interval_name(result, confidence)}]"] = lambda arm: perplexity_interval(
            arm.perplexity(confidence)
        )
    masked: Columns = {"masked": lambda arm: percent(arm.mean_rates().get("masked"))}
    errors: Columns = {
        "SDC": lambda arm: percent(arm.mean_rates().get("sdc")),
        "DUE": lambda arm: percent(arm.mean_rates().get("due")),
    }
    if all(arm.arm.hardening == UNPROTECTED.text for arm in result.arms):
        return [_arms_table(what, condition | flips | accuracy | likely | masked | errors, result.arms)]
    return [
        _arms_table(f"{arms[0].arm.condition}: {what}", protection | accuracy | gain | likely | errors, arms)
        for arms in by_condition(result)
    ]


def _subject(result: CampaignResult) -> str:
    return "top-1 accuracy in %" if result.measure.score is None else f"{result.measure.score} of the model"


def _headline_columns(result: CampaignResult, confidence: float) -> Columns:
    """Return what the campaign is about: stored, mean, worst; of a task, every score."""
    interval = interval_name(result, confidence)
    if result.measure.score is None:
        mean = partial(headline_text, confidence=confidence)
        worst: Columns = {"worst": worst_text} if result.plan.inputs_per_trial is None else {}
        return {"stored": stored_text, f"accuracy [{interval}]": mean, **worst}
    columns: Columns = {}
    for name in result.original.scores or ():
        columns[f"{name} stored"] = partial(_stored_score, name)
        columns[f"{name} [{interval}]"] = partial(_mean_score, name, confidence)
    return columns


def _stored_score(name: str, arm: ArmResult) -> str:
    return score((arm.stored.scores or {}).get(name))


def _mean_score(name: str, confidence: float, arm: ArmResult) -> str:
    return score_interval(arm.score(name, confidence))


Columns = dict[str, Callable[[ArmResult], str]]
_TEXTS = ("format", "fault", "protect")


def _narrow(header: str) -> str:
    return wrapped(header).replace(" stored", "\nstored")


def _arms_table(title: str, columns: Columns, arms: Sequence[ArmResult]) -> FittedTable:
    rows = [[cell(arm) for cell in columns.values()] for arm in arms]
    narrow = [[wrapped(text) for text in row] for row in rows]
    tables = []
    for header, cells, gap in ((str, rows, None), (_narrow, narrow, 1), (_narrow, narrow, 0)):
        table = new_table(title, **{header(name): "left" if name in _TEXTS else "right" for name in columns})
        for row in cells:
            table.add_row(*map(in_lines, row))
        if gap is not None:
            table.padding = (0, gap, 0, 0)
            table.show_lines = any("\n" in text for row in cells for text in row)
        tables.append(table)
    return FittedTable(tuple(tables))


def by_condition(result: CampaignResult) -> list[list[ArmResult]]:
    """Return the arms that differ in their protection only, together."""
    conditions: dict[str, list[ArmResult]] = {}
    for arm in result.arms:
        conditions.setdefault(arm.arm.condition, []).append(arm)
    return list(conditions.values())


def gate_lines(result: CampaignResult) -> list[str]:
    """Say what every gate of every arm decided, and all of them together; nothing without gates in a complete
    campaign."""
    lines = [
        f"{gate.verdict:>12}  {gate.gate.text}: {result.arms[gate.arm].arm.label}, "
        f"{counted(gate.trials, 'trial')}{until_decided(gate)}"
        for arm in result.arms
        for gate in arm.gates
    ]
    return [*lines, *outstanding_lines(result), f"verdict: {result.verdict}"] if result.verdict else []


def until_decided(gate: GateResult) -> str:
    """Say of an open gate about how many trials would decide it, if the others are like those so far."""
    if gate.verdict is not Verdict.INCONCLUSIVE or not gate.trials:
        return ""
    if gate.needed is None:
        return "; no number of trials would decide it: their mean lies at the limit"
    return f"; about {gate.needed:,} would decide it"


def outstanding_lines(result: CampaignResult) -> list[str]:
    """Say what was asked for and has not been run."""
    return [
        *(f"not run: {label}, no trial" for label in result.missing),
        *(
            f"not run: {arm.arm.label}, {arm.outstanding:,} of {counted(arm.outstanding + len(arm.records), 'trial')}"
            for arm in result.arms
            if arm.outstanding
        ),
    ]


def interval_name(result: CampaignResult, confidence: float) -> str:
    """What an interval of this campaign is, in a column's header; `interval_lines` say the rest."""
    sequential = any(arm.sequential for arm in result.arms)
    return f"{percent(confidence, 0)} %{' at every look' if sequential else ''}"


def interval_lines(result: CampaignResult, confidence: float) -> list[str]:
    """Say what intervals are of, and what the trials cannot exclude."""
    arms = [arm for arm in result.arms if arm.records and not arm.repeats]
    if not arms:
        return []
    if any(arm.sequential for arm in arms):
        return ["Intervals hold at every look, for all fault maps there are: the trials decided when to stop."]
    shares: dict[int, float] = {len(arm.records): arm.unseen(confidence) for arm in arms}
    excluded = "cannot exclude that up to"
    said = [f"{counted(n, 'trial')} {excluded} {percent(share)} %" for n, share in sorted(shares.items())]
    lines = [f"Intervals are of the kinds of fault map seen; {' and '.join(said)} of maps are of another."]
    if result.plan.inputs_per_trial is not None:
        lines = [
            "Intervals count both, fault maps and the inputs that each was run on;"
            f" {' and '.join(said)} of such pairs are of a kind that was not seen."
        ]
    if not result.measure.bounded:
        lines.append(f"{result.measure.name}: no --bounds are known, so nothing is said of maps that were not seen.")
    return lines


def language_lines(original: Outcome) -> list[str]:
    """Say of a language model what its numbers are of, and how perplexity is averaged; nothing of others."""
    if original.scored is None:
        return []
    return [
        f"Accuracy, worst, gain and perplexity (its harmonic mean over maps) are of {original.scored:,} next tokens;"
        f" masked, SDC and DUE are of {counted(original.n, 'sequence')}, in which one other token makes an SDC."
    ]


def labels_lines(result: CampaignResult) -> list[str]:
    """Say of every arm whose corrector was given labelled inputs in how many trials it used them."""
    used = ((arm, trials_using_labels(one.outcome.labels_used for one in arm.records)) for arm in result.arms)
    return [f"{arm.arm.label}: {labels_text(count, len(arm.records))}" for arm, count in used if count is not None]


LOST_IN_FORMAT = 0.05  # a stored accuracy further below the original's is said beside every verdict


def format_lines(result: CampaignResult) -> list[str]:
    """Say which arms have lost accuracy before any fault, to being stored: gates on faults do not see it."""
    if result.measure.score is not None:
        return []
    original = result.original.top1
    return [
        f"{arm.arm.label}: stored without faults {percent(arm.stored.top1)} %, the original has {percent(original)} %; "
        "--max-drop-from-original gates on both together"
        for arm in result.arms
        if original - arm.stored.top1 > LOST_IN_FORMAT
    ]


def trials_text(arms: Sequence[ArmResult]) -> str:
    """Return `30 trials`, `1 trial` or, where arms differ, `5 to 30 trials`."""
    counts = [len(arm.records) for arm in arms]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low:,} to {high:,} trials" if low < high else counted(high, "trial")


def failure_lines(result: CampaignResult) -> list[str]:
    """Say which trials could not be run, and why; they are counted nowhere, and no gate passes without them."""
    return [
        f"not run: trial {failure.trial} of {arm.arm.label}: {failure.cause}"
        for arm in result.arms
        for failure in arm.failures
    ]


def evaluation_table(rows: dict[str, Outcome | None], inputs: int) -> Table:
    """Return one row per state of the checkpoint; rows without an outcome are left out."""
    if any(outcome is not None and outcome.scores is not None for outcome in rows.values()):
        return _scores_table(rows, inputs)
    columns = {"state": "left", "top 1": "right", "top 5": "right", "loss": "right"}
    scored = next((outcome.scored for outcome in rows.values() if outcome is not None and outcome.scored), None)
    table = new_table(f"accuracy in %, {answers_counted(inputs, scored)}", **columns)
    table.add_column("DUE" if scored is None else "DUE sequences", justify="right")
    table.add_column("changed answers" if scored is None else "changed sequences", justify="right")
    language = scored is not None
    if language:
        table.add_column("perplexity", justify="right")
    choices = any(outcome is not None and outcome.acc_norm is not None for outcome in rows.values())
    if choices:
        table.add_column("acc_norm", justify="right")
    for name, outcome in rows.items():
        if outcome is not None:
            loss = UNDEFINED if outcome.loss is None else f"{outcome.loss:.4g}"
            rates = outcome.rates()
            table.add_row(
                name,
                percent(outcome.top1, 2),
                percent(outcome.top5, 2),
                loss,
                percent(rates["due"], 2),
                percent(rates["sdc"], 2),
                *([perplexity(outcome.perplexity)] if language else []),
                *([percent(outcome.acc_norm, 2)] if choices else []),
            )
    return table


def labels_line(used: bool) -> str:
    """Say whether labelled inputs bettered the correction."""
    return f"labelled inputs were {'used' if used else f'left out: {NO_USE}'}"


def library_line(run: LibraryRun) -> str:
    """Say which modules computed with quantised weights in a library, and how far its answers are from decoded ones."""
    by = {None: "no two logits are finite", 0.0: "the same logits as decoded weights give, bit for bit"}
    most = by.get(
        run.largest_difference,
        f"logits differ from those of decoded weights by up to {run.largest_difference or 0:.3g}",
    )
    return f"{LIBRARY} ({', '.join(run.layers)}): {most}"


def _scores_table(rows: dict[str, Outcome | None], inputs: int) -> Table:
    known = {state: outcome for state, outcome in rows.items() if outcome is not None}
    names = list(next(iter(known.values())).scores or ())
    table = new_table(f"scores, {counted(inputs, 'input')}", state="left", **dict.fromkeys(names, "right"))
    for header in ("DUE", "changed answers"):
        table.add_column(header, justify="right")
    for state, outcome in known.items():
        rates = outcome.rates()
        scores = (score((outcome.scores or {}).get(name)) for name in names)
        table.add_row(state, *scores, percent(rates["due"], 2), percent(rates["sdc"], 2))
    return table
