"""config.json as what it is: a file from somebody else. What it says of the network is used; what would make
transformers fetch or run anything, or build for ever, is not.

Hub and kernels stay out in two ways: the keys that name them are taken away before transformers sees them, at any
depth, and while it works it is offline. So nothing is fetched, not even by a key that this list does not know yet.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from logging import CRITICAL
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from faultcli.checkpoint.packed import known
from faultcli.errors import WorkloadError, install
from faultcli.foreign import parse_json, read_text
from faultcli.workload.models.bounded import Shapes, TooMuch, values_of, without_memory

CONFIG = "config.json"
OWN_NETWORK = "fetch the model again, or name the network yourself: --arch package.module:factory"

# How attention and experts are computed, by which library, in which kernel; where else to look for code or weights.
# Left out, transformers takes what it has itself.
_NOT_THE_NETWORK = re.compile(
    r"_?(attn|experts)_implementation(_\w+)?|attention_implementation|use_(hub_)?kernels?|kernel_config|fusion_config"
    r"|distributed_config|device_map|trust_remote_code|_?name_or_path|_commit_hash|adapter\w*|configuration_files"
    r"|transformers_weights|gguf_file|quantization_config"
)
_BESIDE_TORCH = ("torchvision", "torchaudio")
_COUNTS = re.compile(r"layer|label|depth|block|stage|expert|head", re.IGNORECASE)
_MOST = 100_000  # layers, labels, heads


def read_config(directory: Path) -> Any:
    """Return the configuration of a model directory as transformers' own class.

    Raises:
        WorkloadError: transformers is not installed; the file is damaged, or of a kind of model that transformers does
            not know; weights quantised by another library; a number of layers, labels or heads beyond reason.
    """
    path = directory / CONFIG
    transformers_for(str(directory))
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        content = parse_json(read_text(path))
        if not isinstance(content, dict):
            raise ValueError("is no JSON object")
        check_counts(content)
        asked = _own(content)
        kind = asked.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            raise ValueError(f"model_type {str(kind)[:60]!r} is not one that this transformers knows")
        with quiet(), offline():
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
    for table in ("id2label", "label2id"):  # null is no table
        if table in own and not own[table]:
            del own[table]
    return own


def transformers_for(what: str) -> None:
    """Import transformers, with a torchvision or torchaudio that cannot be imported (it belongs to another torch) as if
    it were not there: nothing here needs one.

    Transformers looks for them by their metadata only, remembers what it found, and would fail far away.

    Raises:
        WorkloadError: transformers is not installed.
    """
    broken = [name for name in _BESIDE_TORCH if name not in sys.modules and not _importable(name)]
    sys.modules.update(dict.fromkeys(broken))  # type: ignore[arg-type]  # None: what import takes for "there is none"
    try:
        from transformers.utils import import_utils

        for name in broken:
            found: Any = getattr(import_utils, f"is_{name}_available")
            found.cache_clear()
            found()
    except ImportError as error:
        raise WorkloadError(f"{what}: needs transformers", install("hf")) from error
    finally:
        for name in broken:
            del sys.modules[name]


@cache
def _importable(module: str) -> bool:
    """Whether a module can be imported, or is not there at all."""
    try:
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)
    except Exception:  # what a library raises that fits no other
        return False
    return True


def check_counts(content: Any, name: str = "") -> None:
    """Refuse numbers that make even the configuration a list without end."""
    if isinstance(content, dict):
        for key, value in content.items():
            check_counts(value, key)
    elif isinstance(content, list):
        for value in content:
            check_counts(value, name)
    elif isinstance(content, (int, float)) and not abs(content) < math.inf:
        raise ValueError(f"{name} is not finite")
    elif isinstance(content, (int, float)) and abs(content) > _MOST and _COUNTS.search(name):
        raise ValueError(f"{name} is {content}; more than {_MOST:,} are not built")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing bars and reports to stderr; what it found is checked, not read by people."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


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


def check_size(directory: Path, name: str, config: Any, state: Mapping[str, Tensor]) -> Any:
    """Refuse a configuration that describes far more than the checkpoint holds, before anything of it is built.

    The network is built without memory (on the meta device), and no further than the file's tensors reach. It is
    returned.

    Raises:
        WorkloadError: it does, or it cannot be built.
    """
    return without_weights(directory, name, config, {key: tuple(tensor.shape) for key, tensor in state.items()})


def without_weights(directory: Path, name: str, config: Any, shapes: Shapes) -> nn.Module:
    """Return the network of a class of transformers as it is built without memory (on the meta device), and no further
    than a checkpoint of these shapes reaches.

    Raises:
        WorkloadError: it describes far more than the checkpoint holds, or it cannot be built.
    """
    import transformers

    try:
        with without_memory(shapes), offline():
            made = getattr(transformers, name)(config)
    except TooMuch:
        raise WorkloadError(
            f"{directory}: {CONFIG} describes a far larger {name} than the checkpoint's {len(shapes)} tensors with"
            f" {values_of(shapes):,} values",
            f"fetch the model again; {CONFIG} and the weights have to belong together",
        ) from None
    except Exception as error:  # a wrong configuration fails anywhere in the model's own code
        raise WorkloadError(
            f"{directory}: {name} cannot be built: {first_line(error)}",
            OWN_NETWORK,
        ) from error
    assert isinstance(made, nn.Module)
    return made


def count(name: str, value: object) -> int:
    """Return a number from 1 that a configuration says; ValueError if it is none."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}, not a number from 1")
    return value


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
