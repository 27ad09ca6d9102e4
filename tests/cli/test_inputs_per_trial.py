"""Trials on a part of the inputs, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., object]


def test_the_command_says_how_many_inputs_ran(faultcli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    common = ("campaign", "--ber", "1e-3", "--format", "q2.5", "--limit", "80", "--trials", "6", "--threads", "1")
    done = faultcli(*common, "--inputs-per-trial", "auto", "--json", path)
    assert done.code == 0
    assert "--inputs-per-trial auto: " in done.err
    size = json.loads(path.read_text())["inputs_per_trial"]
    assert size in (8, 16, 32, None)
    done = faultcli(*common, "--inputs-per-trial", "12", "--json", path)
    assert json.loads(path.read_text())["inputs_per_trial"] == 12
    assert "12 of 80 inputs per trial" in " ".join(done.out.split())
    refused = faultcli("campaign", "--ber", "1e-3", "--baseline", path, "--max-drop", "0.1", "--limit", "80")
    assert refused.code == 2
    assert "12 of the inputs each" in refused.err
    refused = faultcli(*common, "--inputs-per-trial", "some")
    assert refused.code == 2
    assert "--inputs-per-trial some" in refused.err


def test_what_makes_no_sense_leaves_no_store(faultcli: Cli, tmp_path: Path) -> None:
    store = tmp_path / "s.db"
    campaign = ("campaign", "--ber", "1e-4", "--limit", "20", "--inputs-per-trial", "20", "--store", store)
    where = ("where", "--limit", "20", "--critical", "any", "--inputs-per-trial", "8", "--store", store)
    for command in (campaign, where):
        assert faultcli(*command).code == 2
        assert not store.exists()


def test_a_page_shows_no_estimate_as_an_accuracy_that_a_map_left(faultcli: Cli, tmp_path: Path) -> None:
    store, page = tmp_path / "s.db", tmp_path / "r.html"
    common = ("campaign", "--ber", "1e-3", "--format", "q2.5", "--limit", "80", "--trials", "6", "--quiet")
    assert faultcli(*common, "--inputs-per-trial", "12", "--store", store).code == 0
    assert faultcli("report", store, "-o", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "Every trial" not in text
    assert "the fault map, with the inputs that it was run on" in text
