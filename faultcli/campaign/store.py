"""Where trials are kept: one SQLite file per campaign, one row per finished trial, committed before it is counted.

Killed at any moment, the file holds every trial that was acknowledged; the same command continues from there. The
journal is the classic one, as the write-ahead log does not work on network file systems. Others may read meanwhile.

    campaign   one row: the identity that all arms share, the accuracy of the original, what was asked for, provenance
    arms       one row per arm, in the order in which they came: its identity, its memory, its fault-free run
    trials     one row per finished trial
    failures   one row per trial that could not be run; it goes when the trial is run after all
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faultcli.campaign.gates import Gate
from faultcli.campaign.plan import Identity, Plan, Question, read_arm
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import Failure, Record
from faultcli.errors import FaultcliError, OutputError
from faultcli.workload.metrics import Outcome

APPLICATION_ID = 0x6661756C  # "faul", in the file's header: what tells a store from another SQLite file
VERSION = 1
_BUSY_SECONDS = 30.0  # a reader can hold a commit up for a moment

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE campaign (
    base TEXT NOT NULL, inputs INTEGER NOT NULL, original TEXT NOT NULL, asked TEXT NOT NULL, provenance TEXT);
CREATE TABLE arms (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, bits INTEGER, overhead REAL, stored TEXT);
CREATE TABLE trials (
    arm INTEGER NOT NULL REFERENCES arms, trial INTEGER NOT NULL, flips INTEGER NOT NULL,
    values_changed INTEGER NOT NULL, outcome TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (arm, trial)) WITHOUT ROWID;
CREATE TABLE failures (
    arm INTEGER NOT NULL REFERENCES arms, trial INTEGER NOT NULL, cause TEXT NOT NULL, PRIMARY KEY (arm, trial));
"""


class StoreError(FaultcliError):
    """A store cannot be read, or holds another campaign than the one that is asked for."""


@dataclass(frozen=True)
class Memory:
    """What is known of an arm before its first trial."""

    bits: int
    overhead_bits_per_weight: float
    stored: Outcome


class Store:
    """The trials of one campaign. `Store.open(None)` keeps them in this process only."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._ids: dict[str, int] = dict(connection.execute("SELECT identity, id FROM arms"))

    @classmethod
    def open(cls, path: Path | None) -> Store:
        """Open a store to write to; it is made if there is none.

        Raises:
            StoreError: the file is something else, damaged, or of another version.
            OutputError: it cannot be made there.
        """
        name = str(path) if path else "campaign"
        if path is not None and not path.exists() and not path.parent.is_dir():
            raise OutputError(f"{path}: its directory {path.parent} does not exist", "create the directory first")
        try:
            connection = sqlite3.connect(path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None)
        except sqlite3.Error as error:
            raise OutputError(f"{name}: cannot be written: {error}", "choose another --store") from None
        with _reported(name):
            connection.execute("PRAGMA synchronous = NORMAL")
            with _transaction(connection):
                if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
            _check_version(connection, name)
            return cls(connection, name)

    @classmethod
    def read(cls, path: Path) -> Store:
        """Open a store to read only, also while a campaign writes to it.

        Raises:
            StoreError: there is none, or the file is something else, damaged, or of another version.
        """
        if not path.is_file():
            raise StoreError(f"{path}: there is no such store", "it is what campaign --store FILE writes")
        with _reported(str(path)):
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
            _check_version(connection, str(path))
            store = cls(connection, str(path))
            if store._one("base") is None:
                raise StoreError(f"{path}: holds no campaign yet", "let the campaign get to its first trial")
            return store

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def join(
        self, identity: Identity, plan: Plan, *, inputs: int, original: Outcome, provenance: Provenance | None
    ) -> None:
        """Make this campaign that of the store: the first one as it is, a later one if it differs in its arms only.

        Raises:
            StoreError: it is another campaign; says what differs.
        """
        known = self._one("base")
        row = (
            identity.base,
            inputs,
            _json(original),
            _asked(plan, identity),
            _json(provenance) if provenance else None,
        )
        with self._writing():
            if known is None:
                self._connection.execute("INSERT INTO campaign VALUES (?, ?, ?, ?, ?)", row)
            elif known == identity.base:
                self._connection.execute("UPDATE campaign SET asked = ?, provenance = coalesce(?, provenance)", row[3:])
            else:
                difference = describe_difference(json.loads(known), json.loads(identity.base))
                raise StoreError(
                    f"{self._name}: holds another campaign: {difference}", "use its options, or another --store"
                )
            for arm in identity.arms:
                self._connection.execute("INSERT OR IGNORE INTO arms (identity) VALUES (?)", (arm,))
        self._ids = dict(self._connection.execute("SELECT identity, id FROM arms"))

    @property
    def arms(self) -> list[str]:
        """The identities of all arms, in the order in which they came."""
        return sorted(self._ids, key=lambda identity: self._ids[identity])

    def memory(self, arm: str) -> Memory | None:
        """Return what is known of an arm; None before its fault-free run."""
        query = "SELECT bits, overhead, stored FROM arms WHERE identity = ? AND bits IS NOT NULL"
        found = self._connection.execute(query, (arm,)).fetchone()
        return Memory(found[0], found[1], _outcome(found[2])) if found else None

    def keep_memory(self, arm: str, memory: Memory) -> None:
        """Keep what is known of an arm."""
        row = (memory.bits, memory.overhead_bits_per_weight, _json(memory.stored), arm)
        with self._writing():
            self._connection.execute("UPDATE arms SET bits = ?, overhead = ?, stored = ? WHERE identity = ?", row)

    def records(self, arm: str, number: int) -> dict[int, Record]:
        """Return the finished trials of an arm, by trial; `number` is its position in the plan."""
        query = "SELECT trial, flips, values_changed, outcome, seconds FROM trials WHERE arm = ? ORDER BY trial"
        rows = self._connection.execute(query, (self._ids[arm],))
        return {row[0]: Record(number, row[0], row[1], row[2], _outcome(row[3]), row[4]) for row in rows}

    def failures(self, arm: str, number: int) -> dict[int, Failure]:
        """Return the trials of an arm that could not be run, by trial."""
        rows = self._connection.execute("SELECT trial, cause FROM failures WHERE arm = ?", (self._ids[arm],))
        return {trial: Failure(number, trial, cause) for trial, cause in rows}

    def add(self, arm: str, *results: Record | Failure) -> None:
        """Keep what became of trials; when this returns, all of it is kept. What is there already stays as it is."""
        number = self._ids[arm]
        with self._writing():
            for result in results:
                if isinstance(result, Failure):
                    failed = (number, result.trial, result.cause)
                    self._connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", failed)
                    continue
                values = (result.flips, result.values_changed, _json(result.outcome), result.seconds)
                row = (number, result.trial, *values)
                self._connection.execute("INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?, ?, ?)", row)
                self._connection.execute("DELETE FROM failures WHERE arm = ? AND trial = ?", row[:2])

    @property
    def trials(self) -> int:
        """How many finished trials it holds."""
        return int(self._connection.execute("SELECT count(*) FROM trials").fetchone()[0])

    @property
    def base(self) -> str:
        """The identity that all arms share."""
        return str(self._one("base"))

    @property
    def inputs(self) -> int:
        """How many inputs every trial evaluates."""
        return int(self._one("inputs"))

    @property
    def original(self) -> Outcome:
        """The fault-free run of the checkpoint as it is."""
        return _outcome(self._one("original"))

    @property
    def provenance(self) -> Provenance | None:
        """What was said of where the numbers come from, by the last campaign that said so."""
        text = self._one("provenance")
        return Provenance(**json.loads(text)) if text else None

    def plan(self) -> Plan:
        """Return the plan with all arms of the store and what was asked for last.

        Raises:
            StoreError: an arm is not known to this version.
        """
        asked, base = json.loads(self._one("asked")), json.loads(self.base)
        target, include, exclude = base["selection"]
        baseline = asked.get("baseline", {})
        with _reported(self._name):
            return Plan(
                tuple(read_arm(json.loads(arm)) for arm in self.arms),
                asked["trials"],
                base["seed"],
                target,
                tuple(include),
                tuple(exclude),
                gates=tuple(Gate(name, threshold) for name, threshold in asked["gates"]),
                until_half_width=asked["until_half_width"],
                confidence=asked["confidence"],
                question=Question(*asked["question"]) if asked.get("question") else None,
                baseline=tuple(tuple(baseline.get(arm, ())) for arm in self.arms) if baseline else (),
            )

    def _one(self, column: str) -> Any:
        row = self._connection.execute(f"SELECT {column} FROM campaign").fetchone()
        return row[0] if row else None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _reported(self._name), _transaction(self._connection):
            yield


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
    question = [plan.question.rates, plan.question.hold] if plan.question else None
    return json.dumps(asked | {"gates": gates, "question": question, "baseline": baseline})


def _json(item: Any) -> str:
    """Return a dataclass as JSON; floats come back bit for bit."""
    return json.dumps(asdict(item), sort_keys=True)


def _outcome(text: str) -> Outcome:
    return Outcome(**json.loads(text))


def _check_version(connection: sqlite3.Connection, name: str) -> None:
    found = (connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("application_id", "user_version"))
    application, version = found
    if application != APPLICATION_ID:
        raise StoreError(f"{name}: is a database, but no store of faultcli", "name what campaign --store wrote")
    if version != VERSION:
        raise StoreError(
            f"{name}: is a store of version {version}; this faultcli reads version {VERSION}",
            "use the faultcli that wrote it, or start another --store",
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Say of which store an error is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "not a database" in text or "malformed" in text or "no such" in text:
            problem, remedy = "is no store of faultcli, or is damaged", "name what campaign --store wrote"
            raise StoreError(f"{name}: {problem} ({text})", remedy) from None
        raise OutputError(f"{name}: cannot be used: {text}", "free some space, or choose another --store") from None
