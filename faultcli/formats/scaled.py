"""Formats whose values share a scale: codes of an element format times a number that is stored once for a group.

Integers with a scale per tensor, channel or group; 8-bit floats with one per tensor; the OCP Microscaling formats; NF4.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.errors import FormatError, UsageError
from faultcli.formats.base import FormatRow, NumberFormat, container_dtype
from faultcli.formats.codebook import NF4_LEVELS, CodebookFormat
from faultcli.formats.exponent import E8M0, ExponentFormat
from faultcli.formats.floats import FP16, FP32, FloatFormat
from faultcli.formats.integers import SignedInteger
from faultcli.formats.values import count_non_finite, exact_reals, refuse, tiles

Element = SignedInteger | FloatFormat | CodebookFormat
ScaleStore = FloatFormat | ExponentFormat
BY_FLIPS_ONLY = "refuses both; a flip can make them"  # what a format with scales at risk does with NaN and infinities
_LARGEST_FLOAT32 = torch.finfo(torch.float32).max


def by_magnitude(peaks: Tensor, element: Element, store: ScaleStore) -> Tensor:
    """Return scales, float64, with which the largest magnitudes of groups become the element's largest value."""
    # Room for the code -2^(N-1) of integers, which only a flip makes, below float32's end.
    ceiling = min(store.largest, _LARGEST_FLOAT32 / (element.largest + 1))
    return (peaks / element.largest).clamp_(store.smallest, ceiling)


def by_exponent(peaks: Tensor, element: Element, store: ScaleStore) -> Tensor:
    """Return scales, float64, 2^(floor(log2 peak) - emax) with emax the exponent of the element's largest value.

    OCP Microscaling Formats (MX) 1.0, section 6.3. A group of zeros has the smallest scale. A group beyond float32's
    range has the largest with which what is written stays inside it.
    """
    emax = math.frexp(element.largest)[1] - 1
    exponent = torch.frexp(peaks).exponent - 1 - emax
    scales = torch.ldexp(torch.ones_like(peaks), exponent.clamp(-1000, 127 - emax))
    return scales.masked_fill_(peaks == 0, 0).clamp_(store.smallest, store.largest)


@dataclass(frozen=True)
class ScaledFormat(NumberFormat):
    """Codes of `element` times a scale that the values of a group share; a value reads as the float32 nearest to it.

    Groups are runs of `group` neighbouring values, row-major, inside a row: a row is one slice of the first dimension
    (an output channel; of a matrix that is its last dimension) of a tensor with two or more dimensions, or the whole
    tensor where `per_row` is false. The last group of a row may be shorter. `group` None: the row is one group.

    Where `at_risk` is true, scales are words that lie in the memory and can be hit like any other: a group then reads
    with whatever its scale has become, infinite or NaN included. A scale of zeros is the smallest one, so that a flip
    in them stays small. Otherwise scales lie beside the memory, and that of zeros is 1.

    On write every element rounds once, to nearest, and saturates. NaN and infinities are refused, also where the
    element has codes for them.

    Two formats of one name compare equal whatever their scales: those are data of one tensor.
    """

    bits: int = field(init=False)  # of one word of an element
    codec: Element  # what a word stands for, in units of its scale
    store: ScaleStore  # how a scale is stored
    rule: Callable[[Tensor, Element, ScaleStore], Tensor]  # from largest magnitudes (float64) to scales
    group: int | None = None  # values that share a scale; None: a row
    per_row: bool = True  # groups end with their row
    at_risk: bool = True  # scales lie in the memory
    scales: Tensor | None = field(default=None, compare=False, repr=False)  # float32, (groups,); None before `fitted`
    row_words: int = field(default=0, compare=False, repr=False)  # values of a row

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", self.codec.bits)

    @property
    def element(self) -> NumberFormat:
        return self.codec

    @property
    def scale_format(self) -> NumberFormat | None:
        return self.store if self.at_risk else None

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return self.codec.fields

    @property
    def largest(self) -> float:
        """The largest finite value of any element with any scale."""
        return min(self.codec.largest * self.store.largest, _LARGEST_FLOAT32)

    @property
    def side_bits(self) -> int:
        return 0 if self.scales is None or self.at_risk else self.store.bits * self.scales.numel()

    @property
    def by_row(self) -> bool:
        return self.per_row

    def scale_words(self, shape: tuple[int, ...]) -> int:
        return self._rows(shape)[0] * self._groups(self._rows(shape)[1]) if self.at_risk else 0

    def _rows(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return how many rows a tensor of this shape has, and the values of a row; one row where it has no values."""
        elements = torch.Size(shape).numel()
        rows = shape[0] if self.per_row and len(shape) >= 2 and elements else 1
        return rows, elements // rows

    def _groups(self, row_words: int) -> int:
        """Return the number of groups of a row, at least 1."""
        return max(1, -(-row_words // self.group)) if self.group else 1

    def fitted(self, values: Tensor) -> ScaledFormat:
        return self.fitted_to([values], tuple(values.shape))

    def fitted_to(self, parts: Iterable[Tensor], shape: tuple[int, ...]) -> ScaledFormat:
        """As `fitted`, to a tensor of this shape that comes in parts of whole rows, each but the last with a multiple
        of `whole` elements."""
        rows, row_words = self._rows(shape)
        # Filled part by part: what a loop keeps beside large temporaries leaves holes in the heap.
        peaks = torch.zeros(rows * self._groups(row_words), dtype=torch.float64)
        before = 0
        for part in parts:
            values = exact_reals(part, self.name)
            refuse(self.name, *count_non_finite(values))
            found = self._peaks(values.reshape(*self._rows(tuple(values.shape))))
            if len(peaks) == 1:
                torch.maximum(peaks, found.max(), out=peaks)
            else:
                peaks[before : before + len(found)] = found
                before += len(found)
        scales = self.rule(peaks, self.codec, self.store)
        if not self.at_risk:
            scales.masked_fill_(peaks == 0, 1.0)
        return dataclasses.replace(self, scales=self.store.decode(self.store.encode(scales)), row_words=row_words)

    @property
    def whole(self) -> int:
        return self.group or 1

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> ScaledFormat:
        if self.scales is None:  # not fitted yet
            return self
        scales, row = self.scales, math.prod(shape[1:])
        if self._rows(shape)[0] > 1 or (self.per_row and len(shape) > 1):
            per_row = self._groups(self.row_words)
            return dataclasses.replace(self, scales=scales[rows.start * per_row : rows.stop * per_row])
        first, end = rows.start * row, rows.stop * row
        own = scales[first // self.group : -(-end // self.group)] if self.group else scales
        return dataclasses.replace(self, scales=own, row_words=end - first)

    def with_scales(self, scales: Tensor, shape: tuple[int, ...]) -> ScaledFormat:
        """Return the format with the scales of a tensor of this shape, as `fitted` gave them: float32 [groups].

        Raises:
            ValueError: they are not as many as the tensor has.
        """
        rows, row_words = self._rows(shape)
        if scales.shape != (rows * self._groups(row_words),):
            raise ValueError(f"{len(scales)} scales, not {rows * self._groups(row_words)}")
        return dataclasses.replace(self, scales=scales, row_words=row_words)

    def _peaks(self, rows: Tensor) -> Tensor:
        """Return the largest magnitude of every group, float64, flat."""
        if not rows.numel():
            return torch.zeros(1, dtype=torch.float64, device=rows.device)
        size = self.group or rows.shape[1]
        whole = rows.shape[1] // size * size
        parts = [rows[:, :whole].view(len(rows), -1, size)] if whole else []
        if whole < rows.shape[1]:
            parts.append(rows[:, None, whole:])
        bounds = [part.aminmax(dim=2) for part in parts]
        return torch.cat([torch.maximum(-low, high) for low, high in bounds], dim=1).reshape(-1).double()

    def encode(self, values: Tensor) -> Tensor:
        scales = self._known_scales()
        values = exact_reals(values, self.name)
        refuse(self.name, *count_non_finite(values))
        rows = self._in_rows(values, scales)
        codes = torch.empty(rows.shape, dtype=container_dtype(self.bits), device=values.device)
        # By a power of two float32 divides exactly, but for what rounds to 0 anyway. By any other scale, its quotient
        # is itself rounded and can land on a tie that is none.
        exact = isinstance(self.store, ExponentFormat)
        divisors = scales.to(values.device, values.dtype if exact else torch.float64)
        for tile in tiles(*rows.shape):
            codes[tile] = self.codec.encode(rows[tile] / self._spread(divisors, tile, rows.shape))
        return codes.reshape(values.shape)

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        scales = self._known_scales().to(codes.device)
        values = self.codec.decode(codes)
        if len(scales) == 1:
            return values.mul_(scales[0])
        if index is not None:
            return values.mul_(scales[self.group_of(index)])
        rows = self._in_rows(values, scales)
        for tile in tiles(*rows.shape):
            rows[tile] *= self._spread(scales, tile, rows.shape)
        return values

    def units(self, index: Tensor | None = None) -> Tensor:
        """Return the scales, float32 [n], of the elements at these flat positions, or of all."""
        scales = self._known_scales()
        if index is not None:
            return scales[self.group_of(index)]
        shape = torch.Size((len(scales) // self._groups(self.row_words), self.row_words))
        return self._spread(scales, (slice(0, shape[0]), slice(0, shape[1])), shape).expand(shape).reshape(-1)

    def group_of(self, index: Tensor) -> Tensor:
        """Return which scale, int64, the elements at these flat positions have."""
        if not self.group:
            return index.div(max(1, self.row_words), rounding_mode="floor")
        row = index.div(max(1, self.row_words), rounding_mode="floor")
        return row * self._groups(self.row_words) + (index - row * self.row_words) // self.group

    def elements_of(self, groups: Tensor) -> Tensor:
        """Return the flat positions, int64, of all elements with these scales; ascending if they are."""
        per_row, size = self._groups(self.row_words), self.group or self.row_words
        column = groups % per_row * size
        first = groups.div(per_row, rounding_mode="floor") * self.row_words + column
        count = (self.row_words - column).clamp(max=size)
        within = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
        return first.repeat_interleave(count) + within

    def _spread(self, scales: Tensor, tile: tuple[slice, slice], shape: torch.Size) -> Tensor:
        """Return the scales of the elements of a tile of rows, in a shape that broadcasts to it."""
        groups = self._groups(self.row_words)
        own = scales.view(-1, groups)[tile[0]]
        if groups == 1 or self.group is None:
            return own
        columns = torch.arange(tile[1].start, min(tile[1].stop, shape[1]), device=scales.device)
        return own.index_select(1, columns.div_(self.group, rounding_mode="floor"))

    def _known_scales(self) -> Tensor:
        if self.scales is None:
            raise FormatError(f"{self.name} has no scale yet", "call fitted(values) with the tensor first")
        return self.scales

    def _in_rows(self, words: Tensor, scales: Tensor) -> Tensor:
        rows = len(scales) // self._groups(self.row_words)
        if words.numel() != rows * self.row_words:
            raise FormatError(
                f"{words.numel()} values do not fit {self.name} scales that were fitted to {rows * self.row_words}",
                "call fitted(values) with this tensor, or decode some of its elements with their index",
            )
        return words.reshape(rows, self.row_words)

    def describe(self) -> FormatRow:
        of = f"{self.group} values" if self.group else "the channel" if self.per_row else "the tensor"
        per = of.removeprefix("the ")
        store = {"fp32": "float32", "fp16": "float16"}.get(self.store.name, self.store.name)
        if isinstance(self.codec, SignedInteger):
            step = f"max|w| / {self.codec.max_code}"
        elif isinstance(self.codec, FloatFormat):
            step = f"2^-{self.codec.mantissa_bits} of the value's power of two"
        else:
            step = self.codec.describe().step
        span = f"±{self.codec.largest:g}·2^e, e of {of}" if self.rule is by_exponent else f"±max|w| of {of}"
        if not self.at_risk:
            specials = self.codec.describe().specials
            return FormatRow(self.name, str(self.bits), span, f"{step}, one {store} scale per {per}", specials)
        bits = f"{self.bits} + {self.store.bits} per {per}"
        return FormatRow(self.name, bits, span, f"{step}, {store} scales", BY_FLIPS_ONLY)


def per_tensor_integer(bits: int) -> ScaledFormat:
    """Return `intN`: max|w| of the tensor is the code 2^(N-1) - 1; its float32 scale lies beside the memory."""
    return ScaledFormat(f"int{bits}", SignedInteger(bits), FP32, by_magnitude, per_row=False, at_risk=False)


def per_channel_integer(bits: int) -> ScaledFormat:
    """Return `intN-channel`: as `intN`, with one scale per output channel."""
    return ScaledFormat(f"int{bits}-channel", SignedInteger(bits), FP32, by_magnitude, at_risk=False)


def grouped_integer(bits: int, group: int) -> ScaledFormat:
    """Return `intN-gK`: groups of K values with a float16 scale each in the memory, as GPTQ, AWQ and others store them.

    Raises:
        UsageError: N is not between 2 and 16, or K is 0.
    """
    codec = SignedInteger(bits)
    if group < 1:
        raise UsageError(f"number format int{bits}-g{group}: a group has 1 value or more", f"try: int{bits}-g128")
    return ScaledFormat(f"int{bits}-g{group}", codec, FP16, by_magnitude, group)


def per_tensor_float(element: FloatFormat) -> ScaledFormat:
    """Return a float with one float32 scale per tensor, in the memory: max|w| is the element's largest value."""
    return ScaledFormat(f"{element.name}-tensor", element, FP32, by_magnitude, per_row=False)


MX_BLOCK = 32


def microscaling(name: str, element: FloatFormat) -> ScaledFormat:
    """Return an MX format: 32 values share a power of two, stored as e8m0 (OCP Microscaling Formats 1.0)."""
    return ScaledFormat(name, element, E8M0, by_exponent, MX_BLOCK)


# QLoRA's "blocks" are of the flattened tensor; its double quantisation of the scales is not modelled.
NF4 = ScaledFormat("nf4", CodebookFormat("nf4 levels", NF4_LEVELS), FP32, by_magnitude, 64, per_row=False)
