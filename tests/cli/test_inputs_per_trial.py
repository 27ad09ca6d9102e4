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
