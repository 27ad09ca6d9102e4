"""Hugging Face model directories, through transformers and offline: image classifiers and causal language models.

Only config.json, preprocessor_config.json and the checkpoint's tensors are read; code that a directory brings along is
never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from logging import CRITICAL
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from faultcli.errors import WorkloadError
from faultcli.foreign import ForeignError, parse_json, read_text
from faultcli.workload.models.architectures import IGNORED_SUFFIX, Architecture, Language
from faultcli.workload.models.hf_config import CONFIG, OWN_NETWORK, check_size, first_line, offline, read_config
from faultcli.workload.models.loading import Renamed
from faultcli.workload.preprocess import Geometry, Preprocess

_PROCESSOR = "preprocessor_config.json"
_SHOWN = 3
_LARGEST_EDGE = 1 << 14  # pixels of an image

# What a processor may ask for and is done, or makes no difference; anything else that is on is refused.
_DONE = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}

Task = Literal["image classification", "causal language model"]


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
    made = partial(_load, directory, name, task, config)
    if task == "causal language model":
        text = config.get_text_config()
        context = getattr(text, "max_position_embeddings", None)
        return Architecture(
            name=name,
            build=partial(_skeleton, name, config),
            load=made,
            language=Language(
                _count("vocab_size", text.vocab_size),
                None if context is None else _count("max_position_embeddings", context),
                directory,
            ),
            data="FILE.safetensors (input_ids, attention_mask) or FILE.txt",
        )
    preprocess, geometry = _preprocessing(directory, config)
    return Architecture(
        name=name,
        build=partial(_skeleton, name, config),
        load=made,
        preprocess=preprocess,
        geometry=geometry,
        input_shape=None if geometry is None else (geometry.channels, *geometry.size),
        num_classes=_count("num_labels", config.num_labels),
        label_offset=int(str(config.id2label.get(0)).lower() == "background"),
        data="images:DIR",
    )


def _count(name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}, not a number from 1")
    return value


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


def _load(directory: Path, name: str, task: Task, config: Any, state: Mapping[str, Tensor]) -> nn.Module:
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
    return (LanguageModel if task == "causal language model" else ImageClassifier)(model, names).eval()


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


def _preprocessing(directory: Path, config: Any) -> tuple[Preprocess, Geometry | None]:
    """Read preprocessor_config.json; without one, images have to have the size that config.json says, if it does, and
    are scaled to 0 to 1."""
    path = directory / _PROCESSOR
    channels = _count("num_channels", getattr(config, "num_channels", 3))
    if not path.is_file():
        size = _pair(getattr(config, "image_size", None))
        if size is not None and not all(1 <= edge <= _LARGEST_EDGE for edge in size):
            raise ValueError(f"image_size is {size}")
        return Preprocess(), None if size is None else Geometry(size, channels=channels)
    try:
        return _read_processor(parse_json(read_text(path)), channels)
    except WorkloadError as error:
        raise WorkloadError(f"{path}: {error.message}", error.remedy) from error
    except (ForeignError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise WorkloadError(
            f"{path}: cannot be used: {first_line(error)}",
            "fetch the file again, or take it away and pass --mean and --std",
        ) from error


def _read_processor(processor: Mapping[str, Any], channels: int) -> tuple[Preprocess, Geometry | None]:
    unknown = [key for key, on in processor.items() if key.startswith("do_") and on and key not in _DONE]
    if unknown:
        raise WorkloadError(f"asks for {_first(unknown)}, which is not done here", "pass preprocessed inputs, FILE.npz")
    mean, std, scale = None, None, 1.0
    if processor.get("do_rescale", True):
        scale = float(processor.get("rescale_factor", 1 / 255))
    if processor.get("do_normalize", True):
        mean, std = (tuple(map(float, processor[key])) for key in ("image_mean", "image_std"))
    if processor.get("rescale_offset"):  # x · scale − 1 comes before the mean
        mean = tuple(value + 1 for value in mean or (0.0,))
    cropped = bool(processor.get("do_center_crop")) and processor.get("crop_size") is not None
    crop = _pair(processor["crop_size"]) if cropped else None
    resize: int | tuple[int, int] | None = None
    if processor.get("do_resize", True) and processor.get("size") is not None:
        size = processor["size"]
        edge = (
            size.get("shortest_edge") if isinstance(size, dict) else size if cropped and isinstance(size, int) else None
        )
        resize = _pair(size) if edge is None else int(edge)
        if isinstance(resize, int) and crop is None:
            # ConvNeXT's processor: below 384, the edge is what is left of it after a crop.
            crop, share = (resize, resize), processor.get("crop_pct")
            resize = int(resize / share) if share and resize < 384 else crop
    final = crop or (resize if isinstance(resize, tuple) else None)
    resample = 2 if processor.get("resample") is None else int(processor["resample"])
    if not 0 <= resample <= 5:
        raise ValueError(f"resample is {resample}, which is no filter")
    edges = [
        edge for part in (final, resize) if part is not None for edge in (part if isinstance(part, tuple) else [part])
    ]
    if not all(1 <= edge <= _LARGEST_EDGE for edge in edges):
        raise ValueError(f"images of {edges} pixels are not from 1 to {_LARGEST_EDGE} wide and high")
    geometry = None if final is None else Geometry(final, resize, resample, channels)
    return Preprocess(scale=scale, mean=mean, std=std), geometry


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


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


def _first(names: Any) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
