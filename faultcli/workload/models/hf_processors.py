"""What the image processors of transformers do, by the names of their classes: a class's own defaults, and how it
differs from the usual order, which is to resize, crop from the centre, scale and normalise.

They are held to transformers' own, those that compute with Pillow, to the last bit of every pixel; the tests compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from faultcli.workload.framing import (
    AlignLongerEdge,
    CentreCrop,
    CropShare,
    Exactly,
    Multiple,
    NoLarger,
    PadAround,
    Resize,
    RoundedShorterEdge,
    ShorterEdge,
    Size,
    Step,
    Target,
)
from faultcli.workload.models.hf_settings import LARGEST_EDGE, Settings, Steps, pixels

Numbers: TypeAlias = tuple[float, ...]
_BICUBIC = 3  # Pillow's number of the filter


def _divided(edge: int, share: float) -> int:
    if not share > 0:
        raise ValueError(f"crop_pct is {share}, not more than 0")
    return pixels(f"an edge of {edge} over a crop_pct of {share}", int(min(edge / share, 2 * LARGEST_EDGE)))


def _usual(settings: Settings) -> Steps:
    resize = (Resize(settings.target(), settings.resample),) if settings.on("do_resize") else ()
    return (*resize, *settings.crop())


def _clip(settings: Settings) -> Steps:
    """A square of the class's own size, whatever the size, where that is asked for."""
    square = {"size": {"height": 224, "width": 224}} if settings.on("use_square_size") else {}
    return _usual(Settings({**settings.values, **square}))


def _convnext(settings: Settings) -> Steps:
    """Below 384, the shorter edge is what a crop leaves of it; from 384 on, both edges are. (Without a shorter edge,
    transformers does nothing at all.)"""
    if not settings.on("do_resize") or "shortest_edge" not in settings.size:
        return _usual(settings)
    edge = settings.size["shortest_edge"]
    if edge >= 384:
        return Resize(Exactly(edge, edge), settings.resample), *settings.crop()
    share = 224 / 256 if settings.values["crop_pct"] is None else settings.number("crop_pct")
    wider = ShorterEdge(_divided(edge, share))
    return Resize(wider, settings.resample), CentreCrop(edge, edge), *settings.crop()


def _levit(settings: Settings) -> Steps:
    """A shorter edge is multiplied by 256/224."""
    if not settings.on("do_resize"):
        return settings.crop()
    sides = settings.size
    if "shortest_edge" in sides:
        wider = pixels("a shortest_edge times 256/224", int((256 / 224) * sides["shortest_edge"]))
        return Resize(ShorterEdge(wider), settings.resample), *settings.crop()
    return Resize(Exactly(*settings.exact("size")), settings.resample), *settings.crop()


def _poolformer(settings: Settings) -> Steps:
    """The size is what a crop leaves."""
    if not settings.on("do_resize") or settings.values["crop_pct"] is None:
        return _usual(settings)
    sides, share = settings.size, settings.number("crop_pct")
    height, width = (sides["shortest_edge"],) * 2 if "shortest_edge" in sides else settings.exact("size")
    wider = _divided(height, share), _divided(width, share)
    target: Target = ShorterEdge(wider[0]) if height == width else Exactly(*wider)
    return Resize(target, settings.resample), *settings.crop()


def _perceiver(settings: Settings) -> Steps:
    """A share of the shorter edge is cropped first: the size is to the crop what that is to the edge."""
    resize = (Resize(settings.target(), settings.resample),) if settings.on("do_resize") else ()
    if not settings.on("do_center_crop"):
        return resize
    (height, width), crop = settings.exact("size"), settings.exact("crop_size")
    return CropShare(height / crop[0], width / crop[1]), *resize


def _textnet(settings: Settings) -> Steps:
    """Both edges become multiples of a number. (Without a shorter edge, transformers does nothing at all.)"""
    if not settings.on("do_resize"):
        return settings.crop()
    edge = settings.size.get("shortest_edge")
    target = Multiple(settings.target() if edge is None else ShorterEdge(edge), settings.pixels("size_divisor"))
    return Resize(target, settings.resample), *settings.crop()


def _donut(settings: Settings) -> Steps:
    """Documents: turned, resized to cover the size, made to fit into it, and padded."""
    height, width = settings.exact("size")
    steps: dict[str, Step] = {
        "do_align_long_axis": AlignLongerEdge(height, width),
        "do_resize": Resize(ShorterEdge(min(height, width)), settings.resample),
        "do_thumbnail": Resize(NoLarger(height, width), settings.resample or _BICUBIC),
        "do_pad": PadAround(height, width),
    }
    return *(step for key, step in steps.items() if settings.on(key)), *settings.crop()


def _pp_lcnet(settings: Settings) -> Steps:
    """The shorter edge, the longer one to the nearest, both in multiples of a number."""
    if not settings.on("do_resize") or settings.values["resize_short"] is None:
        return _usual(settings)
    target = Multiple(RoundedShorterEdge(settings.pixels("resize_short")), settings.pixels("size_divisor"))
    return Resize(target, settings.resample), *settings.crop()


@dataclass(frozen=True)
class ProcessorType:
    """A class of image processors.

    Attributes:
        defaults: what its class says where a file says nothing, by key; all of the class's own keys are among them.
        steps: what it does about sizes.
        always: keys that it does not look at, and what it does in their place.
        refused: why it is not done here, after `its name`; None: it is done.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    steps: Callable[[Settings], Steps] = _usual
    always: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None

    @property
    def keys(self) -> set[str]:
        """The keys that change what it does."""
        return {*_COMMON, *self.defaults} - set(self.always)

    def settings(self, given: Mapping[str, Any]) -> Settings:
        """Return what is done. Other classes' keys are nothing. A null is off, or none; of what cannot be none it is
        what the class says, as in releases 4 of transformers (later ones give up)."""
        own = {key: value for key, value in given.items() if key in self.keys}
        said = {key: value for key, value in own.items() if value is not None or key not in _NEVER_NONE}
        return Settings({**_COMMON, **self.defaults, **said, **self.always})


_NEVER_NONE = {"size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor"}
_COMMON: Mapping[str, Any] = {
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "default_to_square"), True),
    **dict.fromkeys(("do_center_crop", "do_pad", "do_convert_rgb"), False),
    **dict.fromkeys(("crop_size", "pad_size")),
    "rescale_factor": 1 / 255,
}


def _type(
    normal: tuple[Numbers, Numbers],
    size: int | Size,
    crop: int | None = None,
    *,
    resample: int = _BICUBIC,
    shorter: bool = False,
    steps: Callable[[Settings], Steps] = _usual,
    always: Mapping[str, Any] | None = None,
    **own: Any,
) -> ProcessorType:
    """Return a class by its defaults: mean and standard deviation; a size, which may be that of the shorter edge alone;
    the size of a crop that it does."""
    height, width = (size, size) if isinstance(size, int) else size
    defaults: dict[str, Any] = {
        **{"image_mean": normal[0], "image_std": normal[1], "resample": resample},
        "size": {"shortest_edge": size} if shorter else {"height": height, "width": width},
        "default_to_square": not shorter,
        **({} if crop is None else {"crop_size": crop, "do_center_crop": True}),
        **own,
    }
    return ProcessorType(defaults, steps, always or {})


_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET_BGR = _IMAGENET[0][::-1], (0.225, 0.224, 0.229)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# What classes do not look at, and do in its place.
_NO_PAD = {"do_pad": False, "pad_size": None}
_NO_CROP = {"do_center_crop": False, "crop_size": None}
_NOT_NORMALISED = {"do_normalize": False, "image_mean": None, "image_std": None}
_BGR = {"do_flip_channel_order": True}
_WIDTH_FIRST = {"width_first": True, "pad_size": None}

# A number that is followed by another is the size before a crop to the other.
PROCESSORS: dict[str, ProcessorType] = {
    "BeitImageProcessor": _type(_HALF, 224, crop_size=224, always=_NO_PAD),
    "BitImageProcessor": _type(_CLIP, 224, 224, shorter=True, do_convert_rgb=True),
    "CLIPImageProcessor": _type(_CLIP, 224, 224, shorter=True, steps=_clip, do_convert_rgb=True, use_square_size=False),
    "ConvNextImageProcessor": _type(_HALF, 384, shorter=True, steps=_convnext, always=_NO_PAD, crop_pct=224 / 256),
    "DeiTImageProcessor": _type(_HALF, 256, 224),
    "DonutImageProcessor": _type(
        _HALF,
        (2560, 1920),
        resample=2,
        steps=_donut,
        always=_WIDTH_FIRST,
        do_thumbnail=True,
        do_align_long_axis=False,
        do_pad=True,
    ),
    "EfficientNetImageProcessor": _type(
        _HALF, 346, crop_size=289, always=_NO_PAD, rescale_offset=False, include_top=True
    ),
    "Gemma3ImageProcessor": ProcessorType(refused="is for a network that takes text with its images"),
    "ImageGPTImageProcessor": ProcessorType(refused="makes a picture of numbers of colours (clusters)"),
    "LevitImageProcessor": _type(_IMAGENET, 224, 224, shorter=True, steps=_levit),
    "MobileNetV1ImageProcessor": _type(_HALF, 256, 224, resample=2, shorter=True),
    "MobileNetV2ImageProcessor": _type(_HALF, 256, 224, resample=2, shorter=True, always=_NO_PAD),
    "MobileViTImageProcessor": _type(
        _HALF, 224, 256, shorter=True, always={**_NO_PAD, **_NOT_NORMALISED}, do_flip_channel_order=True
    ),
    "PPLCNetImageProcessor": _type(
        _IMAGENET_BGR,
        256,
        224,
        resample=2,
        steps=_pp_lcnet,
        always={**_NO_PAD, **_BGR},
        resize_short=256,
        size_divisor=1,
    ),
    "PerceiverImageProcessor": _type(_IMAGENET, 224, 256, steps=_perceiver, always=_NO_PAD),
    "PoolFormerImageProcessor": _type(_IMAGENET, 224, 224, shorter=True, steps=_poolformer, crop_pct=0.9),
    "PvtImageProcessor": _type(_IMAGENET, 224),
    "SegformerImageProcessor": _type(_IMAGENET, 512, resample=2, always={**_NO_PAD, **_NO_CROP}),
    "Siglip2ImageProcessor": ProcessorType(refused="cuts an image into patches, as many as its proportions need"),
    "SiglipImageProcessor": _type(_HALF, 224, default_to_square=False, do_convert_rgb=True),
    "TextNetImageProcessor": _type(
        _IMAGENET,
        640,
        resample=2,
        shorter=True,
        steps=_textnet,
        always=_NO_PAD,
        crop_size=224,
        do_convert_rgb=True,
        size_divisor=32,
    ),
    "ViTImageProcessor": _type(_HALF, 224, resample=2),
}
