"""Texts with labels for classifiers: rows of a table, turned into tokens by the model's own tokenizer."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.foreign import ForeignError, parse_json, read_text, whole_number
from faultcli.workload.data.readers import LABELS, Arrays
from faultcli.workload.data.tokenizer import load_tokenizer
from faultcli.workload.models.architectures import Texts

TEXT_SUFFIXES = (".jsonl", ".csv", ".tsv")
_LARGEST = 1 << 30  # bytes of a file
# The columns that hold a text, or the two of a pair; the first that are there count. Names as in GLUE and its like.
_COLUMNS = (
    *(("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis")),
    *(("question1", "question2"), ("question", "sentence")),
    *(("text",), ("sentence",)),
)
_TOGETHER = 32  # texts that are padded alike
_NO_LIMIT = 1 << 20  # tokenizers without one say 10^30
_IDS, _MASK = "input_ids", "attention_mask"


def read_texts(path: Path, texts: Texts | None, takes: Sequence[str], limit: int | None = None) -> Arrays:
    """Read the first `limit` rows of a table and make tokens of their texts.

    Every row has a `text` or `sentence` (or a pair, as GLUE calls them) and a `label`, which is a number from 0 or a
    name that the model's configuration has. Longer texts are cut; texts are padded with their neighbours only.

    Args:
        path: JSON lines, or a table with a header and commas or tabs.
        texts: what is known of the texts that the network takes; None: it takes none.
        takes: the names of the network's inputs.
        limit: None: all.

    Raises:
        WorkloadError: the network takes no texts, the file is missing or damaged, or a label is no class.
    """
    if texts is None:
        raise WorkloadError(
            f"{path}: the network has no tokenizer of its own to make tokens of texts",
            "pass a directory with a text classifier and its tokenizer, or tokens: FILE.npz with input_ids and labels",
        )
    rows = list(islice(_rows(path), limit))
    if not rows:
        raise WorkloadError(f"{path}: holds no texts", "write a text and a label for every input")
    columns = next((names for names in _COLUMNS if all(name in rows[0] for name in names)), None)
    label = next((name for name in LABELS if name in rows[0]), None)
    if columns is None or label is None:
        raise WorkloadError(
            f"{path}: has the columns {', '.join(map(repr, rows[0]))}",
            "name the text 'text' (a pair: 'text' and 'text_pair') and its class 'label'",
        )
    labels = torch.tensor([_class(path, at, row.get(label), texts.classes) for at, row in enumerate(rows, 1)])
    pairs = [_texts_of(path, at, row, columns) for at, row in enumerate(rows, 1)]
    encoded, notes = _encoded(path, pairs, texts)
    kept = {name: encoded[name] for name in encoded if name == _IDS or name in takes}
    others = {name: part.values for name, part in kept.items() if name != _IDS}
    widths = {name: part.widths for name, part in kept.items()}
    return Arrays(kept[_IDS].values, labels, None, None, _IDS, others, notes, widths)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        content = read_text(path, _LARGEST)
        if path.suffix == ".jsonl":
            for number, line in enumerate(content.splitlines(), 1):
                row = parse_json(line) if line.strip() else None
                if isinstance(row, dict):
                    yield row
                elif row is not None or line.strip():
                    raise ForeignError(f"line {number} is no JSON object")
        else:
            yield from csv.DictReader(io.StringIO(content), delimiter="\t" if path.suffix == ".tsv" else ",")
    except (ForeignError, csv.Error) as error:
        raise WorkloadError(
            f"{path}: {error}", "a table with a header is needed, or a JSON object in every line; both as UTF-8"
        ) from None


def _class(path: Path, number: int, value: object, classes: Mapping[str, int]) -> int:
    if isinstance(value, str):
        named = classes.get(value)
        found = whole_number(value) if named is None else named
    elif isinstance(value, float) and value.is_integer():
        found = int(value)
    else:
        found = value if type(value) is int else None
    if found is None or not abs(found) < 1 << 62:
        names = f", or one of {', '.join(list(classes)[:5])}" if classes else ""
        raise WorkloadError(f"{path}: row {number}: label {value!r:.60} is no class", f"classes count from 0{names}")
    return found


def _texts_of(path: Path, number: int, row: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(row.get(name) for name in columns)
    if not all(isinstance(text, str) for text in found):
        raise WorkloadError(f"{path}: row {number}: {' or '.join(columns)} is no text", "write a text in every row")
    return found  # type: ignore[return-value]


@dataclass(frozen=True)
class _Padded:
    """Sequences beside each other: [N, longest], and of every row how many columns its neighbours need."""

    values: Tensor
    widths: Tensor


def _encoded(path: Path, pairs: Sequence[tuple[str, ...]], texts: Texts) -> tuple[dict[str, _Padded], tuple[str, ...]]:
    """Return what the tokenizer makes of texts, and how many it cut."""
    tokenizer = load_tokenizer(texts.tokenizer, "FILE.npz with input_ids and labels")
    limits = [limit for limit in (tokenizer.model_max_length, texts.longest) if limit and limit < _NO_LIMIT]
    longest = min(limits) if limits else None
    rows, cut = list[dict[str, list[int]]](), 0
    for pair in pairs:
        row = tokenizer(*pair, verbose=False)
        if longest is not None and len(row[_IDS]) > longest:
            row, cut = tokenizer(*pair, truncation=True, max_length=longest, verbose=False), cut + 1
        rows.append({name: list(row[name]) for name in row})
    pad = texts.padding if texts.padding is not None else tokenizer.pad_token_id
    fill = {_IDS: pad or 0, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    left = tokenizer.padding_side == "left"
    made = {name: _padded([row[name] for row in rows], fill.get(name, 0), left=left) for name in rows[0]}
    notes = (f"{path}: {cut:,} of {len(rows):,} texts are longer than {longest} tokens, and cut",) if cut else ()
    return made, notes


def _padded(rows: Sequence[Sequence[int]], fill: int, *, left: bool) -> _Padded:
    groups = [rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER)]
    widths = [max(1, *map(len, group)) for group in groups]
    values = torch.full((len(rows), max(widths)), fill, dtype=torch.int64)
    for at, row in enumerate(rows):
        start = widths[at // _TOGETHER] - len(row) if left else 0
        values[at, start : start + len(row)] = torch.tensor(row, dtype=torch.int64)
    return _Padded(values, torch.tensor(widths).repeat_interleave(torch.tensor([len(group) for group in groups])))


def check_tokens(name: str, inputs: Mapping[str, Tensor], texts: Texts) -> tuple[str, ...]:
    """Check token ids before the network sees them, and return what a user may not expect of them, a line each.

    Raises:
        WorkloadError: a token is not in the model's vocabulary.
    """
    ids = next(iter(inputs.values()))
    if ids.is_floating_point():
        raise WorkloadError(
            f"{name}: inputs are {ids.dtype}, and a text classifier takes tokens", "store input_ids as integers [N, T]"
        )
    outside = ids[(ids < 0) | (ids >= texts.vocabulary)] if texts.vocabulary else ids[ids < 0]
    if len(outside):
        raise WorkloadError(
            f"{name}: token {int(outside[0])} is out of range, the model's vocabulary has {texts.vocabulary}",
            "make the tokens with this model's own tokenizer",
        )
    if _MASK in inputs or texts.padding is None or ids.dim() != 2:
        return ()
    padded = int((ids[:, -1] == texts.padding).sum())
    if not padded or padded == len(ids):
        return ()
    problem = f"{padded:,} sequences end in the padding token {texts.padding}, and there is no attention_mask"
    return (f"{name}: {problem}: the model looks at padding as at any token",)
