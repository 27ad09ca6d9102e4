"""Hugging Face model directories, through transformers and offline: image classifiers and causal language models.

Only config.json, the processor's file and the checkpoint's tensors are read; code that a directory brings along is
never run. How a processor prepares images: hf_processor; how tensors get into the model: hf_weights.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from faultcli.errors import WorkloadError
from faultcli.workload.models.architectures import Architecture, Language
from faultcli.workload.models.hf_config import CONFIG, OWN_NETWORK, count, first_line, read_config
from faultcli.workload.models.hf_labels import class_names, offset_of
from faultcli.workload.models.hf_processor import preprocessing
from faultcli.workload.models.hf_weights import Task, load


def hugging_face_architecture(spec: str, directory: Path | None) -> Architecture:
    """Return what the config.json of `directory` describes.

    The class that config.json names for index 0 decides about labels: if it is `background`, as in the models that come
    from TF-Slim, label 0 of the data is the network's class 1.

    Raises:
        WorkloadError: transformers is not installed, the configuration is missing or damaged, or describes anything
            else than an image classifier or a causal language model of transformers itself.
    """
    if directory is None or not (directory / CONFIG).is_file():
        raise WorkloadError(
            f"--arch {spec}: there is no {CONFIG} beside the checkpoint", "pass the model's directory as MODEL"
        )
    config = read_config(directory)
    try:
        return _architecture(directory, config)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise WorkloadError(
            f"{directory / CONFIG}: cannot be used: {first_line(error)}",
            OWN_NETWORK,
        ) from error


def _architecture(directory: Path, config: Any) -> Architecture:
    name, task = _class(directory, config)
    made = partial(load, directory, name, task, config)
    if task == "causal language model":
        text = config.get_text_config()
        context = getattr(text, "max_position_embeddings", None)
        return Architecture(
            name=name,
            build=partial(_skeleton, name, config),
            load=made,
            language=Language(
                count("vocab_size", text.vocab_size),
                None if context is None else count("max_position_embeddings", context),
                directory,
            ),
            data="FILE.safetensors (input_ids, attention_mask), FILE.txt or FILE.jsonl (questions)",
        )
    preprocess, geometry = preprocessing(directory, config)
    names = class_names(config)
    return Architecture(
        name=name,
        build=partial(_skeleton, name, config),
        load=made,
        preprocess=preprocess,
        geometry=geometry,
        input_shape=None if geometry is None else geometry.input_shape,
        num_classes=count("num_labels", config.num_labels),
        class_names=names,
        label_offset=offset_of(names),
        data="images:DIR",
    )


def _class(directory: Path, config: Any) -> tuple[str, Task]:
    """Return the name of the model's class in transformers, and its task."""
    from transformers.models.auto import modeling_auto

    named = (config.architectures or [None])[0]
    tasks: dict[Task, Any] = {
        "image classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "causal language model": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    for task, names in tasks.items():
        if any(named == name or (isinstance(name, tuple) and named in name) for name in names.values()):
            return str(named), task
    path = directory / CONFIG
    if hasattr(config, "auto_map"):
        raise WorkloadError(
            f"{path}: {named} needs code that came with the checkpoint, which is never run",
            "if you trust it, pass it as --arch package.module:factory",
        )
    raise WorkloadError(
        f"{path}: names the architecture {named!r}, which is no image classifier or causal language model",
        "pass a model of one of these tasks, or --arch package.module:factory",
    )


def _skeleton(name: str, config: Any) -> nn.Module:
    import transformers

    made = getattr(transformers, name)(config)
    assert isinstance(made, nn.Module)
    return made
