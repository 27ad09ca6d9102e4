"""Words whose lowest bits are given up: the nearest that the bits left can say."""

from __future__ import annotations

from collections.abc import Callable

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
from faultcli.protect.base import Words, Written, codes_of, words_of


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
