"""Tasks with a score of their own: measured as anybody would, gated, kept, reported, on the command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import faultcli as fc
from faultcli.campaign.curves import run_curves
from faultcli.campaign.gates import Gate, parse_gate
from faultcli.campaign.plan import Plan, Question, cross
from faultcli.errors import UsageError, WorkloadError
from faultcli.faults.laws import AnyFlips
from faultcli.faults.memories import parse_range

TASK = """
import torch
from torch import nn


def network():
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))


def score(model):
    inputs = torch.linspace(-1, 1, 40).view(10, 4)
    error = (model(inputs) - inputs[:, :2]).square().mean()
    return {"closeness": 1 / (1 + error), "error": error, "parts": torch.ones(3)}


def changed(golden, now):
    return (golden - now).abs().amax(1) > 0.01


score.changed = changed
"""
space: dict[str, Any] = {}
exec(TASK, space)
network, score, changed = space["network"], space["score"], space["changed"]
CHAINS = ["none", "scale=max"]


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return network()  # type: ignore[no-any-return]


def campaign(subject: fc.Subject, **how: Any) -> fc.Result:
    return fc.run_campaign(subject, "bitflip:3e-3", formats=["q2.5"], protect=CHAINS, **{"trials": 8} | how)


def test_every_trial_has_the_score_that_anybody_would_measure() -> None:
    net = model()
    result = campaign(fc.Subject.of(net, score=score))
    with torch.no_grad():
        for arm, chain in zip(result.arms, CHAINS, strict=True):
            for record in arm.records:
                with fc.faulty(net, "bitflip:3e-3", format="q2.5", protect=chain, trial=record.trial):
                    wanted = {name: float(value) for name, value in score(net).items() if name != "parts"}
                assert record.outcome.scores == wanted
    means = [record.outcome.scores["error"] for record in result.arms[0].records]  # type: ignore[index]
    found = result.arms[0].score("error")
    assert found is not None
    assert found.mean == pytest.approx(sum(means) / 8)
    with pytest.raises(ValueError, match="scores and no accuracy"):
        result.arms[0].accuracy()


def test_a_single_number_is_a_score() -> None:
    result = campaign(fc.Subject.of(model(), score=lambda net: score(net)["error"]))
    assert list(result.original.scores or {}) == ["score"]
    assert result.arms[0].headline() == result.arms[0].score("score")


class Closeness:
    """As torchmetrics has them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.count = torch.zeros(()), 0

    def update(self, said: Tensor, wanted: Tensor) -> None:
        self.total, self.count = self.total + (said - wanted).square().sum(), self.count + said.numel()

    def compute(self) -> Tensor:
        return self.total / self.count


def test_a_metric_and_a_loader() -> None:
    inputs = torch.linspace(-1, 1, 40).view(10, 4)
    batches = [(inputs[:6], inputs[:6, :2]), (inputs[6:], inputs[6:, :2])]
    by_metric = campaign(fc.Subject.of(model(), batches, metric=Closeness(), changed=changed))
    by_class = campaign(fc.Subject.of(model(), batches, metric=Closeness))
    by_score = campaign(fc.Subject.of(model(), score=lambda net: score(net)["error"]))
    for one, class_, other in zip(by_metric.arms, by_class.arms, by_score.arms, strict=True):
        assert one.values == pytest.approx(other.values)
        assert class_.values == one.values
    assert by_metric.inputs == 10
    for record in by_metric.arms[0].records:
        counts = record.outcome
        assert (counts.n, counts.masked + counts.sdc + counts.due) == (10, 10)  # type: ignore[operator]
    rates = [arm.mean_rates()["sdc"] for arm in by_metric.arms]
    assert rates[0] > rates[1] > 0  # type: ignore[operator]


def test_answers_that_are_not_finite() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((1, 4), 0.5))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * self.weight.sqrt()

    def mean(net: nn.Module) -> float:
        return float(net(torch.ones(4)).mean())

    result = fc.run_campaign(fc.Subject.of(Root(), score=mean), "bitflip:0.05", formats=["q2.5"], trials=30)
    (arm,) = result.arms
    broken = [record for record in arm.records if record.outcome.scores == {"score": None}]
    assert 0 < len(broken) < 30
    assert all(record.outcome.due == 1 for record in broken)
    assert len(arm.values) == 30 - len(broken)
    bounds = {"score": (0.0, 2.0)}
    gated = fc.run_campaign(
        fc.Subject.of(Root(), score=mean), "bitflip:0.05", formats=["q2.5"], gates=["score>=1.9"], bounds=bounds
    )
    assert gated.verdict == "fail"


@pytest.mark.parametrize(
    ("gates", "bounds", "verdict"),
    [
        (["closeness>=0.2"], {"closeness": (0, 1)}, "pass"),
        (["closeness>=0.999"], {None: (0, 1)}, "fail"),
        (["error<=50"], {"error": (0, 1000)}, "pass"),
        (["sdc<=0.0001"], {}, "fail"),
        (["closeness>=0.2", "error<=0.001"], {"closeness": (0, 1), "error": (0, 1000)}, "fail"),
    ],
)
def test_gates(gates: list[str], bounds: dict[str | None, tuple[float, float]], verdict: str) -> None:
    result = campaign(fc.Subject.of(model(), score=score), gates=gates, bounds=bounds, trials=2000)
    assert result.verdict == verdict


def test_gates_are_spelled_in_two_ways() -> None:
    for text, name in (
        ("accuracy >= 0.9", "min-accuracy"),
        ("drop<=0.1", "max-drop"),
        ("drop-from-original<=0.1", "max-drop-from-original"),
        ("sdc<=0.05", "max-sdc"),
        ("perplexity<=20", "max-perplexity"),
    ):
        assert parse_gate(text, {}).name == name
    assert parse_gate("mAP@0.5>=0.4", {None: (0, 1)}) == Gate("mAP@0.5>=", 0.4, (0, 1))
    assert parse_gate("mAP>=0.4", {"mAP": (0, 1)}).text == "mAP>=0.4"


@pytest.mark.parametrize(
    ("gate", "bounds", "complaint"),
    [
        ("mAP>0.4", {}, "is no demand on a number"),
        ("mAP>=high", {}, "is no demand on a number"),
        (">=0.4", {}, "is no demand on a number"),
        ("mAP>=nan", {}, "is no demand on a number"),
        ("mAP>=0.4", {}, "of a score without bounds"),
        ("mAP>=4", {None: (0, 1)}, "lies between 0 and 1"),
        ("accuracy<=0.4", {}, "a gate on it is accuracy>=X"),
        ("accuracy>=4", {}, "a fraction from 0 to 1"),
        ("mAP>=0.4", {"mAP": (0, 1)}, "has no score 'mAP'"),
        ("accuracy>=0.4", {}, "the scores of Sequential are no accuracies"),
        ("error<=1", {"error": (0.9, 1.5)}, "there is a run with error"),
    ],
)
def test_gates_that_make_no_sense(gate: str, bounds: dict[str | None, tuple[float, float]], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        campaign(fc.Subject.of(model(), score=score), gates=[gate], bounds=bounds)
    assert complaint in caught.value.message


def test_what_a_score_cannot_be_asked() -> None:
    subject = fc.Subject.of(model(), score=score)
    with pytest.raises(UsageError, match="no interval holds at every look"):
        campaign(subject, until_ci=0.1)
    with pytest.raises(UsageError, match="there is a run with closeness"):
        campaign(subject, bounds={"closeness": (0.9, 1.0)})
    with pytest.raises(UsageError, match="classifiers"):
        campaign(subject, recalibrate=["none", "bn"], unlabelled="digits")
    inputs = torch.rand(4, 4)
    for wrong in ({"data": inputs, "score": score}, {"metric": Closeness}, {}, {"changed": changed, "data": inputs}):
        with pytest.raises(UsageError):
            fc.Subject.of(model(), **wrong)  # type: ignore[arg-type]
    classifier = fc.Subject.of(model(), (inputs, torch.zeros(4, dtype=torch.long)))
    with pytest.raises(UsageError, match="is for scores"):
        campaign(classifier, bounds={None: (0, 1)})


def test_scores_that_are_none() -> None:
    draws = torch.Generator().manual_seed(0)
    for wrong, complaint in (
        (lambda net: "good", "no number"),
        (lambda net: {"classes": torch.ones(3)}, "no number"),
        (lambda net: float(torch.rand(1, generator=draws)), "not deterministic"),
        (lambda net: net(torch.ones(3)), "fails on the model"),
    ):
        with pytest.raises(WorkloadError, match=complaint):
            campaign(fc.Subject.of(model(), score=wrong))
    assert campaign(fc.Subject.of(model(), score=lambda net: float(torch.rand(1)))).complete  # seeded for it


def test_kept_and_reported(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    store = tmp_path / "run.sqlite"
    how = {"store": store, "gates": ["error<=50"], "bounds": {"error": (0, 1000)}}
    result = campaign(fc.Subject.of(model(), score=score), **how)
    again = fc.read_result(store)
    assert [arm.values for arm in again.arms] == [arm.values for arm in result.arms]
    assert list(again.original.scores or {}) == ["closeness", "error"]
    assert again.verdict == result.verdict
    names = [tmp_path / f"report.{ending}" for ending in ("html", "md", "xml", "json", "csv", "arms.csv", "jsonl")]
    fc.write_report(again, *names)
    texts = {path.name: path.read_text(encoding="utf-8") for path in names}
    document = json.loads(texts["report.json"])
    schema = Path(__file__).parents[1] / "docs" / "schemas" / "campaign.schema.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(document)
    arm = document["arms"][0]
    assert arm["accuracy"] is None
    assert arm["scores"]["error"]["mean"] == pytest.approx(result.arms[0].score("error").mean)  # type: ignore[union-attr]
    assert len(arm["scores"]["closeness"]["trials"]) == len(result.arms[0].records)
    assert "error&lt;=50" in texts["report.html"]
    assert "closeness" in texts["report.md"]
    assert "error_mean" in texts["report.arms.csv"].splitlines()[0]
    assert texts["report.csv"].splitlines()[0].endswith("closeness,error")
    assert "top-1" not in texts["report.html"].split("<footer>")[0].split("<style>")[1].split("</style>")[1]


def test_a_page_calls_what_was_measured_by_its_name(tmp_path: Path) -> None:
    subject = fc.Subject.of(model(), score=lambda net: {"mAP<.5>": score(net)["closeness"]})
    found = fc.run_campaign(subject, ["bitflip:1e-3", "bitflip:1e-2"], formats=["q2.5"], protect=CHAINS, trials=3)
    fc.write_report(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>mAP&lt;.5&gt; against fault level</h2>" in page
    assert ">gain in mAP&lt;.5&gt;</th>" in page
    assert "mAP<" not in page
    assert not re.search(r"(?<![#\"])accuracy|points", page.split("</style>", 1)[1], re.IGNORECASE)


def test_answers_inside_of_what_a_model_returns() -> None:
    class Wrapped(nn.Module):
        def __init__(self, returned: Any) -> None:
            super().__init__()
            self.body, self.returned = model(), returned

        def forward(self, inputs: Tensor) -> Any:
            return self.returned(self.body(inputs))

    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(20) % 2
    plain = campaign(fc.Subject.of(model(), (inputs, labels)))
    for returned, answer in (
        (lambda out: {"logits": out, "more": None}, None),
        (lambda out: (out, torch.ones(3)), None),
        (lambda out: {"features": torch.ones(20, 7), "head": out}, "head"),
        (lambda out: [torch.ones(20, 7), out], "1"),
        (lambda out: {"deep": [out]}, lambda found: found["deep"][0]),
    ):
        found = campaign(fc.Subject.of(Wrapped(returned), (inputs, labels), answer=answer))
        assert [arm.values for arm in found.arms] != []
        assert found.original == plain.original
    with pytest.raises(WorkloadError, match="has no such part"):
        campaign(fc.Subject.of(Wrapped(lambda out: {"logits": out}), (inputs, labels), answer="nonsense"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text(TASK, encoding="utf-8")
    save_file(model().state_dict(), tmp_path / "net.safetensors")
    return tmp_path


@pytest.fixture
def shell(folder: Path, warm: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command where its task lies."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(warm / "faultcli"), *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    return run


TESTED = ("net.safetensors", "--arch", "task:network", "--score", "task:score")


def test_on_the_command_line(shell: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    subject = fc.Subject.of(model(), score=score, changed=changed)
    wanted = fc.run_campaign(subject, "bitflip:1e-2", formats=["q2.5"], trials=5)
    documents = []
    for workers in ("1", "2"):
        arguments = ("--ber", "1e-2", "--format", "q2.5", "--trials", "5", "--workers", workers, "--threads", "1")
        done = shell("campaign", *TESTED, *arguments, "--json", "-")
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    for document in documents:
        document["provenance"]["command"] = document["timing"] = None
    assert documents[0] == documents[1]
    assert documents[0]["arms"][0]["scores"]["error"]["trials"] == pytest.approx(
        [record.outcome.scores["error"] for record in wanted.arms[0].records]  # type: ignore[index]
    )
    assert documents[0]["arms"][0]["sdc"] == wanted.arms[0].mean_rates()["sdc"]
    table = shell("evaluate", *TESTED, "--format", "q2.5").stdout
    assert "closeness" in table
    assert "\\n" not in shell("campaign", *TESTED, "--ber", "1e-2", "--format", "q2.5", "--trials", "3").stdout


def test_a_curve_draws_accuracies() -> None:
    plan = Plan(cross(["q2.5"], [AnyFlips()]), 40, question=Question(parse_range("1e-4:1e-2")))
    with pytest.raises(UsageError, match="a curve draws accuracies, and closeness is a score"):
        run_curves(plan, fc.Subject.of(model(), score=score))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--gate", "closeness>=0.2", "--bounds", "0:1"], 0, "closeness>=0.2"),
        (["--gate", "closeness>=0.999", "--bounds", "closeness=0:1"], 1, "fail"),
        (["--gate", "closeness>=0.2"], 2, "--bounds closeness=0:1"),
        (["--gate", "closeness>=0.2", "--bounds", "1:0"], 2, "is no range"),
        (["--data", "digits"], 2, "leave --data out"),
        (["--min-accuracy", "0.9"], 2, "are no accuracies"),
    ],
)
def test_exit_codes(
    shell: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], code: int, said: str
) -> None:
    done = shell("campaign", *TESTED, "--ber", "1e-2", "--format", "q2.5", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
