"""A plan of protections by tensor: its table, what it was judged by, its file and a JSON document."""

from __future__ import annotations

from typing import Any

from faultcli.protect.plan_file import plan_text
from faultcli.report.layout import PlainTable, new_table
from faultcli.report.numbers import percent, percent_interval
from faultcli.report.text import counted
from faultcli.where.options import Option
from faultcli.where.planning import PLAN_SCHEMA, Planned, Verified

VERDICTS = {True: "met", False: "missed", None: "not decided"}


def planned_document(planned: Planned, output: str | None) -> dict[str, Any]:
    """Return a plan and how it came about."""
    asked, last = planned.asked, planned.rounds[-1]
    return {
        "schema": PLAN_SCHEMA,
        "output": output,
        "format": asked.format,
        "fault": asked.law.spec,
        "protect": planned.chain.text,
        "inputs": planned.inputs,
        "original_accuracy": planned.original_accuracy,
        "least_accuracy": last.least,
        "verdict": VERDICTS[last.met],
        "overhead_bits_per_weight": last.overhead,
        "code_words": sum(one.code_words for one in last.choice.values()),
        "tensors": [
            {"name": name, "weights": planned.weights[name], **_option(planned, name, one)}
            for name, one in last.choice.items()
        ],
        "candidates": {name: [_option(planned, name, one) for one in own] for name, own in planned.options.items()},
        "looked": [{"overhead_bits_per_weight": bits, "drop": drop} for bits, drop in planned.looked],
        "verified": [
            {
                "overhead_bits_per_weight": one.overhead,
                "stored_accuracy": one.stored_accuracy,
                "seed": one.seed,
                "trial_accuracies": list(one.accuracies),
                "accuracy": {"mean": one.accuracy.mean, "low": one.accuracy.low, "high": one.accuracy.high},
                "verdict": VERDICTS[one.met],
            }
            for one in planned.rounds
        ],
    }


def _option(planned: Planned, name: str, option: Option) -> dict[str, Any]:
    bits = option.bits / max(1, planned.weights[name])
    return {
        "protect": option.text,
        "overhead_bits_per_weight": bits,
        "code_words": option.code_words,
        "expected_damage": option.damage,
    }


def planned_tables(planned: Planned) -> list[PlainTable]:
    """Return what every tensor is protected by, and beside the plan what each candidate would take everywhere."""
    own = new_table(
        "Protection by tensor; damage in nats of the answers, without and with it",
        **{"tensor": "left", "weights": "right", "protect": "left", "bits per weight": "right"},
        **{"code words": "right", "unprotected": "right", "damage": "right"},
    )
    for name, one in planned.choice.items():
        bare = next((f"{o.damage:.2g}" for o in planned.options[name] if not o.links), "–")
        bits = one.bits / max(1, planned.weights[name])
        numbers = (f"{bits:.3g}", f"{one.code_words:,}", bare, f"{one.damage:.2g}")
        own.add_row(name, f"{planned.weights[name]:,}", one.text, *numbers)
    all_of_them = new_table(
        "The plan, and one chain for all tensors",
        **{"protect": "left", "bits per weight": "right", "code words": "right", "damage": "right"},
    )
    rows = {"the plan": dict(planned.choice)}
    judged = {tuple(one.links for one in round.choice.values()): round.overhead for round in planned.rounds}
    for chain in planned.asked.candidates:
        chosen = {n: one for n, own in planned.options.items() for one in own if one.links == chain.links}
        if len(chosen) == len(planned.options):
            rows[chain.text] = chosen
    for called, chosen in rows.items():
        words, damage = (sum(one.code_words for one in chosen.values()), sum(one.damage for one in chosen.values()))
        overhead = judged.get(tuple(one.links for one in chosen.values()), planned.overhead(chosen))
        all_of_them.add_row(called, f"{overhead:.3g}", f"{words:,}", f"{damage:.2g}")
    return [own, all_of_them]


def planned_lines(planned: Planned) -> list[str]:
    """Say what the plan was judged by, and whether it does what was asked."""
    return [_judged(planned, one) for one in planned.rounds]


def _judged(planned: Planned, one: Verified) -> str:
    asked = planned.asked
    return (
        f"{one.overhead:.3g} bits per weight, {asked.format}, {asked.law.spec}:"
        f" {percent_interval(one.accuracy)} % on {counted(len(one.accuracies), 'fault map')} that nothing was chosen on"
        f" (seed {one.seed}), {counted(planned.inputs, 'input')}; stored {percent(one.stored_accuracy)}, original"
        f" {percent(planned.original_accuracy)}; at least {percent(one.least)} was asked: {VERDICTS[one.met]}"
    )


def planned_file(planned: Planned, model: str) -> str:
    """Return the file that `--protect` takes."""
    asked = planned.asked
    made = f"faultcli plan, for {_one_line(model)} in {asked.format} under {asked.law.spec}"
    return plan_text(planned.chain, made, *planned_lines(planned)[-1:])


def _one_line(text: str) -> str:
    return text.encode("unicode_escape").decode() if not text.isprintable() else text
