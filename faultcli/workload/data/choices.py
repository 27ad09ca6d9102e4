"""Questions with choices, one of which is right, for language models: from a file of JSON lines, or from arrays.

What a choice is judged by, and how text becomes tokens, follow the multiple-choice tasks of EleutherAI's
lm-evaluation-harness (`lm_eval/api/task.py`, `lm_eval/api/model.py`: `_encode_pair`; commit 4e7e0d47, 2026).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.foreign import ForeignError, parse_json, read_text, whole_number
from faultcli.workload.data.archives import read_named
from faultcli.workload.data.labelled import check_limit, plain_tensor, whole_numbers
from faultcli.workload.data.readers import ARRAY_SUFFIXES
from faultcli.workload.data.tokenizer import load_tokenizer
from faultcli.workload.models.architectures import Language

SUFFIX = ".jsonl"
_CONTEXT = ("context", "question", "query", "ctx", "prompt")  # names that such files have for it
_CHOICES = ("choices", "endings", "options")
_ANSWER = ("answer", "gold", "label", "answerKey")
_ARRAYS = ("input_ids", "attention_mask", "choice_mask", "choice_length", "labels")
_LARGEST_FILE = 1 << 30  # bytes
_EXAMPLE = '{"context": "The sky is", "choices": ["blue", "made of cheese"], "answer": 0}'


@dataclass(frozen=True)
class ChoiceTokens:
    """A choice behind its context.

    `ids`: tokens of both. `scored`: how many at the end are the choice's; fewer than `ids`. `length`: what a
    log-likelihood is divided by: characters of the choice, or its tokens where it has no text. `cut`: tokens that were
    left out at the beginning.
    """

    ids: tuple[int, ...]
    scored: int
    length: int
    cut: int = 0


@dataclass(frozen=True, eq=False)
class ChoiceDataset:
    """Questions: their choices, and which of them is right."""

    questions: tuple[tuple[ChoiceTokens, ...], ...]
    labels: Tensor  # int64 [N]
    name: str

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def most_choices(self) -> int:
        """Choices of the question that has the most."""
        return max(map(len, self.questions))

    @property
    def choices(self) -> list[ChoiceTokens]:
        """Those of all questions, in order."""
        return [choice for question in self.questions for choice in question]

    def sha256(self) -> str:
        """Return the hex SHA-256 of tokens, lengths and answers."""
        content = [[[choice.ids, choice.scored, choice.length] for choice in question] for question in self.questions]
        return hashlib.sha256(json.dumps([content, self.labels.tolist()]).encode()).hexdigest()


def load_choices(spec: str, language: Language, limit: int | None = None) -> ChoiceDataset | None:
    """Load the questions that `spec` names; None if it names something else.

    `FILE.jsonl`: a question per line, `{"context": …, "choices": […], "answer": …}`. The context may be called
    question, query, ctx or prompt, choices endings or options, the answer gold, label or answerKey. Context and choices
    are texts, or lists of token ids; the answer is a choice's text, its letter (A is the first) or its number from 0.
    Choices may also be `{"text": […], "label": […]}`, with one of the labels as the answer. Between context and choice
    comes a space, unless there is white space already; both are turned into tokens together, by the tokenizer in the
    model's directory. Of a context that is too long for the model the beginning is left out.

    `FILE.npz`, `FILE.safetensors`: `input_ids` [N, C, T], `choice_mask` [N, C, T] (1 for tokens of the choice, the last
    ones), `labels` [N]; where there is padding (on the right) or a question has fewer choices, `attention_mask`
    [N, C, T]; and `choice_length` [N, C], what a log-likelihood is divided by, if not the number of tokens.

    Raises:
        WorkloadError: files are missing or damaged, or do not fit the model, with the line; or `limit` is below 1.
    """
    in_arrays = spec.endswith(ARRAY_SUFFIXES) and "choice_mask" in read_named(Path(spec), ("choice_mask",), limit=1)
    if not in_arrays and not spec.endswith(SUFFIX):
        return None
    check_limit(limit, spec)
    if in_arrays:
        found = _of_arrays(spec, read_named(Path(spec), _ARRAYS, limit=limit), language)
    else:
        found = _of_lines(spec, language, limit)
    questions, answers = zip(*found, strict=True)
    return ChoiceDataset(questions, torch.tensor(answers, dtype=torch.int64), spec)


Question = tuple[tuple[ChoiceTokens, ...], int]


def _of_lines(spec: str, language: Language, limit: int | None) -> list[Question]:
    try:
        text = read_text(Path(spec), _LARGEST_FILE)
    except ForeignError as error:
        raise WorkloadError(f"{spec}: {error}", "check the path; the text has to be UTF-8") from None
    encoder = _Encoder(language)
    found: list[Question] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and (limit is None or len(found) < limit):
            found.append(_Line(f"{spec}: line {number}", language, encoder).question(line))
    if not found:
        raise WorkloadError(f"{spec}: has no questions", f"a line each, e.g. {_EXAMPLE}")
    return found


class _Encoder:
    """Texts into tokens; the tokenizer is read when the first text comes."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._tokenizer: Any = None

    def pair(self, context: str, choice: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context and of the choice behind it, which are those of both together."""
        spaces = len(context) - len(context.rstrip())
        stem, rest = context[: len(context) - spaces], context[len(context) - spaces :] + choice
        if not stem:
            start = self._first_token()
            own = self.tokens(rest, special=False)
            return ([start], own) if start is not None and own[:1] != [start] else (own[:1], own[1:])
        before = self.tokens(stem)
        return before, self.tokens(stem + rest)[len(before) :]

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a text, with what the tokenizer puts in front of it, and nothing behind it."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._language.tokenizer, "FILE.jsonl with lists of token ids")
        made = self._tokenizer
        begun = made.bos_token is not None and text.startswith(made.bos_token)
        ids = list(made(text, add_special_tokens=special and not begun)["input_ids"])
        end = made.eos_token_id
        if special and not begun and len(ids) > 1 and ids[-1] == end and made("")["input_ids"][-1:] == [end]:
            ids.pop()
        return ids

    def _first_token(self) -> int | None:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._language.tokenizer, "FILE.jsonl with lists of token ids")
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        first: int | None = end if begin is None else begin
        return first


@dataclass(frozen=True)
class _Line:
    """A question where it stands, for messages."""

    place: str
    language: Language
    encoder: _Encoder

    def question(self, line: str) -> Question:
        try:
            entry = parse_json(line)
        except ForeignError as error:
            self.refuse(str(error), f"a question is one line, e.g. {_EXAMPLE}")
        if not isinstance(entry, Mapping):
            self.refuse("is no object", f"a question is one line, e.g. {_EXAMPLE}")
        context, given, answer = (self._field(entry, names) for names in (_CONTEXT, _CHOICES, _ANSWER))
        labels = None
        if isinstance(given, Mapping):
            labels, given = given.get("label"), given.get("text")
            if not isinstance(labels, list) or not isinstance(given, list) or len(labels) != len(given):
                self.refuse("choices are an object without a label for every text", '{"text": […], "label": […]}')
        if not isinstance(given, list) or len(given) < 2:
            self.refuse("has no list of two choices or more", f"e.g. {_EXAMPLE}")
        choices = tuple(self._choice(context, choice, number) for number, choice in enumerate(given))
        return choices, self._answer(answer, given, labels)

    def refuse(self, problem: str, remedy: str) -> NoReturn:
        raise WorkloadError(f"{self.place}: {problem}", remedy)

    def _field(self, entry: Mapping[str, Any], names: Sequence[str]) -> Any:
        found = [name for name in names if name in entry]
        if len(found) == 1:
            return entry[found[0]]
        if found:
            self.refuse(f"has both {found[0]!r} and {found[1]!r}", f"join them in one: {found[0]!r}")
        here = ", ".join(map(repr, entry)) or "nothing"
        self.refuse(f"has no {names[0]!r}; it has {here}", f"a question is one line, e.g. {_EXAMPLE}")

    def _choice(self, context: Any, choice: Any, number: int) -> ChoiceTokens:
        if isinstance(context, str) and isinstance(choice, str):
            if not (_is_text(context) and _is_text(choice)):
                self.refuse(f"choice {number} or the context is no text: half a character", "write it as UTF-8")
            if not choice:
                self.refuse(f"choice {number} is empty", "every choice needs a text")
            space = "" if context[-1:].isspace() or choice[:1].isspace() else " "
            before, own = self.encoder.pair(context, space + choice)
            if not own:
                problem = f"choice {number} has no tokens of its own: they run together with the context's"
                self.refuse(problem, "move the last word of the context into every choice")
            length = len(choice)
        else:
            before, own = self._ids(context, "the context"), self._ids(choice, f"choice {number}")
            if not own:
                self.refuse(f"choice {number} is empty", "every choice needs a token")
            length = len(own)
        if not before:
            self.refuse("the context is empty", "put the token there that texts begin with for this model")
        return self.fitted(before, own, length, number)

    def _ids(self, given: Any, what: str) -> list[int]:
        if isinstance(given, list) and all(type(token) is int for token in given):
            return given
        self.refuse(f"{what} is {_kind(given)}", "context and choices are all texts, or all lists of token ids")

    def fitted(self, before: list[int], own: list[int], length: int, number: int) -> ChoiceTokens:
        """Return a choice cut to the model's context: all tokens but the last are looked at."""
        for token in (*before, *own):
            if not 0 <= token < self.language.vocabulary:
                problem = f"token {token} is out of range, the model's vocabulary has {self.language.vocabulary}"
                self.refuse(problem, "make the tokens with this model's own tokenizer")
        most = self.language.context
        if most is not None and len(own) > most:
            problem = f"choice {number} has {len(own)} tokens, the model looks at {most}"
            self.refuse(problem, "leave the question out, or shorten its choices")
        ids = [*before, *own]
        cut = 0 if most is None else max(0, len(ids) - most - 1)
        return ChoiceTokens(tuple(ids[cut:]), len(own), length, cut)

    def _answer(self, answer: Any, choices: Sequence[Any], labels: Sequence[Any] | None) -> int:
        """Return the number of the right choice: by its label, its text, its letter or its number."""
        for known in (labels or (), choices):
            at = [number for number, one in enumerate(known) if type(one) is type(answer) and one == answer]
            if len(at) == 1:
                return at[0]
            if at:
                self.refuse(f"answer {answer!r} is both choice {at[0]} and choice {at[1]}", "give its number, from 0")
        number = answer if type(answer) is int else None
        if isinstance(answer, str):
            letter = len(answer) == 1 and answer.isascii() and answer.isalpha()
            number = ord(answer.upper()) - ord("A") if letter else whole_number(answer)
        if labels is None and number is not None and 0 <= number < len(choices):
            return number
        known_as = f"the labels {labels}" if labels is not None else f"{len(choices)} choices, from 0 or A"
        return self.refuse(f"answer {_short(answer)} is none of {known_as}", "name the right one by number or letter")


def _of_arrays(spec: str, arrays: Mapping[str, Any], language: Language) -> list[Question]:
    missing = next((key for key in ("input_ids", "labels") if arrays.get(key) is None), None)
    if missing is not None:
        raise WorkloadError(f"{spec}: has a choice_mask, but no {missing!r}", "input_ids [N, C, T] and labels [N]")
    tensors = {key: plain_tensor(spec, key, values) for key, values in arrays.items() if values is not None}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.is_complex():
            raise WorkloadError(f"{spec}: {key} is {tensor.dtype}", "integers are needed")
        tensors[key] = whole_numbers(spec, "number", tensor)
    ids = tensors["input_ids"]
    shapes = {"choice_mask": ids.shape, "attention_mask": ids.shape, "choice_length": ids.shape[:2]}
    for key, shape in (shapes | {"labels": ids.shape[:1]}).items():
        if ids.dim() != 3 or (key in tensors and tensors[key].shape != shape):
            found = f"input_ids are of shape {list(ids.shape)}, {key} of {list(tensors.get(key, ids).shape)}"
            raise WorkloadError(f"{spec}: {found}", "[questions, choices, tokens] are needed, and labels [questions]")
    masks = tensors.get("attention_mask", torch.ones_like(ids)), tensors["choice_mask"]
    return [_of_rows(_Line(f"{spec}: question {row}", language, _Encoder(language)), tensors, masks, row)
            for row in range(len(ids))]  # fmt: skip


def _of_rows(line: _Line, tensors: Mapping[str, Tensor], masks: tuple[Tensor, Tensor], row: int) -> Question:
    choices: list[ChoiceTokens] = []
    for number, (ids, attention, choice) in enumerate(zip(tensors["input_ids"][row], *(m[row] for m in masks),
                                                          strict=True)):  # fmt: skip
        total, own = int((attention != 0).sum()), int(((choice != 0) & (attention != 0)).sum())
        if not total and len(choices) >= 2:
            break  # it has fewer choices
        wanted = torch.arange(len(ids))
        if not (torch.equal(attention != 0, wanted < total) and 0 < own < total):
            line.refuse(f"choice {number} has no context, no tokens or padding in front", "pad on the right")
        if not torch.equal((choice != 0) & (attention != 0), (wanted >= total - own) & (wanted < total)):
            line.refuse(f"choice {number}: its tokens are not the last ones", "choice_mask is 1 for the last tokens")
        tokens = ids[:total].tolist()
        length = int(tensors["choice_length"][row, number]) if "choice_length" in tensors else own
        if length < 1:
            line.refuse(f"choice {number} has the length {length}", "choice_length is 1 or more")
        choices.append(line.fitted(tokens[: total - own], tokens[total - own :], length, number))
    label = int(tensors["labels"][row])
    if not 0 <= label < len(choices):
        line.refuse(f"label {label} is none of {len(choices)} choices", "choices count from 0")
    return tuple(choices), label


def _is_text(text: str) -> bool:
    """Whether no character is half a pair, as JSON can spell it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _kind(given: Any) -> str:
    return {str: "a text", list: "a list", type(None): "null"}.get(type(given), f"a {type(given).__name__}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
