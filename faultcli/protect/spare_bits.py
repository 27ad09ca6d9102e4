"""Words whose lowest bits are given up: the nearest that the bits left can say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, split

from faultcli.errors import UsageError
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.formats.fixed import FixedFormat
from faultcli.formats.floats import FloatFormat
from faultcli.formats.integers import SignedInteger
from faultcli.formats.twos_complement import pack
from faultcli.formats.values import TILE, count_non_finite, exact_reals
from faultcli.protect.base import Protection, Words, Written, codes_of, needs_zero_bits, words_of
from faultcli.protect.distribution import Distribution

_WIDEST = 32  # bits of a word
_SAMPLE = 1 << 20  # words that are looked at for how they are distributed


@dataclass(frozen=True)
class SparingProtection(Protection):
    """One that takes on average `spare` low bits of every word: its text is `name=M`, with 0 < M ≤ 16."""

    spare: float

    @classmethod
    def parse(cls, value: str | None) -> Self:
        try:
            spare = float(value or "")
        except ValueError:
            spare = math.nan
        if not 0 < spare <= 16:
            raise UsageError(
                f"{cls.name}={value or ''}: the number of low bits to give up, up to 16", f"try: {cls.name}=2"
            )
        return cls(spare)

    @property
    def text(self) -> str:
        return f"{self.name}={self.spare!r}".removesuffix(".0")

    def spare_bits(self, format: NumberFormat) -> int:
        return math.ceil(self.spare)

    def check_room(self, stored: NumberFormat, problem: str = "", least: float = 0) -> None:
        """Refuse a format whose words have fewer bits to spare, are too wide, or do not read 0 as the number 0.

        Args:
            stored: the format.
            problem: what else is wrong with it; "" if nothing is.
            least: the fewest bits that could be given up.

        Raises:
            UsageError: the format is refused.
        """
        format = stored.element
        needs_zero_bits(stored, self.text)
        room = len(format.fields.get("mantissa", ())) if isinstance(format, FloatFormat) else format.bits - 2
        if self.spare > room or problem:
            raise UsageError(
                f"{self.text}: words of {stored.name} have {room} bits to spare{problem}",
                f"choose {least:.3g} to {room}" if least else f"choose {room} at the most",
            )
        if format.bits > _WIDEST:
            raise UsageError(f"{self.text}: words of {format.bits} bits are too wide", "store them as fp32")


def distribution_of(written: Written) -> Distribution:
    """Return how a tensor's numbers are distributed, by a million of its words at the most."""
    sample = written.words[:: max(1, len(written.words) // _SAMPLE)]
    numbers = written.format.element.decode(codes_of(sample.copy()))
    return Distribution.of(lambda: [numbers], 1, len(numbers))


def nearest_sparing(written: Written, spare_of: Callable[[NDArray[np.int64]], NDArray[np.int64]], name: str) -> Words:
    """Return the words that come nearest to the values, of those whose lowest bits are 0 (of two that are equally near,
    the even one): flat, like `written.words`.

    Args:
        written: finite values.
        spare_of: how many bits the words at these positions give up.
        name: of the protection, for messages.

    Raises:
        UsageError: a value is NaN or infinite.
    """
    goals = written.values.reshape(-1)
    if any(any(count_non_finite(exact_reals(tile, written.format.name))) for tile in split(goals, TILE)):
        raise UsageError(
            f"{name}: stores finite values only, the tensor holds NaN or infinities",
            "leave the tensor out with --exclude, or protect it with secded=64",
        )
    out = np.empty_like(written.words)
    for start in range(0, len(out), TILE):  # so that little is held beside the tensor
        part = slice(start, start + TILE)
        goal = goals[part]
        spare = spare_of(np.arange(start, start + len(goal)))
        if (steps := _in_steps(written.format, goal, start)) is not None:
            widths = torch.from_numpy(np.exp2(spare)).to(steps.dtype)
            out[part] = _rounded(steps, written.format.bits, widths)
            continue
        index = torch.arange(start, start + len(goal))
        goal = goal.double()
        below, above = neighbours(written.words[part], written.format.element, spare)
        down, up = ((written.format.decode(codes_of(w), index).double() - goal).abs_() for w in (below, above))
        odd = torch.from_numpy((below >> spare & 1).astype(bool))
        out[part] = np.where(torch.where(odd, up <= down, up < down).numpy(), above, below)
    return out


def _in_steps(format: NumberFormat, values: Tensor, start: int) -> Tensor | None:
    """Return values, from this flat position on, in units of the last bit; None where words are not evenly spaced."""
    if isinstance(format, FixedFormat):
        wide = values.double() if format.value_dtype == torch.float64 else exact_reals(values, format.name)
        return wide * 2.0**format.fraction_bits
    if isinstance(format, ScaledFormat) and isinstance(format.codec, SignedInteger):
        return values.double() / format.units(torch.arange(start, start + len(values))).double()
    return None


def _rounded(steps: Tensor, bits: int, widths: Tensor) -> Words:
    """Return the two's complement words that come nearest to numbers [n], which are overwritten, among the multiples of
    `widths` [n]; of two that are equally near the even one."""
    bound = float(1 << bits - 1)
    coarse = steps.div_(widths).round_().mul_(widths).clamp_(min=-bound)
    return words_of(pack(torch.minimum(coarse, bound - widths, out=coarse), bits))


def neighbours(words: Words, format: NumberFormat, spare: NDArray[np.int64]) -> tuple[Words, Words]:
    """Return the words next below and next above finite ones whose lowest `spare` bits [n] are 0; the same where
    there is none above.

    Floats are ordered by magnitude (a carry into the exponent is right), all others as two's complement numbers.
    """
    step = 1 << spare
    wide = words.astype(np.int64)
    sign = wide & 1 << format.bits - 1
    if isinstance(format, FloatFormat):
        below, most = (wide ^ sign) & -step, format.max_code & -step
        above = sign | np.minimum(below + step, most)
        return (sign | below).astype(words.dtype), above.astype(words.dtype)
    top = 1 << format.bits - 1
    below, most = (wide ^ top) - top & -step, top - 1 & -step
    mask = 2 * top - 1
    return (below & mask).astype(words.dtype), (np.minimum(below + step, most) & mask).astype(words.dtype)
