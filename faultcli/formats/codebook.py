"""Formats of few values that follow no rule of arithmetic: a code is a place in a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.formats.base import FormatRow, NumberFormat, container_dtype
from faultcli.formats.values import count_non_finite, exact_reals, look_up, refuse

# 4-bit NormalFloat: quantiles of a normal distribution, one side of 8 and one of 9 that share the 0. Dettmers et al.,
# "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314, appendix E.
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@dataclass(frozen=True)
class CodebookFormat(NumberFormat):
    """Code k stands for the k-th of 2^bits ascending levels, which are float32 numbers.

    On write, the nearest level, of two that are equally near the lower; what is beyond the last level saturates.
    """

    bits: int = field(init=False)  # of one stored word
    levels: tuple[float, ...]  # ascending

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", (len(self.levels) - 1).bit_length())

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return {"level": tuple(range(self.bits))}

    @property
    def largest(self) -> float:
        """The largest value."""
        return self.levels[-1]

    def encode(self, values: Tensor) -> Tensor:
        values = exact_reals(values, self.name)
        refuse(self.name, *count_non_finite(values))
        levels = torch.tensor(self.levels, dtype=torch.float64, device=values.device)
        # The sum of two neighbouring float32 levels is exact in float64, and so is half of it.
        codes = torch.bucketize(values.double(), (levels[1:] + levels[:-1]) / 2)
        return codes.to(container_dtype(self.bits))

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        return look_up(torch.tensor(self.levels, dtype=torch.float32), codes)

    def describe(self) -> FormatRow:
        step = f"{len(self.levels)} levels, closest at 0"
        return FormatRow(self.name, str(self.bits), f"±{self.largest:g}", step, "neither NaN nor infinities")
