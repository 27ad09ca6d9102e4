"""What is incomplete, useless or open is said, in every kind of report; every gate goes with every kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lxml import etree
from safetensors.torch import save_file

import faultcli as fc
from faultcli.campaign.gates import GATES
from faultcli.cli import run
from faultcli.report.best import winners
from faultcli.report.formats import REPORTS, render
from faultcli.report.table import format_lines, gate_lines, interval_lines, language_lines, trials_text


def interrupted(store: Path) -> fc.Result:
    """One of two arms has been run, and half of its trials."""

    def stop(found: object, watch: object) -> None:
        if watch.trials == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    subject = fc.Subject.open(limit=30)
    with pytest.raises(KeyboardInterrupt):
        fc.run_campaign(
            subject,
            "bitflip:1e-4",
            formats=["fp16", "q2.5"],
            trials=6,
            store=store,
            listener=stop,
            gates={"max-sdc": 0.9},
        )
    return fc.read_result(store)


def test_an_interrupted_campaign_is_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = interrupted(tmp_path / "run.sqlite")
    assert result.verdict == "incomplete"
    assert result.missing == ("q2.5 bitflip:0.0001",)
    assert not result.complete
    for ending in REPORTS:
        content = render(f"r{ending}", result)
        if ending in (".html", ".md"):
            assert "Incomplete" in content.decode()
            assert "q2.5 bitflip:0.0001, no trial" in content.decode().replace("\\", "")
        if ending == ".json":
            assert b'"verdict": "incomplete"' in content
    suites = etree.fromstring(render("r.xml", result))
    assert int(suites.get("errors")) >= 1
    assert run(["report", str(tmp_path / "run.sqlite"), "-o", str(tmp_path / "r.html"), "--quiet"]) == 0
    again = fc.run_campaign(
        fc.Subject.open(limit=30),
        "bitflip:1e-4",
        formats=["fp16", "q2.5"],
        trials=6,
        store=tmp_path / "run.sqlite",
        gates={"max-sdc": 0.9},
    )
    assert again.complete
    assert again.verdict in ("pass", "inconclusive")


def test_an_interrupted_campaign_without_gates(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"

    def stop(found: object, watch: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fc.run_campaign(fc.Subject.open(limit=10), "flips:3", trials=5, store=store, listener=stop)
    result = fc.read_result(store)
    assert result.verdict == "incomplete"
    assert result.arms[0].outstanding == 4
    assert any("4 of 5 trials" in line for line in gate_lines(result))


def test_a_gate_that_failed_has_failed(tmp_path: Path) -> None:
    def stop(found: object, watch: object) -> None:
        if watch.gates[0].verdict == "fail":  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fc.run_campaign(
            fc.Subject.open(limit=20),
            "bitflip:1e-2",
            formats=["q2.5", "fp16"],
            trials=50,
            store=tmp_path / "s",
            listener=stop,
            gates={"max-drop": 0.01},
        )
    assert fc.read_result(tmp_path / "s").verdict == "fail"


def test_a_model_that_its_format_ruins_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    subject = fc.Subject.open(limit=200)
    result = fc.run_campaign(subject, "flips:0", formats=["int3"], trials=300, gates={"max-drop": 0.05})
    assert result.verdict == "pass"
    assert result.arms[0].stored.top1 < result.original.top1 - 0.05
    (line,) = format_lines(result)
    assert "--max-drop-from-original" in line
    for ending in (".html", ".md"):
        assert "max-drop-from-original" in render(f"r{ending}", result).decode()
    both = fc.run_campaign(
        subject, "flips:0", formats=["int3"], trials=300, gates={"max-drop": 0.05, "max-drop-from-original": 0.05}
    )
    assert both.verdict == "fail"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    ids = torch.randint(1, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    save_file({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, folder.parent / "tokens.safetensors")
    return folder


@pytest.mark.parametrize("gate", ["max-perplexity", "max-sdc", "min-accuracy", "max-drop", "max-drop-from-original"])
def test_every_gate_in_every_report(gate: str, language_model: Path) -> None:
    subject = fc.Subject.open(language_model, str(language_model.parent / "tokens.safetensors"))
    threshold = 60.0 if gate == "max-perplexity" else 0.5
    result = fc.run_campaign(subject, "bitflip:1e-4", trials=4, gates={gate: threshold})
    for ending in REPORTS:
        assert render(f"r{ending}", result)
    text = render("r.md", result).decode()
    assert gate in text
    assert gate in GATES


@pytest.mark.parametrize(("gates", "by"), [({}, True), ({"max-drop": 0.5}, False), ({"max-perplexity": 99.0}, True)])
def test_the_best_language_model(gates: dict[str, float], by: bool, language_model: Path) -> None:
    """By perplexity, unless accuracy alone is asked for; what numbers are of is said."""
    subject = fc.Subject.open(language_model, str(language_model.parent / "tokens.safetensors"))
    found = fc.run_campaign(subject, "bitflip:1e-2", formats=["q2.5", "fp16"], trials=2, gates=gates)
    # the cheaper arm is right more often, and less sure of what comes
    right, sure = (
        replace(record.outcome, correct1=correct, loss=loss)
        for record, correct, loss in zip(found.arms[0].records * 2, (20, 10), (3.0, 2.0), strict=False)
    )
    arms = [
        replace(arm, records=tuple(replace(record, outcome=outcome) for record in arm.records))
        for arm, outcome in zip(found.arms, (right, sure), strict=True)
    ]
    result = replace(found, arms=tuple(arms))
    lines = winners(result, 0.95)
    assert lines[0].startswith("best in perplexity" if by else "best under")
    assert [line.split()[-2] for line in lines[1:]] == (["q2.5,", "fp16,"] if by else ["q2.5,"])
    assert ("7.389" in lines[-1]) == by  # e²
    (text,) = language_lines(result.original)
    assert "33 next tokens" in text
    assert "SDC and DUE are of 3 sequences" in text
    assert text in render("r.md", result).decode()
    assert ("perplexity 20.09" in render("r.html", result).decode()) == by  # e³, in a finding


def test_a_language_model_that_says_nothing_has_no_top_5(language_model: Path) -> None:
    subject = fc.Subject.open(language_model, str(language_model.parent / "tokens.safetensors"))
    for tensor in subject.workload.parameters.values():
        tensor.zero_()
    outcome = subject.workload.outcome()
    assert outcome.top5 is not None
    assert outcome.top5 < 0.5  # tokens 0 to 4, and none that are merely as good


def test_what_intervals_say() -> None:
    subject = fc.Subject.open(limit=20)
    fixed = fc.run_campaign(subject, ["flips:0", "bitflip:1e-3"], formats=["q2.5"], trials=4)
    calm = fixed.arms[0].accuracy()
    assert calm is not None
    assert calm.low == calm.mean == calm.high
    (line,) = interval_lines(fixed, 0.95)
    assert "4 trials cannot exclude that up to 60.2 % of maps are of another" in line
    looking = fc.run_campaign(subject, "flips:0", trials=8, gates={"max-sdc": 0.1})
    assert "at every look" in interval_lines(looking, 0.95)[0]
    assert trials_text(fixed.arms) == "4 trials"


def test_the_best_format_and_protection_over_all_arms() -> None:
    subject = fc.Subject.open(limit=100)
    result = fc.run_campaign(
        subject, "bitflip:1e-3", formats=["fp32", "fp16", "q2.5"], protect=["none", "scale=max"], trials=4
    )
    lines = winners(result, 0.95)
    assert lines[0] == "best under bitflip:0.001, by bits of memory per weight:"
    bits = [float(line.split()[0]) for line in lines[1:]]
    assert bits == sorted(bits)
    assert bits[0] == 8
    assert all("SDC" in line for line in lines[1:])
