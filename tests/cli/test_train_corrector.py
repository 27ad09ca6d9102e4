"""faultcli train-corrector, and what it wrote in evaluate and campaign. On the embedded demo."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

QUICK = ("--maps", 2, "--report-maps", 3, "--window", 250, "--quiet")


pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_trains_reports_and_is_used(faultcli: Callable[..., object], tmp_path: Path) -> None:
    corrector, report = tmp_path / "c.safetensors", tmp_path / "r.md"
    fault = ("--fault", "gaussian:0.1")
    done = faultcli("train-corrector", *fault, *QUICK, "-o", corrector, "--report", report, "--json", "-")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["schema"] == "faultcli.corrector/1"
    assert (result["method"], result["setting"], result["classes"]) == ("adaptive", "unseen damage", 10)
    healthy, level = result["levels"]
    assert healthy["fault"] == "none"
    assert healthy["gain"]["mean"] > -0.005
    assert (level["fault"], level["maps"]) == ("gaussian:0.1", 3)
    assert level["gain"]["mean"] > 0.05
    assert level["corrected"]["mean"] == pytest.approx(level["corrupted"]["mean"] + level["gain"]["mean"])
    text = report.read_text()
    assert "| gaussian:0.1 | 3 |" in text
    assert "surely positive" in text

    options = ("--corrector", corrector, "--window", 250)
    done = faultcli("campaign", *fault, "--trials", 3, *options, "--json", "-")
    assert done.code == 0, done.err
    assert "learned from" not in done.err
    without, corrected = json.loads(done.out)["arms"]
    assert without["corrector"] is None
    assert corrected["corrector"].startswith("adaptive:250@")
    assert without["gain_over_none"] is None
    assert corrected["gain_over_none"]["mean"] > 0.05

    done = faultcli("campaign", "--ber", "1e-4,1e-3", "--format", "q2.5", "--trials", 1, *options, "--limit", 50)
    assert done.err.count("learned from gaussian in native, and not from bitflip in q2.5") == 1

    done = faultcli("evaluate", *options, "--quiet", "--json", "-")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["corrected"]["top1"] >= result["original"]["top1"] - 0.005

    done = faultcli("train-corrector", *fault, *QUICK, "-o", corrector)
    assert done.code == 2
    assert "exists" in done.err


def test_known_damage(faultcli: Callable[..., object], tmp_path: Path) -> None:
    from faultcli.workload.demo import demo_checkpoint_path

    faults = tmp_path / "f.safetensors"
    outputs = ("-o", tmp_path / "faulty.safetensors", "--save-faults", faults)
    assert faultcli("inject", demo_checkpoint_path(), "--fault", "gaussian:0.1", *outputs).code == 0
    done = faultcli("train-corrector", "--replay", faults, *QUICK, "--json", "-", "--report", tmp_path / "r.svg")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["setting"] == "known damage"
    assert [level["fault"] for level in result["levels"]] == ["gaussian:0.1"]
    assert result["levels"][0]["gain"]["mean"] > 0.02
    assert (tmp_path / "r.svg").read_text().startswith("<?xml")


def test_bad_input(faultcli: Callable[..., object], tmp_path: Path) -> None:
    cases = [
        ((), "no fault to train for"),
        (("--fault", "gaussian:0.1", "--replay", "x"), "--replay names the faults"),
        (("--fault", "gaussian:0.1", "--method", "edm"), "unknown correction method 'edm'"),
        (("--fault", "gaussian:0", *QUICK), "leaves the model intact in all of 2 fault maps"),
        (("--fault", "gaussian:0.1", "--window", 1000), "too few for a window of 1000"),
        (("--fault", "gaussian:0.1", "--window", 5), "a window of 5 inputs is too small: adaptive needs 20 or more"),
        (("--fault", "gaussian:0.1", "--method", "many", "--window", 5), "is too small: many needs 20 or more"),
        (("--fault", "gaussian:0.1", "--window", 90, "--train-limit", 50), "try: name more of them: --train-data D"),
        (("--ber", "1e-3", "--window", 20, "--train-limit", 60, "--seed", 1), "more labelled inputs: --train-data D"),
        (("--fault", "gaussian:0.1", "--hidden", "a"), "--hidden a: is no list"),
        (("--fault", "gaussian:0.1", "--epochs", 0), "hidden sizes, epochs"),
        (("--fault", "gaussian:0.1", "--report", tmp_path / "r.pdf"), "cannot write .pdf"),
    ]
    for arguments, message in cases:
        done = faultcli("train-corrector", *arguments)
        assert done.code == 2, done.err
        assert message in done.err
        assert "Traceback" not in done.err


def test_correctors_that_do_not_fit(faultcli: Callable[..., object], tmp_path: Path) -> None:
    from faultcli.recover.align import Align
    from faultcli.recover.base import Card
    from faultcli.recover.file import save_corrector
    from faultcli.recover.reference import Reference

    labels = torch.arange(300) % 10
    logits = torch.randn(300, 10, generator=torch.Generator().manual_seed(0)).double().numpy()
    corrector = Align(Reference.measure(logits, labels.numpy()), card=Card(10, model="ab" * 32))
    save_corrector(corrector, tmp_path / "other.safetensors")
    done = faultcli("campaign", "--ber", "1e-4", "--corrector", tmp_path / "other.safetensors")
    assert done.code == 2
    assert "trained for another model" in done.err
    done = faultcli("campaign", "--ber", "1e-4", "--corrector", tmp_path / "other.safetensors", "--window", 5)
    assert done.code == 2
    assert "a window of 5 inputs is too small: align needs 20 or more" in done.err
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    for command in ("evaluate", "campaign --ber 1e-4"):
        done = faultcli(*command.split(), "--corrector", tmp_path / "broken.safetensors")
        assert done.code == 2
        assert "broken.safetensors" in done.err


def test_no_corrector_without_maps_to_judge_it_by(faultcli: Callable[..., object], tmp_path: Path) -> None:
    few = ("--maps", 1, "--report-maps", 0, "--train-limit", 150, "--limit", 50, "--quiet")
    done = faultcli("train-corrector", "--fault", "gaussian:0.1", *few, "-o", tmp_path / "c.safetensors")
    assert (done.code, len(done.err.strip().splitlines())) == (2, 2)
    assert "--report-maps 20" in done.err
    assert not list(tmp_path.iterdir())


def test_inputs_of_the_report_are_not_trained_on(faultcli: Callable[..., object], tmp_path: Path) -> None:
    for same in ("digits", "digits,split=test"):
        done = faultcli("train-corrector", "--fault", "gaussian:0.1", *QUICK, "--train-data", same)
        assert (done.code, "500 of 500 inputs to train on are those of the report, too" in done.err) == (2, True)
    for option, words in (
        ("--window", "--window 0: is no window"),
        ("--train-limit", "--train-limit 0: leaves nothing"),
    ):
        done = faultcli("train-corrector", "--fault", "gaussian:0.1", option, 0)
        assert (done.code, words in done.err) == (2, True)


def test_a_model_that_knows_its_training_inputs_by_heart_is_named(
    faultcli: Callable[..., object], tmp_path: Path
) -> None:
    from faultcli.workload.data.readers import read_digits

    shown = read_digits("train")
    images, labels = np.asarray(shown.inputs), np.array(shown.labels)
    labels[:300] = np.where(np.arange(300) % 3, labels[:300], (labels[:300] + 1) % 10)  # a third of them wrong
    np.savez(tmp_path / "new.npz", images=images[:300], labels=labels[:300])
    np.savez(tmp_path / "known.npz", images=images[300:900], labels=labels[300:900])
    paths = ("--data", tmp_path / "new.npz", "--train-data", tmp_path / "known.npz")
    maps = ("--maps", 2, "--report-maps", 1, "--window", 200)
    done = faultcli("train-corrector", "--fault", "zero:0.5", *paths, *maps, "--json", tmp_path / "r.json")
    assert done.code == 0, done.err
    (remark,) = [one for one in json.loads((tmp_path / "r.json").read_text())["remarks"] if "by heart" in one]
    assert "% of the training inputs right, 6" in remark
    assert "--train-data" in " ".join(done.err.split())
