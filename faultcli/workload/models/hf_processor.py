"""What a Hugging Face directory's image processor does to an image, from the file that transformers wrote of it.

Which class it is, its file says, in the words of any release, or else the model type; what it does: hf_processors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from faultcli.errors import WorkloadError
from faultcli.foreign import ForeignError, parse_json, read_text
from faultcli.workload.framing import Size, size_after
from faultcli.workload.models.hf_config import count, first_line
from faultcli.workload.models.hf_processors import PROCESSORS, ProcessorType
from faultcli.workload.models.hf_settings import Settings, pixels
from faultcli.workload.preprocess import Geometry, Preprocess

# The files that transformers reads, in this order, and the part of them that it is; None: all.
_FILES = (("processor_config.json", "image_processor"), ("preprocessor_config.json", None))
_PREPARED = "pass inputs that are prepared already: FILE.npz"
_DAMAGED = (ForeignError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
_SHOWN = 3  # how many keys an error lists

# What changes nothing about an image: who wrote the file, how arrays are passed, what is done to the labels of pixels.
_NO_EFFECT = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "_valid_processor_keys"),
    *("_processor_class", "_name_or_path", "transformers_version"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "image_seq_length"),
    *("do_reduce_labels", "reduce_labels"),
}
# Of something that is not done: alone they ask for nothing.
_PARAMETERS = {"size", "default_to_square", "crop_size", "pad_size", "image_mean", "image_std"}
_OLD_ONLY_TRUE = "do_resize_and_center_crop"  # of PoolFormer, before the two had a key each; they are on by themselves


def preprocessing(directory: Path, config: Any) -> tuple[Preprocess, Geometry | None]:
    """Read what the directory's image processor does; without one, images get the size that config.json says, if it
    does, and are scaled to 0 to 1, which `Preprocess.assumed` says.

    A processor that cannot be followed is refused when images come that are not prepared: `Preprocess.refused`.
    """
    channels = count("num_channels", getattr(config, "num_channels", 3))
    for name, part in _FILES:
        path = directory / name
        if not path.is_file():
            continue
        try:
            content = _object(parse_json(read_text(path)))
            if part is None or part in content:
                own = content if part is None else _object(content[part])
                preprocess, geometry = _read_processor(own, config, channels)
                return replace(preprocess, notes=tuple(f"{path}: {note}" for note in preprocess.notes)), geometry
            continue
        except WorkloadError as error:
            refused = WorkloadError(f"{path}: {error.message}", error.remedy)
        except _DAMAGED as error:
            why = f"{path}: cannot be used: {first_line(error)}"
            refused = WorkloadError(why, "fetch the file again, or take it away and pass --mean and --std")
        return Preprocess(refused=refused), Geometry(None, channels=channels, refused=refused)
    return _assumed(directory, config, channels)


def _object(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("is no JSON object")
    return content


def _assumed(directory: Path, config: Any, channels: int) -> tuple[Preprocess, Geometry | None]:
    size = _image_size(config)
    resized = f"image files are resized to {size[0]}×{size[1]}, and all are" if size else "images are"
    assumed = (
        f"{directory}: has no {_FILES[-1][0]}: {resized} scaled to 0 to 1; if the model was trained on"
        " normalised ones, pass --mean and --std"
    )
    return Preprocess(assumed=assumed), None if size is None else Geometry(size, size, channels=channels)


def _image_size(config: Any) -> Size | None:
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)
    if size is None:
        return None
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return pixels("image_size", height), pixels("image_size", width)


def _read_processor(content: Mapping[str, Any], config: Any, channels: int) -> tuple[Preprocess, Geometry]:
    name, kind = _type_of(content, config)
    if kind.refused is not None:
        raise WorkloadError(f"{name} {kind.refused}, which is not done here", _PREPARED)
    notes = _without_effect(content, name, kind)
    settings = kind.settings(content)
    steps = kind.steps(settings)
    size = size_after(steps)
    _check_padding(settings, size)
    white = settings.on("do_convert_rgb")
    return _arithmetic(settings, notes), Geometry(size, channels=channels, steps=steps, on_white=white)


def _type_of(content: Mapping[str, Any], config: Any) -> tuple[str, ProcessorType]:
    """Return the class of a processor, by its name without the endings that say by which library it computes."""
    named = content.get("image_processor_type") or content.get("feature_extractor_type")
    named = named or getattr(config, "image_processor_type", None) or _of_model(config.model_type)
    if named is None:
        raise WorkloadError(
            f"names no image_processor_type, and transformers has none for {config.model_type}",
            f"add the one that the model was trained with, e.g. {next(iter(PROCESSORS))}; or {_PREPARED}",
        )
    name = str(named).removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name in PROCESSORS:
        return name, PROCESSORS[name]
    own = "AutoImageProcessor" in (content.get("auto_map") or {})
    why = "is code that came with the checkpoint, which is never run" if own else "is not known here"
    raise WorkloadError(f"the image processor {str(named)[:60]!r} {why}", _PREPARED)


def _of_model(kind: str) -> str | None:
    from transformers.models.auto import image_processing_auto

    table: Any = image_processing_auto
    names = table.IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or ()
    return next((name for name in (names.values() if isinstance(names, dict) else names) if name), None)


def _without_effect(content: Mapping[str, Any], name: str, kind: ProcessorType) -> tuple[str, ...]:
    """Return which keys ask for what this class does not do, a line in all; refuse keys that no class has."""
    own, others = kind.keys, set().union(*(other.keys | set(other.always) for other in PROCESSORS.values()))
    asked = {key for key, value in content.items() if value not in (None, False, "", [], {})} - own - _NO_EFFECT
    off = {_OLD_ONLY_TRUE} if content.get(_OLD_ONLY_TRUE) is False else set()
    unknown = sorted(asked - others - {_OLD_ONLY_TRUE} | off)
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if unknown[_SHOWN:] else ""
        shown = ", ".join(key[:60] for key in unknown[:_SHOWN]) + more
        raise WorkloadError(
            f"asks for {shown}, which is not done here",
            f"take it out of the file if it changes nothing about images, or {_PREPARED}",
        )
    idle = ", ".join(sorted(asked & others - _PARAMETERS))
    return (f"{name} does not look at {idle}, and neither is it done here",) if idle else ()


def _check_padding(settings: Settings, size: Size | None) -> None:
    """Refuse to pad what is normalised already: that is not black. Without a size of its own it makes the images of a
    batch alike, which all are that have one size."""
    if settings.on("do_pad") and settings.values.get("pad_size") is not None:
        wanted = settings.exact("pad_size")
        if size != wanted:
            raise WorkloadError(
                f"asks for do_pad to {wanted[0]}×{wanted[1]} after normalising, which is not done here", _PREPARED
            )


def _arithmetic(settings: Settings, notes: tuple[str, ...]) -> Preprocess:
    """Return what is done to the values of pixels."""
    mean, std, scale = None, None, 1.0
    if settings.on("do_rescale"):
        scale = settings.number("rescale_factor")
    if settings.on("do_normalize"):
        mean, std = settings.channels("image_mean"), settings.channels("image_std")
    if settings.on("do_rescale") and settings.on("rescale_offset"):  # x · scale − 1 comes before the mean
        mean = tuple(value + 1 for value in mean or (0.0,))
    if settings.on("include_top"):  # of EfficientNet: divided once more
        again = settings.channels("image_std")
        std = again if std is None else tuple(one * two for one, two in zip(std, again, strict=True))
    return Preprocess(scale, mean, std, reverse=settings.on("do_flip_channel_order"), notes=notes)
