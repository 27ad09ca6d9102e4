"""What a Hugging Face directory's image processor does to an image, from the file that transformers wrote of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faultcli.errors import WorkloadError
from faultcli.foreign import ForeignError, parse_json, read_text
from faultcli.workload.models.hf_config import count, first_line
from faultcli.workload.preprocess import Geometry, Preprocess

_PROCESSOR = "preprocessor_config.json"
_LARGEST_EDGE = 1 << 14  # pixels of an image

# What a processor may ask for and is done, or makes no difference; anything else that is on is refused.
_DONE = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}


def preprocessing(directory: Path, config: Any) -> tuple[Preprocess, Geometry | None]:
    """Read preprocessor_config.json; without one, images have to have the size that config.json says, if it does, and
    are scaled to 0 to 1."""
    path = directory / _PROCESSOR
    channels = count("num_channels", getattr(config, "num_channels", 3))
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
        raise WorkloadError(
            f"asks for {', '.join(unknown)}, which is not done here", "pass preprocessed inputs, FILE.npz"
        )
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
