"""Posterior-mean read: the best estimate of a weight from the word that was read, given how weights are distributed.

With a prior h over words and independent flips at rate p, E[w | word] = Σ h(v) P(v→word) w(v) / Σ h(v) P(v→word). It is
a decode table: no extra memory per weight and no extra work per read. Small weights in a wide format carry copies of
their sign in the top bits; the posterior reads them as a repetition code.

The prior costs next to nothing, because it is a family with few parameters and not a histogram: a generalised Gaussian
with a uniform part for outliers, cut off at the largest magnitude written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.faults.law import shortest
from faultcli.formats import NumberFormat, ScaledFormat, container_dtype
from faultcli.formats.integers import NativeIntegerFormat
from faultcli.protect.base import Fitted, Protection, Words, Written, codes_of, rounded_up
from faultcli.protect.channel import through

SHAPES = (0.7, 1.0, 1.5, 2.0)  # of the generalised Gaussian: 1 is Laplace, 2 is Gauss
OUTLIERS = (0.001, 0.01, 0.03, 0.1)  # weight of the uniform part
TENSOR_BITS = 16 + 4  # the largest magnitude as a bfloat16, and which shape and outlier weight
SPREAD_BITS = 6  # per tensor or channel: its spread relative to the largest magnitude, on a grid of 2^(1/4)
_GRID = 4  # steps of the spread's grid per octave
_TABLE_BITS = 16  # wider words are read by a table over their top bits; the others are taken as they are


@dataclass(frozen=True)
class Posterior(Protection):
    """Reads every word as its posterior mean, `posterior[=P][:channel]`.

    `ber`: the rate that the reader believes in; None: that of the arm. `granularity`: whether the prior's spread is one
    per tensor or one per output channel.
    """

    name: ClassVar[str] = "posterior"
    examples: ClassVar[str] = "posterior, posterior=1e-3, posterior=channel"
    overhead: ClassVar[str] = "26 bits per tensor; 20, and 6 per channel"
    rank: ClassVar[int] = Protection.ESTIMATE
    summary: ClassVar[str] = (
        "keeps the spread, range and shape of the weights' distribution; reads the mean of what could have been "
        "written; nothing else stored"
    )

    ber: float | None = None
    granularity: str = "tensor"

    @classmethod
    def parse(cls, value: str | None) -> Self:
        parts = (value or "").split(":")
        granularity = parts.pop() if parts[-1] in ("tensor", "channel") else "tensor"
        rate = ":".join(parts)
        try:
            ber = float(rate) if rate else None
        except ValueError:
            raise UsageError(f"posterior={value}: {rate!r} is no bit-error rate", "try: posterior=1e-3") from None
        if ber is not None and not 0 < ber < 0.5:
            raise UsageError(
                f"posterior={value}: a bit-error rate to believe in lies between 0 and 0.5", "posterior=1e-3"
            )
        return cls(ber, granularity)

    @property
    def text(self) -> str:
        rate = shortest(self.ber) if self.ber is not None else ""
        parts = [part for part in (rate, self.granularity if self.granularity != "tensor" else "") if part]
        return "posterior" + ("=" if parts else "") + ":".join(parts)

    @property
    def needs_ber(self) -> bool:
        return self.ber is None

    def conflict(self, other: Protection) -> tuple[str, str] | None:
        if not self.needs_ber or other.rank <= self.rank:
            return None
        problem = f"posterior would believe in flips that {other.text} has corrected"
        return problem, "say which rate is left: posterior=P"

    def fit(self, written: Written) -> Fitted:
        if isinstance(written.format, NativeIntegerFormat) or written.format.bits > 32:
            raise UsageError(f"posterior: does not read words of {written.format.name}", "store as fp32 or narrower")
        ber = self.ber if self.ber is not None else written.ber
        if ber is None:
            raise UsageError("posterior: needs to know the bit-error rate", "say posterior=P, or draw faults by --ber")
        if not bool(written.values.isfinite().all()):
            raise UsageError(
                "posterior: reads finite values only, the tensor holds NaN or infinities",
                "leave the tensor out with --exclude, or protect it with guard",
            )
        return FittedPosterior(written, ber, self.granularity == "channel" and written.channels > 1)


class FittedPosterior(Fitted):
    """A decode table per class of spread. In formats with a scale, values here are whole multiples of it."""

    def __init__(self, written: Written, ber: float, per_channel: bool) -> None:
        self.bits = min(written.format.bits, _TABLE_BITS)
        self.dropped = written.format.bits - self.bits
        element = written.format.element
        levels = _levels(element, self.bits)
        scaled = isinstance(written.format, ScaledFormat)
        numbers = (element.decode(codes_of(written.words)) if scaled else written.stored()).double()
        groups = numbers.reshape(written.channels if per_channel else 1, -1)
        peak = float(rounded_up(groups.abs().max())) if groups.numel() else 0.0
        peak = peak if peak > 0 else 1.0
        self.words_per_group = max(1, groups.shape[1])
        spread = groups.square().mean(dim=1).sqrt() / peak if groups.numel() else torch.ones(1).double()
        steps = (_GRID * spread.clamp(min=2.0**-12).log2()).round().int()
        classes, self.class_of_group = _unique(steps)
        self.side_bits = TENSOR_BITS + SPREAD_BITS * len(groups)
        spreads = torch.exp2(classes.double() / _GRID)
        shape, outliers = _most_likely(groups / peak, spreads[self.class_of_group], (SHAPES[2], OUTLIERS[2]))
        self.prior = prior = torch.stack([_prior(levels / peak, float(spread), shape, outliers) for spread in spreads])
        evidence = through(prior, self.bits, ber).clamp(min=1e-300)
        self.table = through(prior * levels.nan_to_num(0, 0, 0), self.bits, ber) / evidence
        self.levels = levels

    def read_values(self, values: Tensor, words: Words, index: Tensor | None, units: Tensor | None) -> Tensor:
        top = torch.from_numpy((words.reshape(-1) >> self.dropped).astype("int64"))
        if len(self.class_of_group) == 1:
            read = self.table[0][top]
        else:
            position = torch.arange(len(top)) if index is None else index.reshape(-1)
            read = self.table[self.class_of_group[position // self.words_per_group], top]
        if self.dropped:
            # The bits below the table refine the value by a factor near 1, if the top bits are right.
            factor = values.reshape(-1).double() / self.levels[top]
            read = torch.where((factor - 1).abs() <= 2.0**-6, read * factor, read)
        if units is not None:
            read = read * units
        return read.to(values.dtype).view(values.shape)


def _unique(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different numbers, ascending, and for every number the position of its equal."""
    different, position = np.unique(numbers.numpy(), return_inverse=True)
    return torch.from_numpy(different), torch.from_numpy(position)


def _levels(format: NumberFormat, bits: int) -> Tensor:
    """Return what the words with these top bits, and zeros below, stand for: float64 [2^bits]."""
    words = torch.arange(1 << bits, dtype=torch.int64) << format.bits - bits
    container = container_dtype(format.bits)
    if container != torch.uint8:
        words = _signed(words, 8 * container.itemsize).long()
    return format.decode(words.to(container)).double()


def _signed(words: Tensor, bits: int) -> Tensor:
    """Return two's complement words of `bits` bits as numbers, float64."""
    top = 1 << bits - 1
    return ((words.long() & (2 * top - 1) ^ top) - top).double()


def _most_likely(relative: Tensor, spreads: Tensor, default: tuple[float, float]) -> tuple[float, float]:
    """Return shape and outlier weight of greatest likelihood for numbers in [-1, 1], [groups, n], of these spreads."""
    if not relative.numel():
        return default
    stride = max(1, relative.numel() // 50_000)
    sample = relative[:, :: min(stride, relative.shape[1])].abs()
    best, chosen = -math.inf, default
    for shape in SHAPES:
        width = _width(spreads, shape)[:, None]
        log_norm = math.log(shape / 2) - math.lgamma(1 / shape) - width.log()
        bell = (log_norm - (sample / width) ** shape).exp()
        for outliers in OUTLIERS:
            likelihood = float(((1 - outliers) * bell + outliers / 2).log().mean())
            if likelihood > best:
                best, chosen = likelihood, (shape, outliers)
    return chosen


def _width(spread: Tensor, shape: float) -> Tensor:
    """Return the scale parameter of a generalised Gaussian of this standard deviation."""
    return spread * math.exp(0.5 * (math.lgamma(1 / shape) - math.lgamma(3 / shape)))


def _prior(relative: Tensor, spread: float, shape: float, outliers: float) -> Tensor:
    """Return the prior probability of every table entry, float64, summing to 1.

    An entry's mass is that of the numbers nearest to it; entries beyond the largest magnitude written have none.
    """
    possible = relative.abs() <= 1  # false for NaN
    levels, entry = _unique(relative[possible])
    edges = (levels[1:] + levels[:-1]) / 2
    bell = 0.5 + 0.5 * edges.sign() * torch.special.gammainc(
        torch.tensor(1 / shape, dtype=torch.float64), (edges.abs() / _width(torch.tensor(spread), shape)) ** shape
    )
    below = (1 - outliers) * bell + outliers * (edges.clamp(-1, 1) + 1) / 2
    mass = torch.diff(below, prepend=torch.zeros(1), append=torch.ones(1)).clamp(min=1e-12)
    share = mass / entry.bincount()  # +0 and −0 are two words of one number
    prior = torch.zeros_like(relative)
    prior[possible] = share[entry]
    return prior / prior.sum()
