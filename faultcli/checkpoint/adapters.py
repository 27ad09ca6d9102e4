"""Adapters (LoRA and its kin): a few tensors that change a model, and no model by themselves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from faultcli.checkpoint.header import read_header
from faultcli.errors import CheckpointError
from faultcli.foreign import ForeignError, parse_json, read_text

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"  # of peft

# In the names of peft, of diffusers and of kohya's scripts.
_NAMES = re.compile(
    r"(^|[._])(lora_(A|B|E|up|down|embedding_[AB]|magnitude_vector|mid)|ia3_l|hada_[wt]\d|lokr_[wt]\d|oft_[rR]|boft_[Rs]"
    r"|vera_lambda_[bd]|prompt_embeddings)([._]|$)|^lora_(unet|te\d?|transformer)_"
)


def adapts(names: Iterable[str]) -> bool:
    """Whether tensors of these names are those of an adapter."""
    listed = list(names)
    if any(".base_layer." in name for name in listed):  # the model that it adapts is there, too
        return False
    return any(map(_NAMES.search, listed)) and 2 * sum(map(_is_one, listed)) > len(listed)


def _is_one(name: str) -> bool:
    return _NAMES.search(name) is not None or name.startswith("base_model.model.")


def is_adapter(path: Path) -> bool:
    """Whether a safetensors file is an adapter; one that cannot be read is none."""
    try:
        with path.open("rb") as file:
            return adapts(info.name for info in read_header(file, path, os.fstat(file.fileno()).st_size).tensors)
    except (OSError, CheckpointError):
        return False


def base_of(directory: Path) -> str | None:
    """Return the model that the adapter in a directory was trained on, as its configuration calls it; None if it does
    not say."""
    try:
        content: Any = parse_json(read_text(directory / CONFIG))
    except ForeignError:
        return None
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    return base if isinstance(base, str) and base else None
