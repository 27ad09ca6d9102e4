"""Where the risk lies, as tables, a map of characters, lines and a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from faultcli.campaign.statistics import Interval
from faultcli.report.layout import PlainTable, new_table
from faultcli.report.numbers import UNDEFINED, inputs_text, percent, percent_interval
from faultcli.report.text import counted, plain
from faultcli.where.layers import LayerStratum
from faultcli.where.running import WHERE_SCHEMA, WhereResult
from faultcli.where.sizes import leveugle, per_part
from faultcli.where.strata import Stratum

SHADES = ((0.5, "█"), (0.1, "▓"), (0.01, "▒"), (0.001, "░"), (0.0, "·"))  # at least this much is critical
_NONE = " "  # no critical flip was seen

Groups = dict[str, NDArray[np.bool_]]


def layers_of(result: WhereResult) -> Groups:
    """Return which strata make up every layer, or output channel of one, by name."""
    strata = result.allocation.strata
    names = [s.region if s.channel is None else f"{s.region}[{s.channel}]" for s in strata]
    return _grouped(names)


def whole_layers_of(result: WhereResult) -> Groups:
    """Return which strata make up every layer, whatever the strata are."""
    return _grouped([stratum.region for stratum in result.allocation.strata])


def bits_of(result: WhereResult) -> Groups:
    """Return which strata make up every bit position, from the highest; words of several lengths are kept apart."""
    strata = result.allocation.strata
    several = len({s.word_bits for s in strata}) > 1
    order = sorted({(s.word_bits, s.bit) for s in strata}, reverse=True)
    keys = np.array([(s.word_bits, s.bit) for s in strata])
    return {
        f"{bit} of {length}" if several else str(bit): (keys[:, 0] == length) & (keys[:, 1] == bit)
        for length, bit in order
    }


def where_document(result: WhereResult) -> dict[str, Any]:
    """Return the result. Everything outside of `timing` is the same for the same plan and aim."""
    allocation, arm = result.allocation, result.plan.arms[0]
    return {
        "schema": WHERE_SCHEMA,
        "plan_hash": result.plan_hash,
        "seed": result.plan.seed,
        "confidence": result.plan.confidence,
        "inputs": result.inputs,
        "inputs_per_trial": result.plan.inputs_per_trial,
        **{name: text for name, text in arm.texts.items() if name in ("format", "protect")},
        "fault": "flips:1" if result.effects is None else f"bitflip:{arm.fault.level:g}",
        "critical": result.aim.critical.text,
        "bits": result.memory.bits,
        "trials": int(allocation.counts.sum()),
        "failed_trials": len(result.failures),
        "half_width": result.aim.half_width,
        "stratum_half_width": result.aim.per_stratum,
        "reached": result.reached,
        "stored_accuracy": result.memory.stored.top1,
        "network": _interval(allocation.estimate()),
        "means": result.means if allocation.counts.all() else None,
        "layers": [
            {"name": name, **_group(result, which), **_effects(result, which)}
            for name, which in layers_of(result).items()
        ],
        **_by_bit(result),
        "sample_sizes": _sizes(result),
        "timing": {"seconds": round(result.seconds, 3)},
    }


def _effects(result: WhereResult, which: NDArray[np.bool_]) -> dict[str, Any]:
    """Return what a layer that is hit alone does to the answers; nothing for single flips."""
    if result.effects is None:
        return {}
    found = result.effects.of(int(np.flatnonzero(which)[0]), result.plan.confidence)
    return {name: _interval(one) for name, one in found.items()}


def _by_bit(result: WhereResult) -> dict[str, Any]:
    """Return bit positions and strata; none where layers are hit as a whole."""
    if result.effects is not None:
        return {"bit_positions": [], "strata": []}
    allocation = result.allocation
    strata: Sequence[Stratum | LayerStratum] = allocation.strata
    return {
        "bit_positions": [{"bit": name, **_group(result, which)} for name, which in bits_of(result).items()],
        "whole_layers": _whole_layers(result),
        "strata": [
            {
                "region": stratum.region,
                "channel": stratum.channel,
                "bit": stratum.bit,
                "word_bits": stratum.word_bits,
                "group": stratum.group,
                "sites": stratum.size,
                "trials": int(allocation.counts[h]),
                "predicted": stratum.predicted,
                **(_interval(allocation.of(h)) or dict.fromkeys(("mean", "low", "high"))),
            }
            for h, stratum in enumerate(strata)
        ],
    }


def where_tables(result: WhereResult, rows: int) -> list[PlainTable]:
    """Return the riskiest layers (or channels), at most `rows`, and the bit positions at which anything was seen."""
    confidence = percent(result.plan.confidence, 0)
    head = f"critical [{confidence} %]"
    layers = sorted(layers_of(result).items(), key=lambda item: -_mean(result, item[1]))
    shown = layers[:rows]
    more = "" if len(layers) == len(shown) else f", the riskiest {len(shown)} of {len(layers)}"
    by_layer = new_table(
        f"Per layer{more}, in percent of single flips",
        **{"layer": "left", "share of bits": "right", "trials": "right", head: "right", "share of risk": "right"},
    )
    whole = result.allocation.estimate()
    for name, which in shown:
        share = _share(result, which)
        risk = None if not whole or not whole.mean else _mean(result, which) * share / whole.mean
        by_layer.add_row(name, percent(share), _trials(result, which), _cell(result, which), percent(risk))
    by_bit = new_table(
        "Per bit position (0 is the lowest), in percent of single flips",
        **{"bit": "right", "trials": "right", head: "right"},
    )
    quiet = []
    for name, which in bits_of(result).items():
        if _mean(result, which):
            by_bit.add_row(name, _trials(result, which), _cell(result, which))
        else:
            quiet.append(name)
    if quiet:
        by_bit.caption = plain(f"no critical flip was seen at {counted(len(quiet), 'other position')}")
        by_bit.caption_justify = "left"
    return [by_layer, by_bit]


def where_map(result: WhereResult, rows: int) -> PlainTable:
    """Return the map of layers by bits: a character per stratum, the highest bit on the left."""
    legend = ", ".join(f"{shade} {percent(least)}" for least, shade in SHADES[:-1])
    table = new_table(
        f"Layer by bit, highest bit on the left: {legend} % or more, · less, blank none seen",
        layer="left",
        bits="left",
    )
    strata = result.allocation.strata
    for name, which in list(layers_of(result).items())[:rows]:
        members = sorted(np.flatnonzero(which), key=lambda h: -strata[int(h)].bit)
        cells = []
        for h in members:
            mean = result.allocation.of(int(h))
            cells.append("?" if mean is None else _shade(mean.mean))
        table.add_row(name, Text("".join(cells)))
    return table


def where_lines(result: WhereResult) -> list[str]:
    """Say what the memory as a whole is like, what counts as critical, and what other plans would have taken."""
    arm, means, allocation = result.plan.arms[0], result.means, result.allocation
    trials = int(allocation.counts.sum())
    whole = allocation.estimate()
    seen = (
        f"{arm.format}, {arm.hardening}: of {result.memory.bits:,} single flips {percent_interval(whole, 3)} % are"
        f" critical, from {counted(trials, 'trial')} on {inputs_text(result)}"
        f" (SDC {percent(means['sdc'], 3)} %, DUE {percent(means['due'], 3)} %, accuracy"
        f" {percent(-means['drop'], 3)} points)"
    )
    if whole is None:
        seen = f"{counted(trials, 'trial')}: the pilot is not finished, so nothing is said of the whole"
    lines = [f"critical: {result.aim.critical.text}", seen]
    sizes = _sizes(result)
    if sizes["network"] is not None:
        lines.append(
            f"Leveugle: {sizes['network']:,} injections for ± {100 * sizes['margin']:g} points of the whole"
            f"; Ruospo, per layer: {sizes['layers']:,}; per layer and bit: {sizes['strata']:,}"
        )
    return [*lines, *shortfalls(result)]


def shortfalls(result: WhereResult) -> list[str]:
    """Say what was asked for and did not come."""
    lines = []
    if not result.reached:
        lines.append("the half-width asked for is not reached: more --trials, or a wider one")
    if result.failures:
        lines.append(f"{counted(len(result.failures), 'trial')} failed: {result.failures[0].cause}")
    return lines


def _sizes(result: WhereResult) -> dict[str, Any]:
    """Return published sample sizes at p = 0.5 for the half-width that was asked, or that came out."""
    whole = result.allocation.estimate()
    margin = result.aim.half_width or result.aim.per_stratum or (whole.half_width if whole else None)
    if not margin or result.effects is not None:
        return {"margin": margin, "network": None, "layers": None, "strata": None}
    sizes, confidence = result.allocation.sizes, result.plan.confidence
    layers = [int(sizes[which].sum()) for which in layers_of(result).values()]
    return {
        "margin": margin,
        "network": leveugle(int(sizes.sum()), margin, confidence),
        "layers": per_part(layers, margin, confidence),
        "strata": per_part(map(int, sizes), margin, confidence),
    }


def _grouped(names: list[str]) -> Groups:
    array = np.array(names, dtype=object)
    return {name: np.asarray(array == name, dtype=bool) for name in dict.fromkeys(names)}


def _interval(found: Interval | None) -> dict[str, float | None] | None:
    return None if found is None else {"mean": found.mean, "low": found.low, "high": found.high}


def _group(result: WhereResult, which: NDArray[np.bool_]) -> dict[str, Any]:
    allocation = result.allocation
    found = _interval(allocation.estimate(which)) or dict.fromkeys(("mean", "low", "high"))
    sites = int(allocation.sizes[which].sum())
    if result.effects is not None:
        sites = sum(
            s.bits for s, own in zip(allocation.strata, which, strict=True) if own and isinstance(s, LayerStratum)
        )
    return {"sites": sites, "trials": int(allocation.counts[which].sum()), **found}


def _whole_layers(result: WhereResult) -> list[dict[str, Any]]:
    """Return layers and their bits where strata are channels; else they stand elsewhere."""
    strata = result.allocation.strata
    if all(stratum.channel is None for stratum in strata):
        return []
    bits = np.array([stratum.bit for stratum in strata])
    return [
        {
            "name": name,
            **_group(result, which),
            "bits": [{"bit": int(b), **_group(result, which & (bits == b))} for b in np.unique(bits[which])],
        }
        for name, which in whole_layers_of(result).items()
    ]


def _mean(result: WhereResult, which: NDArray[np.bool_]) -> float:
    found = result.allocation.estimate(which)
    return 0.0 if found is None else found.mean


def _share(result: WhereResult, which: NDArray[np.bool_]) -> float:
    sizes = result.allocation.sizes
    return float(sizes[which].sum() / sizes.sum())


def _trials(result: WhereResult, which: NDArray[np.bool_]) -> str:
    return f"{int(result.allocation.counts[which].sum()):,}"


def _cell(result: WhereResult, which: NDArray[np.bool_]) -> str:
    found = result.allocation.estimate(which)
    return UNDEFINED if found is None else percent_interval(found, 2)


def _shade(mean: float) -> str:
    return _NONE if mean <= 0 else next(shade for least, shade in SHADES if mean >= least)
