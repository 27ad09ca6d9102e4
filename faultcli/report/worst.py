"""The flips that hurt most, as tables, lines and a JSON document."""

from __future__ import annotations

from typing import Any

from faultcli.report.layout import PlainTable, new_table
from faultcli.report.numbers import percent, percent_interval, perplexity
from faultcli.report.text import counted
from faultcli.where.worst import WORST_SCHEMA, NamedFlip, WorstResult


def worst_document(result: WorstResult) -> dict[str, Any]:
    """Return the result; the same for the same command."""
    return {
        "schema": WORST_SCHEMA,
        "format": result.format,
        "protect": result.chain.text,
        "overhead_bits_per_weight": result.overhead_bits_per_weight,
        "bits": result.bits,
        "seed": result.search.seed,
        "inputs": result.inputs,
        "searched_on": {"data": result.searched_on, "inputs": result.search_inputs, "apart": result.apart},
        "temperature": result.temperature,
        "original_accuracy": result.original.top1,
        "stored_accuracy": result.stored.top1,
        "flips_asked": result.search.flips,
        "flips": result.faults.flips,
        "flips_to_chance": result.to_chance,
        "ended": result.ended,
        "without_gradient": list(result.no_gradient),
        "steps": [
            {
                "flips": [_flip(flip) for flip in step.flips],
                "total": step.total,
                "search_loss": step.hurt,
                "accuracy": step.outcome.top1,
                "perplexity": step.outcome.perplexity,
                "sdc": None if step.outcome.sdc is None else step.outcome.sdc / step.outcome.n,
                "due": step.outcome.due / step.outcome.n,
            }
            for step in result.steps
        ],
        "counts": [
            {
                "flips": random.flips,
                "accuracy": result.after(random.flips).top1,
                "perplexity": result.after(random.flips).perplexity,
                "due": result.after(random.flips).due / result.after(random.flips).n,
                "random": None
                if random.accuracy is None
                else {
                    "mean": random.accuracy.mean,
                    "low": random.accuracy.low,
                    "high": random.accuracy.high,
                    "perplexity": random.perplexity,
                },
            }
            for random in result.random
        ],
        "random_maps": result.search.random_maps,
    }


def _flip(flip: NamedFlip) -> dict[str, Any]:
    return {
        "region": flip.site.region,
        "word": flip.site.word,
        "index": None if flip.place is None else list(flip.place),
        "bit": flip.site.bit,
        "stored": [flip.code, flip.flipped],
        "value": None if flip.place is None else [_number(flip.before), _number(flip.after)],
    }


def _number(value: float | None) -> float | str | None:
    """Return a number as JSON has it; NaN and infinities, which it has not, by name."""
    return value if value is None or abs(value) < float("inf") else str(value)


def worst_tables(result: WorstResult) -> list[PlainTable]:
    """Return the flips, one after the other, and the accuracy after some numbers of them beside random flips (mean; of
    perplexities the harmonic one)."""
    language = result.stored.scored is not None
    named = new_table(
        f"Flips that hurt most in {result.format}, {result.chain.label}, accuracy and DUE in percent",
        **{"flips": "right", "tensor": "left", "index": "left", "bit": "right", "reads": "left"},
        **{"accuracy": "right", "DUE": "right"} | ({"perplexity": "right"} if language else {}),
    )
    named.add_row("0", "", "", "", "", *_after(result, 0, language=language))
    for step in result.steps:
        for number, flip in enumerate(step.flips, step.total - len(step.flips) + 1):
            place = str(flip.site.word) if flip.place is None else "[" + ",".join(map(str, flip.place)) + "]"
            words = f"{flip.code:#x} → {flip.flipped:#x}"
            reads = words if flip.before is None else f"{flip.before:.4g} → {flip.after:.4g}"
            last = number == step.total
            numbers = _after(result, number, language=language) if last else [""] * (3 if language else 2)
            named.add_row(str(number), flip.site.region, place, str(flip.site.bit), reads, *numbers)
    beside = new_table(
        f"Accuracy in percent, random flips: mean [95 %] of {counted(result.search.random_maps, 'fault map')}",
        **{"flips": "right", "worst": "right", "random": "right"},
        **({"perplexity": "right", "random perplexity": "right"} if language else {}),
    )
    for random in result.random:
        after = result.after(random.flips)
        further = [perplexity(after.perplexity), perplexity(random.perplexity)] if language and random.accuracy else []
        beside.add_row(str(random.flips), percent(after.top1), percent_interval(random.accuracy), *further)
    return [named, beside]


def _after(result: WorstResult, flips: int, *, language: bool) -> list[str]:
    outcome = result.after(flips)
    numbers = [percent(outcome.top1), percent(outcome.due / outcome.n)]
    return [*numbers, perplexity(outcome.perplexity)] if language else numbers


def worst_lines(result: WorstResult) -> list[str]:
    """Say how many flips it takes, what the search looked at, and what it means."""
    found = result.faults.flips
    lines = []
    if result.classes is not None:
        chance = result.to_chance
        lines.append(
            f"{counted(found, 'flip')} did not bring the accuracy down to chance, {percent(1 / result.classes)} %"
            if chance is None
            else f"accuracy is down to chance, {percent(1 / result.classes)} %, after {counted(chance, 'flip')} of"
            f" {result.bits:,} stored bits"
        )
    if result.ended is not None:
        lines.append(f"{found} of {counted(result.search.flips, 'flip')} asked for: {result.ended}")
    inputs = counted(result.search_inputs, "input")
    lines.append(
        f"searched on {inputs} of {result.searched_on}; accuracy is of {counted(result.inputs, 'other input')}"
        if result.apart
        else f"searched on {inputs} of the {result.inputs:,} that accuracy is of: name others with --search-data"
    )
    lines.append("found step by step, not by trying all sets: other sets of as many flips may hurt more")
    if (text := sign_text(result)) is not None:
        lines.append(text)
    return lines


def sign_text(result: WorstResult) -> str | None:
    """Say what protections that look at values do not stop; None where there are none, or only such as correct bits."""
    names = {link.name for links in result.chain.all_links for link in links}
    blind = names & {"scale", "guard"}
    if not blind or names - blind:
        return None
    signs = sum(
        flip.before is not None and flip.after is not None and flip.before * flip.after < 0
        for step in result.steps
        for flip in step.flips
    )
    return (
        f"{' and '.join(sorted(blind))} cannot tell a flipped sign, or any value that a weight may have, from a right"
        f" one: {signs} of {counted(result.faults.flips, 'flip')} found change a sign; check words do tell"
    )
