"""Where trials are kept: one SQLite file per campaign, one row per finished trial, committed before it is counted.

Killed at any moment, the file holds every trial that was acknowledged; the same command continues from there. The
journal is the classic one, as the write-ahead log does not work on network file systems. Others may read meanwhile.

    campaign   one row: the identity that all arms share, the accuracy of the original, what was asked for, provenance
    arms       one row per arm, in the order in which they came: its identity, its memory, its fault-free run
    trials     one row per finished trial
    failures   one row per trial that could not be run; it goes when the trial is run after all
    answers    at most one row: the document of the last `where`; made with it
    single_flips  one row per trial of one flip: where it is, and what the protections noticed; made with the first one
"""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar

from faultcli.campaign.database import (
    ANSWERS,
    SINGLE_FLIPS,
    StoreError,
    boundary,
    connect,
    connect_to_read,
    has_table,
    transaction,
)
from faultcli.campaign.flip_checks import read_flip
from faultcli.campaign.outcome_checks import ArmMemory, EvaluatedOn, read_memory, read_outcome, read_record
from faultcli.campaign.plan import Arm, Identity, Plan
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import Failure, Record
from faultcli.campaign.store_checks import (
    Damaged,
    of_where,
    read_arm_cell,
    read_base,
    read_failure,
    read_plan,
    read_provenance,
    text,
    whole,
)
from faultcli.workload.metrics import Outcome

__all__ = ["ArmMemory", "Store", "StoreError", "describe_difference"]

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def _guarded(
    method: Callable[Concatenate[Store, _Given], _Found],
) -> Callable[Concatenate[Store, _Given], _Found]:
    """Let a method of a store raise errors that name the store, and no others."""

    @functools.wraps(method)
    def call(store: Store, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        with boundary(store.name):
            return method(store, *args, **kwargs)

    return call


class Store:
    """The trials of one campaign. `Store.open(None)` keeps them in this process only.

    What is read is checked (`campaign.store_checks`): every method raises `StoreError` if the file is damaged or holds
    what no campaign writes, and `OutputError` if it cannot be used for another reason, such as a full disk.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name  # in messages
        self._connection = connection
        self._ids: dict[str, int] = {}
        self._read_arms: dict[str, Arm] = {}
        self._path: Path | None = None  # the file, if it is open to write
        self._made = False  # whether there was none before
        self._load_ids()

    @classmethod
    def open(cls, path: Path | None, name: str | None = None) -> Store:
        """Open a store to write to; it is made if there is none. One that is there is read through first.

        Args:
            path: where; None: nowhere.
            name: what messages call it; None: the path.

        Raises:
            StoreError: the file is something else, damaged, or of another version.
            OutputError: it cannot be made there.
        """
        name = name or (str(path) if path else "campaign")
        made = path is not None and not path.exists()
        store = cls._opened(connect(path, name), name)
        store._path, store._made = path, made
        return store

    @classmethod
    def read(cls, path: Path) -> Store:
        """Open a store to read only, also while a campaign writes to it.

        Raises:
            StoreError: there is none, or the file is something else, damaged, or of another version.
        """
        store = cls._opened(connect_to_read(path, str(path)), str(path))
        if store._one("base") is None:
            store.close()
            raise StoreError(f"{path}: holds no campaign yet", "let the campaign get to its first trial")
        return store

    @classmethod
    def _opened(cls, connection: Connection, name: str) -> Store:
        try:
            store = cls(connection, name)
            store._check()
        except BaseException:
            connection.close()
            raise
        return store

    def close(self) -> None:
        """Let go of the file; one that was made for a campaign which did not get to its fault-free run goes, unless
        another process is just reading or writing it. One that has it open and comes later makes it anew (`join`)."""
        made, self._made = self._made, False
        try:
            if made and self._path is not None:
                self._connection.execute("PRAGMA busy_timeout = 0")
                with contextlib.suppress(sqlite3.OperationalError, OSError):
                    self._connection.execute("BEGIN EXCLUSIVE")  # nobody's campaign comes in between
                    if self._one("base") is None:
                        self._path.unlink(missing_ok=True)
        finally:
            self._connection.close()

    @_guarded
    def _load_ids(self) -> None:
        rows = self._connection.execute("SELECT identity, id FROM arms").fetchall()
        for identity, number in rows:
            whole(number, "the number of an arm", -1 << 63)
            if not isinstance(identity, str):
                raise Damaged("an arm is no text")
        self._ids = dict(rows)

    @_guarded
    def _check(self) -> None:
        """Look at everything once, so that what is damaged is said before any work is done."""
        campaigns = self._connection.execute("SELECT count(*) FROM campaign").fetchone()[0]
        if campaigns > 1 or (not campaigns and self._ids):
            raise Damaged(f"it holds {campaigns} campaigns")
        for table in ("trials", "failures"):
            lost = f"SELECT count(*) FROM {table} WHERE arm NOT IN (SELECT id FROM arms)"
            if self._connection.execute(lost).fetchone()[0]:
                raise Damaged(f"{table} of an arm that it does not have")
        lost = "SELECT count(*) FROM single_flips LEFT JOIN trials USING (arm, trial) WHERE outcome IS NULL"
        if has_table(self._connection, "single_flips") and self._connection.execute(lost).fetchone()[0]:
            raise Damaged("the flip of a trial that it does not have")
        if campaigns:
            self.plan()
            _ = self.original, self.provenance
            for arm in self.arms:
                self.records(arm, 0)
                self.failures(arm, 0)

    @_guarded
    def join(
        self, identity: Identity, plan: Plan, *, inputs: int, original: Outcome, provenance: Provenance | None
    ) -> None:
        """Make this campaign that of the store: the first one as it is, a later one if it differs in its arms only.

        Raises:
            StoreError: it is another campaign, and says what differs; or one holds trials of `where`, the other none.
        """
        about = _json(provenance) if provenance else None
        row = (identity.base, inputs, _json(original), _asked(plan, identity), about)
        try:
            self._enter(identity, plan, row)
        except sqlite3.OperationalError as error:
            if self._path is None or error.sqlite_errorcode != sqlite3.SQLITE_READONLY_DBMOVED:
                raise
            self._connection.close()  # who made it has removed it, as it was empty
            self._connection, self._made = connect(self._path, self.name), True
            self._enter(identity, plan, row)
        self._load_ids()

    def _enter(self, identity: Identity, plan: Plan, row: tuple[object, ...]) -> None:
        with transaction(self._connection):
            self._load_ids()
            known = self._one("base")
            held = [self._arm(arm) for arm in self.arms]
            if len({of_where(arm) for arm in (*held, *plan.arms)}) > 1:
                there, here = ("`where`", "a campaign") if of_where(held[0]) else ("a campaign", "`where`")
                problem = f"{self.name}: holds trials of {there}, not of {here}"
                raise StoreError(problem, "take another --store for each")
            if known is None:
                self._connection.execute("INSERT INTO campaign VALUES (?, ?, ?, ?, ?)", row)
            elif known == identity.base:
                self._connection.execute("UPDATE campaign SET asked = ?, provenance = coalesce(?, provenance)", row[3:])
            else:
                difference = describe_difference(read_base(known), json.loads(identity.base))
                raise StoreError(
                    f"{self.name}: holds another campaign: {difference}", "use its options, or another --store"
                )
            for arm in identity.arms:
                self._connection.execute("INSERT OR IGNORE INTO arms (identity) VALUES (?)", (arm,))

    @property
    def arms(self) -> list[str]:
        """The identities of all arms, in the order in which they came."""
        return sorted(self._ids, key=lambda identity: self._ids[identity])

    @_guarded
    def memory(self, arm: str) -> ArmMemory | None:
        """Return what is known of an arm; None before its fault-free run."""
        query = "SELECT bits, overhead, stored FROM arms WHERE identity = ? AND bits IS NOT NULL"
        found = self._connection.execute(query, (arm,)).fetchone()
        return read_memory(found, inputs=self.inputs, like=self.original) if found else None

    @_guarded
    def keep_memory(self, arm: str, memory: ArmMemory) -> None:
        """Keep what is known of an arm."""
        row = (memory.bits, memory.overhead_bits_per_weight, _json(memory.stored), arm)
        with transaction(self._connection):
            self._connection.execute("UPDATE arms SET bits = ?, overhead = ?, stored = ? WHERE identity = ?", row)

    @_guarded
    def records(self, arm: str, number: int) -> dict[int, Record]:
        """Return the finished trials of an arm, by trial; `number` is its position in the plan."""
        query = "SELECT trial, flips, values_changed, outcome, seconds FROM trials WHERE arm = ? ORDER BY trial"
        rows = self._connection.execute(query, (self._ids[arm],)).fetchall()
        if not rows:
            return {}
        about, bits, size = self._arm(arm), self._bits(arm), self.inputs_per_trial
        given: EvaluatedOn = {"inputs": self.inputs, "like": self.original, "size": size}
        found = (read_record(row, number, about, bits, **given) for row in rows)
        return self._with_flips({record.trial: record for record in found}, arm)

    def _with_flips(self, records: dict[int, Record], arm: str) -> dict[int, Record]:
        if has_table(self._connection, "single_flips"):
            rows = self._connection.execute("SELECT trial, flip FROM single_flips WHERE arm = ?", (self._ids[arm],))
            for trial, cell in rows.fetchall():
                record = records.get(trial)  # None: added since the trials were read
                if record is not None:
                    records[trial] = replace(record, flip=read_flip(cell, trial, record.flips))
        return records

    @_guarded
    def failures(self, arm: str, number: int) -> dict[int, Failure]:
        """Return the trials of an arm that could not be run, by trial."""
        query = "SELECT trial, cause FROM failures WHERE arm = ?"
        rows = self._connection.execute(query, (self._ids[arm],)).fetchall()
        found = (read_failure(row, number, self._arm(arm), self._bits(arm)) for row in rows)
        return {failure.trial: failure for failure in found}

    @_guarded
    def add(self, arm: str, *results: Record | Failure) -> None:
        """Keep what became of trials; when this returns, all of it is kept. What is there already stays as it is."""
        number = self._ids[arm]
        with transaction(self._connection):
            for result in results:
                if isinstance(result, Failure):
                    failed = (number, result.trial, result.cause)
                    self._connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", failed)
                    continue
                values = (result.flips, result.values_changed, _json(result.outcome), result.seconds)
                row = (number, result.trial, *values)
                self._connection.execute("INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?, ?, ?)", row)
                if result.flip is not None:
                    self._connection.execute(SINGLE_FLIPS)
                    place = (number, result.trial, _json(result.flip))
                    self._connection.execute("INSERT OR IGNORE INTO single_flips VALUES (?, ?, ?)", place)
                self._connection.execute("DELETE FROM failures WHERE arm = ? AND trial = ?", row[:2])

    @_guarded
    def keep_answer(self, document: str) -> None:
        """Keep what the trials say, as `where` put it last."""
        with transaction(self._connection):
            self._connection.execute(ANSWERS)
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (1, ?)", (document,))

    @property
    @_guarded
    def answer(self) -> str | None:
        """What was kept so; None if nothing was."""
        if not has_table(self._connection, "answers"):
            return None
        found = self._connection.execute("SELECT document FROM answers").fetchone()
        return None if found is None else text(found[0], "what `where` said")

    @property
    @_guarded
    def trials(self) -> int:
        """How many finished trials it holds."""
        return int(self._connection.execute("SELECT count(*) FROM trials").fetchone()[0])

    @property
    @_guarded
    def base(self) -> str:
        """The identity that all arms share."""
        base = self._one("base")
        read_base(base)
        return str(base)

    @property
    @_guarded
    def begun(self) -> bool:
        """Whether it holds a campaign."""
        return self._one("base") is not None

    @property
    @_guarded
    def inputs_per_trial(self) -> int | None:
        """How many inputs every trial runs, where these are not all."""
        size: int | None = read_base(self._one("base")).get("inputs_per_trial")
        return size

    @property
    @_guarded
    def inputs(self) -> int:
        """How many inputs there are."""
        return whole(self._one("inputs"), "the number of inputs", 1)

    @property
    @_guarded
    def original(self) -> Outcome:
        """The fault-free run of the checkpoint as it is."""
        return read_outcome(self._one("original"), "the fault-free run", inputs=self.inputs)

    @property
    @_guarded
    def provenance(self) -> Provenance | None:
        """What was said of where the numbers come from, by the last campaign that said so."""
        return read_provenance(self._one("provenance"))

    @_guarded
    def plan(self) -> Plan:
        """Return the plan with all arms of the store and what was asked for last."""
        base = read_base(self._one("base"))
        return read_plan(self._one("asked"), base, {arm: self._arm(arm) for arm in self.arms})

    def _arm(self, identity: str) -> Arm:
        if identity not in self._read_arms:
            self._read_arms[identity] = read_arm_cell(identity)
        return self._read_arms[identity]

    def _bits(self, arm: str) -> int:
        """Return the bits of an arm that has trials."""
        memory = self.memory(arm)
        if memory is None:
            raise Damaged("an arm has trials, but no fault-free run")
        return memory.bits

    @_guarded
    def _one(self, column: str) -> Any:
        row = self._connection.execute(f"SELECT {column} FROM campaign").fetchone()
        return row[0] if row else None


def describe_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in which entries two identities differ, such as `batch_size is 100 there and 50 here`."""
    flat_there, flat_here = _flat(there), _flat(here)
    names = [name for name in flat_there | flat_here if flat_there.get(name) != flat_here.get(name)]
    return ", ".join(
        f"{name} is {_short(flat_there.get(name))} there and {_short(flat_here.get(name))} here" for name in names
    )


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    nested = content["workload"]
    return {name: value for name, value in content.items() if name != "workload"} | (
        nested if isinstance(nested, dict) else {"workload": nested}
    )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _asked(plan: Plan, identity: Identity) -> str:
    gates = [[gate.name, gate.threshold] for gate in plan.gates]
    asked = {"trials": plan.trials, "until_half_width": plan.until_half_width, "confidence": plan.confidence}
    baseline = dict(zip(identity.arms, plan.baseline, strict=True)) if plan.baseline else None
    question = [plan.question.axis.asked, plan.question.hold] if plan.question else None
    said = {"gates": gates, "question": question, "baseline": baseline, "bounds": plan.bounds}
    return json.dumps(asked | said)


def _json(item: Any) -> str:
    """Return a dataclass as JSON; floats come back bit for bit. What is None and newer than the format is left out, so
    that older versions read it."""
    return json.dumps({name: value for name, value in asdict(item).items() if (name, value) != ("labels_used", None)})
