"""The published JSON Schemas describe what the commands write: all of it, and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faultcli.cli import run
from faultcli.workload.demo import demo_checkpoint_path

jsonschema = pytest.importorskip("jsonschema")
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
QUICK = ["--method", "align", "--maps", "2", "--report-maps", "3", "--window", "250", "--quiet"]


def schema(name: str) -> dict[str, Any]:
    return dict(json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8")))


def strict(part: Any) -> Any:
    """The same schema without room for fields that it does not name: an undocumented one is a mistake here."""
    part = copy.deepcopy(part)
    if isinstance(part, dict):
        part = {key: strict(value) for key, value in part.items()}
        if "properties" in part:
            part["additionalProperties"] = False
    return [strict(each) for each in part] if isinstance(part, list) else part


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_is_a_schema(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["properties"]["schema"]["const"] == f"faultcli.{path.name.removesuffix('.schema.json')}/1"


def gated(place: Path) -> list[str]:
    command = ["--ber", "1e-4", "--format", "q2.5", "--limit", "20", "--trials", "3", "--quiet"]
    assert run(["campaign", *command, "--json", str(place / "old.json")]) == 0
    return ["campaign", *command, "--min-accuracy", "0.5", "--baseline", str(place / "old.json"), "--max-drop", "0.5"]


COMMANDS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "inject": ("inject", lambda p: ["inject", str(demo_checkpoint_path()), "--ber", "1e-4", "-o", str(p / "o.safetensors")]),
    "campaign": ("campaign", lambda p: ["campaign", "--ber", "1e-4,1e-2", "--format", "fp16", "--limit", "20", "--trials",
                                        "1", "--protect", "none", "--protect", "guard"]),
    "gated campaign": ("campaign", gated),
    "scale": ("scale", lambda p: ["scale", str(demo_checkpoint_path()), "--factor", "max", "--granularity", "channel", "-o", str(p / "s.safetensors")]),
    "evaluate": ("evaluate", lambda p: ["evaluate", "--limit", "20", "--format", "q2.5"]),
    "train-corrector": ("corrector", lambda p: ["train-corrector", "--fault", "gaussian:0.1", *QUICK,
                                                      "-o", str(p / "c.safetensors")]),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_what_commands_write_is_valid(case: str, tmp_path: Path) -> None:
    name, command = COMMANDS[case]
    arguments = command(tmp_path)
    assert run([*arguments, "--json", str(tmp_path / "result.json")]) in (0, 4)
    document = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema(name), jsonschema.Draft202012Validator)
    jsonschema.validate(document, strict(schema(name)), jsonschema.Draft202012Validator)


def test_undone_scaling_is_valid(tmp_path: Path) -> None:
    scaled, undone = str(tmp_path / "s.safetensors"), str(tmp_path / "u.safetensors")
    assert run(["scale", str(demo_checkpoint_path()), "--factor", "4", "-o", scaled]) == 0
    assert run(["scale", scaled, "--undo", "-o", undone, "--json", str(tmp_path / "r.json")]) == 0
    document = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, strict(schema("scale")), jsonschema.Draft202012Validator)


def test_a_wrong_document_is_refused() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": "faultcli.inject/2"}, schema("inject"))
