"""Stores: resumed, refused, read while written, merged; and nothing acknowledged is lost when a campaign is killed."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path

import pytest
from small_campaign import PLAN, demo_workload, run_demo

from faultcli.campaign.database import VERSION
from faultcli.campaign.gates import Gate
from faultcli.campaign.merge import merge
from faultcli.campaign.plan import cross
from faultcli.campaign.records import Record
from faultcli.campaign.result import result_of
from faultcli.campaign.store import Store, StoreError
from faultcli.errors import OutputError
from faultcli.faults.laws import parse_law
from faultcli.report.trials import trials_jsonl


def test_a_store_reads_as_the_campaign_that_wrote_it(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "s")) as store:
        written = run_demo(store, plan=replace(PLAN, gates=(Gate("max-drop", 0.2),), trials=12))
    with closing(Store.read(tmp_path / "s")) as store:
        read = result_of(store)
    assert replace(read, seconds=0.0) == replace(written, seconds=0.0)


def test_what_is_kept_is_not_run_again(tmp_path: Path, undisturbed: bytes) -> None:
    ran: list[int] = []
    with closing(Store.open(tmp_path / "s")) as store:
        run_demo(store, plan=replace(PLAN, trials=3))
        workload = demo_workload()
        answers = workload.answers
        workload.answers = lambda run=None: ran.append(1) or answers(run)  # type: ignore[assignment,func-returns-value]
        assert trials_jsonl(run_demo(store, workload=workload)) == undisturbed
        after_second = len(ran)
        assert trials_jsonl(run_demo(store, workload=workload)) == undisturbed
    assert len(ran) == after_second + 1  # the original, to see that it is the same model


def test_arms_can_be_added_and_left_out(tmp_path: Path, undisturbed: bytes) -> None:
    half = replace(PLAN, arms=PLAN.arms[1:3])
    with closing(Store.open(tmp_path / "s")) as store:
        part = run_demo(store, plan=half)
        whole = run_demo(store)
        assert trials_jsonl(whole) == undisturbed
        assert [arm.arm for arm in run_demo(store, plan=half).arms] == [arm.arm for arm in part.arms]
        assert len(result_of(store).arms) == 4


def test_a_model_that_fails_leaves_no_store(tmp_path: Path) -> None:
    """One that was there stays, whatever it holds."""
    path, workload = tmp_path / "s", demo_workload()
    workload.fault_free = lambda: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError), closing(Store.open(path)) as store:
        run_demo(store, workload=workload)
    assert not path.exists()
    path.touch()
    with pytest.raises(ZeroDivisionError), closing(Store.open(path)) as store:
        run_demo(store, workload=workload)
    assert path.exists()
    with closing(Store.open(path)) as store:
        run_demo(store, plan=replace(PLAN, trials=1))
    assert Store.read(path).trials


def test_an_empty_store_that_another_has_open_loses_nothing(tmp_path: Path) -> None:
    """Who made it removes it; who comes later makes it anew. While another writes, it stays."""
    path, plan = tmp_path / "s", replace(PLAN, trials=1)
    maker = Store.open(path)
    with closing(Store.open(path)) as other:
        maker.close()
        assert not path.exists()
        run_demo(other, plan=plan)
        assert other.trials == 4
    assert Store.read(path).trials == 4

    path = tmp_path / "t"
    maker = Store.open(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as writing:
        writing.execute("BEGIN IMMEDIATE")
        maker.close()
    assert path.exists()

    with closing(Store.open(path)) as store:
        run_demo(store, plan=plan)
        path.unlink()
        with pytest.raises(OutputError, match="t: was removed or renamed while it was open"):
            store.keep_answer("{}")


def test_two_that_begin_at_once_make_one_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one finds empty may no longer be so when it writes."""
    from faultcli.campaign import store as module

    path, plan, transaction, first = tmp_path / "s", replace(PLAN, trials=1), module.transaction, [True]

    def late(connection: sqlite3.Connection) -> AbstractContextManager[None]:
        if first.pop() if first else False:
            with closing(Store.open(path)) as quicker:
                run_demo(quicker, plan=plan)
        return transaction(connection)

    with closing(Store.open(path)) as slower:
        monkeypatch.setattr(module, "transaction", late)
        run_demo(slower, plan=plan)
    with closing(Store.read(path)) as store:
        assert store.trials == 4


def test_another_campaign_is_refused_with_what_differs(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path / "s")) as store:
        run_demo(store, plan=replace(PLAN, trials=1))
        before = (tmp_path / "s").read_bytes()
        with pytest.raises(StoreError, match=r"s: holds another campaign: seed is 0 there and 1 here"):
            run_demo(store, plan=replace(PLAN, seed=1))
        workload = demo_workload()
        workload.batch_size = 5
        with pytest.raises(StoreError, match=r"batch_size is 100 there and 5 here"):
            run_demo(store, workload=workload)
        with pytest.raises(StoreError, match=r"data is .* there and .* here"):
            run_demo(store, workload=demo_workload(20))
    assert (tmp_path / "s").read_bytes() == before


def test_files_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to look like one" * 40)
    (tmp_path / "empty").touch()
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE t (x)")
        other.commit()
    with closing(Store.open(tmp_path / "newer")) as store:
        run_demo(store, plan=replace(PLAN, trials=1))
    with closing(sqlite3.connect(tmp_path / "newer")) as newer:
        newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    for name, words in {
        "text": "is no store of faultcli, or is damaged",
        "other": "is a database, but no store of faultcli",
        "newer": f"is a store of version {VERSION + 1}; this faultcli reads version {VERSION}",
    }.items():
        before = (tmp_path / name).read_bytes()
        for use in (Store.read, Store.open):
            with pytest.raises(StoreError, match=words):
                use(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(StoreError, match="there is no such store"):
        Store.read(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"is a database, but no store|holds no campaign"):
        Store.read(tmp_path / "empty")
    with pytest.raises(OutputError, match=r"its directory .* does not exist"):
        Store.open(tmp_path / "no" / "where")


def test_others_read_while_it_is_written(tmp_path: Path) -> None:
    seen = []
    with closing(Store.open(tmp_path / "s")) as store:

        def look(found: object, watch: object) -> None:
            with closing(Store.read(tmp_path / "s")) as reader:
                seen.append(reader.trials)

        run_demo(store, on_record=look)
    assert seen == list(range(1, 4 * PLAN.trials + 1))


def test_merging(tmp_path: Path, undisturbed: bytes) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    with closing(Store.open(a)) as store:
        run_demo(store, plan=replace(PLAN, trials=5))
    with closing(Store.open(b)) as store:
        run_demo(store)
    done = merge([a, b], tmp_path / "all")
    assert (done.trials, done.repeats) == (32, 20)
    with closing(Store.read(tmp_path / "all")) as store:
        assert trials_jsonl(result_of(store)) == undisturbed
    with closing(Store.open(c)) as store:
        run_demo(store, plan=replace(PLAN, seed=3, trials=1))
    with pytest.raises(StoreError, match=r"c: holds another campaign than .*a: seed is 0 in the first and 3 here"):
        merge([a, c], tmp_path / "mixed")
    with closing(sqlite3.connect(b)) as raw:
        raw.execute("UPDATE trials SET flips = flips + 1 WHERE trial = 2 AND arm = 1")
        raw.commit()
    with pytest.raises(StoreError, match=r"b: trial 2 of q2.5 bitflip:0.001 none has another outcome than before"):
        merge([a, b], tmp_path / "wrong")


def test_new_arms_with_other_trials_still_pair(tmp_path: Path) -> None:
    arms = cross(["q2.5"], [parse_law("bitflip:1e-3"), parse_law("bitflip:2e-3")])
    with closing(Store.open(tmp_path / "s")) as store:
        run_demo(store, plan=replace(PLAN, arms=arms[:1], trials=3))
        both = run_demo(store, plan=replace(PLAN, arms=arms, trials=3))
    alone = run_demo(plan=replace(PLAN, arms=arms[1:], trials=3))

    def values(records: tuple[Record, ...]) -> list[tuple[int, int]]:
        return [(record.flips, record.outcome.correct1) for record in records]

    assert values(both.arms[1].records) == values(alone.arms[0].records)
