"""A corrector in a campaign that gets labelled inputs: the numbers that a program gets, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import faultcli as fc
from faultcli.errors import FaultcliError
from faultcli.recover.applied import labelled_inputs
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import make_dataset

FAULT = "gaussian:0.25"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corrector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from faultcli.campaign.subject import Subject
    from faultcli.recover.align import Align
    from faultcli.recover.base import Card
    from faultcli.recover.file import save_corrector
    from faultcli.recover.reference import Reference

    path = tmp_path_factory.mktemp("corrector") / "align.safetensors"
    train = Subject.open(data="digits,split=train", limit=500)
    logits = train.classifier("").logits().double().numpy()
    reference = Reference.measure(logits, train.classifier("").labels.numpy())
    save_corrector(Align(reference, card=Card(10, model=train.checkpoint_hash)), path)
    return path


def test_a_campaign_with_labels_gives_the_numbers_of_a_program(
    faultcli: Callable[..., object], corrector: Path, tmp_path: Path
) -> None:
    options = ("--corrector", corrector, "--window", 100, "--labelled", 60, "--limit", 300)
    store = ("--store", tmp_path / "s.sqlite")
    asked = ("campaign", "--fault", FAULT, "--trials", 1, *options, *store, "--quiet", "--json", "-")
    done = faultcli(*asked)
    assert done.code == 0, done.err
    plain, arm = json.loads(done.out)["arms"]
    assert arm["corrector"].startswith("align:100+60@")
    assert (plain["trials_using_labels"], arm["trials_using_labels"]) == (None, 1)

    subject, loaded = fc.Subject.open(limit=300), fc.load_corrector(corrector)
    scored = subject.classifier("")
    train = load_data("digits,split=train")
    window, known = scored.beside(train.first(100)), scored.beside(train.rows(slice(100, 160)))
    expected, without = [], []
    memory = subject.memory()
    with memory.patch(memory.draw(fc.parse_law(FAULT), seed=0, trial=0)).applied(scored.parameters):
        for given, found in (((known.logits(), known.labels), expected), (None, without)):
            stream = fc.StreamingCorrector(loaded, window=100, labelled=given)
            stream(window.logits())
            found.append(float((stream.correction(scored.logits()).argmax(1) == scored.labels).double().mean()))
    assert arm["trial_accuracies"] == pytest.approx(expected)
    assert expected != without  # the labels are used

    done = faultcli(*asked)  # from the store
    arm = json.loads(done.out)["arms"][1]
    assert (arm["trial_accuracies"], arm["trials_using_labels"]) == (pytest.approx(expected), 1)
    how = {"corrector": corrector, "window": 100, "labelled": 60, "trials": 1}
    (record,) = fc.run_campaign(subject, FAULT, **how).arms[1].records
    assert record.outcome.top1 == pytest.approx(expected[0])


def test_whether_labels_were_used_is_said(faultcli: Callable[..., object], corrector: Path, tmp_path: Path) -> None:
    options = ("--corrector", corrector, "--window", 100, "--labelled", 20, "--limit", 100, "--quiet")
    laws = ("--fault", "flips:0", "--fault", "gaussian:0.25", "--trials", 2, "--json", tmp_path / "c.json")
    done = faultcli("campaign", *laws, *options)  # 20 inputs of a healthy network have nothing to teach
    used = [arm["trials_using_labels"] for arm in json.loads((tmp_path / "c.json").read_text())["arms"]]
    assert used[:3:2] == [None, None]
    assert used[1] == 0
    lines = [line for line in done.out.splitlines() if "labelled inputs were used in" in line]
    assert "flips:0 align:100+20@" in lines[0]
    assert "used in 0 of 2 trials; left out where" in lines[0]
    assert f"used in {used[3]} of 2 trials" in lines[1]

    done = faultcli("evaluate", *options, "--json", tmp_path / "e.json")
    assert "labelled inputs were left out: cross-validation" in done.out
    assert json.loads((tmp_path / "e.json").read_text())["labels_used"] is False
    curve = ("curve", "1e-4:1e-3", "--trials", 3, *options[2:], "--corrector", corrector)
    done = faultcli(*curve, "--json", tmp_path / "r.json")
    (arm,) = (one for one in json.loads((tmp_path / "r.json").read_text())["arms"] if one["corrector"])
    assert f"labelled inputs were used in {arm['trials_using_labels']} of 3 trials" in done.out


def test_labelled_inputs_are_none_that_are_evaluated() -> None:
    inputs = torch.arange(20.0).reshape(10, 2)
    data = make_dataset(inputs, torch.arange(10), "ten")
    evaluated = make_dataset(inputs[[4, 7]], torch.zeros(2, dtype=torch.int64), "two")
    assert labelled_inputs(data, 3, 4, evaluated).labels.tolist() == [3, 5, 6, 8]
    with pytest.raises(FaultcliError, match="--labelled 6: ten has 5 behind the window of 3 that are not evaluated"):
        labelled_inputs(data, 3, 6, evaluated)
    with pytest.raises(FaultcliError, match="--labelled 6: there are none that are not evaluated"):
        labelled_inputs(None, 3, 6, evaluated)


def test_a_device_that_gives_no_numbers_is_left_to_its_window(faultcli: Callable[..., object], corrector: Path) -> None:
    options = ("--corrector", corrector, "--window", 100, "--labelled", 20, "--limit", 50)
    done = faultcli("campaign", "--fault", "gaussian:1e30", "--trials", 2, *options, "--quiet", "--json", "-")
    assert done.code == 0, done.err


@pytest.mark.parametrize("command", ["campaign --ber 1e-3 --trials 1", "evaluate"])
def test_bad_numbers(faultcli: Callable[..., object], corrector: Path, command: str) -> None:
    cases = [
        (("--labelled", 50), "--labelled 50: there is no corrector"),
        (("--corrector", "gone"), "gone: no such file\ntry: check the path; `train-corrector -o FILE` writes"),
        (("--corrector", corrector, "--labelled", 9), "--labelled 9: too few"),
        (("--corrector", corrector, "--labelled", -1), "--labelled -1: too few"),
        (("--corrector", corrector, "--labelled", 5000), "has 297 behind the window of 1000"),
        (("--corrector", corrector, "--labelled", 1.5), "--labelled 1.5: is no whole number\ntry: --labelled 2"),
        (("--corrector", corrector, "--labelled", "many"), "--labelled many: is no whole number"),
    ]
    for arguments, message in cases:
        done = faultcli(*command.split(), *arguments, "--quiet")
        assert (done.code, "Traceback" in done.err) == (2, False), done.err
        assert message in done.err
