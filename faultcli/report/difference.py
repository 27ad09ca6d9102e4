"""What `diff` says of two checkpoints."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from faultcli.difference import (
    ASSUMPTIONS,
    AssumptionTest,
    Difference,
    FittedLaw,
    LawFit,
    RealisedRate,
    TensorDifference,
    clopper_pearson,
)
from faultcli.report.layout import FittedTable, new_table
from faultcli.report.numbers import UNDEFINED
from faultcli.report.text import counted

SCHEMA = "faultcli.diff/1"
_MOST_ROWS = 16  # tensors that are listed
_UNLIKE = 0.25  # of all bits, from which on two files are hardly the same model


def difference_document(
    golden: str,
    dump: str,
    difference: Difference,
    tests: Sequence[AssumptionTest],
    law: LawFit | None,
    fault_map: Path | None,
) -> dict[str, Any]:
    """Return everything that is known as one JSON object."""
    zeros, ones = difference.stored
    up, down = difference.by_direction
    return {
        "schema": SCHEMA,
        "golden": golden,
        "dump": dump,
        "bits": difference.bits,
        "flips": difference.flips,
        "words_changed": sum(len(t.faults.words) for t in difference.tensors),
        "rate": _rate(difference.flips, difference.bits),
        "zeros_to_ones": {"flips": up, "bits": zeros, "rate": _rate(up, zeros)},
        "ones_to_zeros": {"flips": down, "bits": ones, "rate": _rate(down, ones)},
        "tensors": [
            {
                "name": t.name,
                "dtype": t.info.dtype,
                "shape": list(t.info.shape),
                "bits": t.layout.words * t.layout.bits,
                "flips": int(t.flips.sum()),
                "zeros_to_ones": int(t.flips[0].sum()),
                "ones_to_zeros": int(t.flips[1].sum()),
                "rate": _rate(int(t.flips.sum()), t.layout.words * t.layout.bits),
            }
            for t in difference.tensors
        ],
        "positions": [
            {
                "words": name,
                "stored_zeros": stored[0].tolist(),
                "stored_ones": stored[1].tolist(),
                "zeros_to_ones": flips[0].tolist(),
                "ones_to_zeros": flips[1].tolist(),
            }
            for name, _, stored, flips in _by_format(difference.tensors)
        ],
        "tests": [
            {
                "name": test.name,
                "assumption": ASSUMPTIONS[test.name],
                "statistic": test.statistic,
                "p": test.p,
                "p_adjusted": test.adjusted,
                "alarm": test.alarm,
            }
            for test in tests
        ],
        "law": None if law is None else {**_law(law.best), "unexplained": list(law.unexplained)},
        "runner_up": None if law is None or law.runner_up is None else _law(law.runner_up),
        "fault_map": None if fault_map is None else str(fault_map),
        "sha256": None if difference.before is None else {"golden": difference.before, "dump": difference.after},
    }


def _rate(hits: int, trials: int) -> dict[str, float | None]:
    return clopper_pearson(hits, trials)._asdict()


def _law(law: FittedLaw) -> dict[str, Any]:
    return {
        "fault": law.spec,
        "options": list(law.selection),
        "log_likelihood": law.log_likelihood,
        "parameters": law.parameters,
        "bic": law.bic,
    }


def _by_format(
    tensors: Sequence[TensorDifference],
) -> Iterator[tuple[str, TensorDifference, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield per kind of word: its name, a tensor of such, stored bits and flips [2, bits]."""
    for name in dict.fromkeys(t.format.name for t in tensors):
        alike = [t for t in tensors if t.format.name == name]
        stored, flips = (np.sum([getattr(t, what) for t in alike], axis=0) for what in ("stored", "flips"))
        yield name, alike[0], stored, flips


def difference_tables(
    dump: str, difference: Difference, tests: Sequence[AssumptionTest]
) -> Iterator[Table | FittedTable]:
    """Yield flips per tensor, per bit position, and the tests; nothing where nothing differs."""
    if not difference.flips:
        return
    yield _tensor_table(dump, difference)
    for name, example, stored, flips in _by_format(difference.tensors):
        if flips.sum():
            yield _position_table(name, example, stored, flips)
    yield _test_table(tests)


def _tensor_table(dump: str, difference: Difference) -> FittedTable:
    hit = [t for t in difference.tensors if t.flips.sum()]
    least = sorted((int(t.flips.sum()) for t in hit), reverse=True)[:_MOST_ROWS][-1]
    listed = [t for t in hit if t.flips.sum() >= least][:_MOST_ROWS]
    rest = [t for t in difference.tensors if all(t is not other for other in listed)]
    columns = dict(flips="right", **{"0→1": "right", "1→0": "right"}, rate="right")
    title = f"{dump}: {counted(difference.flips, 'flip')}"
    wide = new_table(title, tensor="left", dtype="left", bits="right", **columns, **{"95 % interval": "left"})
    narrow = new_table(title, tensor="left", **columns)

    def add(name: str, dtype: str, bits: int, flips: NDArray[np.int64], style: str | None = None) -> None:
        up, down = (int(n) for n in flips)
        rate = clopper_pearson(up + down, bits)
        counts = (f"{up + down:,}", f"{up:,}", f"{down:,}", _number(rate.rate))
        wide.add_row(name, dtype, f"{bits:,}", *counts, _interval(rate), style=style)
        narrow.add_row(_cut(name), *counts, style=style)

    for t in listed:
        add(t.name, t.info.dtype, t.layout.words * t.layout.bits, t.flips.sum(axis=1))
    if rest:
        total = np.sum([t.flips.sum(axis=1) for t in rest], axis=0)
        add(f"{counted(len(rest), 'more tensor')}", "", sum(t.layout.words * t.layout.bits for t in rest), total, "dim")
    if len(difference.tensors) > 1:
        add("all", "", difference.bits, np.array(difference.by_direction), "bold")
    return FittedTable((wide, narrow))


def _position_table(name: str, example: TensorDifference, stored: NDArray[np.int64], flips: NDArray[np.int64]) -> Table:
    """Flips per bit position, most significant first, in columns of 16 from top to bottom, at most two beside each
    other."""
    bits = flips.shape[1]
    field_of = {bit: field for field, positions in example.format.fields.items() for bit in positions}
    blocks = 2 if bits > 16 else 1
    height = -(-bits // blocks)
    headers: dict[str, str] = {}
    for block in range(blocks):
        headers |= {f"{what}{' ' * block}": how for what, how in _POSITION_COLUMNS.items()}
    table = new_table(f"bits of {name} words: flips, and per stored bit", **headers)
    for row in range(height):
        cells: list[str] = []
        for block in range(blocks):
            bit = bits - 1 - row - block * height
            up, down = (int(flips[held][bit]) for held in (0, 1))
            total = int(stored[:, bit].sum())
            cells += [f"{bit:>2} {field_of.get(bit, '')[:8]}", f"{up:,}", f"{down:,}", _number((up + down) / total)]
        table.add_row(*cells)
    return table


_POSITION_COLUMNS = {"bit": "left", "0→1": "right", "1→0": "right", "rate": "right"}
_STATISTICS = {
    "bits": "G = {:.4g}",
    "tensors": "G = {:.4g}",
    "direction": "z = {:+.2f}",
    "word": "{:,.4g} × pairs",
    "column": "{:,.4g} × pairs",
    "rows": "X² = {:.4g}",
    "columns": "X² = {:.4g}",
}


def _test_table(tests: Sequence[AssumptionTest]) -> Table:
    table = new_table(
        "do they look like independent flips of one rate?",
        assumption="left",
        statistic="left",
        p="right",
        corrected="right",
        verdict="left",
    )
    for test in tests:
        verdict = UNDEFINED if test.p is None else "FAILS" if test.alarm else "holds"
        statistic = UNDEFINED if test.statistic is None else _STATISTICS[test.name].format(test.statistic)
        table.add_row(ASSUMPTIONS[test.name], statistic, _probability(test.p), _probability(test.adjusted), verdict)
    return table


def difference_lines(difference: Difference, tests: Sequence[AssumptionTest], law: LawFit | None) -> list[str]:
    """Say in words how much differs, and which law that looks like."""
    bits = counted(difference.bits, "bit")
    rate = clopper_pearson(difference.flips, difference.bits)
    if law is None:
        bound = "" if rate.high is None else f"; a rate up to {rate.high:.3g} would look like this (95 %)"
        return [f"no difference: {bits} of {counted(len(difference.tensors), 'tensor')} are as they should be{bound}"]
    up, down = difference.by_direction
    zeros, ones = difference.stored
    lines = [
        f"{difference.flips:,} of {bits} differ: rate {_number(rate.rate)} {_interval(rate)}; 0→1 "
        f"{_share(up, zeros)} of the stored zeros, 1→0 {_share(down, ones)} of the stored ones"
    ]
    if difference.flips > _UNLIKE * difference.bits and difference.bits > 1000:
        lines.append(
            "so many that these are hardly one model: look at --base, at byte order, and at which file is which"
        )
    lines.append(f"most like: {_options(law.best)}")
    if law.runner_up is not None and law.worse is not None:
        lines.append(f"next best: {_options(law.runner_up)}, BIC {law.worse:,.1f} worse (10 is a lot)")
    else:
        lines.append("no other law can flip exactly these bits")
    if law.unexplained:
        broken = ", ".join(f"“{ASSUMPTIONS[name]}”" for name in law.unexplained)
        fails = "fails" if len(law.unexplained) == 1 else "fail"
        lines.append(
            f"{broken} {fails}, which this law does not account for: take the faults themselves, "
            "--fault measured:FILE with what --save-faults writes"
        )
    return lines


def _options(law: FittedLaw) -> str:
    return shlex.join(["--fault", law.spec, *law.selection])


def _share(flips: int, stored: int) -> str:
    return UNDEFINED if not stored else _number(flips / stored)


def _number(rate: float | None) -> str:
    return UNDEFINED if rate is None else "0" if rate == 0 else f"{rate:.3g}"


def _interval(rate: RealisedRate) -> str:
    return UNDEFINED if rate.low is None else f"[{_number(rate.low)}, {_number(rate.high)}]"


def _probability(p: float | None) -> str:
    return UNDEFINED if p is None else f"{p:.2f}" if p >= 0.01 else f"{p:.0e}" if p > 0 else "<1e-300"


def _cut(name: str) -> str:
    return name if len(name) <= 36 else f"{name[:17]}…{name[-18:]}"
