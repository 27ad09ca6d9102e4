"""Stores that are damaged, of somebody else, in use, on a full disk: said in two lines, naming the store, with exit 2.

FAULTCLI_DAMAGE sets how many damaged stores of each kind are read (25; 25,000 were done for the record).
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from damage import DAMAGE, EVIL, columns, make, put, read_all
from small_campaign import PLAN, run_demo

from faultcli.campaign import database
from faultcli.campaign.merge import merge
from faultcli.campaign.result import result_of
from faultcli.campaign.store import Store, StoreError
from faultcli.cli import run
from faultcli.errors import FaultcliError, OutputError

ROUNDS = int(os.environ.get("FAULTCLI_DAMAGE", "25"))
KINDS = ("classifier", "language", "curve")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("whole")
    return {kind: make(place / kind, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_damaged_is_read(whole: dict[str, Path], kind: str) -> None:
    assert read_all(whole[kind], pages=True) is None


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_said_with_the_stores_name(whole: dict[str, Path], how: str, tmp_path: Path) -> None:
    chance = random.Random(how)
    said = 0
    for number in range(ROUNDS):
        path = tmp_path / "damaged"
        shutil.copy(whole[KINDS[number % 3]], path)
        DAMAGE[how](path, chance)
        error = read_all(path, pages=number == 0)  # anything but a FaultcliError ends the test
        if error is not None:
            said += 1
            assert error.message.startswith(str(path)), error.message
            assert error.remedy
            assert error.exit_code == 2
    assert said > ROUNDS // 4


def every_cell() -> list[tuple[str, str]]:
    return [
        *(("campaign", name) for name in ("base", "inputs", "original", "asked", "provenance")),
        *(("arms", name) for name in ("id", "identity", "bits", "overhead", "stored")),
        *(("trials", name) for name in ("arm", "trial", "flips", "values_changed", "outcome", "seconds")),
        *(("failures", name) for name in ("arm", "trial", "cause")),
    ]


@pytest.mark.parametrize(("table", "column"), every_cell())
def test_every_column_with_every_type(whole: dict[str, Path], table: str, column: str, tmp_path: Path) -> None:
    assert (table, column) in list(columns(whole["classifier"]))
    path = tmp_path / "damaged"
    for value in (b"\xff", "x", -7, 2**62, 0.25, 1e308):
        shutil.copy(whole["classifier"], path)
        put(path, table, column, value, random.Random(0))
        if path.read_bytes() == whole["classifier"].read_bytes():
            continue  # the table does not take it
        error = read_all(path)
        fits = (column, value) in {("overhead", 0.25), ("seconds", 0.25)} or (column == "cause" and value != b"\xff")
        assert (error is None) == fits, (value, error)


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(sql)


STRUCTURE = {
    "a column is missing": "ALTER TABLE trials DROP COLUMN seconds",
    "a column has another type": "DROP TABLE failures; CREATE TABLE failures (arm TEXT, trial TEXT, cause BLOB)",
    "a table is missing": "DROP TABLE failures",
    "a table is an endless view": "DROP TABLE failures; CREATE VIEW failures AS WITH RECURSIVE r(arm, trial, cause) AS "
    "(SELECT 1, 1, 'x' UNION ALL SELECT 1, trial + 1, 'x' FROM r) SELECT * FROM r",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trials; END",
    "two campaigns": "INSERT INTO campaign SELECT * FROM campaign",
    "trials of no arm": "UPDATE trials SET arm = 99 WHERE arm = 1",
    "trials before the fault-free run": "UPDATE arms SET bits = NULL",
}


@pytest.mark.parametrize("what", STRUCTURE)
def test_tables_that_no_campaign_makes(whole: dict[str, Path], what: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    shutil.copy(whole["classifier"], path)
    change(path, STRUCTURE[what])
    before = path.read_bytes()
    for use in (Store.open, Store.read):
        with pytest.raises(StoreError, match=f"{path}: is damaged"):
            use(path)
    assert path.read_bytes() == before


IMPOSSIBLE = {
    "more right than inputs": ("trials", "outcome", "json_set(outcome, '$.correct1', 21)"),
    "a negative count": ("trials", "outcome", "json_set(outcome, '$.due', -1)"),
    "parts that do not add up": ("trials", "outcome", "json_set(outcome, '$.sdc', 5)"),
    "other inputs than the campaign": ("trials", "outcome", "json_set(outcome, '$.n', 10)"),
    "an infinite loss": ("trials", "outcome", "json_set(outcome, '$.loss', 9e999)"),
    "NaN": ("trials", "outcome", "replace(outcome, '0.25', 'NaN')"),
    "another kind of model": ("trials", "outcome", "json_set(outcome, '$.scored', 80)"),
    "an unknown count": ("arms", "stored", "json_set(stored, '$.luck', 1)"),
    "more flips than bits": ("trials", "flips", "4001"),
    "a trial nobody can reach": ("trials", "trial", "trial + 10000000"),
    "an unknown format": ("arms", "identity", "json_set(identity, '$.format', 'q2.9x')"),
    "an unknown law": ("arms", "identity", "json_set(identity, '$.fault', 'moonlight:3')"),
    "an unknown chain": ("arms", "identity", "json_set(identity, '$.protect', 'prayer')"),
    "an unknown schema": ("campaign", "base", "json_set(base, '$.schema', 'faultcli.campaign/9')"),
    "a negative seed": ("campaign", "base", "json_set(base, '$.seed', -1)"),
    "no selection": ("campaign", "base", "json_remove(base, '$.selection')"),
    "no trials": ("campaign", "asked", "json_set(asked, '$.trials', 0)"),
    "a confidence of 1": ("campaign", "asked", "json_set(asked, '$.confidence', 1)"),
    "an unknown gate": ("campaign", "asked", "json_set(asked, '$.gates[0][0]', 'min-joy')"),
    "a short baseline": ("campaign", "asked", "json_set(asked, '$.trials', 5)"),
    "no inputs": ("campaign", "inputs", "0"),
    "too many bits": ("arms", "bits", "1 << 60"),
    "text as a number": ("trials", "seconds", "'soon'"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_values_that_cannot_be(
    whole: dict[str, Path], what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    shutil.copy(whole["classifier"], path)
    table, column, value = IMPOSSIBLE[what]
    change(path, f"UPDATE {table} SET {column} = {value}{' WHERE id = 1' if table == 'arms' else ''}")
    assert path.read_bytes() != whole["classifier"].read_bytes()
    before = path.read_bytes()
    reports = [str(tmp_path / f"r{suffix}") for suffix in (".html", ".md", ".xml", ".json", ".arms.csv", ".csv")]
    demo = ["campaign", "--ber", "1e-3", "--limit", "5", "--trials", "1", "--threads", "1", "-q", "--store", str(path)]
    for command in (
        ["report", str(path), *(part for file in reports for part in ("-o", file))],
        ["merge", str(whole["classifier"]), str(path), "-o", str(tmp_path / "all.sqlite")],
        [*demo, "--plan-only"],
        demo,
    ):
        assert run(command) == 2, command
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 2, lines
        assert lines[0].startswith(f"faultcli: error: {path}: is damaged, or written by another faultcli: ")
        assert lines[1].startswith("try: ")
    assert sorted(os.listdir(tmp_path)) == ["s"]  # no report, no merged store, no temporary file
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_campaign_that_has_not_begun_has_no_report(
    whole: dict[str, Path], kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    shutil.copy(whole[kind], path)
    change(
        path, "DELETE FROM trials; DELETE FROM failures; UPDATE arms SET bits = NULL, overhead = NULL, stored = NULL"
    )
    assert run(["report", str(path), "-o", str(tmp_path / "r.json")]) == 2
    assert f"{path}: its campaign has not run anything yet" in capfd.readouterr().err


def test_text_that_is_no_unicode_reaches_every_report(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "s"
    shutil.copy(whole["classifier"], path)
    change(path, "UPDATE campaign SET provenance = json_replace(provenance, '$.model', json('\"a\\udcffb\"'))")
    with closing(Store.read(path)) as store:
        assert store.provenance is not None
        assert store.provenance.model == "a\\udcffb"
    assert read_all(path, pages=True) is None


@pytest.mark.parametrize("name", [":memory:", "file:x", "file:x?mode=memory", "%41", "a?b#c", "file::memory:"])
def test_every_name_is_a_file_of_that_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(name), "classifier")
    assert os.listdir(tmp_path) == [name]
    with closing(Store.read(Path(name))) as store:
        assert store.trials == 12


@pytest.mark.parametrize("sql", ["PRAGMA application_id = 7; VACUUM", "PRAGMA user_version = 3; VACUUM", "VACUUM"])
def test_an_empty_database_of_another_application_stays_its_own(sql: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    change(path, f"CREATE TABLE t (x); DROP TABLE t; {sql}")
    before = path.read_bytes()
    assert before
    with pytest.raises(StoreError, match="is a database, but no store of faultcli"):
        Store.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["directory", "pipe", "device"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(OutputError, match="is no regular file"):
        Store.open(path)


def test_a_full_disk_is_said_and_keeps_what_there_is(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "s")) as store:
        run_demo(store, plan=replace(PLAN, trials=2))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OutputError, match=r"s: cannot be written: no space is left on the disk") as info:
            run_demo(store, plan=replace(PLAN, trials=200))
        assert "free some space" in (info.value.remedy or "")
        kept = store.trials
        store._connection.execute("PRAGMA max_page_count = 100000")
        assert trials_of(store) == kept >= 8
        run_demo(store, plan=replace(PLAN, trials=3))  # the store is as usable as before
    with closing(Store.read(tmp_path / "s")) as store:
        assert result_of(store)


def trials_of(store: Store) -> int:
    return sum(len(store.records(arm, 0)) for arm in store.arms)


def test_a_disk_that_fails_in_a_merge_names_the_output(whole: dict[str, Path], tmp_path: Path) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from faultcli.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "merge", str(whole["classifier"]), "-o", "out.sqlite"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("faultcli: error: out.sqlite: cannot be read or written")
    assert ".faultcli-" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_locked_store_is_said_to_be_in_use(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    path = tmp_path / "s"
    shutil.copy(whole["classifier"], path)
    uses: list[Callable[[], object]] = [lambda: Store.open(path), lambda: Store.read(path)]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in uses:
            with pytest.raises(OutputError, match="s: is in use by another process") as info:
                use()
            assert "wait until that is done" in (info.value.remedy or "")
        other.execute("ROLLBACK")
        store = Store.open(path)
        other.execute("BEGIN IMMEDIATE")
        with closing(store), pytest.raises(OutputError, match="s: is in use by another process"):
            run_demo(store)


def test_a_store_that_a_kill_left_in_the_middle_of_a_commit_is_read(whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "s"
    shutil.copy(whole["classifier"], path)
    killed = (
        "import os, sqlite3, sys; raw = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "raw.execute('PRAGMA cache_size = 1'); raw.execute('BEGIN IMMEDIATE');"
        "raw.execute('UPDATE trials SET outcome = hex(zeroblob(20000))'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed, str(path)], check=True)
    assert path.with_name("s-journal").stat().st_size
    assert path.read_bytes() != whole["classifier"].read_bytes()
    with closing(Store.read(path)) as store:
        assert trials_of(store) == 12
    assert path.read_bytes()[100:] == whole["classifier"].read_bytes()[100:]


def test_stores_of_different_arms_with_a_baseline_merge(whole: dict[str, Path], tmp_path: Path) -> None:
    more = tmp_path / "more"
    shutil.copy(whole["classifier"], more)
    change(
        more,
        "DELETE FROM trials; DELETE FROM failures; UPDATE arms SET identity = json_set(identity, '$.format', 'q3.4')",
    )
    done = merge([whole["classifier"], more], tmp_path / "all")
    assert (done.arms, done.trials) == (6, 12)
    with closing(Store.read(tmp_path / "all")) as store:
        assert [len(values) for values in store.plan().baseline] == [4, 4, 4, 0, 0, 0]


def test_every_evil_value_is_worth_its_name() -> None:
    assert len({repr(value) for value in EVIL}) == len(EVIL)
    assert issubclass(StoreError, FaultcliError)
