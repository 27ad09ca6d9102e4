"""How an image gets the size that a network takes: small steps, one after the other, done with Pillow.

Sizes are (height, width). A target says what size an image of one size is resized to; a step is what is done to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Size: TypeAlias = tuple[int, int]
_MOST_PIXELS = 1 << 27  # what an image may become on its way; a strip of one pixel in height becomes very wide
_QUARTER_TURN = 90  # degrees, counter-clockwise
_NEAREST = 0  # Pillow's number of the filter that takes no mean of anything


class Target(Protocol):
    """What an image is resized to."""

    @property
    def fixed(self) -> bool:
        """Whether it is the same for all images."""

    def of(self, size: Size) -> Size:
        """Return what an image of this size becomes."""


class Step(Protocol):
    """What is done to an image."""

    @property
    def fixed(self) -> bool:
        """Whether all images have the same size after it."""

    def of(self, size: Size) -> Size:
        """Return what an image of this size becomes."""

    def apply(self, image: Any) -> Any:
        """Do it to an image of Pillow."""


@dataclass(frozen=True)
class Exactly:
    """A height and a width, whatever that does to the proportions."""

    height: int
    width: int
    fixed = True

    def of(self, size: Size) -> Size:
        """Return the target."""
        return self.height, self.width


@dataclass(frozen=True)
class ShorterEdge:
    """So many pixels on the shorter edge, in the same proportions; the longer edge is rounded down."""

    edge: int
    longest: int | None = None  # what the longer edge may have; the shorter one gets less for it
    fixed = False

    def of(self, size: Size) -> Size:
        """Return the target."""
        short, long = sorted(size)
        edge: float = self.edge
        if self.longest is not None and long / short * self.edge > self.longest:
            edge = self.longest * float(short) / long
        if round(edge) == short:
            return size
        new = round(edge), int(edge * long / short)
        return new if size[0] <= size[1] else (new[1], new[0])


@dataclass(frozen=True)
class Multiple:
    """The size of another target, in multiples of a number, rounded up."""

    target: Target
    divisor: int

    @property
    def fixed(self) -> bool:
        """Whether it is the same for all images."""
        return self.target.fixed

    def of(self, size: Size) -> Size:
        """Return the target."""
        height, width = self.target.of(size)
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor


@dataclass(frozen=True)
class RoundedShorterEdge:
    """So many pixels on the shorter edge, in the same proportions; the longer edge is rounded to the nearest."""

    edge: int
    fixed = False

    def of(self, size: Size) -> Size:
        """Return the target."""
        scale = self.edge / min(size)
        return round(size[0] * scale), round(size[1] * scale)


@dataclass(frozen=True)
class Within:
    """As large as fits into a height and a width, in the same proportions."""

    height: int
    width: int
    fixed = False

    def of(self, size: Size) -> Size:
        """Return the target."""
        scale = min(self.height / size[0], self.width / size[1])
        return int(size[0] * scale), int(size[1] * scale)


@dataclass(frozen=True)
class NoLarger:
    """Made smaller where it is larger than a height and a width, in about the same proportions."""

    height: int
    width: int
    fixed = False

    def of(self, size: Size) -> Size:
        """Return the target."""
        height, width = min(size[0], self.height), min(size[1], self.width)
        if (height, width) == size:
            return size
        if size[0] > size[1]:
            return height, int(size[1] * height / size[0])
        return (int(size[0] * width / size[1]), width) if size[1] > size[0] else (height, width)


@dataclass(frozen=True)
class Resize:
    """To a target, with one of Pillow's filters."""

    target: Target
    resample: int  # Pillow's number of the filter

    @property
    def fixed(self) -> bool:
        """Whether all images have the same size after it."""
        return self.target.fixed

    def of(self, size: Size) -> Size:
        """Return what an image of this size becomes."""
        return self.target.of(size)

    def apply(self, image: Any) -> Any:
        """Do it to an image of Pillow."""
        height, width = self.of((image.height, image.width))
        return image if (width, height) == image.size else image.resize((width, height), self.resample)


@dataclass(frozen=True)
class CentreCrop:
    """A height and a width from the centre; black where the image is smaller.

    Where what is left and right of it is an odd number of pixels, the smaller half lies at the left, and of what is
    added the larger; or `nearest`, the left is rounded to even, and of what is added it is the smaller, as torchvision
    does.
    """

    height: int
    width: int
    nearest: bool = False
    fixed = True

    def of(self, size: Size) -> Size:
        """Return what every image becomes."""
        return self.height, self.width

    def apply(self, image: Any) -> Any:
        """Do it to an image of Pillow."""
        return _cropped(image, (self.height, self.width), nearest=self.nearest)


@dataclass(frozen=True)
class CropShare:
    """Shares of the shorter edge from the centre, as height and as width."""

    height: float
    width: float
    fixed = False

    def of(self, size: Size) -> Size:
        """Return what an image of this size becomes."""
        return int(self.height * min(size)), int(self.width * min(size))

    def apply(self, image: Any) -> Any:
        """Do it to an image of Pillow."""
        return _cropped(image, self.of((image.height, image.width)))


@dataclass(frozen=True)
class PadAround:
    """Black around it up to a height and a width, the smaller half of an odd number at the top and the left."""

    height: int
    width: int
    fixed = True

    def of(self, size: Size) -> Size:
        """Return what every image becomes."""
        return self.height, self.width

    def apply(self, image: Any) -> Any:
        """Do it to an image of Pillow; ValueError if it is larger."""
        if image.width > self.width or image.height > self.height:
            raise ValueError(f"of {image.width}×{image.height} it cannot be padded to {self.width}×{self.height}")
        left, top = (self.width - image.width) // 2, (self.height - image.height) // 2
        return image.crop((-left, -top, self.width - left, self.height - top))


@dataclass(frozen=True)
class AlignLongerEdge:
    """Turned by a quarter, clockwise, where its longer edge is the shorter one of a height and a width."""

    height: int
    width: int
    fixed = False

    def of(self, size: Size) -> Size:
        """Return what an image of this size becomes."""
        across = (size[0] - size[1]) * (self.height - self.width) < 0
        return (size[1], size[0]) if across else size

    def apply(self, image: Any) -> Any:
        """Do it to an image of Pillow."""
        same = self.of((image.height, image.width)) == (image.height, image.width)
        return image if same else image.rotate(-_QUARTER_TURN, _NEAREST, expand=True)


def _cropped(image: Any, size: Size, *, nearest: bool = False) -> Any:
    height, width = size
    left, top = (_half(spare, nearest) for spare in (image.width - width, image.height - height))
    return image.crop((left, top, left + width, top + height))


def _half(spare: int, nearest: bool) -> int:
    if not nearest:
        return spare // 2
    return round(spare / 2) if spare > 0 else -(-spare // 2)


def framed(image: Any, steps: Sequence[Step]) -> Any:
    """Do all steps to an image of Pillow.

    Raises:
        ValueError: nothing would be left of it, or it would become overly large on its way.
    """
    for step in steps:
        height, width = step.of((image.height, image.width))
        if not (height > 0 and width > 0 and height * width <= _MOST_PIXELS):
            raise ValueError(f"of {image.width}×{image.height} it would become {width}×{height}")
        image = step.apply(image)
    return image


def size_after(steps: Sequence[Step]) -> Size | None:
    """Return the size that all images have after the steps; None where it depends on the image."""
    size: Size | None = None
    for step in steps:
        if step.fixed:
            size = step.of(size or (1, 1))
        elif size is not None:
            size = step.of(size)
    return size
