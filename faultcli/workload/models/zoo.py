"""Architectures from torchvision and timm, by name; the weights are the checkpoint's, nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from faultcli.errors import UsageError, WorkloadError, install, unknown_name
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.bounded import Shapes
from faultcli.workload.preprocess import Geometry, Preprocess

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def torchvision_architecture(spec: str, _: Path | None = None, __: Shapes | None = None) -> Architecture:
    """Return `torchvision:NAME`, with the preprocessing of its default weights.

    Raises:
        UsageError: it has no classification model of this name.
        WorkloadError: torchvision cannot be imported.
    """
    name = spec.partition(":")[2]
    models: Any = _imported("torchvision.models", spec)
    known = models.list_models(module=models)  # the classifiers only; detection and video are in modules of their own
    if name not in known:
        raise _unknown("torchvision model", name, known)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    height = width = transforms.crop_size[0]
    return Architecture(
        name=spec,
        build=lambda: _without_weights(models.get_model, name, **_OPTIONS.get(name, {})),
        preprocess=Preprocess(mean=tuple(transforms.mean), std=tuple(transforms.std)),
        geometry=Geometry((height, width), transforms.resize_size[0], _RESAMPLE[transforms.interpolation.value]),
        input_shape=(3, height, width),
        data="images:DIR",
    )


# Their published weights, and so most checkpoints, belong to inputs that the network itself normalises once more; and
# the initialisation is slow.
_OPTIONS = {name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")}


def timm_architecture(spec: str, _: Path | None = None, __: Shapes | None = None) -> Architecture:
    """Return `timm:NAME`, with the preprocessing of its pretrained configuration.

    Raises:
        UsageError: it has no model of this name.
        WorkloadError: timm cannot be imported.
    """
    name = spec.partition(":")[2]
    timm: Any = _imported("timm", spec)
    if not timm.is_model(name):
        raise _unknown("timm model", name, timm.list_models())
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict())
    channels, height, width = config["input_size"]
    return Architecture(
        name=spec,
        build=lambda: _without_weights(timm.create_model, name, pretrained=False),
        preprocess=Preprocess(mean=tuple(config["mean"]), std=tuple(config["std"])),
        geometry=Geometry(
            (height, width), int(min(height, width) / config["crop_pct"]), _RESAMPLE[config["interpolation"]], channels
        ),
        input_shape=(channels, height, width),
        data="images:DIR",
    )


def _unknown(kind: str, name: str, known: Sequence[str]) -> UsageError:
    """Name the nearest only: there are hundreds."""
    return unknown_name(kind, name, difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5])


def _without_weights(make: Any, name: str, **options: object) -> nn.Module:
    made = make(name, **options)
    assert isinstance(made, nn.Module)
    return made


def _imported(module: str, spec: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package and package == "timm":
            raise _broken(spec, error) from error
        raise WorkloadError(f"--arch {spec} needs {package}", install(package)) from error
    except (ImportError, RuntimeError, OSError) as error:
        raise _broken(spec, error) from error


def _broken(spec: str, error: Exception) -> WorkloadError:
    return WorkloadError(
        f"--arch {spec}: torchvision does not fit this torch: {str(error).splitlines()[0]}",
        "install a torchvision of the same release and the same kind (CPU or CUDA) as torch, or pass the network as an"
        " exported program, --arch FILE.pt2",
    )
