"""Model directories as timm pushes them to the hub: a config.json of its own, which names a network of timm's registry.

Nothing is fetched and nothing that the directory names is imported: the name is looked up, and what the network is
built with are numbers and words, built no further than the checkpoint's tensors reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from faultcli.errors import UsageError, WorkloadError
from faultcli.foreign import ForeignError, parse_json, read_text
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.bounded import Shapes
from faultcli.workload.models.hf_config import CONFIG, OWN_NETWORK, check_counts, first_line, offline
from faultcli.workload.models.zoo import timm_network, timm_pretrained

_WRAPPER = "timm_wrapper"  # of transformers, whose class holds the network as `timm_model`
_HELD_AS = "timm_model."
# What is built where and how weights are found, and not what the network is.
_NOT_THE_NETWORK = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn"),
    *("checkpoint_path", "cache_dir", "features_only", "scriptable", "exportable", "no_jit", "device", "dtype"),
}
_TRAINED_ON = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


class TimmWrapped(nn.Module):
    """A network of timm under the name that transformers has for it."""

    def __init__(self, timm_model: nn.Module) -> None:
        super().__init__()
        self.timm_model = timm_model

    def forward(self, images: Tensor) -> Any:
        """Run the network."""
        return self.timm_model(images)


def timm_config(directory: Path) -> Mapping[str, Any] | None:
    """Return the config.json of a directory if it is one of timm's, or of transformers' wrapper of it."""
    try:
        content = parse_json(read_text(directory / CONFIG))
    except ForeignError:  # whoever reads it next says what is wrong with it
        return None
    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        return None
    return content if content.get("model_type", _WRAPPER) == _WRAPPER else None


def timm_hub_architecture(directory: Path, content: Mapping[str, Any], shapes: Shapes) -> Architecture:
    """Return what a config.json of timm describes.

    Raises:
        WorkloadError: timm cannot be imported, has no network of this name, or it is not the checkpoint's.
    """
    path = directory / CONFIG
    try:
        return _architecture(path, content, shapes)
    except WorkloadError:
        raise
    except Exception as error:  # values of the wrong kind fail anywhere in timm
        raise WorkloadError(f"{path}: cannot be used: {first_line(error)}", OWN_NETWORK) from error


def _architecture(path: Path, content: Mapping[str, Any], shapes: Shapes) -> Architecture:
    check_counts(content)
    given = content.get("pretrained_cfg") or content  # older ones are flat
    name, pretrained = _known(path, content["architecture"])
    pretrained |= {key: given[key] for key in _TRAINED_ON if given.get(key) is not None}
    options = {key: value for key, value in (content.get("model_args") or {}).items() if key not in _NOT_THE_NETWORK}
    classes = content.get("num_classes", given.get("num_classes"))
    held = any(key.startswith(_HELD_AS) for key in shapes)
    own = {key.removeprefix(_HELD_AS): shape for key, shape in shapes.items()} if held else shapes
    build = partial(timm_network, f"timm:{name}", name, pretrained=pretrained, shapes=own)
    with offline():
        try:
            made = build({**options, "global_pool": content.get("global_pool") or options.get("global_pool")})
        except TypeError:  # not every network has a choice of them
            made = build(options)
    if classes == 0:
        made = replace(made, no_classes=f"{path}: the checkpoint is a network without a head, which answers nothing")
    return replace(made, build=partial(_held, made.build)) if held else made


def _known(path: Path, architecture: str) -> tuple[str, dict[str, Any]]:
    """Return a network's name in timm and what its weights were trained on; with those of its tag, if timm has it."""
    name = architecture.partition(".")[0]
    for asked in (architecture, name):
        try:
            return name, timm_pretrained(f"timm:{name}", asked)
        except UsageError as error:
            unknown = error
    raise WorkloadError(f"{path}: timm has no network {name!r}", unknown.remedy)


def _held(build: Callable[[], nn.Module]) -> nn.Module:
    return TimmWrapped(build())
