"""config.json as what it is: a file from somebody else. What it says of the network is used; what would make
transformers fetch or run anything, or build for ever, is not.

Hub and kernels stay out in two ways: the keys that name them are taken away before transformers sees them, at any
depth, and while it works it is offline. So nothing is fetched, not even by a key that this list does not know yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faultcli.checkpoint.packed import known
from faultcli.errors import WorkloadError, install
from faultcli.foreign import parse_json, read_text

CONFIG = "config.json"
OWN_NETWORK = "fetch the model again, or name the network yourself: --arch package.module:factory"

# How attention and experts are computed, by which library, in which kernel; where else to look for code or weights.
# Left out, transformers takes what it has itself.
_NOT_THE_NETWORK = re.compile(
    r"_?(attn|experts)_implementation(_\w+)?|attention_implementation|use_(hub_)?kernels?|kernel_config|fusion_config"
    r"|distributed_config|device_map|trust_remote_code|_?name_or_path|_commit_hash|adapter\w*|configuration_files"
    r"|transformers_weights|gguf_file|quantization_config"
)
_COUNTS = re.compile(r"layer|label|depth|block|stage|expert|head", re.IGNORECASE)
_MOST = 100_000  # layers, labels, heads
_SLACK_TENSORS, _SLACK_ELEMENTS = 2000, 1 << 24  # that a model may have beyond those of the file: ties, buffers, masks
_TIMES = 3  # as many elements as the file: an embedding may be tied, and counted twice


def read_config(directory: Path) -> Any:
    """Return the configuration of a model directory as transformers' own class.

    Raises:
        WorkloadError: transformers is not installed; the file is damaged, or of a kind of model that transformers does
            not know; weights quantised by another library; a number of layers, labels or heads beyond reason.
    """
    path = directory / CONFIG
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        raise WorkloadError(f"{directory}: needs transformers", install("hf")) from error
    try:
        content = parse_json(read_text(path))
        if not isinstance(content, dict):
            raise ValueError("is no JSON object")
        _check_counts(content)
        asked = _own(content)
        kind = asked.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise ValueError(f"model_type {str(kind)[:60]!r} is not one that this transformers knows")
        with offline():
            config = CONFIG_MAPPING[kind].from_dict(asked)
    except _Quantised:
        raise WorkloadError(
            f"{path}: the checkpoint is quantised by a library whose layout is not read (quantization_config)",
            "take the model as it was before; faultcli stores it in number formats itself, --format int8-channel",
        ) from None
    except Exception as error:  # damaged JSON, values of the wrong type: no common class
        raise WorkloadError(
            f"{path}: cannot be used: {first_line(error)}",
            OWN_NETWORK,
        ) from error
    return config


class _Quantised(Exception):  # noqa: N818
    """Somewhere in a configuration is a `quantization_config`."""


def _own(content: Any) -> Any:
    """Return a configuration without what is not the network."""
    if isinstance(content, list):
        return [_own(item) for item in content]
    if not isinstance(content, dict):
        return content
    if content.get("quantization_config") is not None and not known(content["quantization_config"]):
        raise _Quantised
    if ":" in str(content.get("architecture", "")):  # of timm's wrapper, which takes hf-hub:REPOSITORY for a name
        raise ValueError(f"architecture {content['architecture']!r} is not a name")
    own = {key: _own(value) for key, value in content.items() if not _NOT_THE_NETWORK.fullmatch(key)}
    if "use_pretrained_backbone" in own:
        own["use_pretrained_backbone"] = False
    return own


def _check_counts(content: Any, name: str = "") -> None:
    """Refuse numbers that make even the configuration a list without end."""
    if isinstance(content, dict):
        for key, value in content.items():
            _check_counts(value, key)
    elif isinstance(content, list):
        for value in content:
            _check_counts(value, name)
    elif isinstance(content, (int, float)) and not abs(content) < math.inf:
        raise ValueError(f"{name} is not finite")
    elif isinstance(content, (int, float)) and abs(content) > _MOST and _COUNTS.search(name):
        raise ValueError(f"{name} is {content}; more than {_MOST:,} are not built")


@contextmanager
def offline() -> Iterator[None]:
    """Keep transformers, and whatever it uses, from the Hugging Face hub, whatever a file asks for."""
    from huggingface_hub import constants

    hub: Any = constants
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def check_size(directory: Path, name: str, config: Any, state: Mapping[str, Tensor]) -> None:
    """Refuse a configuration that describes far more than the checkpoint holds, before anything of it is built.

    The network is built without memory (on the meta device), and no further than the file's tensors reach.

    Raises:
        WorkloadError: it does, or it cannot be built.
    """
    import transformers

    tensors = _TIMES * len(state) + _SLACK_TENSORS
    elements = _TIMES * sum(tensor.numel() for tensor in state.values()) + _SLACK_ELEMENTS
    seen: dict[int, int] = {}

    def count(module: nn.Module, key: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        seen[id(tensor)] = tensor.numel()
        kept.append(tensor)  # so that no other gets its id
        if len(kept) > tensors or sum(seen.values()) > elements:
            raise _TooMuch

    kept: list[Tensor] = []
    hooks = nn.modules.module
    watching = (
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    )
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), offline():
            getattr(transformers, name)(config)
    except _TooMuch:
        raise WorkloadError(
            f"{directory}: {CONFIG} describes a far larger {name} than the checkpoint's {len(state)} tensors with"
            f" {sum(tensor.numel() for tensor in state.values()):,} values",
            f"fetch the model again; {CONFIG} and the weights have to belong together",
        ) from None
    except Exception as error:  # a wrong configuration fails anywhere in the model's own code
        raise WorkloadError(
            f"{directory}: {name} cannot be built: {first_line(error)}",
            OWN_NETWORK,
        ) from error
    finally:
        for handle in watching:
            handle.remove()


class _TooMuch(BaseException):
    """Ends a build half-way; not an Exception, so that no model's own code takes it for one of its own."""


def count(name: str, value: object) -> int:
    """Return a number from 1 that a configuration says; ValueError if it is none."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}, not a number from 1")
    return value


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
