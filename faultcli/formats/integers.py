"""Integers: symmetric quantisation with one scale per tensor or per output channel, and integer tensors as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from faultcli.errors import FormatError, UsageError
from faultcli.formats.base import FormatRow, NumberFormat, container_dtype
from faultcli.formats.twos_complement import pack, unpack
from faultcli.formats.values import count_non_finite, exact_reals, refuse, tiles

_FLOAT32 = torch.finfo(torch.float32)
_SMALLEST_FLOAT32 = 2.0**-149


@dataclass(frozen=True)
class IntegerFormat(NumberFormat):
    """`intN` and `intN-channel`: an N-bit two's complement code times a float32 scale that lies beside the tensor.

    The scale is max|w| / (2^(N-1) - 1) over the tensor, or over each slice of the first dimension (the output channel)
    of a tensor with two or more dimensions; 1 where all values are 0. Codes are written within ±(2^(N-1) - 1); the code
    -2^(N-1), which only a flip makes, reads as any other. A value reads as the float32 nearest to code x scale. Scales
    stay in the finite range of float32, so that no code reads as infinity; values beyond saturate.

    Two formats of one name compare equal whatever their scales: those are data of one tensor.

    Raises:
        UsageError: N is not between 2 and 16.
    """

    name: str = field(init=False)  # "intN" or "intN-channel"
    per_channel: bool = False  # one scale per slice of the first dimension instead of one per tensor
    scales: Tensor | None = field(default=None, compare=False, repr=False)  # float32, (scales,); None before `fitted`
    words_per_scale: int = field(default=0, compare=False, repr=False)  # neighbouring words that share one scale

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise UsageError(f"number format int{self.bits}: N is {self.bits}", "in intN, N must be 2 to 16, e.g. int8")
        object.__setattr__(self, "name", f"int{self.bits}{'-channel' if self.per_channel else ''}")

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        return {"sign": (self.bits - 1,), "magnitude": tuple(range(self.bits - 1))}

    @property
    def max_code(self) -> int:
        """The largest code written, as an integer; the smallest is its negative."""
        return (1 << self.bits - 1) - 1

    @property
    def side_bits(self) -> int:
        return 0 if self.scales is None else 32 * self.scales.numel()

    def fitted(self, values: Tensor) -> IntegerFormat:
        values = exact_reals(values, self.name)
        refuse(self.name, *count_non_finite(values))
        count = values.shape[0] if self.per_channel and values.dim() >= 2 and values.numel() else 1
        rows = values.reshape(count, -1)
        if values.numel():
            low, high = rows.aminmax(dim=1)
            largest = torch.maximum(-low, high).to(torch.float64)
        else:
            largest = torch.zeros(1, dtype=torch.float64, device=values.device)
        # Room for the code -2^(N-1) below float32's end, and never 0, which nothing could be divided by.
        ceiling = _FLOAT32.max / (self.max_code + 1)
        scales = (largest / self.max_code).clamp_(_SMALLEST_FLOAT32, ceiling).masked_fill_(largest == 0, 1.0)
        return dataclasses.replace(self, scales=scales.to(torch.float32), words_per_scale=rows.shape[1])

    def encode(self, values: Tensor) -> Tensor:
        scales = self._known_scales()
        values = exact_reals(values, self.name)
        refuse(self.name, *count_non_finite(values))
        self._check_size(values, scales)
        rows = values.reshape(len(scales), self.words_per_scale)
        codes = torch.empty(rows.shape, dtype=container_dtype(self.bits), device=values.device)
        divisors = scales.to(values.device, torch.float64)[:, None]
        for tile in tiles(*rows.shape):
            # In float64: a float32 quotient is itself rounded and can land on a tie that is none.
            scaled = rows[tile] / divisors[tile[0]]
            codes[tile] = pack(scaled.round_().clamp_(-self.max_code, self.max_code), self.bits)
        return codes.reshape(values.shape)

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        scales = self._known_scales().to(codes.device)
        integers = unpack(codes, self.bits).to(torch.float32)
        if len(scales) == 1:
            return integers.mul_(scales[0])
        if index is not None:
            return integers.mul_(scales[index.div(self.words_per_scale, rounding_mode="floor")])
        self._check_size(codes, scales)
        return integers.reshape(len(scales), -1).mul_(scales[:, None]).reshape(codes.shape)

    def _known_scales(self) -> Tensor:
        if self.scales is None:
            raise FormatError(f"{self.name} has no scale yet", "call fitted(values) with the tensor first")
        return self.scales

    def _check_size(self, words: Tensor, scales: Tensor) -> None:
        expected = len(scales) * self.words_per_scale
        if words.numel() != expected:
            raise FormatError(
                f"{words.numel()} values do not fit {self.name} scales that were fitted to {expected}",
                "call fitted(values) with this tensor, or decode some of its elements with their index",
            )

    def describe(self) -> FormatRow:
        per = "channel" if self.per_channel else "tensor"
        return FormatRow(
            self.name,
            str(self.bits),
            f"±max|w| of the {per}",
            f"max|w| / {self.max_code}, one float32 scale per {per}",
            "neither NaN nor infinities",
        )


@dataclass(frozen=True)
class NativeIntegerFormat(NumberFormat):
    """A tensor of integers stored as it is: the word is the integer, two's complement where signed.

    `encode` takes that dtype alone and `decode` returns it, bit for bit, so it is the one format whose `value_dtype`
    is not a floating one: float64 could not hold 64-bit integers.
    """

    name: str = field(init=False)  # the safetensors name of the dtype, e.g. "I64"
    bits: int = field(init=False)  # of one stored word: the dtype's width
    native: torch.dtype  # the integer dtype of the tensor

    def __post_init__(self) -> None:
        info = torch.iinfo(self.native)
        object.__setattr__(self, "name", f"{'I' if info.min else 'U'}{info.bits}")
        object.__setattr__(self, "bits", info.bits)

    @property
    def fields(self) -> Mapping[str, tuple[int, ...]]:
        if torch.iinfo(self.native).min == 0:
            return {"magnitude": tuple(range(self.bits))}
        return {"sign": (self.bits - 1,), "magnitude": tuple(range(self.bits - 1))}

    @property
    def value_dtype(self) -> torch.dtype:
        return self.native

    def encode(self, values: Tensor) -> Tensor:
        if values.dtype != self.native:
            dtype = str(values.dtype).removeprefix("torch.")
            raise FormatError(f"holds {dtype} values; native {self.name} stores only its own dtype")
        return values.view(container_dtype(self.bits))

    def decode(self, codes: Tensor, index: Tensor | None = None) -> Tensor:
        return codes.view(self.native)

    def describe(self) -> FormatRow:
        info = torch.iinfo(self.native)
        return FormatRow(self.name, str(self.bits), f"[{info.min}, {info.max}]", "1", "neither NaN nor infinities")
