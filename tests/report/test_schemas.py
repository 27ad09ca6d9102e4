"""The published JSON Schemas describe what the commands write: all of it, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from faultcli.cli import run
from faultcli.workload.demo import demo_checkpoint_path

jsonschema = pytest.importorskip("jsonschema")
SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
QUICK = "--method align --maps 2 --report-maps 3 --window 250 --quiet"


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


DEMO = str(demo_checkpoint_path())
PACKED = str(Path(__file__).parents[1] / "golden" / "packed" / "nf4")
SMALL = "--format q2.5 --limit 20 --quiet"
MEMORY = "--format q2.5 --protect scale=max,inplace=1"
# Schema and commands; all but the last one prepare it.
COMMANDS = {
    "inject": ("inject", [f"inject {DEMO} --ber 1e-4 -o out.safetensors"]),
    "harden": ("harden", [f"harden {DEMO} {MEMORY} -o h.safetensors"]),
    "harden for a device": (
        "harden",
        [f"harden {DEMO} {MEMORY} -o h.safetensors", "harden h.safetensors --device folder"],
    ),
    "harden and back": (
        "harden",
        [f"harden {DEMO} {MEMORY} -o h.safetensors", "harden h.safetensors --read -o p.safetensors"],
    ),
    "harden a quantised one": ("harden", [f"harden {PACKED} --protect scales:tmr -o h"]),
    "repair a quantised one": ("repair", [f"harden {PACKED} --protect scales:tmr -o h", "repair h -o r"]),
    "repair": (
        "repair",
        [
            f"harden {DEMO} {MEMORY} -o h.safetensors",
            "inject h.safetensors --ber 2e-2 -o d.safetensors",
            "repair d.safetensors",
        ],
    ),
    "repair by a seal": (
        "repair",
        [
            f"seal {DEMO} -o m.seal",
            f"inject {DEMO} --fault flips:3 -o d.safetensors",
            "repair d.safetensors --seal m.seal -o r.safetensors",
        ],
    ),
    "diff": (
        "diff",
        [f"inject {DEMO} --ber 1e-4 -o d.safetensors", f"diff {DEMO} d.safetensors --pitch 8 --save-faults map -q"],
    ),
    "diff of one file": ("diff", [f"diff {DEMO} {DEMO}"]),
    "campaign": ("campaign", [f"campaign --ber 1e-4,1e-2 {SMALL} --trials 1 --protect none --protect guard"]),
    "gated campaign": (
        "campaign",
        [
            f"campaign --ber 1e-4 {SMALL} --trials 3 --json old.json",
            f"campaign --ber 1e-4 {SMALL} --min-accuracy 0.5 --baseline old.json --max-drop 0.5",
        ],
    ),
    "curve": ("curve", [f"curve 1e-4:1e-3 {SMALL} --trials 40"]),
    "where": ("where", ["where --include fc2* --limit 20 --trials 130 --quiet"]),
    "worst": ("worst", ["where --worst 2 --limit 20 --random-maps 2 --tries 4 --format fp16 --protect tmr --quiet"]),
    "harden by tensor": (
        "harden",
        [f"harden {DEMO} --format q2.5 --protect plan.toml -o h.safetensors"],
    ),
    "plan": ("plan", [f"plan --ber 1e-3 {SMALL} --trials 2 --choose-on 20 --candidate none --candidate secded=64"]),
    "rate of a memory": ("campaign", [f"campaign --ber sram-undervolt:volt=0.55 {SMALL} --trials 1"]),
    "scale": ("scale", [f"scale {DEMO} --factor max --granularity channel -o out.safetensors"]),
    "undo": ("scale", [f"scale {DEMO} --factor 4 -o s.safetensors", "scale s.safetensors --undo -o u.safetensors"]),
    "seal": ("seal", [f"seal {DEMO} -o demo.seal"]),
    "verify": ("verify", [f"seal {DEMO} -o demo.seal", f"verify {DEMO} --seal demo.seal"]),
    "verify without a seal": ("verify", [f"verify {DEMO}"]),
    "verify damage": (
        "verify",
        [f"seal {DEMO} -o x.seal", f"inject {DEMO} --ber 1e-5 -o f.safetensors", "verify f.safetensors --seal x.seal"],
    ),
    "verify signs": ("verify", [f"inject {DEMO} --ber 1e-3 -o f.safetensors", "verify f.safetensors"]),
    "evaluate": ("evaluate", [f"evaluate {SMALL}"]),
    "train-corrector": ("corrector", [f"train-corrector --fault gaussian:0.1 {QUICK} -o c.safetensors"]),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_what_commands_write_is_valid(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text('[tensors]\n"fc1.weight" = "parity"\n')
    name, commands = COMMANDS[case]
    for command in [*commands[:-1], f"{commands[-1]} --json result.json"]:
        assert run(command.split()) in (0, 1, 4)
    document = json.loads(Path("result.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema(name), jsonschema.Draft202012Validator)
    jsonschema.validate(document, strict(schema(name)), jsonschema.Draft202012Validator)


def test_a_language_model_is_valid(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    stories = data_dir / "stories260k"
    command = [
        "campaign",
        stories / "hf",
        "--data",
        stories / "eval_tokens.safetensors",
        "--limit",
        "2",
        "--trials",
        "2",
    ]
    command += ["--ber", "1e-5", "--format", "q2.5", "--json", tmp_path / "result.json"]
    assert run([str(part) for part in command]) == 0
    document = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, strict(schema("campaign")), jsonschema.Draft202012Validator)
    assert document["arms"][0]["perplexity"]["mean"] > 1


def test_a_wrong_document_is_refused() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": "faultcli.inject/2"}, schema("inject"))
