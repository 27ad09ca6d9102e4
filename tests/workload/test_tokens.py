"""Token data: arrays and text; and language models end to end: metrics, campaign, gates."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from faultcli.errors import FaultcliError, UsageError, WorkloadError
from faultcli.workload.data.tokens import load_tokens, make_tokens
from faultcli.workload.metrics import Outcome
from faultcli.workload.models.architectures import Language
from faultcli.workload.token_metrics import GoldenTokens, TokenMeter

LANGUAGE = Language(vocabulary=9, context=6)


def make(ids: list[list[int]], mask: list[list[int]] | None = None) -> object:
    return make_tokens(torch.tensor(ids), None if mask is None else torch.tensor(mask), "set", LANGUAGE)


def test_padding_is_cut_off_and_counts_for_nothing() -> None:
    one = make([[1, 2, 3, 8, 8], [4, 5, 8, 8, 8]], [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    other = make([[1, 2, 3], [4, 5, 0]], [[1, 1, 1], [1, 1, 0]])
    assert (one.ids.tolist(), one.lengths.tolist(), one.targets) == ([[1, 2, 3], [4, 5, 0]], [3, 2], 3)
    assert one.sha256() == other.sha256() != make([[1, 2, 4], [4, 5, 0]], [[1, 1, 1], [1, 1, 0]]).sha256()
    assert one.first(1).ids.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[1, 9]], None, "token 9 is out of range, the model's vocabulary has 9"),
        ([[1, -1]], None, "token -1 is out of range"),
        ([[1, 2, 3]], [[0, 1, 1]], "the padding is not at the end of the sequences"),
        ([[1, 2], [1, 2]], [[1, 1], [1, 0]], "sequence 1 has 1 tokens"),
        ([[1] * 7], None, "a sequence has 7 tokens, the model looks at 6"),
        ([[1, 2]], [[1, 2]], "attention_mask has values from 1 to 2"),
        ([[1, 2]], [[1]], r"attention_mask is torch.int64 of shape \[1, 1\]"),
        ([1, 2], None, r"input_ids are torch.int64 of shape \[2\]"),
        ([[1.0, 2.0]], None, "input_ids are torch.float32"),
    ],
)
def test_tokens_that_do_not_fit(ids: object, mask: object, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        make(ids, mask)


def test_padding_may_be_any_number() -> None:
    assert len(make([[1, 2, -100]], [[1, 1, 0]])) == 1


def test_arrays_from_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", input_ids=np.array([[1, 2], [3, 4]], np.int32))
    assert load_tokens(str(tmp_path / "a.npz"), LANGUAGE).ids.tolist() == [[1, 2], [3, 4]]
    assert len(load_tokens(str(tmp_path / "a.npz"), LANGUAGE, 1)) == 1
    with pytest.raises(WorkloadError, match="leaves no inputs"):
        load_tokens(str(tmp_path / "a.npz"), LANGUAGE, 0)
    with pytest.raises(WorkloadError, match="no such file"):
        load_tokens(str(tmp_path / "b.npz"), LANGUAGE)


def tokenizer(directory: Path, words: int = 9) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {f"w{number}": number for number in range(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def test_text_is_cut_into_windows(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3 w4 w5 w6 w7 w8 w1 w2")
    language = Language(9, 6, tmp_path)
    tokens = load_tokens(str(text), language)
    assert (tokens.ids.tolist(), tokens.lengths.tolist()) == ([[1, 2, 3, 4, 5, 6], [7, 8, 1, 2, 0, 0]], [6, 4])
    assert load_tokens(f"{text},length=3", language).lengths.tolist() == [3, 3, 3]  # one token is left over
    with pytest.raises(UsageError, match="two tokens are needed"):
        load_tokens(f"{text},length=1", language)
    with pytest.raises(WorkloadError, match="a sequence has 7 tokens"):
        load_tokens(f"{text},length=7", language)
    with pytest.raises(WorkloadError, match="token 4 is out of range, the model's vocabulary has 4") as info:
        load_tokens(str(text), Language(4, 6, tmp_path))
    assert "this model's own tokenizer" in (info.value.remedy or "")


def test_text_that_cannot_be_used(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("w1 w2")
    with pytest.raises(WorkloadError, match="has no tokenizer"):
        load_tokens(str(text), Language(9, 6, tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WorkloadError, match="the tokenizer cannot be used"):
        load_tokens(str(text), Language(9, 6, tmp_path))
    text.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(WorkloadError, match="is no UTF-8 text"):
        load_tokens(str(text), Language(9, 6, tmp_path))
    with pytest.raises(WorkloadError, match="cannot be read"):
        load_tokens(str(tmp_path / "none.txt"), Language(9, 6, tmp_path))


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
LENGTHS = torch.tensor([4, 2])


def run(logits: torch.Tensor, golden: GoldenTokens | None = None, keep: bool = False) -> TokenMeter:
    meter = TokenMeter(LENGTHS, 4, golden=golden, keep=keep)
    for start in (0, 1):
        meter.add(start, IDS[start : start + 1], logits[start : start + 1])
    return meter


def random_logits() -> torch.Tensor:
    return torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_mean_over_the_scored_tokens() -> None:
    logits = random_logits()
    outcome = run(logits).outcome()
    rows, targets = torch.cat([logits[0, :3], logits[1, :1]]), torch.tensor([2, 3, 4, 6])
    assert outcome.loss == pytest.approx(float(functional.cross_entropy(rows, targets)), rel=1e-6)
    assert outcome.perplexity == pytest.approx(math.exp(outcome.loss))
    assert outcome.correct1 == int((rows.argmax(1) == targets).sum())
    assert outcome.correct5 == int((rows.topk(5).indices == targets[:, None]).sum())
    assert (outcome.n, outcome.scored, outcome.masked, outcome.sdc, outcome.agreement) == (2, 4, None, None, None)


def test_padding_and_the_last_position_are_not_scored() -> None:
    logits = random_logits()
    before = run(logits).outcome()
    logits[0, 3], logits[1, 1:] = torch.nan, torch.nan
    assert run(logits).outcome() == before


def test_sequences_are_masked_corrupted_or_broken() -> None:
    logits = random_logits()
    meter = run(logits, keep=True)
    golden, own = meter.golden, meter.outcome()
    assert (own.masked, own.sdc, own.due, own.agreement) == (2, 0, 0, 1.0)
    assert run(logits + 3, golden).outcome().masked == 2
    changed = logits.clone()
    changed[0, 1, (logits[0, 1].argmax() + 1) % 9] = 50
    outcome = run(changed, golden).outcome()
    assert (outcome.masked, outcome.sdc, outcome.due, outcome.agreement) == (1, 1, 0, 0.75)
    changed[0, 0, 3] = torch.inf
    outcome = run(changed, golden).outcome()
    assert (outcome.masked, outcome.sdc, outcome.due, outcome.agreement) == (1, 0, 1, 0.5)
    assert (outcome.perplexity, outcome.token_probability) == (None, 0.0)
    assert outcome.loss is not None  # of the positions that are finite
    broken = run(torch.full_like(logits, torch.nan), golden).outcome()
    assert (broken.loss, broken.correct1, broken.agreed, broken.due) == (None, 0, 0, 2)


def test_a_broken_golden_run_agrees_with_nothing() -> None:
    logits = random_logits()
    logits[1, 0, 0] = torch.nan
    meter = run(logits, keep=True)
    assert (meter.outcome().masked, meter.outcome().due) == (1, 1)
    outcome = run(random_logits(), meter.golden).outcome()
    assert (outcome.masked, outcome.sdc) == (1, 1)


def test_classifiers_have_no_perplexity() -> None:
    outcome = Outcome(n=4, correct1=3, correct5=None, loss=0.5, due=0)
    assert (outcome.perplexity, outcome.token_probability, outcome.agreement) == (None, None, None)
    assert "agreement" not in outcome.rates()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=9,
        max_position_embeddings=16,
        tie_word_embeddings=True,
    )
    place = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(place)
    save_file({"input_ids": torch.randint(0, 9, (4, 10))}, place.parent / "tokens.safetensors")
    return place


def command(llama: Path, *rest: object) -> list[str]:
    data = llama.parent / "tokens.safetensors"
    return ["campaign", str(llama), "--data", str(data), "--ber", "1e-3", "--device", "cpu", "--quiet", *map(str, rest)]


def test_a_campaign_on_a_language_model(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from faultcli.cli import run as faultcli

    before = (llama / "model.safetensors").read_bytes()
    assert (
        faultcli(
            command(
                llama,
                "--format",
                "fp16,q2.5",
                "--protect",
                "none",
                "--protect",
                "inplace=2",
                "--trials",
                4,
                "--json",
                "-",
            )
        )
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["inputs"] == 4
    for arm in document["arms"]:
        assert arm["masked"] + arm["sdc"] + arm["due"] == pytest.approx(1)
        assert 0 <= arm["agreement"] <= 1
        assert arm["stored_perplexity"] == pytest.approx(9, abs=1)  # random weights: as good as a guess among 9
        low, mean, high = (arm["perplexity"][key] for key in ("low", "mean", "high"))
        assert low <= mean
        assert high is None or mean <= high
    assert (llama / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("limit", "code"), [(50, 0), (1.5, 1)])
def test_perplexity_is_a_gate(llama: Path, limit: float, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    from faultcli.cli import run as faultcli

    assert faultcli(command(llama, "--exclude", "*embed*", "--max-perplexity", limit)) == code
    assert f"max-perplexity {limit:g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-perplexity", 0.5], "a threshold is a number from 1"),
        (["--max-perplexity", "inf"], "a threshold is a number from 1"),
        (["--recalibrate", "bn"], "--recalibrate works on classifiers"),
        (["--arch", "digits-cnn"], "has no 'labels'; it has 'input_ids'"),
        (["--data", "digits"], "digits: is no data for a language model"),
    ],
)
def test_what_language_models_do_not_have(
    llama: Path, options: list[object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from faultcli.cli import run as faultcli

    assert faultcli(command(llama, *options)) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert pytest.importorskip("re").search(message, error), error


def test_correctors_need_text(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from faultcli.cli import run as faultcli

    model = [str(llama), "--data", str(llama.parent / "tokens.safetensors"), "--device", "cpu"]
    assert faultcli(["train-corrector", *model, "--ber", "1e-3"]) == 2
    assert "tokens is too small: language needs 100 or more" in " ".join(capsys.readouterr().err.split())
    saved = ["-o", str(tmp_path / "faulty"), "--save-faults", str(tmp_path / "faults.safetensors")]
    assert faultcli(["inject", str(llama), "--ber", "1e-3", *saved]) == 0
    known = ["--window", "1", "--replay", str(tmp_path / "faults.safetensors")]
    assert faultcli(["train-corrector", *model, *known]) == 2
    assert "no corrector for known damage" in " ".join(capsys.readouterr().err.split())


def test_rows_of_logits_are_those_that_outcomes_are_made_of(llama: Path) -> None:
    from faultcli.campaign.subject import Subject

    workload = Subject.open(llama, str(llama.parent / "tokens.safetensors"), device="cpu", batch_size=3).answering("")
    tokens = workload.tokens  # type: ignore[union-attr]
    logits, labels = workload.logits(), workload.labels
    rows = []
    for ids, length in zip(tokens.ids, tokens.lengths.tolist(), strict=True):
        with torch.inference_mode():
            alone = workload.model(ids[None, :length], torch.ones(1, length, dtype=torch.int64))[0]
        rows += list(zip(alone[: length - 1], ids[1:length].tolist(), strict=True))
    assert labels.tolist() == [label for _, label in rows]
    torch.testing.assert_close(logits, torch.stack([row for row, _ in rows]), atol=1e-5, rtol=1e-4)
    reversed_ = workload.outcome(None, lambda z: -z)
    assert reversed_.correct1 == int((logits.argmin(1) == labels).sum())
    assert reversed_.loss == pytest.approx(float(functional.cross_entropy(-logits, labels)), rel=1e-5)


def test_the_first_targets_are_cut_out_exactly() -> None:
    data = make([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 1, 0]], [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    for count in range(1, 7):
        part, rest = data.first_targets(count)  # type: ignore[attr-defined]
        assert part.targets == count
        whole = 1 if count <= 3 else 2 if count == 4 else 3
        assert len(part) == whole
        assert (0 if rest is None else len(rest)) == 3 - whole
        assert part.ids[0, :2].tolist() == [1, 2]
    assert data.first_targets(7)[0].targets == 6  # type: ignore[attr-defined]


def test_classifiers_have_no_gate_on_perplexity(capsys: pytest.CaptureFixture[str]) -> None:
    from faultcli.cli import run as faultcli

    assert faultcli(["campaign", "--ber", "1e-3", "--max-perplexity", "5", "--limit", "5", "--device", "cpu"]) == 2
    assert "digits-cnn has no perplexity on these data" in " ".join(capsys.readouterr().err.split())


def test_errors_are_one_class() -> None:
    with pytest.raises(FaultcliError):
        load_tokens("nothing", LANGUAGE)
