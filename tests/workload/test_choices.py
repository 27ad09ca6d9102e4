"""Questions with choices: scores as transformers gives them one by one, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faultcli.checkpoint import Checkpoint
from faultcli.errors import WorkloadError
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.choice import ChoiceWorkload
from faultcli.workload.data.choices import ChoiceDataset, load_choices
from faultcli.workload.models.architectures import Language

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CONTEXT = 12
WORDS = [*(f"w{n}" for n in "abcdefghij"), *(f"Ġw{n}" for n in "abcdefghij"), "Ċ", "Ġ", ".", "<s>", "?"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a tokenizer to which a word behind a space is another one than at the beginning."""
    directory = tmp_path_factory.mktemp("choices") / "llama"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=len(WORDS),
        max_position_embeddings=CONTEXT,
        initializer_range=0.4,  # answers are nothing close
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.add_special_tokens(["<s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    made.save(str(directory / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "unk_token": "?"}
    (directory / "tokenizer_config.json").write_text(json.dumps(about))
    return directory


def opened(directory: Path, data: Path | str, **options: Any) -> ChoiceWorkload:
    checkpoint = Checkpoint.open(directory)
    spec = WorkloadSpec(data=str(data), device="cpu", **options)
    workload = build_workload(checkpoint.state(), {}, spec, directory=directory, is_directory=True)
    assert isinstance(workload, ChoiceWorkload)
    return workload


def lines(path: Path, *entries: Any) -> Path:
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return path


def asked(seed: int, *, count: int = 24) -> list[dict[str, Any]]:
    """Return questions of token ids: contexts and choices of several lengths."""
    draw = np.random.default_rng(seed)

    def tokens(most: int) -> list[int]:
        return [int(token) for token in draw.integers(0, len(WORDS), draw.integers(1, most))]

    found = []
    for _ in range(count):
        choices = [tokens(5) for _ in range(draw.integers(2, 7))]
        found.append({"context": tokens(6), "choices": choices, "answer": int(draw.integers(len(choices)))})
    return found


def reference(directory: Path, entries: list[dict[str, Any]]) -> tuple[list[list[float]], float, float]:
    """Score choice by choice, with transformers alone: scores, acc, acc_norm (per token)."""
    model = transformers.LlamaForCausalLM.from_pretrained(directory, local_files_only=True).eval()
    scores, right, right_norm = [], 0, 0
    for entry in entries:
        own = []
        for choice in entry["choices"]:
            ids = (entry["context"] + choice)[-(CONTEXT + 1) :]
            with torch.inference_mode():
                log_probabilities = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(dim=-1)
            behind = range(len(ids) - len(choice), len(ids))
            own.append(sum(float(log_probabilities[place - 1, ids[place]]) for place in behind))
        scores.append(own)
        right += int(np.argmax(own)) == entry["answer"]
        lengths = np.array([len(choice) for choice in entry["choices"]])
        right_norm += int(np.argmax(np.array(own) / lengths)) == entry["answer"]
    return scores, right / len(entries), right_norm / len(entries)


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_scores_are_those_of_transformers_one_by_one(llama: Path, tmp_path: Path, batch_size: int | None) -> None:
    entries = asked(1)
    workload = opened(llama, lines(tmp_path / "q.jsonl", *entries), batch_size=batch_size)
    wanted, acc, acc_norm = reference(llama, entries)
    for row, own in zip(workload.scores().tolist(), wanted, strict=True):
        assert row[: len(own)] == pytest.approx(own, abs=1e-4)
        assert all(score < -1e300 for score in row[len(own) :])  # choices that this question does not have
    golden, outcome = workload.fault_free()
    assert (outcome.top1, outcome.acc_norm) == (acc, acc_norm)
    assert 0 < acc != acc_norm > 0
    assert (outcome.masked, outcome.sdc, outcome.due, outcome.scored) == (len(entries), 0, 0, None)
    assert workload.outcome(golden) == outcome


def test_faults_change_answers_as_a_classifiers(llama: Path, tmp_path: Path) -> None:
    workload = opened(llama, lines(tmp_path / "q.jsonl", *asked(2)))
    golden, clean = workload.fault_free()
    head = workload.parameters["lm_head.weight"]
    head.mul_(-1)
    turned = workload.outcome(golden)
    assert turned.sdc
    assert turned.masked is not None
    assert turned.masked + turned.sdc == len(workload)
    assert turned.acc_norm != clean.acc_norm
    head[3] = torch.nan  # one logit of every position
    broken = workload.outcome(golden)
    assert (broken.due, broken.sdc, broken.correct1, broken.correct_norm) == (len(workload), 0, 0, 0)


def test_choices_of_one_token_share_their_run(llama: Path, tmp_path: Path) -> None:
    entry = {"context": [1, 2, 3], "choices": [[4], [5], [6], [7, 8]], "answer": 2}
    workload = opened(llama, lines(tmp_path / "q.jsonl", entry))
    runs = []
    workload.model.register_forward_hook(lambda module, given, output: runs.append(len(given[0])))
    scores = workload.scores()
    assert runs == [2]
    assert scores[0].tolist() == pytest.approx(reference(llama, [entry])[0][0], abs=1e-4)


def text_tokens(llama: Path, tmp_path: Path, entry: Any) -> list[list[str]]:
    data = load_choices(str(lines(tmp_path / "q.jsonl", entry)), Language(len(WORDS), CONTEXT, llama))
    assert data is not None
    return [
        [*(WORDS[token] for token in choice.ids[: -choice.scored]), "|",
         *(WORDS[token] for token in choice.ids[-choice.scored :])]
        for choice in data.questions[0]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("context", "choice", "wanted"),
    [
        ("wb wc", "wd", "<s> wb Ġwc | Ġwd"),  # a space comes between
        ("wb wc", " wd", "<s> wb Ġwc | Ġwd"),  # it is there already
        ("wb wc ", "wd", "<s> wb Ġwc | Ġwd"),  # it belongs to the choice, wherever it stands
        ("wb\n", "wd", "<s> wb | Ċ wd"),
        ("<s>wb", "wd we", "<s> wb | Ġwd Ġwe"),  # not begun twice
        ("", "wd", "<s> | Ġwd"),
    ],
)
def test_context_and_choice_are_turned_into_tokens_together(
    llama: Path, tmp_path: Path, context: str, choice: str, wanted: str
) -> None:
    entry = {"question": context, "choices": [choice, "wj"], "answer": "A"}
    assert " ".join(text_tokens(llama, tmp_path, entry)[0]) == wanted


def test_text_is_normalised_by_its_characters(llama: Path, tmp_path: Path) -> None:
    entries = [{"query": f"w{n} wc", "choices": ["wb", "wd we wf"], "answer": "B"} for n in "abcdefgh"]
    workload = opened(llama, lines(tmp_path / "q.jsonl", *entries))
    assert [choice.length for choice in workload.questions.questions[0]] == [2, 8]
    scores = workload.scores().numpy() / np.array([2.0, 8.0])
    assert workload.outcome().acc_norm == float((scores.argmax(axis=1) == 1).mean())


def test_a_context_that_is_too_long_loses_its_beginning(llama: Path, tmp_path: Path) -> None:
    long = {"context": list(range(15)), "choices": [[1, 2], [3]], "answer": 0}
    fits = {"context": list(range(CONTEXT - 1)), "choices": [[1, 2], [3]], "answer": 0}
    workload = opened(llama, lines(tmp_path / "q.jsonl", long, fits))
    assert workload.scores()[0].tolist() == pytest.approx(reference(llama, [long])[0][0], abs=1e-4)
    (note,) = workload.doubts()
    assert "of 2 of 4 choices the beginning of the context is left out" in note
    assert f"the {CONTEXT} tokens" in note
    assert opened(llama, lines(tmp_path / "q.jsonl", fits)).doubts() == []
    with pytest.raises(WorkloadError, match=f"line 1: choice 1 has 13 tokens, the model looks at {CONTEXT}"):
        opened(llama, lines(tmp_path / "q.jsonl", {**long, "choices": [[1], [2] * 13]}))


@pytest.mark.parametrize(
    ("answer", "choices", "label"),
    [
        (1, ["wb", "wc"], 1),
        ("b", ["wb", "wc"], 1),
        ("wb", ["wc", "wb"], 1),
        ("A", ["wc", "A"], 1),  # the text counts before the letter
        ("1", ["wb", "wc"], 1),
        ([4, 5], [[4], [4, 5]], 1),
        ("D", {"text": ["wb", "wc"], "label": ["C", "D"]}, 1),
        ("2", {"text": ["wb", "wc"], "label": ["1", "2"]}, 1),
    ],
)
def test_answers_by_number_letter_text_and_label(llama: Path, tmp_path: Path, answer: Any, choices: Any,
                                                 label: int) -> None:  # fmt: skip
    context = [1] if isinstance(choices, list) and isinstance(choices[0], list) else "wb"
    path = lines(tmp_path / "q.jsonl", {"context": context, "choices": choices, "answer": answer})
    data = load_choices(str(path), Language(len(WORDS), CONTEXT, llama))
    assert data is not None
    assert data.labels.tolist() == [label]


GOOD = {"context": [1], "choices": [[2], [3]], "answer": 0}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{", "is no valid JSON"),
        ("[1]", "is no object"),
        ({"choices": [[2], [3]], "answer": 0}, "has no 'context'; it has 'choices', 'answer'"),
        ({**GOOD, "question": [1]}, "has both 'context' and 'question'"),
        ({**GOOD, "choices": [[2]]}, "has no list of two choices or more"),
        ({**GOOD, "choices": "no"}, "has no list of two choices or more"),
        ({**GOOD, "choices": [[2], []]}, "choice 1 is empty"),
        ({**GOOD, "choices": [[2], "wb"]}, "choice 1 is a text"),
        ({**GOOD, "choices": [[2], [True]]}, "choice 1 is a list"),
        ({**GOOD, "context": 3}, "the context is a int"),
        ({**GOOD, "context": []}, "the context is empty"),
        ({**GOOD, "choices": [[2], [99]]}, "token 99 is out of range"),
        ({**GOOD, "answer": 2}, "answer 2 is none of 2 choices"),
        ({**GOOD, "answer": True}, "answer True is none of 2 choices"),
        ({**GOOD, "answer": None}, "answer None is none of 2 choices"),
        ({**GOOD, "answer": "wh"}, "answer 'wh' is none of 2 choices"),
        ({"context": "wb", "choices": ["wb", "wb"], "answer": "wb"}, "is both choice 0 and choice 1"),
        ({"context": "wb", "choices": ["wb", ""], "answer": 0}, "choice 1 is empty"),
        ({"context": "wb", "choices": ["wb", "\ud800"], "answer": 0}, "is no text"),
        ({**GOOD, "choices": {"text": [[2], [3]]}}, "without a label for every text"),
    ],
)
def test_lines_that_are_no_question(llama: Path, tmp_path: Path, entry: Any, problem: str) -> None:
    path = lines(tmp_path / "q.jsonl", GOOD, "", entry)
    with pytest.raises(WorkloadError, match=f"{path.name}: line 3: .*{problem}") as info:
        load_choices(str(path), Language(len(WORDS), CONTEXT, llama))
    assert info.value.remedy
    known = load_choices(str(path), Language(len(WORDS), CONTEXT, llama), limit=1)
    assert known is not None
    assert len(known) == 1  # what is not asked for is not looked at


def test_files_without_questions(tmp_path: Path) -> None:
    language = Language(len(WORDS), CONTEXT, tmp_path)
    with pytest.raises(WorkloadError, match="has no questions"):
        load_choices(str(lines(tmp_path / "q.jsonl")), language)
    with pytest.raises(WorkloadError, match="cannot be read"):
        load_choices(str(tmp_path / "none.jsonl"), language)
    with pytest.raises(WorkloadError, match="leaves no inputs"):
        load_choices(str(lines(tmp_path / "q.jsonl", GOOD)), language, limit=0)
    with pytest.raises(WorkloadError, match="has no tokenizer"):
        load_choices(str(lines(tmp_path / "q.jsonl", {**GOOD, "context": "w", "choices": ["a", "b"]})), language)


def arrays(entries: list[dict[str, Any]]) -> dict[str, Any]:
    width = max(len(e["context"]) + max(map(len, e["choices"])) for e in entries)
    most = max(len(e["choices"]) for e in entries)
    ids, mask, own = (np.zeros((len(entries), most, width), np.int32) for _ in range(3))
    for row, entry in enumerate(entries):
        for number, choice in enumerate(entry["choices"]):
            tokens = entry["context"] + choice
            ids[row, number, : len(tokens)] = tokens
            mask[row, number, : len(tokens)] = 1
            own[row, number, len(entry["context"]) : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask, "choice_mask": own,
            "labels": np.array([e["answer"] for e in entries])}  # fmt: skip


def test_arrays_hold_the_same_questions(llama: Path, tmp_path: Path) -> None:
    entries = asked(3, count=5)
    path = tmp_path / "q.npz"
    np.savez(path, **arrays(entries))
    language = Language(len(WORDS), CONTEXT)
    one, other = load_choices(str(path), language), load_choices(str(lines(tmp_path / "q.jsonl", *entries)), language)
    assert isinstance(one, ChoiceDataset)
    assert isinstance(other, ChoiceDataset)
    assert one.questions == other.questions
    assert one.sha256() == other.sha256()
    assert len(opened(llama, path, limit=2)) == 2
    np.savez(path, **{**arrays(entries), "choice_length": np.full(arrays(entries)["input_ids"].shape[:2], 7)})
    lengths = load_choices(str(path), language)
    assert lengths is not None
    assert {choice.length for choice in lengths.choices} == {7}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: a.pop("labels"), "no 'labels'"),
        (lambda a: a.update(labels=a["labels"][:, None]), "labels of"),
        (lambda a: a.update(labels=a["labels"] + 9), "is none of"),
        (lambda a: a.update(choice_mask=a["attention_mask"]), "question 0: choice 0 has no context"),
        (lambda a: a["attention_mask"].__setitem__((0, 0, 0), 0), "padding in front"),
        (lambda a: a["choice_mask"].__setitem__((1, 0, 0), 1), "question 1: choice 0: its tokens are not the last"),
        (lambda a: a.update(choice_length=np.zeros(a["input_ids"].shape[:2], int)), "has the length 0"),
        (lambda a: a.update(input_ids=a["input_ids"] * 1.0), "input_ids is torch.float64"),
    ],
)
def test_arrays_that_are_no_questions(tmp_path: Path, change: Callable[[dict[str, Any]], Any], problem: str) -> None:
    made = arrays([{"context": [1, 2], "choices": [[2], [3]], "answer": 0} for _ in range(2)])
    change(made)
    np.savez(tmp_path / "q.npz", **made)
    with pytest.raises(WorkloadError, match=problem):
        load_choices(str(tmp_path / "q.npz"), Language(len(WORDS), CONTEXT))


def test_a_campaign_of_questions(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from faultcli.cli import run as faultcli

    path = lines(tmp_path / "q.jsonl", *asked(4))
    common = ["--data", str(path), "--device", "cpu"]
    out = tmp_path / "evaluate.json"
    assert faultcli(["evaluate", str(llama), *common, "--format", "int4", "--json", str(out)]) == 0
    evaluated = json.loads(out.read_text())
    assert "acc_norm" in capsys.readouterr().out
    _, acc, acc_norm = reference(llama, asked(4))
    assert (evaluated["original"]["top1"], evaluated["original"]["acc_norm"]) == (acc, acc_norm)
    result, store = tmp_path / "campaign.json", tmp_path / "run.sqlite"
    gates = ["--min-accuracy", "0.9", "--max-sdc", "0.01"]
    line = ["campaign", str(llama), *common, "--ber", "1e-3", "--trials", "4", *gates, "--json", str(result)]
    assert faultcli([*line, "--store", str(store)]) in (1, 4)
    assert faultcli([*line, "--store", str(store)]) in (1, 4)  # from the store
    arm = json.loads(result.read_text())["arms"][0]
    assert arm["masked"] + arm["sdc"] + arm["due"] == pytest.approx(1)
    assert arm["stored_acc_norm"] == acc_norm
    assert arm["acc_norm"]["low"] <= arm["acc_norm"]["mean"] <= arm["acc_norm"]["high"]
    for suffix in ("html", "md", "csv", "xml"):
        assert faultcli(["report", str(store), "-o", str(tmp_path / f"report.{suffix}")]) == 0
    assert "acc norm" in (tmp_path / "report.md").read_text().replace("\\_", " ").replace("_", " ")
    assert ",acc_norm," in (tmp_path / "report.csv").read_text().splitlines()[0]
    capsys.readouterr()
    assert faultcli([*line, "--max-perplexity", "5"]) == 2
    assert "LlamaForCausalLM has no perplexity on these data" in " ".join(capsys.readouterr().err.split())
