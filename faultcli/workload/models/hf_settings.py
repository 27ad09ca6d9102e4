"""What an image processor of transformers is set to, read with care: its file comes from somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from faultcli.workload.framing import CentreCrop, Exactly, ShorterEdge, Size, Step, Target, Within

Steps: TypeAlias = tuple[Step, ...]
LARGEST_EDGE = 1 << 14  # pixels of an image


@dataclass(frozen=True)
class Settings:
    """What a processor is set to; where its file says nothing, what its class says."""

    values: Mapping[str, Any]

    def on(self, key: str) -> bool:
        """Return whether something is to be done."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool | int):
            raise ValueError(f"{key} is {value!r}, neither true nor false")
        return bool(value)

    def number(self, key: str) -> float:
        """Return a number."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key} is {value!r}, which is no number")
        return float(value)

    def channels(self, key: str) -> tuple[float, ...]:
        """Return numbers, one per channel or one for all."""
        value = self.values.get(key)
        numbers = value if isinstance(value, list | tuple) else [value]
        if not numbers or not all(isinstance(one, int | float) for one in numbers):
            raise ValueError(f"{key} is {value!r}, which are no numbers")
        return tuple(map(float, numbers))

    def pixels(self, key: str) -> int:
        """Return a number of pixels."""
        return pixels(key, self.values.get(key))

    @property
    def resample(self) -> int:
        """Pillow's number of a filter."""
        value = self.values.get("resample")
        if type(value) is not int or not 0 <= value <= 5:
            raise ValueError(f"resample is {value!r}, which is none of the filters 0 to 5")
        return value

    def sides(self, key: str, *, square: bool = True) -> dict[str, int]:
        """Return a size as transformers spells it; a number alone is that of both edges, or of the shorter one."""
        value = said = self.values.get(key)
        if isinstance(value, list | tuple) and len(value) == 2:
            order = ("width", "height") if key == "size" and self.on("width_first") else ("height", "width")
            value = dict(zip(order, value, strict=True))
        elif not isinstance(value, dict):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        sides = {str(name): pixels(f"{key} {name}", edge) for name, edge in value.items() if edge is not None}
        if set(sides) not in _SIZES:
            raise ValueError(f"{key} is {said!r}, which is no size of an image")
        return sides

    @property
    def size(self) -> dict[str, int]:
        """What images are resized to."""
        return self.sides("size", square=self.on("default_to_square"))

    def exact(self, key: str) -> Size:
        """Return a height and a width."""
        sides = self.size if key == "size" else self.sides(key)
        if "height" not in sides:
            raise ValueError(f"{key} is {sides}; a height and a width are needed")
        return sides["height"], sides["width"]

    def target(self) -> Target:
        """Return what images are resized to."""
        sides = self.size
        if "shortest_edge" in sides:
            return ShorterEdge(sides["shortest_edge"], sides.get("longest_edge"))
        if "max_height" in sides:
            return Within(sides["max_height"], sides["max_width"])
        return Exactly(*self.exact("size"))

    def crop(self) -> Steps:
        """Crop from the centre, if that is to be done."""
        return (CentreCrop(*self.exact("crop_size")),) if self.on("do_center_crop") else ()


# What a size may be. A longest edge alone, or a number of pixels in all, transformers knows but no classifier's class
# resizes to.
_SIZES: tuple[set[str], ...] = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)


def pixels(key: str, value: object) -> int:
    """Return a number of pixels that an image may have; ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_EDGE:
        raise ValueError(f"{key} is {value!r}, not a number of pixels from 1 to {LARGEST_EDGE}")
    return value
