"""Posterior-mean read: the best estimate of a weight from the word that was read, given how weights are distributed.

With a prior h over words and independent flips at rate p, E[w | word] = Σ h(v) P(v→word) w(v) / Σ h(v) P(v→word). It is
a decode table: no extra memory per weight and no extra work per read. Small weights in a wide format carry copies of
their sign in the top bits; the posterior reads them as a repetition code.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.faults.law import shortest
from faultcli.formats import NumberFormat
from faultcli.formats.integers import NativeIntegerFormat
from faultcli.protect.base import Constants, Fitted, Protection, Words, Written
from faultcli.protect.distribution import Distribution, levels_of, numbers_of, posterior_means

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
    def by_row(self) -> bool:
        return self.granularity == "channel"

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
            raise UsageError("posterior: needs to know the bit-error rate", "say posterior=P, or name it: --ber P")
        if not all(bool(part.isfinite().all()) for part in written.value_parts()):
            raise UsageError(
                "posterior: reads finite values only, the tensor holds NaN or infinities",
                "leave the tensor out with --exclude, or protect it with guard",
            )
        groups = written.channels if self.granularity == "channel" and len(written.words) else 1
        size = len(written.words) // groups
        distribution = Distribution.of(lambda: numbers_of(written), groups, size)
        return FittedPosterior(written.format, distribution, ber, max(1, size))

    def restored(self, constants: Constants, empty: Written, shape: tuple[int, ...]) -> Fitted:
        ber = float(constants["ber"])
        if not 0 <= ber < 0.5:
            raise ValueError("a bit-error rate")
        groups = shape[0] if self.granularity == "channel" and len(shape) >= 2 and 0 not in shape else 1
        distribution = Distribution.restored(constants, groups)
        return FittedPosterior(empty.format, distribution, ber, max(1, math.prod(shape) // max(1, groups)))


class FittedPosterior(Fitted):
    """A decode table per class of spread. In formats with a scale, values here are whole multiples of it."""

    def __init__(self, format: NumberFormat, distribution: Distribution, ber: float, words_per_group: int) -> None:
        self.ber = ber
        self.bits = min(format.bits, _TABLE_BITS)
        self.dropped = format.bits - self.bits
        self.words_per_group = words_per_group
        self.distribution, self.side_bits = distribution, distribution.side_bits
        self.class_of_group = distribution.class_of_group
        self.levels = levels_of(format.element, self.bits)
        self.prior = distribution.prior(self.levels)
        self.table = posterior_means(self.prior, self.levels, self.bits, ber)

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> FittedPosterior:
        own = copy(self)
        if len(self.class_of_group) > 1:
            own.class_of_group = self.class_of_group[rows]
        return own

    def constants(self) -> Constants:
        return {**self.distribution.constants(), "ber": self.ber}

    def read_values(self, values: Tensor, words: Words, index: Tensor | None, units: Tensor | None) -> Tensor:
        top = torch.from_numpy((words.reshape(-1) >> self.dropped).astype("int64"))
        if len(self.table) == 1:
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
