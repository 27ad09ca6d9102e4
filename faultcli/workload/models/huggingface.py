"""Hugging Face model directories, through transformers and offline: classifiers and causal language models.

Only config.json, the processor's file and the checkpoint's tensors are read; code that a directory brings along is
never run. The tasks: hf_tasks; which class a checkpoint is of: hf_class; how tensors get into the model: hf_weights,
those of GGUF files: hf_gguf.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.models.bounded import Shapes
from faultcli.workload.models.hf_class import class_of, counted_labels, refusal
from faultcli.workload.models.hf_config import CONFIG, OWN_NETWORK, first_line, read_config
from faultcli.workload.models.hf_gguf import hf_names, is_of_gguf, load_gguf
from faultcli.workload.models.hf_tasks import AnyModel
from faultcli.workload.models.hf_weights import load


def hugging_face_architecture(spec: str, directory: Path | None, shapes: Shapes | None = None) -> Architecture:
    """Return what the config.json of `directory` describes.

    The class that config.json names for index 0 decides about labels: if it is `background`, as in the models that come
    from TF-Slim, label 0 of the data is the network's class 1. A model of transformers of any other task, or without a
    head, has no classes: a score of the user's own may judge it.

    Raises:
        WorkloadError: transformers is not installed, the configuration is missing or damaged, or describes no model of
            transformers itself.
    """
    if directory is None or not (directory / CONFIG).is_file():
        remedy = "pass the model's directory as MODEL"
        if is_of_gguf(shapes or {}):
            remedy = f"put the {CONFIG} of the model that the GGUF file was converted from beside it"
        raise WorkloadError(f"--arch {spec}: there is no {CONFIG} beside the checkpoint", remedy)
    config = read_config(directory)
    try:
        return _architecture(directory, config, shapes or {})
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise WorkloadError(
            f"{directory / CONFIG}: cannot be used: {first_line(error)}",
            OWN_NETWORK,
        ) from error


def _architecture(directory: Path, config: Any, shapes: Shapes) -> Architecture:
    of_gguf = is_of_gguf(shapes)
    if of_gguf:
        shapes = {own: shapes[stored] for stored, own in hf_names(directory, config, shapes).items()}
    name, task, notes = class_of(directory, config, shapes)
    labels = () if task is None or task.mapping == "CAUSAL_LM" else counted_labels(directory, name, config, shapes)
    wrap = AnyModel if task is None else task.wrap
    made = Architecture(
        name=name,
        build=partial(_skeleton, name, config),
        load=partial(load_gguf if of_gguf else load, directory, name, wrap, config),
        notes=(*notes, *labels),
    )
    if task is None:
        return replace(made, no_classes=refusal(directory, name, config))
    return task.complete(made, directory, config)


def _skeleton(name: str, config: Any) -> nn.Module:
    import transformers

    made = getattr(transformers, name)(config)
    assert isinstance(made, nn.Module)
    return made
