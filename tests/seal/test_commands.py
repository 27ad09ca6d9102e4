"""`faultcli seal` and `faultcli verify` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_checkpoints import sharded, single

from faultcli.cli import run
from faultcli.report.seal import seal_repair_fields, seal_repair_summary, seal_repair_table
from faultcli.seal.record import RECORD, Seal
from faultcli.seal.repair import repair_with_seal


@pytest.fixture(autouse=True)
def _a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    single(Path("m.safetensors"))


def command(line: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capfd.readouterr()
    code = run(line.split())
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def flip(path: str, at: int) -> None:
    content = bytearray(Path(path).read_bytes())
    content[at] ^= 4
    Path(path).write_bytes(content)


def test_seal_and_verify(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = command("seal m.safetensors", capfd)
    assert code == 0
    assert Path("m.safetensors.seal").is_file()
    assert "written to m.safetensors.seal" in out
    assert "check: faultcli verify m.safetensors" in err
    code, out, err = command("verify m.safetensors", capfd)
    assert code == 0
    assert "whole, every byte" in out
    assert "checked against m.safetensors.seal" in err
    flip("m.safetensors", 900)
    code, out, err = command("verify m.safetensors", capfd)
    assert code == 1
    assert "fc.weight" in out
    assert "1 of 2 blocks is damaged; the seal brings it back" in out
    assert "faultcli repair m.safetensors --seal m.safetensors.seal" in err
    code, out, err = command("verify m.safetensors --quiet", capfd)
    assert (code, err) == (1, "")


def test_seals_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("seal m.safetensors -o s", capfd)[0] == 0
    before = Path("s").read_bytes()
    code, _, err = command("seal m.safetensors -o s --parity 3", capfd)
    assert code == 2
    assert "exists already" in err
    assert Path("s").read_bytes() == before
    assert command("seal m.safetensors -o s --parity 3 --force", capfd)[0] == 0
    assert Seal.open("s").parity == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("verify m.safetensors --seal nowhere", "no such file"),
        ("verify m.safetensors --seal m.safetensors", "is not a seal"),
        ("verify nowhere --seal s", "no such file"),
        ("verify other.safetensors --seal s", "another file"),
        ("verify m.safetensors --seal newer", "another version"),
        ("verify m.safetensors --seal damaged", "damaged"),
        ("seal m.safetensors --parity 300", "--parity 300"),
        ("seal m.safetensors --block 7", "--block 7"),
        ("seal m.safetensors -o s.json", "is no JSON"),
        ("verify m.safetensors --seal index.json", "is not a seal"),
    ],
)
def test_bad_input(line: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["seal", "m.safetensors", "-o", "s", "--block", "64", "-q"]) == 0
    save_file({"x": torch.randn(100, 100)}, "other.safetensors")
    content = Path("s").read_bytes()
    Path("damaged").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    flip("damaged", content.index(RECORD.encode()) + 40)
    from test_seals import record_of, rewritten

    rewritten(Path("s"), json.dumps({**record_of(Path("s")), "schema": "faultcli.seal/9"})).rename("newer")
    Path("index.json").write_text("{}")
    code, out, err = command(line, capfd)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 2
    assert err.splitlines()[1].startswith("try: ")
    assert not out


def test_without_a_seal(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = command("verify m.safetensors", capfd)
    assert code == 0
    assert "proves nothing" in out
    assert "Looked for, in 4 tensors: NaN and infinities;" in out
    assert "m.safetensors.seal" in err
    save_file({"w": torch.full((4, 4), torch.nan)}, "nan.safetensors")
    code, out, _ = command("verify nan.safetensors", capfd)
    assert code == 1
    assert "1 sign of damage" in out


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    sharded(Path("dir"))
    code, out, _ = command("seal dir --block 64 --json", capfd)
    written = json.loads(out)
    assert code == 0
    assert written["output"] == "dir.seal"
    assert written["output_bytes"] == Path("dir.seal").stat().st_size
    assert [one["name"] for one in written["files"]] == [
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ]
    flip("dir/model-2.safetensors", 600)
    flip("dir/model.safetensors.index.json", 3)
    code, out, _ = command("verify dir --json", capfd)
    found = json.loads(out)
    assert (code, found["whole"], found["damaged_blocks"], found["recoverable_blocks"]) == (1, False, 2, 2)
    assert found["files"][1]["damaged"][0]["holds"][0]["tensor"] == "conv.weight"
    assert found["files"][2]["damaged"][0]["holds"] == [
        {"kind": "index", "tensor": None, "elements": None, "rows": None}
    ]
    schemas = pytest.importorskip("jsonschema")
    folder = Path(__file__).parents[2] / "docs" / "schemas"
    for name, document in (("seal", written), ("verify", found)):
        schemas.validate(document, json.loads((folder / f"{name}.schema.json").read_text()))


def test_a_folder_with_its_seal_is_still_a_checkpoint(capfd: pytest.CaptureFixture[str]) -> None:
    """A seal beside a model in its folder is no second checkpoint there."""
    Path("dir").mkdir()
    single(Path("dir/model.safetensors"))
    assert command("seal dir/model.safetensors", capfd)[0] == 0
    assert command("inspect dir", capfd)[0] == 0
    assert command("verify .", capfd)[0] == 0


def test_a_header_that_does_not_parse(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("seal m.safetensors -q", capfd)[0] == 0
    flip("m.safetensors", 7)
    assert command("inspect m.safetensors", capfd)[0] == 2
    code, out, _ = command("verify m.safetensors", capfd)
    assert code == 1
    assert "the header" in out


def test_what_a_repair_says(capfd: pytest.CaptureFixture[str]) -> None:
    """The presenter that `repair` uses."""
    from rich.console import Console

    assert command("seal m.safetensors -o s --block 64 --parity 1 -q", capfd)[0] == 0
    seal = Seal.open("s")
    groups = seal.files[0].grid.groups
    flip("m.safetensors", 64 * 20)
    found = repair_with_seal(Path("m.safetensors"), seal, Path("out"))
    assert "whole, 1 block came back" in next(iter(seal_repair_summary(found)))
    assert seal_repair_fields(found)["files"][0]["damaged"][0]["source"] == "parity"
    flip("m.safetensors", 64 * (20 + groups))
    found = repair_with_seal(Path("m.safetensors"), seal, Path("out"), force=True)
    text = list(seal_repair_summary(found))
    assert "NOT whole: 2 blocks are LOST, 0 came back" in text[0]
    fields = seal_repair_fields(found)
    assert (fields["whole"], fields["lost_blocks"], fields["files"][0]["blake3"]) == (False, 2, None)
    Console(width=120).print(seal_repair_table(found))
    assert "LOST" in capfd.readouterr().out


def test_neighbouring_blocks_are_one_row(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("seal m.safetensors -o s --block 64 --parity 0 -q", capfd)[0] == 0
    for block in (20, 21, 22, 30):
        flip("m.safetensors", 64 * block)
    code, out, _ = command("verify m.safetensors --seal s", capfd)
    assert code == 1
    assert "1,280…1,471" in out
    assert "1,920…1,983" in out
    assert "4 of" in out


def test_names_are_shown_as_they_are_spelled(capfd: pytest.CaptureFixture[str]) -> None:
    save_file({"[red]\x1b[31mx": torch.randn(40, 40)}, "n.safetensors")
    assert command("seal n.safetensors -q", capfd)[0] == 0
    flip("n.safetensors", 3000)
    code, out, err = command("verify n.safetensors", capfd)
    assert code == 1
    assert "[red]\\x1b[31mx" in out
    assert "\x1b" not in out + err
