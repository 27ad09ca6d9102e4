"""The tokenizer that lies in a model's directory, through transformers and offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faultcli.errors import WorkloadError, install
from faultcli.workload.models.hf_config import offline

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_tokenizer(place: Path | None, tokens: str) -> Any:
    """Return the tokenizer of a model directory.

    Args:
        place: the directory; None: the model has none.
        tokens: what to pass in place of text, for the remedy.

    Raises:
        WorkloadError: transformers is not installed, or there is no tokenizer that it can use.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise WorkloadError("plain text needs transformers", install("hf")) from error
    if place is None or not any((place / name).is_file() for name in _FILES):
        raise WorkloadError(
            f"{place or 'the model'}: has no tokenizer ({', '.join(_FILES)})",
            f"put the model's tokenizer into its directory, or pass tokens: {tokens}",
        )
    try:
        with offline():
            return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # no common class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkloadError(
            f"{place}: the tokenizer cannot be used: {reason}",
            f"put the files of its tokenizer beside the checkpoint, or pass tokens: {tokens}",
        ) from error
