"""The command: what it prints, keeps and refuses; and that its numbers are those of an unstratified campaign."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

Cli = Callable[..., object]
SMALL = ("--limit", "20", "--quiet", "--include", "fc2*")


def document(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_goes_on_from_its_store(faultcli: Cli, tmp_path: Path) -> None:
    """Cut short and continued, by several workers or not, it is the same."""
    store, whole, again = (tmp_path / name for name in ("s.db", "whole.json", "again.json"))
    assert faultcli("where", *SMALL, "--trials", "150", "--half-width", "1e-4", "--json", whole).code == 0
    assert faultcli("where", *SMALL, "--trials", "64", "--half-width", "1e-4", "--store", store).code == 0
    command = ("where", *SMALL, "--trials", "150", "--half-width", "1e-4", "--store", store, "--json", again)
    assert faultcli(*command).code == 0
    one, other = document(whole), document(again)
    del one["timing"], other["timing"]
    assert one == other
    assert one["trials"] == 150
    assert not one["reached"]


def test_agrees_with_an_unstratified_campaign(faultcli: Cli, tmp_path: Path) -> None:
    """Flips of exponents alone, so that the campaign sees something."""
    path, campaign = tmp_path / "w.json", tmp_path / "c.json"
    assert faultcli("where", *SMALL, "--half-width", "0.004", "--json", path).code == 0
    found = document(path)
    assert found["reached"]
    fault = ("--fault", "flips:1,bits=30", "--trials", "150", "--json", campaign)
    assert faultcli("campaign", *SMALL, *fault).code == 0
    arm = document(campaign)["arms"][0]
    bit = next(one for one in found["bit_positions"] if one["bit"] == "30")
    assert bit["low"] - 0.1 <= arm["sdc"] + arm["due"] <= bit["high"] + 0.1
    strata = found["strata"]
    sites = sum(one["sites"] for one in strata)
    assert sites == found["bits"]
    assert found["network"]["mean"] == pytest.approx(sum(s["sites"] * s["mean"] for s in strata) / sites)
    assert found["means"]["sdc"] + found["means"]["due"] == pytest.approx(found["network"]["mean"])


def test_a_part_of_the_inputs_says_the_same(faultcli: Cli, tmp_path: Path) -> None:
    """And which part it was, the store knows."""
    store, path, again = (tmp_path / name for name in ("s.db", "w.json", "again.json"))
    common = ("where", "--limit", "80", "--quiet", "--include", "fc2*", "--trials", "200", "--half-width", "0.004")
    assert faultcli(*common, "--json", path).code == 0
    full = document(path)["network"]
    assert faultcli(*common, "--inputs-per-trial", "10", "--json", path, "--store", store).code == 0
    found = document(path)
    assert found["inputs_per_trial"] == 10
    assert full["low"] - 0.004 <= found["network"]["mean"] <= full["high"] + 0.004
    done = faultcli(*common, "--inputs-per-trial", "auto", "--json", again, "--store", store)
    assert "10 of 80 inputs per trial" in " ".join(done.out.split())
    other = document(again)
    del found["timing"], other["timing"]
    assert found == other


def test_each_layer_alone_is_what_a_campaign_says_of_it(faultcli: Cli, tmp_path: Path) -> None:
    store, path, again, campaign = (tmp_path / name for name in ("s.db", "w.json", "again.json", "c.json"))
    common = ("--limit", "20", "--quiet", "--format", "q2.5", "--include", "conv1*", "--include", "fc2*")
    where = ("where", *common, "--fault", "bitflip:3e-3", "--half-width", "0.02", "--threads", "1")
    done = faultcli(*where, "--json", path)
    assert done.code == 0
    assert "█" in done.out
    found = document(path)
    assert found["fault"] == "bitflip:0.003"
    assert found["reached"]
    assert found["bit_positions"] == found["strata"] == []
    layers = {one["name"]: one for one in found["layers"]}
    assert found["network"]["mean"] == pytest.approx(sum(one["mean"] for one in layers.values()) / len(layers))
    assert sum(one["sites"] for one in layers.values()) == found["bits"]
    assert faultcli(*where, "--json", again, "--store", store, "--trials", "30").code == 0
    assert faultcli(*where, "--json", again, "--store", store).code == 0
    other = document(again)
    del found["timing"], other["timing"]
    assert found == other
    assert faultcli("report", store, "-o", tmp_path / "r.json").code == 2
    for name, layer in layers.items():
        law = ("--fault", f"bitflip:3e-3,include={name}", "--trials", "25", "--threads", "1")
        assert faultcli("campaign", *common, *law, "--json", campaign).code == 0
        arm = document(campaign)["arms"][0]
        low, high = (arm["accuracy"][end] - arm["stored_accuracy"] for end in ("low", "high"))
        change = layer["accuracy_change"]
        assert change["low"] - 0.02 <= high
        assert low <= change["high"] + 0.02


def test_the_table_says_what_is_critical(faultcli: Cli) -> None:
    done = faultcli("where", *SMALL, "--trials", "130", "--by", "channel", "--critical", "drop:0.1")
    assert done.code == 0
    for text in ("drop:0.1", "fc2.weight[3]", "Leveugle", "Ruospo", "Layer by bit"):
        assert text in " ".join(done.out.split()), text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--critical", "much"), "--critical much"),
        (("--critical", "drop"), "--critical drop"),
        (("--fault", "flips:2"), "--fault flips:2"),
        (("--fault", "bitflip:1e-3,bits=30"), "--fault bitflip:1e-3"),
        (("--fault", "bitflip:0"), "bitflip:0"),
        (("--fault", "bitflip:1e-3", "--by", "channel"), "--by channel"),
        (("--half-width", "0"), "--half-width 0"),
        (("--stratum-half-width", "2"), "--stratum-half-width 2"),
        (("--by", "weight"), "--by weight"),
        (("--protect", "scale=auto", "--format", "q2.5"), "depends on the bit-error rate"),
        (("--inputs-per-trial", "5", "--critical", "any"), "--critical any"),
        (("--inputs-per-trial", "20"), "there are 20 inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(options: tuple[str, ...], said: str, faultcli: Cli) -> None:
    done = faultcli("where", *SMALL, *options)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 2


def test_writes_the_map_and_its_store_shows_it_again(faultcli: Cli, tmp_path: Path) -> None:
    """Whoever renders it, and however often: the same bytes. Nothing is run for a report."""
    kinds, store = ("html", "svg", "csv", "json"), tmp_path / "s.db"
    files = [tmp_path / f"m.{kind}" for kind in kinds]
    outputs = [part for file in files for part in ("-o", file)]
    command = ("where", *SMALL, "--trials", "130", "--by", "channel", "--store", store)
    assert faultcli(*command, *outputs).code == 0
    for kind, file in zip(kinds, files, strict=True):
        again = tmp_path / f"again.{kind}"
        assert faultcli("report", store, "-o", again, "--quiet").code == 0
        assert again.read_bytes() == file.read_bytes()
    found = document(tmp_path / "m.json")
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seen = {(row["region"], row["channel"], row["bit"]): row for row in rows if row["part"] == "channel-bit"}
    assert len(seen) == len(found["strata"])
    for stratum in found["strata"]:
        row = seen[stratum["region"], str(stratum["channel"]), str(stratum["bit"])]
        assert int(row["trials"]) == stratum["trials"]
        assert row["group"] == ("sign" if stratum["bit"] == 31 else "exponent" if stratum["bit"] > 22 else "mantissa")
    for part in ("layer", "bit", "layer-bit", "channel", "channel-bit"):  # each splits the same bits and flips up
        for count in ("sites", "trials"):
            assert sum(int(row[count]) for row in rows if row["part"] == part) == int(rows[0][count]), (part, count)
    for output in ("m.md", "m.parquet"):
        refused = faultcli("report", store, "-o", tmp_path / output)
        assert refused.code == 2
        assert ".svg" in refused.err
    refused = faultcli("report", store, "-o", tmp_path / "s.html", "--fit-per-mbit", "700")
    assert refused.code == 2
    assert "evenly drawn" in refused.err


def test_a_map_of_a_part_of_the_inputs_says_so(faultcli: Cli, tmp_path: Path) -> None:
    store, page, again = (tmp_path / name for name in ("s.db", "m.html", "again.html"))
    options = ("--trials", "64", "--inputs-per-trial", "8", "--store", store, "-o", page)
    assert faultcli("where", *SMALL, *options).code == 0
    assert "8 of 20 inputs per trial" in page.read_text(encoding="utf-8")
    assert faultcli("report", store, "-o", again).code == 0
    assert again.read_bytes() == page.read_bytes()


def test_a_store_shows_nothing_before_the_end_or_when_damaged(faultcli: Cli, tmp_path: Path) -> None:
    store, page = tmp_path / "s.db", tmp_path / "m.html"
    assert faultcli("where", *SMALL, "--trials", "10", "--store", store).code == 0
    for statement, said in (
        ("UPDATE answers SET document = replace(document, '\"seed\"', '\"sead\"')", "is damaged"),
        ("UPDATE answers SET document = replace(document, 'faultcli.where/1', 'faultcli.where/9')", "is damaged"),
        ("UPDATE answers SET document = '{'", "is damaged"),
        ("UPDATE answers SET document = x'00'", "is damaged"),
        ("DROP TABLE answers", "has not come to an end"),
    ):
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute(statement)
        refused = faultcli("report", store, "-o", page)
        assert refused.code == 2, statement
        assert said in refused.err, statement
        assert len(refused.err.strip().splitlines()) == 2
        assert not page.exists()


def test_outputs_are_looked_at_before_anything_runs(faultcli: Cli, tmp_path: Path) -> None:
    there = tmp_path / "m.svg"
    there.write_text("mine", encoding="utf-8")
    for options, said in (
        (("-o", tmp_path / "m.png"), "m.png: is no kind of report of where"),
        (("-o", there), "m.svg"),
        (("-o", tmp_path / "m.html", "--worst", "2"), "--output"),
        (("-o", tmp_path / "m.html", "--fault", "bitflip:1e-3"), "the map is of single flips"),
    ):
        done = faultcli("where", *SMALL, "--store", tmp_path / "s.db", *options)
        assert done.code == 2
        assert said in done.err
        assert not (tmp_path / "s.db").exists()
    assert there.read_text(encoding="utf-8") == "mine"
    assert faultcli("where", *SMALL, "--trials", "10", "-o", there, "--force").code == 0
    assert there.read_text(encoding="utf-8").startswith("<svg")


def test_a_store_holds_a_campaign_or_what_where_found(faultcli: Cli, tmp_path: Path) -> None:
    """A report shows one of them."""
    where, campaign = ("where", *SMALL, "--trials", "64"), ("campaign", "--ber", "1e-4", *SMALL, "--trials", "2")
    for first, second, held in ((where, campaign, "`where`"), (campaign, where, "a campaign")):
        store = tmp_path / first[0]
        assert faultcli(*first, "--store", store).code == 0
        before, done = store.read_bytes(), faultcli(*second, "--store", store)
        assert done.code == 2
        assert f"holds trials of {held}" in done.err
        assert len(done.err.strip().splitlines()) == 2
        assert store.read_bytes() == before
        assert faultcli(*first, "--store", store).code == 0


def test_help_names_only_what_where_takes(faultcli: Cli) -> None:
    assert "--plan-only" not in faultcli("where", "--help-all").out
    assert "--plan-only" in faultcli("campaign", "--help-all").out
    assert faultcli("where", *SMALL, "--plan-only").code == 2
