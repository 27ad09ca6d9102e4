"""Text classifiers of transformers: every kind answers as there, and a fault is the same one in the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import faultcli as fc
from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.classifier import Workload

transformers = pytest.importorskip("transformers")

VOCABULARY, CLASSES, LENGTH, COUNT = 60, 3, 12, 7
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
DECODER = {**SMALL, "num_key_value_heads": 1, "pad_token_id": 0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SMALL),
    "roberta": ("Roberta", SMALL),
    "electra": ("Electra", {**SMALL, "embedding_size": 8}),
    "albert": ("Albert", {**SMALL, "embedding_size": 8}),
    "mpnet": ("MPNet", SMALL),
    "deberta-v2": ("DebertaV2", {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    "modernbert": ("ModernBert", {**SMALL, "pad_token_id": 0}),
    "xlnet": ("XLNet", {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}),
    "gpt2": (
        "GPT2",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "pad_token_id": 0},
    ),
    "llama": ("Llama", DECODER),
    "qwen2": ("Qwen2", DECODER),
    "bart": (
        "Bart",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 32,
        },
    ),
    "t5": (
        "T5",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 1,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
    ),
}


def save(directory: Path, kind: str, **changes: Any) -> Any:
    """Write a small random model with a head of three classes."""
    family, options = KINDS[kind]
    config = getattr(transformers, f"{family}Config")(**{**options, "num_labels": CLASSES, **changes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    for tensor in model.parameters():
        tensor.data.add_(torch.randn(tensor.shape) * 0.2)
    model.save_pretrained(directory)
    return model


def texts(padding: int = 0, *, left: bool = False, end: int | None = None) -> dict[str, Tensor]:
    """Sequences of different lengths, padded; without the special tokens of the kinds, save the one that ends each."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, VOCABULARY, (COUNT, LENGTH), generator=generator)
    lengths = torch.tensor([12, 5, 9, 3, 12, 1, 7])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    if end is not None:
        ids[torch.arange(COUNT), lengths - 1] = end
    mask = mask.flip(1) if left else mask
    return {"input_ids": ids.where(mask == 1, padding), "attention_mask": mask}


def written(path: Path, inputs: dict[str, Tensor]) -> str:
    save_file(
        {**{key: value.contiguous() for key, value in inputs.items()}, "labels": torch.arange(COUNT) % CLASSES}, path
    )
    return str(path)


def expected(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, float]:
    with torch.inference_mode():
        answer = model(**inputs, labels=torch.arange(COUNT) % CLASSES)
    return answer.logits, float(answer.loss)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers_as_transformers_does(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path / "m", kind)
    config = model.config
    end = config.eos_token_id if kind in ("bart", "t5") else None
    inputs = texts(config.pad_token_id, left=kind == "xlnet", end=end)
    data = written(tmp_path / "d.safetensors", inputs)
    subject = fc.Subject.open(tmp_path / "m", data, device="cpu", batch_size=3)
    assert isinstance(subject.workload, Workload)
    logits, loss = expected(model, inputs)
    outcome = subject.workload.outcome()
    assert outcome.loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(subject.workload.logits(), logits, rtol=1e-5, atol=1e-5)
    # a fault in the file, loaded by transformers, and the same one by us
    fc.inject(tmp_path / "m", "flips:40", tmp_path / "hit", seed=1)
    loaded = type(model).from_pretrained(tmp_path / "hit").eval()
    assert not torch.equal(expected(loaded, inputs)[0], logits)
    subject.workload.load(load_file(tmp_path / "hit" / "model.safetensors"))  # as a trial does
    answers = subject.workload.logits()
    torch.testing.assert_close(answers, expected(loaded, inputs)[0], rtol=1e-5, atol=1e-5, equal_nan=True)


def open_classifier(model: Path, data: str, **options: Any) -> Workload:
    workload = fc.Subject.open(model, data, device="cpu", **options).workload
    assert isinstance(workload, Workload)
    return workload


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_without_a_padding_token_sequences_are_run_one_by_one(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path / "m", kind, pad_token_id=None)
    inputs = texts()
    workload = open_classifier(tmp_path / "m", written(tmp_path / "d.safetensors", inputs))
    with torch.inference_mode():
        rows = zip(inputs["input_ids"], inputs["attention_mask"].sum(1), strict=True)
        one_by_one = torch.cat([model(ids[None, :length]).logits for ids, length in rows])
    torch.testing.assert_close(workload.logits(), one_by_one, rtol=1e-5, atol=1e-5)
    assert [note for note in workload.doubts() if "names no pad_token_id: one sequence at a time" in note]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "regression"}, "is for regression: it answers with numbers and not with one of K classes"),
        ({"num_labels": 1}, "is for regression"),
        ({"problem_type": "multi_label_classification"}, "it answers with any number of classes at once"),
    ],
)
def test_other_answers_than_one_class_need_a_score(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path / "m", "bert", **changes)
    data = written(tmp_path / "d.safetensors", texts())
    with pytest.raises(WorkloadError, match=message) as info:
        open_classifier(tmp_path / "m", data)
    assert "--score" in (info.value.remedy or "")


def test_any_model_of_transformers_runs_under_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, options = KINDS["bert"]
    transformers.BertForMaskedLM(transformers.BertConfig(**options)).save_pretrained(tmp_path / "m")
    (tmp_path / "judging.py").write_text(
        "import torch\n"
        "def blanks(model):\n"
        "    return float(model(input_ids=torch.ones(1, 4).long()).logits.abs().sum())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    subject = fc.Subject.open(tmp_path / "m", score="judging:blanks", device="cpu")
    result = fc.run_campaign(subject, ["flips:9"], trials=2)
    assert (result.arms[0].records[0].outcome.scores or {}).keys() == {"score"}


def test_what_is_not_read_or_looked_at_is_said(tmp_path: Path) -> None:
    save(tmp_path / "m", "distilbert")
    inputs = texts()
    types = {"token_type_ids": torch.zeros_like(inputs["input_ids"])}
    masked = open_classifier(tmp_path / "m", written(tmp_path / "d.safetensors", inputs | types))
    assert [note for note in masked.doubts() if "'token_type_ids': not given to the network" in note]
    bare = open_classifier(tmp_path / "m", written(tmp_path / "b.safetensors", {"input_ids": inputs["input_ids"]}))
    assert [note for note in bare.doubts() if "end in the padding token 0, and there is no attention_mask" in note]
    assert not torch.allclose(bare.logits(), masked.logits())
    with pytest.raises(WorkloadError, match="token 60 is out of range, the model's vocabulary has 60"):
        open_classifier(tmp_path / "m", written(tmp_path / "o.safetensors", {"input_ids": torch.full((COUNT, 4), 60)}))
    with pytest.raises(WorkloadError, match=r"inputs are torch.float32, and a text classifier takes tokens"):
        open_classifier(tmp_path / "m", written(tmp_path / "f.safetensors", {"inputs": torch.ones(COUNT, 4)}))
    with pytest.raises(UsageError, match="integers such as tokens pass as they are, so they cannot be scaled"):
        open_classifier(tmp_path / "m", str(tmp_path / "d.safetensors"), mean=[0.5])


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(20))]


def with_tokenizer(directory: Path, **changes: Any) -> Any:
    model = save(directory, "bert", id2label={0: "bad", 1: "fair", 2: "good"}, **changes)
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(directory / "vocab.txt"), model_max_length=8).save_pretrained(directory)
    return model


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.tsv"])
def test_tables_of_texts_are_turned_into_tokens(name: str, tmp_path: Path) -> None:
    model = with_tokenizer(tmp_path / "m")
    rows = [{"text": " ".join(WORDS[4 : 4 + 1 + at % 9]), "label": ("bad", 1, "2")[at % 3]} for at in range(40)]
    if name.endswith("jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        mark = "," if name.endswith("csv") else "\t"
        lines = [mark.join(("text", "label")), *(f"{row['text']}{mark}{row['label']}" for row in rows)]
        (tmp_path / name).write_text("\n".join(lines))
    workload = open_classifier(tmp_path / "m", str(tmp_path / name), batch_size=16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    made = tokenizer([row["text"] for row in rows], padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(workload.logits(), model(**made).logits, rtol=1e-5, atol=1e-5)
    assert workload.labels.tolist() == [at % 3 for at in range(40)]
    assert [note for note in workload.doubts() if "of 40 texts are longer than 8 tokens, and cut" in note]
    assert len(open_classifier(tmp_path / "m", str(tmp_path / name), limit=5)) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "w1", "label": "awful"}', "row 1: label 'awful' is no class"),
        ('{"text": "w1", "label": 0.5}', "row 1: label 0.5 is no class"),
        ('{"text": 3, "label": 0}', "row 1: text is no text"),
        ('{"review": "w1", "stars": 0}', "has the columns 'review', 'stars'"),
        ("[1]", "line 1 is no JSON object"),
        ("", "holds no texts"),
        ('{"text": "w1", "label": 7}', "label 7 is out of range"),
    ],
)
def test_tables_that_are_none(content: str, message: str, tmp_path: Path) -> None:
    with_tokenizer(tmp_path / "m")
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(WorkloadError, match=message):
        open_classifier(tmp_path / "m", str(tmp_path / "t.jsonl"))


def test_texts_need_a_tokenizer(tmp_path: Path) -> None:
    save(tmp_path / "m", "bert")
    (tmp_path / "t.csv").write_text("text,label\nw1,0\n")
    with pytest.raises(WorkloadError, match="has no tokenizer"):
        open_classifier(tmp_path / "m", str(tmp_path / "t.csv"))
    with pytest.raises(WorkloadError, match="has no tokenizer of its own"):
        fc.Subject.open(data=str(tmp_path / "t.csv"))


def test_campaigns_gates_and_correctors_work_on_texts(tmp_path: Path) -> None:
    save(tmp_path / "m", "bert")
    ids = torch.randint(5, VOCABULARY, (160, 8), generator=torch.Generator().manual_seed(0))
    save_file({"input_ids": ids, "labels": ids[:, 0] % CLASSES}, tmp_path / "d.safetensors")
    subject = fc.Subject.open(tmp_path / "m", str(tmp_path / "d.safetensors"), device="cpu")
    result = fc.run_campaign(subject, ["flips:20"], formats=["int8-channel"], trials=3, gates={"max-sdc": 1.0})
    arm = result.arms[0]
    assert all(r.outcome.masked + r.outcome.sdc + r.outcome.due == 160 for r in arm.records)
    trained = fc.train_corrector(
        subject, "gaussian:0.1", method="align", train_limit=80, window=20, maps=2, report_maps=2, seed=0
    )
    assert trained.inputs == 80
