"""From images as they are stored to the numbers that a network was trained on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.workload.framing import CentreCrop, Exactly, Resize, ShorterEdge, Size, Step, framed

_OFF_SCALE = 20.0  # numbers that a network is fed are around 1; those from 0 to 255 are grey levels
_SOME = 100  # inputs tell whether all values are whole numbers
_DARK = 8  # no image of the data is brighter than an eighth of white
_DIM, _GLARING = 0.5, 4.0  # and what a network is fed for its brightest pixel lies between, where the scale is right
Layout = Literal["NHWC", "NCHW", "NHW", "other"]


def channels_first(inputs: Tensor, layout: Layout) -> Tensor:
    """Return a view of `inputs` as [N, C, H, W]; what has the layout `other` stays as it is."""
    if layout == "NHWC":
        return inputs.permute(0, 3, 1, 2)
    return inputs.unsqueeze(1) if layout == "NHW" else inputs


@dataclass(frozen=True)
class Geometry:
    """How an image file becomes the size that a network takes: resized, then cropped from the centre, or by steps.

    An image that has that size already is taken as it is.
    """

    size: Size | None  # height and width that the network takes; None: what comes out depends on the image
    resize: int | Size | None = None  # shortest edge, or height and width; None: cropped only
    resample: int = 2  # Pillow's number of the filter; 2 is bilinear
    channels: int = 3  # 1 (grey) or 3 (RGB)
    steps: tuple[Step, ...] | None = None  # what is done instead of resizing and cropping
    on_white: bool = False  # what is transparent is laid on white; else it has the colour that its pixels have
    refused: WorkloadError | None = None  # why image files cannot be used

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """What the network gets of one image, channels first; None where that depends on the image."""
        return None if self.size is None else (self.channels, *self.size)

    def changes(self, size: Size) -> bool:
        """Whether an image of this size is left as it is because it fits, though the steps would change it."""
        return size == self.size and any(step.of(size) != size for step in self._steps())

    def framed(self, image: Any) -> Any:
        """Return an image of Pillow in the size that the network takes.

        Raises:
            ValueError: nothing would be left of it, or it would become overly large on its way.
        """
        return image if (image.height, image.width) == self.size else framed(image, self._steps())

    def _steps(self) -> tuple[Step, ...]:
        if self.steps is not None:
            return self.steps
        target = Exactly(*self.resize) if isinstance(self.resize, tuple) else ShorterEdge(self.resize or 1)
        resize = () if self.resize is None else (Resize(target, self.resample),)
        return resize if self.size is None else (*resize, CentreCrop(*self.size, nearest=True))


@dataclass(frozen=True)
class Preprocess:
    """x → (x · scale − mean) / std, per channel; then the channels in reverse, where the network takes BGR.

    It is for uint8 images. Floating-point inputs are taken to be preprocessed already and pass as they are, and so do
    other integers, such as tokens.

    Raises:
        WorkloadError: scale or std is not a positive number, or mean is not finite.
    """

    scale: float = 1 / 255  # what one grey level is worth
    mean: tuple[float, ...] | None = None  # one per channel or one for all, after scaling; None: 0
    std: tuple[float, ...] | None = None  # one per channel or one for all, after scaling; None: 1
    reverse: bool = False  # the channels, from RGB to BGR
    assumed: str | None = None  # what is done because nothing says what the network takes; --mean and --std do
    notes: tuple[str, ...] = field(default=(), compare=False)  # what is asked for and has no effect, a line each
    refused: WorkloadError | None = field(default=None, compare=False)  # why uint8 images cannot be prepared

    def __post_init__(self) -> None:
        for name, values in (("scale", (self.scale,)), ("std", self.std or ())):
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise WorkloadError(f"preprocessing: {name} has to be positive, not {_join(values)}", "--std 1")
        if not all(math.isfinite(value) for value in self.mean or ()):
            raise WorkloadError(f"preprocessing: mean has to be finite, not {_join(self.mean or ())}", "--mean 0")

    @property
    def text(self) -> str:
        """What is done to uint8 images, for people: `× 1/255 − 0.131, ÷ 0.308`."""
        grey = 1 / self.scale
        steps = [f"× 1/{grey:.4g}" if grey > 1 else f"× {self.scale:.4g}"]
        if self.mean is not None:
            steps[0] += f" − {_join(self.mean)}"
        divided = [] if self.std is None else [f"÷ {_join(self.std)}"]
        return ", ".join([*steps, *divided, *(["BGR"] if self.reverse else [])])

    @property
    def key(self) -> list[object]:
        """Everything that changes what comes out, as JSON takes it."""
        return [self.scale, self.mean, self.std, *(["BGR"] if self.reverse else [])]

    def found(self) -> list[str]:
        """Return what a user may not expect of how images are prepared, a line each."""
        return [*([self.assumed] if self.assumed else []), *self.notes]

    def doubt(self, inputs: Tensor) -> str | None:
        """Return why inputs look as if they were made for other preprocessing, and what to pass if they were; None if
        they do not.

        Args:
            inputs: as stored: uint8 images, or floating point that passes as it is.
        """
        if not inputs.numel() or not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
            return None
        largest = float(inputs.max())
        if inputs.is_floating_point():
            grey = largest > _OFF_SCALE or (largest > _GLARING and bool((inputs[:_SOME] % 1 == 0).all()))
            if grey and float(inputs.min()) >= 0:
                advice = f"if the model was trained on 0 to 1, divide them by {largest:g}, or store them as uint8"
                return f"floating-point inputs pass as they are, and these go up to {largest:g}; {advice}"
            return None
        white, brightest = 1 / self.scale, self._brightest(largest)
        dark = largest <= white / _DARK and brightest < _DIM
        if dark or (largest > white * 1.01 and brightest > _GLARING):
            seen = f"uint8 inputs go up to {largest:g}; they are taken to be from 0 to {white:g}"
            return f"{seen}{self._from_zero_to(largest)}" if largest else seen
        return None

    def _brightest(self, largest: float) -> float:
        """Return what the largest value becomes in the channel where it becomes most: --mean and --std may make up for
        a scale that is not that of the images."""
        means, stds = self.mean or (0.0,), self.std or (1.0,)
        channels = max(len(means), len(stds))
        pairs = zip(means * (channels // len(means)), stds * (channels // len(stds)), strict=False)
        return max((largest * self.scale - mean) / std for mean, std in pairs)

    def _from_zero_to(self, largest: float) -> str:
        """Say what makes x / largest of x where this makes x · scale: mean and std that make up for it."""
        stretch = largest * self.scale
        options = [f"--std {_list(value * stretch for value in self.std or (1.0,))}"]
        if self.mean is not None:
            options.insert(0, f"--mean {_list(value * stretch for value in self.mean)}")
        return f"; if the model was trained on them divided by {largest:g}: {' '.join(options)}"

    def with_overrides(
        self, scale: float | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Preprocess:
        """Return a copy in which whatever is not None is replaced."""
        return dataclasses.replace(
            self,
            assumed=None,
            scale=self.scale if scale is None else scale,
            mean=self.mean if mean is None else tuple(mean),
            std=self.std if std is None else tuple(std),
        )

    def apply(self, inputs: Tensor, layout: Layout) -> Tensor:
        """Return `inputs` as contiguous float32, other integers than uint8 as they are; uint8 images scaled, normalised
        and as [N, C, H, W].

        Raises:
            WorkloadError: mean or std has another number of channels than the images, or images cannot be prepared.
        """
        if inputs.dtype != torch.uint8:
            return self.ready(inputs)
        if self.refused is not None:
            raise self.refused
        x = channels_first(inputs, layout).to(torch.float32, memory_format=torch.contiguous_format).mul_(self.scale)
        if self.mean is not None:
            x.sub_(self._per_channel("mean", self.mean, x))
        if self.std is not None:
            x.div_(self._per_channel("std", self.std, x))
        return x.flip(1) if self.reverse else x

    @staticmethod
    def ready(inputs: Tensor) -> Tensor:
        """Return inputs that are prepared already as networks take them: contiguous, floating point as float32."""
        return (inputs.to(torch.float32) if inputs.is_floating_point() else inputs).contiguous()

    @staticmethod
    def _per_channel(name: str, values: tuple[float, ...], images: Tensor) -> Tensor:
        channels = images.shape[1]
        if len(values) not in (1, channels):
            raise WorkloadError(
                f"preprocessing: {name} has {len(values)} values for images of {channels} channels",
                "give one value, or one per channel",
            )
        return torch.tensor(values, dtype=torch.float32, device=images.device).view(1, -1, 1, 1)


def _list(values: Iterable[float]) -> str:
    """Write numbers as an option takes them."""
    return ",".join(f"{value:.6g}" for value in values)


def _join(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
