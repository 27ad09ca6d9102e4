"""Architectures from torchvision and timm, by name; the weights are the checkpoint's, nothing is downloaded."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from faultcli.errors import UsageError, WorkloadError, install, unknown_name
from faultcli.foreign import whole_number
from faultcli.workload.models.architectures import ARCHITECTURES, Architecture
from faultcli.workload.models.bounded import Shapes
from faultcli.workload.models.hf_config import first_line
from faultcli.workload.models.zoo_heads import RGB, FineTuned, fine_tuned, for_channels, with_channels
from faultcli.workload.preprocess import Geometry, Preprocess

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
_MOST_CLASSES, _MOST_CHANNELS, _MOST_PIXELS = 1_000_000, 4096, 1 << 14


def torchvision_architecture(spec: str, _: Path | None, shapes: Shapes) -> Architecture:
    """Return `torchvision:NAME[,num_classes=K][,in_chans=C]`, with the preprocessing of its default weights.

    Classes and channels are the checkpoint's where nothing is said.

    Raises:
        UsageError: it has no classification model of this name, or an option makes no sense.
        WorkloadError: torchvision cannot be imported.
    """
    name, asked = _asked(spec, ("num_classes", "in_chans"))
    models: Any = _imported("torchvision.models", spec)
    known = models.list_models(module=models)  # the classifiers only; detection and video are in modules of their own
    if name not in known:
        raise _unknown("torchvision model", name, known)
    options = _inception(shapes) if name in _INCEPTIONS else {}
    make = partial(_torchvision_network, models, name, options)
    tuned = fine_tuned(spec, make, FineTuned(asked.get("num_classes"), asked.get("in_chans")), shapes)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    height = width = transforms.crop_size[0]
    return _for_images(
        Architecture(
            name=spec,
            build=partial(make, **tuned.options),
            preprocess=Preprocess(mean=tuple(transforms.mean), std=tuple(transforms.std)),
            geometry=Geometry((height, width), transforms.resize_size[0], _RESAMPLE[transforms.interpolation.value]),
            num_classes=tuned.num_classes,
            notes=_TWICE if options.get("transform_input") and tuned.in_chans in (None, RGB) else (),
        ),
        tuned.in_chans or RGB,
        (height, width),
    )


_INCEPTIONS = ("googlenet", "inception_v3")
_TWICE = ("inputs are normalised a second time by the network itself, as its published weights want (transform_input)",)


def _inception(shapes: Shapes) -> dict[str, bool]:
    """Return how GoogLeNet and Inception are built. Their published weights, and so most checkpoints, belong to inputs
    that the network itself normalises once more; the initialisation is slow; the heads that helped in training are
    there if the checkpoint has them."""
    heads = not shapes or any(re.search(r"(^|\.)(aux\d|AuxLogits)\.", key) for key in shapes)
    return {"transform_input": True, "init_weights": False, "aux_logits": heads}


def _torchvision_network(
    models: Any, name: str, options: Mapping[str, Any], *, num_classes: int | None = None, in_chans: int | None = None
) -> nn.Module:
    classes = {} if num_classes is None else {"num_classes": num_classes}
    grey = {"transform_input": False} if in_chans not in (None, RGB) and "transform_input" in options else {}
    made = models.get_model(name, **{**options, **classes, **grey})
    assert isinstance(made, nn.Module)
    return made if in_chans is None else with_channels(made, in_chans)


def timm_architecture(spec: str, _: Path | None, shapes: Shapes) -> Architecture:
    """Return `timm:NAME[,num_classes=K][,in_chans=C][,img_size=S]`, with the preprocessing of its pretrained
    configuration.

    Classes and channels are the checkpoint's where nothing is said.

    Raises:
        UsageError: it has no model of this name, or an option makes no sense.
        WorkloadError: timm cannot be imported.
    """
    name, asked = _asked(spec, ("num_classes", "in_chans", "img_size"))
    pretrained = timm_pretrained(spec, name)
    try:
        return timm_network(spec, name, asked, pretrained, shapes)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:  # of an option that it does not have
        problem = f"--arch {spec}: cannot be built: {first_line(error)}"
        raise UsageError(problem, "leave out the options that this network does not have") from error


def timm_pretrained(spec: str, name: str) -> dict[str, Any]:
    """Return what timm says of the weights that it has under a name: `mean`, `std`, `input_size`, ...

    Raises:
        UsageError: it has no network of this name, or no weights of this tag.
        WorkloadError: timm cannot be imported.
    """
    timm: Any = _imported("timm", spec)
    if ":" in name or not timm.is_model(name):
        raise _unknown("timm model", name, timm.list_models())
    family = name.partition(".")[0]
    tags = timm.models.get_arch_pretrained_cfgs(family)
    if name != family and name not in tags:
        raise unknown_name("timm model", name, [family, *tags])
    config = timm.get_pretrained_cfg(name)
    return {} if config is None else dict(config.to_dict())


def timm_network(
    spec: str, name: str, options: Mapping[str, Any], pretrained: Mapping[str, Any], shapes: Shapes
) -> Architecture:
    """Return a network of timm.

    Args:
        spec: what it is called.
        name: timm's name of it, which exists.
        options: what it is built with, as `timm.create_model` takes it.
        pretrained: what its weights were trained on, as timm writes it: `mean`, `std`, `input_size`, ...
        shapes: the checkpoint's tensors, under timm's names.

    Raises:
        WorkloadError: timm cannot be imported, the network cannot be built, or the preprocessing is none.
    """
    timm: Any = _imported("timm", spec)
    fixed = {key: value for key, value in options.items() if key not in ("num_classes", "in_chans")}
    make = partial(_timm_network, timm, name, fixed)
    tuned = fine_tuned(spec, make, FineTuned(options.get("num_classes"), options.get("in_chans")), shapes)
    config = timm.data.resolve_data_config(dict(pretrained))
    _, height, width = config["input_size"]
    if isinstance(size := fixed.get("img_size"), int):
        height = width = size
    elif size is not None:
        height, width = size
    resize = int(height / config["crop_pct"]), int(width / config["crop_pct"])
    channels = tuned.in_chans or config["input_size"][0]
    squash = config["crop_mode"] == "squash"
    border = f"{spec}: images get no border (crop_mode border); they are cropped from the centre"
    return _for_images(
        Architecture(
            name=spec,
            build=partial(make, **tuned.options),
            preprocess=Preprocess(mean=tuple(config["mean"]), std=tuple(config["std"])),
            geometry=Geometry((height, width), resize if squash else min(resize), _RESAMPLE[config["interpolation"]]),
            num_classes=tuned.num_classes,
            notes=(border,) if config["crop_mode"] == "border" else (),
        ),
        channels,
        (height, width),
    )


def _timm_network(timm: Any, name: str, options: Mapping[str, Any], **tuned: int) -> nn.Module:
    made = timm.create_model(name, pretrained=False, **options, **tuned)
    assert isinstance(made, nn.Module)
    return made


def _for_images(made: Architecture, channels: int, size: tuple[int, int]) -> Architecture:
    """Return a network of a zoo for images of so many channels; of this size, or another that its layers allow."""
    made = replace(made, any_size=True, input_shape=(channels, *size), data="images:DIR")
    mean, std, geometry = made.preprocess.mean or (0.0,), made.preprocess.std or (1.0,), made.geometry
    if channels == RGB or geometry is None:
        return made
    note = (
        f"{made.name}: the checkpoint takes {channels} channel{'' if channels == 1 else 's'}; mean and std are the"
        " averages of those for RGB, --mean and --std say others"
    )
    return replace(
        made,
        preprocess=Preprocess(mean=for_channels(mean, channels), std=for_channels(std, channels)),
        geometry=replace(geometry, channels=1) if channels == 1 else None,
        notes=(*made.notes, note),
    )


def _asked(spec: str, known: Collection[str]) -> tuple[str, dict[str, int]]:
    """Part `ZOO:NAME[,KEY=N]...` into the name and its options."""
    zoo, _, rest = spec.partition(":")
    name, *parts = rest.split(",")
    most = {"num_classes": _MOST_CLASSES, "in_chans": _MOST_CHANNELS, "img_size": _MOST_PIXELS}
    found = {}
    for part in parts:
        key, equals, text = part.partition("=")
        if key not in known or not equals:
            raise UsageError(
                f"--arch {spec}: {part!r} is no option of a {zoo} model", f"options are {'=N, '.join(known)}=N"
            )
        number = whole_number(text)
        if number is None or not 1 <= number <= most[key]:
            raise UsageError(f"--arch {spec}: {key} is {text!r}", f"pass a number from 1 to {most[key]:,}")
        found[key] = number
    return name, found


def _unknown(kind: str, name: str, known: Sequence[str]) -> UsageError:
    """Name the nearest only: there are hundreds."""
    return unknown_name(kind, name, difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5])


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
    name = spec.partition(":")[2].partition(",")[0]
    built_in = f"the same network is built in, --arch {name}; or " if name in ARCHITECTURES else ""
    return WorkloadError(
        f"--arch {spec}: torchvision does not fit this torch: {str(error).splitlines()[0]}",
        f"{built_in}install a torchvision of the same release and the same kind (CPU or CUDA) as torch, or pass the"
        " network as an exported program, --arch FILE.pt2",
    )
