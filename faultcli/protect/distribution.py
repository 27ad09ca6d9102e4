"""How the numbers of a tensor are distributed, in a few bits: what was probably written, if a word cannot be trusted.

The prior costs next to nothing, because it is a family with few parameters and not a histogram: a generalised Gaussian
with a uniform part for outliers, cut off at the largest magnitude written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from faultcli.formats import NumberFormat, container_dtype
from faultcli.protect.base import Constants, Written, rounded_up
from faultcli.protect.channel import through

SHAPES = (0.7, 1.0, 1.5, 2.0)  # of the generalised Gaussian: 1 is Laplace, 2 is Gauss
OUTLIERS = (0.001, 0.01, 0.03, 0.1)  # weight of the uniform part
TENSOR_BITS = 16 + 4  # the largest magnitude as a bfloat16, and which shape and outlier weight
SPREAD_BITS = 6  # per group: its spread relative to the largest magnitude, on a grid of 2^(1/4)
_GRID = 4  # steps of the spread's grid per octave
_SMALLEST_STEP = -12 * _GRID


@dataclass(frozen=True, eq=False)
class Distribution:
    """A prior over numbers, one spread per group.

    `peak`: the largest magnitude. `steps`: int32 [groups], log2 of the spread relative to it, in quarters. `shape`,
    `outliers`: one of `SHAPES` and one of `OUTLIERS`.
    """

    peak: float
    steps: Tensor
    shape: float
    outliers: float

    @classmethod
    def of(cls, numbers: Callable[[], Iterable[Tensor]], groups: int, size: int) -> Distribution:
        """Describe finite numbers.

        Args:
            numbers: gives them twice, in order and in parts, of any shape: of whole groups where there are several.
            groups: how many there are.
            size: numbers of a group.
        """

        def parts() -> Iterator[Tensor]:  # float64 [groups, n]
            return (part.reshape(-1 if groups > 1 else 1, size if groups > 1 else part.numel()).double()
                    for part in numbers() if part.numel())  # fmt: skip

        largest, squares, before = 0.0, torch.zeros(groups).double(), 0
        for part in parts():
            largest = max(largest, float(part.abs().max()))
            squares[before : before + len(part)] += part.square().sum(dim=1)
            before += len(part) if groups > 1 else 0
        peak = float(rounded_up(torch.tensor(largest).double()))
        peak = peak if peak > 0 else 1.0
        spread = (squares / size).sqrt() / peak if size else torch.ones(1).double()
        steps = (_GRID * spread.clamp(min=2.0 ** (_SMALLEST_STEP / _GRID)).log2()).round().int()
        default = SHAPES[2], OUTLIERS[2]
        if not size:
            return cls(peak, steps, *default)
        stride = min(max(1, groups * size // 50_000), size)
        sample, before = [], 0
        for part in parts():
            sample.append(part[:, -before % stride :: stride].abs() / peak)
            before += 0 if groups > 1 else part.shape[1]
        unfit = cls(peak, steps, *default)
        relative = torch.cat(sample, dim=0 if groups > 1 else 1)
        return cls(peak, steps, *_most_likely(relative, unfit.spreads[unfit.class_of_group], default))

    @classmethod
    def restored(cls, constants: Constants, groups: int) -> Distribution:
        """Return what `constants` describe; KeyError or ValueError if that is no distribution of so many groups."""
        peak, shape, outliers = (float(constants[name]) for name in ("peak", "shape", "outliers"))
        steps = torch.as_tensor(constants["steps"]).reshape(-1).int()
        usual = bool(((steps >= _SMALLEST_STEP) & (steps <= 0)).all())
        if not (0 < peak < math.inf and shape in SHAPES and outliers in OUTLIERS and len(steps) == groups and usual):
            raise ValueError("a distribution")
        return cls(peak, steps, shape, outliers)

    def constants(self) -> Constants:
        """Return what `restored` takes."""
        return {"peak": self.peak, "steps": self.steps, "shape": self.shape, "outliers": self.outliers}

    @property
    def side_bits(self) -> int:
        """Bits that keeping it takes."""
        return TENSOR_BITS + SPREAD_BITS * len(self.steps)

    @property
    def class_of_group(self) -> Tensor:
        """Which of the different spreads each group has: int64 [groups]."""
        return self._classes[1]

    @cached_property
    def spreads(self) -> Tensor:
        """The different spreads, ascending, relative to the peak: float64."""
        return torch.exp2(self._classes[0].double() / _GRID)

    @cached_property
    def _classes(self) -> tuple[Tensor, Tensor]:
        return _unique(self.steps)

    def prior(self, levels: Tensor) -> Tensor:
        """Return the probability of every level, float64 [different spreads, levels], each row summing to 1."""
        relative = levels / self.peak
        return torch.stack([_prior(relative, float(spread), self.shape, self.outliers) for spread in self.spreads])


def numbers_of(written: Written) -> Iterator[Tensor]:
    """Yield what the words stand for, some rows of the tensor at a time; in formats with a scale, multiples of it."""
    return replace(written, format=written.format.element).stored_parts()


def levels_of(format: NumberFormat, bits: int, *, middle: bool = False) -> Tensor:
    """Return what the words with these top bits stand for, with zeros below, or in the middle: float64 [2^bits]."""
    below = format.bits - bits
    words = (torch.arange(1 << bits, dtype=torch.int64) << below) + (1 << below - 1 if middle and below else 0)
    container = container_dtype(format.bits)
    if container != torch.uint8:
        words = _signed(words, 8 * container.itemsize)
    return format.decode(words.to(container)).double()


def posterior_means(prior: Tensor, levels: Tensor, bits: int, ber: float) -> Tensor:
    """Return, for every word read, the mean of what could have been written: float64, in the shape of the prior.

    Args:
        prior: [..., 2^bits], of words.
        levels: [2^bits], what they stand for.
        bits: of a word.
        ber: probability that a bit flips.
    """
    evidence = through(prior, bits, ber).clamp(min=1e-300)
    return through(prior * levels.nan_to_num(0, 0, 0), bits, ber) / evidence


def _unique(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different numbers, ascending, and for every number the position of its equal."""
    different, position = np.unique(numbers.numpy(), return_inverse=True)
    return torch.from_numpy(different), torch.from_numpy(position)


def _signed(words: Tensor, bits: int) -> Tensor:
    """Return two's complement words of `bits` bits as numbers, int64."""
    top = 1 << bits - 1
    return (words.long() & (2 * top - 1) ^ top) - top


def _most_likely(sample: Tensor, spreads: Tensor, default: tuple[float, float]) -> tuple[float, float]:
    """Return shape and outlier weight of greatest likelihood for magnitudes up to 1, [groups, n], of these spreads."""
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
