"""Guards: what is read but cannot have been written is known to be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.formats.integers import NativeIntegerFormat
from faultcli.protect.base import Constants, Fitted, Protection, Words, Written, floats, per_element, rounded_up

BOUND_BITS = 16  # one bound is a bfloat16, rounded up


@dataclass(frozen=True)
class Guard(Protection):
    """On read, a value beyond the largest magnitude written is replaced: by 0, or by that magnitude (`clamp`).

    NaN reads as 0 either way. A scale in front that keeps |c·w| below 2 makes this a check of the exponent's top bit.
    """

    name: ClassVar[str] = "guard"
    examples: ClassVar[str] = "guard, guard=clamp, guard=zero:channel"
    overhead: ClassVar[str] = "16 bits per tensor or channel"
    rank: ClassVar[int] = Protection.ESTIMATE
    summary: ClassVar[str] = (
        "keeps the largest magnitude per tensor (or channel); what reads larger is 0 (or clamped); nothing else stored"
    )

    mode: str = "zero"
    granularity: str = "tensor"

    @classmethod
    def parse(cls, value: str | None) -> Self:
        """Read `zero`, `clamp`, `channel` or `MODE:channel`."""
        parts = (value or "zero").split(":")
        if parts[0] in ("tensor", "channel"):
            parts = ["zero", *parts]
        mode, granularity = (*parts, "tensor")[:2]
        if len(parts) > 2 or mode not in ("zero", "clamp") or granularity not in ("tensor", "channel"):
            raise UsageError(
                f"guard={value}: a guard is zero or clamp, per tensor or channel", "try: guard=zero:channel"
            )
        return cls(mode, granularity)

    @property
    def by_row(self) -> bool:
        return self.granularity == "channel"

    @property
    def text(self) -> str:
        parts = [self.mode] if self.mode != "zero" or self.granularity != "tensor" else []
        parts += [self.granularity] if self.granularity != "tensor" else []
        return "guard" + ("=" if parts else "") + ":".join(parts)

    def fit(self, written: Written) -> Fitted:
        if isinstance(written.format, NativeIntegerFormat):
            raise UsageError(
                f"guard: needs numbers, not the integers of {written.format.name}",
                "leave guard out, or leave integers out with --target weights",
            )
        per_channel = self.granularity == "channel" and written.channels > 1
        bounds, before = torch.zeros(written.channels if per_channel else 1, dtype=written.format.value_dtype), 0
        for stored in written.stored_parts():
            finite = torch.where(stored.isfinite(), stored.abs(), 0)
            flat = finite.reshape(len(stored) if per_channel else 1, -1)
            own = bounds[before : before + len(flat)]
            own.copy_(torch.maximum(own, flat.amax(dim=1)) if flat.shape[1] else own)
            before += len(flat) if per_channel else 0
        return _FittedGuard(self.mode, rounded_up(bounds), written.shape)

    def restored(self, constants: Constants, empty: Written, shape: tuple[int, ...]) -> Fitted:
        channels = max(1, shape[0]) if self.granularity == "channel" and len(shape) >= 2 else 1
        return _FittedGuard(self.mode, floats(constants["bounds"], channels), shape)


class _FittedGuard(Fitted):
    def __init__(self, mode: str, bounds: Tensor, shape: tuple[int, ...]) -> None:
        self.mode, self.bounds, self.shape = mode, bounds, shape
        self.side_bits = BOUND_BITS * len(bounds)

    def of_rows(self, rows: slice, shape: tuple[int, ...]) -> _FittedGuard:
        own = self.bounds[rows] if len(self.bounds) > 1 else self.bounds
        return _FittedGuard(self.mode, own, (rows.stop - rows.start, *shape[1:]))

    def constants(self) -> Constants:
        return {"bounds": self.bounds.float()}

    def read_values(self, values: Tensor, words: Words, index: Tensor | None, units: Tensor | None) -> Tensor:
        bounds = self.bounds.to(values.dtype).clamp(max=torch.finfo(values.dtype).max)  # bfloat16 ends before float32
        bound = per_element(bounds, values, self.shape, index)
        if self.mode == "clamp":
            return torch.where(values.isnan(), 0, torch.minimum(torch.maximum(values, -bound), bound))
        return torch.where(values.abs() <= bound, values, 0)  # false for NaN
