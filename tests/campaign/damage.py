"""Stores of every kind, made quickly, and ways to damage them; all of it by a seed."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from faultcli.campaign.gates import Gate
from faultcli.campaign.plan import Plan, Question, cross
from faultcli.campaign.provenance import Provenance, installed_versions
from faultcli.campaign.records import Failure, Record
from faultcli.campaign.store import ArmMemory, Store
from faultcli.campaign.store_checks import MOST_REPEATS
from faultcli.errors import FaultcliError
from faultcli.faults.laws import AnyFlips, parse_law
from faultcli.faults.memories import parse_range
from faultcli.protect.chain import parse_chain
from faultcli.recover.applied import CorrectorId
from faultcli.workload.metrics import Outcome

INPUTS, BITS, TRIALS = 20, 4000, 4
_MEMORY = {
    "memory": "sram:years=5",
    "fault": "bitflip:1e-6",
    "ber": 1e-6,
    "meaning": "m",
    "caveat": None,
    "source": "s",
}
ABOUT = Provenance(
    "model",
    "c" * 64,
    "digits-cnn",
    "digits",
    "d" * 64,
    "cpu",
    100,
    1,
    "faultcli campaign",
    installed_versions(),
    {"fc.weight": [10, 64]},
    (_MEMORY,),
)


def classified(wrong: int) -> Outcome:
    """Return what a classifier gave that answers so many inputs otherwise, one of them with a NaN."""
    due = min(1, wrong)
    return Outcome(INPUTS, INPUTS - wrong, INPUTS - wrong, 0.25 + wrong, due, INPUTS - wrong, wrong - due, 0, 0, 0, 0)


def told(wrong: int) -> Outcome:
    """Return what a language model gave on sequences of five tokens."""
    right = 4 * (INPUTS - wrong)
    return Outcome(
        INPUTS, right, right, 1.5, 0, INPUTS - wrong, wrong, wrong, scored=4 * INPUTS, agreed=4 * INPUTS - wrong
    )


def make(path: Path, kind: str) -> Path:
    """Write a whole store: `classifier` (gates, a baseline, a corrector, a failure), `language` or `curve`."""
    outcome = told if kind == "language" else classified
    if kind == "curve":
        plan = Plan(cross(["q2.5"], [AnyFlips()]), 40, question=Question(parse_range("1e-4:1e-2"), 0.8))
    elif kind == "language":
        plan = Plan(cross(["fp16"], [parse_law("flips:1")]), TRIALS, gates=(Gate("min-accuracy", 0.5),))
    else:
        arms = cross(["q2.5"], [parse_law("bitflip:1e-3")], [parse_chain("none"), parse_chain("scale=max,parity")])
        arms += cross(["q2.5"], [parse_law("bitflip:1e-3")], correct=[CorrectorId("align", 5, "e" * 64, 50)])
        gates = Gate("max-drop-from-baseline", 0.1), Gate("max-sdc", 0.5)
        plan = Plan(arms, TRIALS, gates=gates, baseline=((1.0, None, 0.9, 0.8),) * 3, include=("fc*",))
    identity = plan.identity(checkpoint="c" * 64, workload='{"data": "d", "threads": 1}', unlabelled="u")
    with closing(Store.open(path)) as store:
        store.join(identity, plan, inputs=INPUTS, original=outcome(0), provenance=ABOUT)
        for number, arm in enumerate(identity.arms):
            store.keep_memory(arm, ArmMemory(BITS, 0.5 * number, outcome(0)))
            counts = [0, 1, 2, 3, 5, 8, 13, 20] * 2 if kind == "curve" else range(TRIALS)
            for trial, flips in enumerate(counts):
                wrong = min(INPUTS // 2, flips)
                which = flips * MOST_REPEATS + trial // 8 if kind == "curve" else trial
                store.add(arm, Record(number, which, flips, flips, outcome(wrong), 0.125))
            if number == 2:
                store.add(arm, Failure(number, TRIALS, "it died"))
    return path


EVIL: tuple[Any, ...] = (
    *(None, 0, -1, 1, 2, 3, 7, 10**6, 1 << 31, (1 << 63) - 1, -(1 << 63), 0.5, -0.5, 1e308, -1e308, 1e-320),
    *(float("inf"), "", "x", "0", "null", "[]", "{}", "[[]]", "{", '{"n": 1}', "[" * 3000, "9" * 5000, "NaN", "\0"),
    *("none", "native", "q2.5", "bitflip:1e-3", "flips:any", "bitflip:2", "\x1b[31m", "é", b"", b"\xff\xfe", b"{}"),
)
EVIL_JSON: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 1 << 63, 10**400, -(10**400), 0.5, -0.5, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "x", "\ud800", "\0", "none", "flips:any", "flips:3", "native", "fp4", "q900.1"),
    *("1e-9:1e-1", "1:0", "scale=auto", "inplace=2,parity", [], {}, [[]], [1, 2], {"a": 1}, ["x"], [None], "x" * 5000),
)


def columns(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every table and column."""
    with closing(sqlite3.connect(path)) as raw:
        for (table,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in raw.execute(f"PRAGMA table_info({table})"):
                yield table, row[1]


def put(path: Path, table: str, column: str, value: object, chance: random.Random) -> None:
    """Write a value into a cell of one row, whatever the column is meant for."""
    if isinstance(value, str):  # a third of all texts as bytes that claim to be text
        value = value.encode() if chance.random() < 0.3 else value
    with closing(sqlite3.connect(path)) as raw:
        rows = raw.execute(f"SELECT {'rowid' if table != 'trials' else 'arm, trial'} FROM {table}").fetchall()
        if not rows:
            return
        key = chance.choice(rows)
        where = "rowid = ?" if table != "trials" else "arm = ? AND trial = ?"
        if isinstance(value, bytes) and chance.random() < 0.5:
            column_is = f"{column} = CAST(? AS TEXT)"
        else:
            column_is = f"{column} = ?"
        try:
            raw.execute(f"UPDATE {table} SET {column_is} WHERE {where}", (value, *key))
            raw.commit()
        except sqlite3.IntegrityError:
            return


def swap_cell(path: Path, chance: random.Random) -> None:
    """Put something else into a cell."""
    table, column = chance.choice(list(columns(path)))
    put(path, table, column, chance.choice(EVIL), chance)


JSON_CELLS = (
    *(("campaign", name) for name in ("base", "original", "asked", "provenance")),
    *(("arms", "identity"), ("arms", "stored"), ("trials", "outcome")),
)


def swap_json(path: Path, chance: random.Random) -> None:
    """Put something else somewhere into JSON, take an entry out, or add one."""
    table, column = chance.choice(JSON_CELLS)
    with closing(sqlite3.connect(path)) as raw:
        found = raw.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL").fetchall()
        if not found:
            return
        old = chance.choice(found)[0]
        content = json.loads(old)
        at, parents = content, []
        while isinstance(at, (dict, list)) and at and (not parents or chance.random() < 0.7):
            key = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
            parents.append((at, key))
            at = at[key]
        if parents:
            holder, key = parents[-1]
            kind = chance.random()
            if kind < 0.15:
                del holder[key]
            elif kind < 0.25 and isinstance(holder, dict):
                holder[chance.choice(["zz", "sdc", "scored", "baseline", "n"])] = chance.choice(EVIL_JSON)
            else:
                holder[key] = chance.choice(EVIL_JSON)
        try:
            raw.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (json.dumps(content), old))
            raw.commit()
        except sqlite3.IntegrityError:
            return


def strike_bytes(path: Path, chance: random.Random) -> None:
    """Change a few bytes anywhere in the file."""
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        content[chance.randrange(len(content))] = chance.choice([0, 255, chance.randrange(256)])
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    """Leave out the end of the file, or a part of it."""
    content = path.read_bytes()
    start = chance.randrange(len(content))
    path.write_bytes(content[:start] if chance.random() < 0.5 else content[:start] + content[start + 512 :])


DAMAGE = {"cells": swap_cell, "json": swap_json, "bytes": strike_bytes, "cut": cut}


def read_all(path: Path, *, pages: bool = False) -> FaultcliError | None:
    """Read a store and render every report of it; return the error that was said, if any.

    Args:
        path: of the store.
        pages: HTML too, which takes longer than all else.
    """
    from faultcli.campaign.curves import curves_of
    from faultcli.campaign.merge import merge
    from faultcli.campaign.result import result_of
    from faultcli.report.formats import REPORTS, render

    try:
        with closing(Store.read(path)) as store:
            result = result_of(store) if store.plan().question is None else curves_of(store)
        for suffix in REPORTS:
            if suffix != ".html" or pages:
                try:
                    render(f"r{suffix}", result)
                except FaultcliError as error:
                    if "cannot show curves" not in error.message:
                        raise
        merged = path.with_name(f"{path.name}-merged")
        try:
            merge([path], merged)
        finally:
            merged.unlink(missing_ok=True)
    except FaultcliError as error:
        return error
    return None
