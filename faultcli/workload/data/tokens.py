"""Token sequences for language models: from arrays, or from plain text with the model's own tokenizer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from faultcli.errors import UsageError, WorkloadError
from faultcli.foreign import ForeignError, read_text, whole_number
from faultcli.workload.data.archives import read_named
from faultcli.workload.data.labelled import check_limit, plain_tensor, whole_numbers
from faultcli.workload.data.readers import ARRAY_SUFFIXES
from faultcli.workload.data.tokenizer import load_tokenizer
from faultcli.workload.models.architectures import Language

_KEYS = ("input_ids", "attention_mask")
_LONGEST_TEXT = 1 << 30  # bytes
TEXT_WINDOW = 512  # tokens per sequence that text is cut into, unless the model's context is shorter


@dataclass(frozen=True, eq=False)
class TokenDataset:
    """Sequences of tokens, padded on the right."""

    ids: Tensor  # int64 [N, T], T the longest length
    lengths: Tensor  # int64 [N], tokens that are no padding, at least 2
    name: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> int:
        """Number of tokens that are predicted: all but the first of every sequence."""
        return int((self.lengths - 1).sum())

    def first(self, limit: int | None) -> TokenDataset:
        """Return the first `limit` sequences.

        Raises:
            WorkloadError: `limit` is below 1.
        """
        check_limit(limit, self.name)
        if limit is None:
            return self
        lengths = self.lengths[:limit]
        return replace(self, ids=self.ids[:limit, : int(lengths.max())], lengths=lengths)

    def first_targets(self, count: int) -> tuple[TokenDataset, TokenDataset | None]:
        """Return the first sequences with `count` targets (all of them where there are fewer), the last one cut short,
        and the sequences that are not touched by that; None: there are none."""
        targets = self.lengths - 1
        whole = int((targets.cumsum(0) < count).sum()) + 1
        if whole > len(self):
            return self, None
        part = self.rows(torch.arange(whole))
        lengths = part.lengths.clone()
        lengths[-1] -= int(targets[:whole].sum()) - count
        part = replace(part, ids=part.ids[:, : int(lengths.max())], lengths=lengths)
        return part, self.rows(torch.arange(whole, len(self))) if whole < len(self) else None

    def rows(self, chosen: Tensor) -> TokenDataset:
        """Return the sequences of these positions, in this order."""
        lengths = self.lengths[chosen]
        return replace(self, ids=self.ids[chosen, : int(lengths.max())], lengths=lengths)

    def sha256(self) -> str:
        """Return the hex SHA-256 of shape, tokens and lengths; neither the name nor what the padding is counts."""
        digest = hashlib.sha256(f"{list(self.ids.shape)}\n".encode())
        positions = torch.arange(self.ids.shape[1])
        for tensor in (torch.where(positions < self.lengths[:, None], self.ids, 0), self.lengths):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def make_tokens(ids: Tensor, mask: Tensor | None, name: str, language: Language) -> TokenDataset:
    """Check arrays and make a data set of them.

    Args:
        ids: integers [N, T].
        mask: [N, T], 1 for tokens and 0 for padding, which has to be on the right; None: no padding.
        name: of the data set.
        language: of the model.

    Raises:
        WorkloadError: shapes or types that are wrong, padding elsewhere, a sequence of fewer than two tokens or of more
            than the model's context, or a token that is not in the model's vocabulary.
    """
    if ids.dim() != 2 or not ids.numel() or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise WorkloadError(
            f"{name}: input_ids are {ids.dtype} of shape {list(ids.shape)}", "integers [N, T] are needed"
        )
    ids = whole_numbers(name, "token", ids.detach().cpu())
    mask = torch.ones_like(ids) if mask is None else mask.detach().cpu()
    if mask.shape != ids.shape or mask.is_complex():
        shapes = f"attention_mask is {mask.dtype} of shape {list(mask.shape)}, input_ids of {list(ids.shape)}"
        raise WorkloadError(f"{name}: {shapes}", "a 1 for every token and a 0 for padding are needed")
    if not mask.is_floating_point():
        mask = whole_numbers(name, "mask", mask)
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise WorkloadError(
            f"{name}: attention_mask has values from {float(mask.min()):g} to {float(mask.max()):g}",
            "a 1 for every token and a 0 for padding are needed",
        )
    mask = mask == 1
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise WorkloadError(f"{name}: the padding is not at the end of the sequences", "pad on the right")
    lengths = mask.sum(dim=1)
    if int(lengths.min()) < 2:
        short = int(lengths.argmin())
        raise WorkloadError(
            f"{name}: sequence {short} has {int(lengths[short])} tokens", "two are needed, so that one is predicted"
        )
    longest = int(lengths.max())
    if language.context is not None and longest > language.context:
        raise WorkloadError(
            f"{name}: a sequence has {longest} tokens, the model looks at {language.context}", "cut it into parts"
        )
    known = ids[mask]
    outside = known[(known < 0) | (known >= language.vocabulary)]
    if len(outside):
        raise WorkloadError(
            f"{name}: token {int(outside[0])} is out of range, the model's vocabulary has {language.vocabulary}",
            "make the tokens with this model's own tokenizer",
        )
    return TokenDataset(ids.where(mask, 0)[:, :longest], lengths, name)


def load_tokens(spec: str, language: Language, limit: int | None = None) -> TokenDataset:
    """Load the sequences that `spec` names.

    `FILE.npz`, `FILE.safetensors`   arrays `input_ids` [N, T] and, if there is padding, `attention_mask`
    `FILE.txt[,length=T]`            UTF-8 text, turned into tokens by the tokenizer in the model's directory and cut
                                     into windows of T tokens (the shorter of 512 and the model's context) that do not
                                     overlap

    Raises:
        UsageError: nothing known is named.
        WorkloadError: files are missing or damaged, or do not fit the model, or `limit` is below 1.
    """
    check_limit(limit, spec)
    if spec.endswith(ARRAY_SUFFIXES):
        found = read_named(Path(spec), _KEYS, limit=limit)
        if "input_ids" not in found:
            raise WorkloadError(
                f"{spec}: has no 'input_ids'; it has {', '.join(map(repr, sorted(found))) or 'no arrays'}",
                "a language model takes input_ids and attention_mask, both [N, T]",
            )
        ids, mask = (None if (found.get(key)) is None else plain_tensor(spec, key, found[key]) for key in _KEYS)
        assert ids is not None
        return make_tokens(ids, mask, spec, language).first(limit)
    match = re.fullmatch(r"(.*\.txt)(?:,length=(\d+))?", spec, flags=re.DOTALL)
    if match is None:
        raise UsageError(
            f"{spec}: is no data for a language model",
            "pass --data FILE.npz, FILE.safetensors, FILE.txt[,length=T] or FILE.jsonl",
        )
    length = whole_number(match[2]) if match[2] else min(TEXT_WINDOW, language.context or TEXT_WINDOW)
    if length is None:
        raise UsageError(f"{spec}: a length of more than 64 bits", "e.g. length=512")
    return _from_text(Path(match[1]), length, language, limit)


def _from_text(path: Path, length: int, language: Language, limit: int | None) -> TokenDataset:
    if length < 2:
        raise UsageError(f"{path},length={length}: two tokens are needed, so that one is predicted", "e.g. length=512")
    try:
        text = read_text(path, _LONGEST_TEXT)
    except ForeignError as error:
        raise WorkloadError(f"{path}: {error}", "check the path; the text has to be UTF-8") from None
    ids = load_tokenizer(language.tokenizer, "FILE.safetensors with input_ids")(text)["input_ids"]
    if len(ids) < 2:
        raise WorkloadError(f"{path}: is {len(ids)} tokens long", "two are needed, so that one is predicted")
    windows = [ids[start : start + length] for start in range(0, len(ids), length)]
    if len(windows[-1]) < 2:
        windows.pop()
    lengths = torch.tensor([len(window) for window in windows])
    padded = torch.tensor([window + [0] * (int(lengths.max()) - len(window)) for window in windows])
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    return make_tokens(padded, mask.long(), str(path), language).first(limit)
