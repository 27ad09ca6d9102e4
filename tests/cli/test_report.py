"""faultcli report: from a store to files, nothing run again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faultcli.campaign.result import result_of
from faultcli.campaign.store import Store
from faultcli.cli import run
from faultcli.report.formats import report_format
from faultcli.workload.demo import demo_checkpoint_path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("campaign") / "campaign.sqlite"
    command = ["campaign", "--ber", "1e-4", "--format", "q2.5", "--limit", "20", "--trials", "3", "--quiet"]
    assert run([*command, "--min-accuracy", "0.5", "--store", str(path)]) == 4
    return path


def test_writes_all_that_is_asked_for(faultcli: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"report{suffix}" for suffix in (".html", ".md", ".xml", ".json", ".arms.csv", ".csv")]
    done = faultcli("report", store, *(part for path in outputs for part in ("-o", path)))
    assert done.code == 0, done.err
    assert done.out == ""
    result = result_of(Store.read(store))
    for path in outputs:
        assert path.read_bytes() == report_format(path.name).render(result)
    assert "written to" in done.err
    assert faultcli("report", store, "-o", outputs[0]).code == 2  # exists
    assert faultcli("report", store, "-o", outputs[0], "--force").code == 0


@pytest.mark.parametrize("case", ["absent", "json", "checkpoint", "directory", "over the store", "ending"])
def test_refuses(case: str, faultcli: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text('{"schema": "faultcli.campaign/1"}')
    linked = tmp_path / "linked.html"
    linked.symlink_to(store)
    page = tmp_path / "r.html"
    source, output, said = {
        "absent": (tmp_path / "none.sqlite", page, "there is no such store"),
        "json": (old, page, "is no store of faultcli"),
        "checkpoint": (demo_checkpoint_path(), page, "is no store of faultcli"),
        "directory": (tmp_path, page, "there is no such store"),
        "over the store": (store, linked, "is the input"),
        "ending": (store, tmp_path / "r.pdf", "r.pdf: is no kind of report"),
    }[case]
    before = store.read_bytes()
    done = faultcli("report", source, "-o", output, "--force")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 2
    assert not page.exists()
    assert store.read_bytes() == before


def test_curves(faultcli: Callable[..., Any], tmp_path: Path) -> None:
    store, page, document = (tmp_path / name for name in ("c.sqlite", "c.html", "c.json"))
    question = ("1e-4:1e-2", "--format", "q2.5", "--limit", 20, "--trials", 40)
    done = faultcli("curve", *question, "--store", store, "--json", tmp_path / "first.json")
    assert done.code == 0, done.err
    assert faultcli("report", store, "-o", page, "-o", document).code == 0
    text = page.read_text()
    assert text.count("<figure") == text.count("<svg") == 1
    assert "known to ±" in text
    first, again = (json.loads(path.read_text()) for path in (tmp_path / "first.json", document))
    assert first["arms"] == again["arms"]
    done = faultcli("report", store, "-o", tmp_path / "c.xml")
    assert done.code == 2
    assert "cannot show curves" in done.err


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("singles") / "singles.sqlite"
    command = [
        "campaign",
        "--fault",
        "flips:1",
        "--protect",
        "none",
        "--protect",
        "secded=64",
        "--limit",
        "20",
        "--quiet",
    ]
    assert run([*command, "--trials", "5", "--store", str(path)]) == 0
    return path


def test_safety_figures(faultcli: Callable[..., Any], singles: Path, tmp_path: Path) -> None:
    page, arms, faults = (tmp_path / name for name in ("s.html", "s.csv", "s.faults.csv"))
    asked = ("--fit-per-mbit", "700", "--confidence", "0.99")
    done = faultcli("report", singles, *asked, "-o", page, "-o", arms, "-o", faults)
    assert done.code == 0, done.err
    assert len(arms.read_text().splitlines()) == 1 + 2
    assert len(faults.read_text().splitlines()) == 1 + 2 * 5
    text = page.read_text()
    for said in ("700 FIT/Mbit", "99 %", "None is claimed", "ISO 26262-5:2018, Annex C", "SHA-256 of the checkpoint"):
        assert said in text
    assert "<script" not in text
    assert faultcli("report", singles, *asked, "-o", tmp_path / "again.html").code == 0
    assert (tmp_path / "again.html").read_text() == text


@pytest.mark.parametrize("case", ["many flips", "rate", "ending", "confidence alone"])
def test_safety_refuses(case: str, faultcli: Callable[..., Any], store: Path, singles: Path, tmp_path: Path) -> None:
    source, options, said, remedy = {
        "many flips": (store, ("--fit-per-mbit", "700"), "other fault maps than one flip each", "--fault flips:1"),
        "rate": (singles, ("--fit-per-mbit", "-1"), "failure rate is above 0", "--fit-per-mbit 700"),
        "ending": (singles, ("--fit-per-mbit", "700"), "no kind of report of safety figures", ".faults.csv"),
        "confidence alone": (singles, ("--confidence", "0.99"), "is of figures of safety", "add --fit-per-mbit"),
    }[case]
    output = tmp_path / ("r.md" if case == "ending" else "r.html")
    done = faultcli("report", source, *options, "-o", output)
    assert done.code == 2
    assert said in done.err
    assert remedy in done.err
    assert len(done.err.splitlines()) == 2
    assert not output.exists()
