"""Where an architecture comes from: every spelling that --arch takes, and what finds the network it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from faultcli.errors import WorkloadError, unknown_name
from faultcli.workload.factory import call_factory
from faultcli.workload.models.architectures import (
    ARCHITECTURES,
    PROCESSED,
    Architecture,
    fitted,
    parameters_of,
    recognise,
)
from faultcli.workload.models.bounded import Shapes
from faultcli.workload.models.exported import SUFFIX, exported_architecture
from faultcli.workload.models.hf_config import CONFIG
from faultcli.workload.models.hf_gguf import is_of_gguf
from faultcli.workload.models.huggingface import hugging_face_architecture
from faultcli.workload.models.timm_hub import timm_config, timm_hub_architecture
from faultcli.workload.models.zoo import timm_architecture, torchvision_architecture


@dataclass(frozen=True)
class Source:
    """A kind of architecture that is not built in."""

    spelling: str  # as --arch takes it
    matches: Callable[[str], bool]
    find: Callable[
        [str, Path | None, Shapes], Architecture
    ]  # from the spec, the checkpoint's directory and its tensors
    description: str  # one line
    data: str = ""  # the --data that fits it


def resolve_architecture(
    spec: str | None,
    shapes: Mapping[str, Sequence[int]],
    metadata: Mapping[str, str] | None = None,
    directory: Path | None = None,
    *,
    is_directory: bool = False,
) -> Architecture:
    """Find the architecture of a checkpoint.

    Args:
        spec: what the user passed as --arch: a built-in name, or a spelling of `SOURCES`. None: what the metadata
            names, if it is built in; else `hf`, if the checkpoint was named as a directory that has a config.json, or
            is a GGUF file; else the built-in whose tensor names and shapes are those of the checkpoint, whatever its
            number of classes.
        shapes: the checkpoint's tensors, name to shape.
        metadata: the checkpoint's metadata. Nothing that it names is ever imported.
        directory: where the checkpoint's files lie.
        is_directory: the checkpoint was named as a directory.

    Raises:
        UsageError: nothing has the name `spec`.
        WorkloadError: what it names cannot be used, or nothing says or shows which architecture the checkpoint has.
    """
    if spec is None:
        named = (metadata or {}).get("faultcli.arch")
        if named not in ARCHITECTURES and is_directory and directory is not None and (directory / CONFIG).is_file():
            return _from_directory("hf", directory, shapes)
        if is_of_gguf(shapes):
            return hugging_face_architecture("hf", directory, shapes)
        return recognise(shapes, metadata or {}, [source.spelling for source in SOURCES])
    if spec in ARCHITECTURES:
        return fitted(ARCHITECTURES[spec], shapes)
    for source in SOURCES:
        if source.matches(spec):
            return source.find(spec, directory, shapes)
    raise unknown_name("architecture", spec, [*ARCHITECTURES, *(source.spelling for source in SOURCES)])


def _from_directory(spec: str, directory: Path | None, shapes: Shapes) -> Architecture:
    content = None if directory is None else timm_config(directory)
    if directory is None or content is None:
        return hugging_face_architecture(spec, directory, shapes)
    return timm_hub_architecture(directory, content, shapes)


def _from_factory(spec: str, _: Path | None, __: Shapes) -> Architecture:
    made = call_factory("architecture", spec)
    if isinstance(made, Architecture):
        return made
    if isinstance(made, nn.Module):
        takes = parameters_of(made)
        return Architecture(spec, partial(_build_from_factory, spec), takes=PROCESSED if takes is None else takes)
    raise WorkloadError(
        f"architecture {spec!r}: the factory returned a {type(made).__name__}",
        "return a torch.nn.Module or a faultcli.workload.models.architectures.Architecture",
    )


def _build_from_factory(spec: str) -> nn.Module:
    made = call_factory("architecture", spec)
    if not isinstance(made, nn.Module):
        raise WorkloadError(
            f"architecture {spec!r}: the factory returned a {type(made).__name__} the second time",
            "let it return a new module at every call",
        )
    return made


# The first that matches counts; a factory's spelling takes everything with a colon that is left.
SOURCES = (
    Source(
        spelling="hf",
        matches=lambda spec: spec == "hf",
        find=_from_directory,
        description="what the directory's config.json says: a classifier of images, texts or sound or a causal language"
        " model of transformers, or a network of timm",
        data="images:DIR, FILE.npz, FILE.jsonl or FILE.txt",
    ),
    Source(
        spelling="torchvision:NAME",
        matches=lambda spec: spec.startswith("torchvision:"),
        find=torchvision_architecture,
        description="a classification model of torchvision; as many classes and channels as the checkpoint has",
        data="images:DIR",
    ),
    Source(
        spelling="timm:NAME",
        matches=lambda spec: spec.startswith("timm:"),
        find=timm_architecture,
        description="a model of timm, likewise; ,num_classes=N ,in_chans=N ,img_size=N say it",
        data="images:DIR",
    ),
    Source(
        spelling="FILE.pt2",
        matches=lambda spec: spec.endswith(SUFFIX),
        find=exported_architecture,
        description="an exported program; its weights come from MODEL. Loading one can run code",
    ),
    Source(
        spelling="package.module:factory",
        matches=lambda spec: ":" in spec,
        find=_from_factory,
        description="what your function returns: a torch.nn.Module, or an Architecture",
    ),
)
