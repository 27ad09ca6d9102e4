"""A checkpoint's tensors into a model of transformers, each found again under the name that the model has for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from logging import CRITICAL
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.architectures import IGNORED_SUFFIX
from faultcli.workload.models.hf_config import CONFIG, OWN_NETWORK, check_size, first_line, offline
from faultcli.workload.models.loading import Renamed

_SHOWN = 3


class ImageClassifier(Renamed):
    """Images [N, C, H, W] to logits [N, K]."""

    def __init__(self, model: nn.Module, checkpoint_names: Mapping[str, str]) -> None:
        super().__init__()
        self.model: Any = model
        self.checkpoint_names = {name: f"model.{key}" for name, key in checkpoint_names.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Run the model in its own dtype."""
        logits: Tensor = self.model(images.to(self.model.dtype)).logits
        return logits


class LanguageModel(ImageClassifier):
    """Token ids [N, T] and their mask to logits [N, T, V]."""

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the model over whole sequences."""
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits


Wrap: TypeAlias = Callable[[nn.Module, Mapping[str, str]], nn.Module]


def load(directory: Path, name: str, wrap: Wrap, config: Any, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the model with the checkpoint's tensors, in the checkpoint's own dtype; in the widest, if it has several.

    transformers renames tensors and may rearrange them. Those that it takes as they are share storage with what it was
    given, and so each is found under the name that the model has for it.

    Raises:
        WorkloadError: tensors are missing, left over, of another shape, or rearranged on loading.
    """
    import transformers

    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if any(dtype.itemsize < 2 for dtype in dtypes):
        raise WorkloadError(
            f"{directory}: the weights are {_first(dtypes)}, which transformers cannot compute with",
            "save them as float32, float16 or bfloat16; faultcli itself stores them in 8 bits: --format fp8-e4m3",
        )
    dtype = reduce(torch.promote_types, dtypes, torch.float32 if not dtypes else next(iter(dtypes)))
    given = {
        key: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        for key, tensor in state.items()
    }
    with _quiet(), offline(), torch.random.fork_rng(devices=[]):
        check_size(directory, name, config, state)
        try:
            model, info = getattr(transformers, name).from_pretrained(
                None,
                config=config,
                state_dict=dict(given),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are listed, and refused below
            )
        except Exception as error:  # a wrong configuration fails anywhere in the model's own code
            raise WorkloadError(
                f"{directory}: {name} cannot be built: {first_line(error)}",
                OWN_NETWORK,
            ) from error
    _check(directory, name, info)
    model.requires_grad_(False).eval()
    own = model.state_dict()
    by_storage: dict[tuple[int, torch.Size], str] = {}
    for key, tensor in own.items():
        by_storage.setdefault((tensor.data_ptr(), tensor.shape), key)
    names = {}
    for key, tensor in given.items():
        found = by_storage.get((tensor.data_ptr(), tensor.shape))
        if found is None and key in own and own[key].shape == tensor.shape:
            found = key if torch.equal(own[key], tensor.to(own[key].dtype)) else None
        if found is not None:
            names[key] = found
    rearranged = [key for key in given if key not in names and not _unread(key, model, own)]
    if rearranged:
        raise WorkloadError(
            f"{directory}: transformers rearranges {_first(rearranged)} on loading, so faults in the file cannot be"
            " carried over",
            "pass a network that takes the tensors as they are: --arch package.module:factory",
        )
    return wrap(model, names).eval()


def _unread(key: str, model: Any, own: Mapping[str, Tensor]) -> bool:
    """Whether the model goes without this tensor of the file: transformers knows it as one to ignore, or it is a second
    copy of a tied one."""
    ignored = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []), IGNORED_SUFFIX]
    return key in own or any(re.search(pattern, key) for pattern in ignored)


def _check(directory: Path, name: str, info: Mapping[str, Any]) -> None:
    missing = [key for key in info["missing_keys"] if not key.endswith(IGNORED_SUFFIX)]
    kinds = {
        "missing": missing,
        "unexpected": [key for key in info["unexpected_keys"] if not key.endswith(IGNORED_SUFFIX)],
        "of another shape": [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]],
    }
    problems = [f"{len(found)} {kind} ({_first(found)})" for kind, found in kinds.items() if found]
    if problems:
        raise WorkloadError(
            f"{directory}: the checkpoint does not fit the {name} of its {CONFIG}: tensors {'; '.join(problems)}",
            f"fetch the model again; {CONFIG} and the weights have to belong together",
        )
    if info.get("error_msgs"):
        raise WorkloadError(
            f"{directory}: {name} cannot be loaded: {str(info['error_msgs'][0]).splitlines()[0]}",
            f"fetch the model again; {CONFIG} and the weights have to belong together",
        )


@contextmanager
def _quiet() -> Iterator[None]:
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


def _first(names: Iterable[object]) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
