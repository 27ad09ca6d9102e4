"""Weight scaling: store c·w, read back and divide by c (Fuengfusin and Tamukoh, arXiv 2411.18993).

An error e in the stored value becomes e/c. In fixed point the largest c that still fits is good, for a larger one
saturates; in floats only exponent bits depend on c, and with |c·w| < 2 the exponent's top bit is 0 in every word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.faults.law import shortest
from faultcli.formats import NumberFormat
from faultcli.protect.base import Constants, Fitted, Protection, Written
from faultcli.protect.factor_search import FactorSearch, best_together, fitting_factors
from faultcli.protect.factors import LARGEST_FACTOR, SMALLEST_FACTOR, Factors, charged, restored_factors

GRANULARITIES = ("model", "tensor", "channel")


@dataclass(frozen=True)
class Scale(Protection):
    """Weights are stored times a factor, `scale=X|max|auto[:GRANULARITY]`.

    `factor`: a number, `max` (the largest that fits the format's range) or `auto` (the one of least expected error of
    the whole chain). `granularity`: one factor per `model`, `tensor` (the default) or output `channel`.
    """

    name: ClassVar[str] = "scale"
    examples: ClassVar[str] = "scale=4, scale=max, scale=auto:channel"
    overhead: ClassVar[str] = "16 bits per tensor or channel (32 for a given or a model's factor)"
    rank: ClassVar[int] = Protection.VALUE
    summary: ClassVar[str] = (
        "keeps one factor per model, tensor or channel; divides every error by it; nothing else stored"
    )

    factor: float | str
    granularity: str = "tensor"

    @property
    def by_row(self) -> bool:
        return self.granularity == "channel"

    @property
    def text(self) -> str:
        value = self.factor if isinstance(self.factor, str) else shortest(self.factor)
        return f"scale={value}" + ("" if self.granularity == "tensor" else f":{self.granularity}")

    @property
    def needs_ber(self) -> bool:
        return self.factor == "auto"

    @classmethod
    def parse(cls, value: str | None) -> Self:
        factor, _, granularity = (value or "").partition(":")
        granularity = granularity or "tensor"
        if granularity not in GRANULARITIES:
            raise UsageError(
                f"scale={value}: unknown granularity {granularity!r}", f"one of {', '.join(GRANULARITIES)}"
            )
        if factor in ("max", "auto"):
            return cls(factor, granularity)
        try:
            number = float(factor)
        except ValueError:
            raise UsageError(f"scale={value or ''}: a factor is a number, max or auto", "try: scale=auto") from None
        return cls(_checked(number), granularity)

    def for_tensors(
        self,
        tensors: Mapping[str, Tensor],
        format_of: Callable[[str], NumberFormat],
        behind: Sequence[Protection] = (),
        ber: float | None = None,
    ) -> dict[str, Factors]:
        """Return the factors of every tensor.

        Raises:
            FormatError: a tensor holds NaN or infinities, so that no factor makes it fit; it is named.
            UsageError: `auto` without a bit-error rate.
        """
        if not isinstance(self.factor, str):
            return charged(dict.fromkeys(tensors, torch.tensor([self.factor], dtype=torch.float32)))
        if self.factor == "auto" and ber is None:
            raise UsageError("scale=auto: needs to know the bit-error rate", "name it: --ber P, or use scale=max")
        fitting, searches = {}, {}
        for name, weights in tensors.items():  # each is looked at once: it may come from a file
            format = format_of(name)
            fitting[name] = fitting_factors(name, weights, format, behind, self.granularity)
            if ber is not None and self.factor == "auto":
                searches[name] = FactorSearch(name, weights, format, behind, ber)
        if self.granularity == "model":
            common = torch.stack([f.min() for f in fitting.values()]).min().reshape(1)
            fitting = dict.fromkeys(tensors, common)
        if self.factor == "max":
            return charged(fitting)
        if self.granularity == "model":
            return charged(best_together(searches, fitting))
        return charged({name: search.best(fitting[name]) for name, search in searches.items()})

    def restored(self, constants: Constants, empty: Written, shape: tuple[int, ...]) -> Fitted:
        return restored_factors(constants, shape)

    def fit(self, written: Written) -> Fitted:
        raise AssertionError("what is fitted to a tensor are its factors: those of `for_tensors`")


def _checked(factor: float) -> float:
    """Return a factor if it is one.

    Raises:
        UsageError: it is not positive and finite.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise UsageError(f"a scaling factor of {factor:g}: it has to be positive and finite", "try: 0.25, max or auto")
    if not SMALLEST_FACTOR <= factor <= LARGEST_FACTOR:
        raise UsageError(
            f"a scaling factor of {factor:g}: factors are kept in float32, which has none between"
            f" 0 and {SMALLEST_FACTOR:.3g} or beyond {LARGEST_FACTOR:.3g}",
            "try: 0.25, max or auto",
        )
    return factor
