"""What the reader in C has to know of a tensor: the fields of its `faultcli_tensor`, but for where the regions lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from faultcli.errors import UsageError
from faultcli.formats import NumberFormat, ScaledFormat
from faultcli.formats.codebook import CodebookFormat
from faultcli.formats.exponent import ExponentFormat
from faultcli.formats.fixed import FixedFormat
from faultcli.formats.floats import FloatFormat, Specials
from faultcli.formats.integers import NativeIntegerFormat, SignedInteger
from faultcli.hardened.device.tables import bch_table, secded_table
from faultcli.hardened.layout import container_bits
from faultcli.protect.base import Words, zero_word
from faultcli.protect.chain import Chain
from faultcli.protect.protected_tensor import StoredTensor

Field: TypeAlias = int | str | NDArray[Any]  # a number, a constant of the header, a table

_READS_AS = {
    torch.float64: "FAULTCLI_F64",
    torch.float32: "FAULTCLI_F32",
    torch.float16: "FAULTCLI_F16",
    torch.bfloat16: "FAULTCLI_BF16",
    torch.float8_e4m3fn: "FAULTCLI_F8_E4M3",
    torch.float8_e5m2: "FAULTCLI_F8_E5M2",
}
_SPECIALS = {Specials.IEEE: "FAULTCLI_IEEE", Specials.FN: "FAULTCLI_FN", Specials.NONE: "FAULTCLI_FINITE"}


@dataclass(frozen=True)
class MemoryRegion:
    """Words that lie in the memory: a region as fault maps know it, and the field that says where it begins."""

    name: str
    words: Words
    bits: int
    place: str  # the field of the description, e.g. "words_at"

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return -(-len(self.words) * container_bits(self.bits) // 8)


@dataclass(frozen=True)
class Description:
    """The fields of a tensor's `faultcli_tensor` by their names in the header; what is absent is 0.

    `regions`: what lies in the memory, in order. `scales`: the description of its scales, where those do, too.
    """

    name: str
    fields: dict[str, Field]
    regions: tuple[MemoryRegion, ...] = field(repr=False)
    scales: Description | None = None

    @property
    def all_regions(self) -> Iterator[MemoryRegion]:
        """The tensor's own regions, then those of its scales."""
        yield from self.regions
        if self.scales is not None:
            yield from self.scales.regions


def check_readable(chain: Chain) -> None:
    """Raise a UsageError if a protection of a chain is none that the reader knows; before anything is written."""
    for name in (link.name for links in chain.all_links for link in links):
        if name not in _LINKS:
            known = ", ".join(_LINKS)
            raise UsageError(
                f"protection {name}: the reader in C does not know it",
                f"leave it out of the chain; of a plan: look at others with --candidate; it knows {known}",
            )


def describe(stored: StoredTensor) -> Description:
    """Return what the reader has to know of a tensor.

    Raises:
        UsageError: a number format or protection is none that the reader knows (it was added by an extension), or the
            tensor comes from a checkpoint that is scaled already; the tensor is named.
    """
    try:
        fields: dict[str, Field] = {"elements": stored.elements, "bits": stored.format.bits}
        fields |= _number(stored.format) | _scaling(stored.format) | _result(stored)
        for name, link in zip(stored.names, stored.links, strict=True):
            if name not in _LINKS:
                raise UsageError(f"protection {name}: the reader in C does not know it", "leave it out of the chain")
            fields |= _LINKS[name](link, stored)
    except UsageError as error:
        raise UsageError(f"tensor {stored.name!r}: {error.message}", error.remedy) from None
    scales = describe(stored.scales) if stored.scales is not None else None
    return Description(stored.name, fields, tuple(_regions(stored, fields)), scales)


def _regions(stored: StoredTensor, fields: dict[str, Field]) -> Iterator[MemoryRegion]:
    bits = stored.format.bits
    yield MemoryRegion(stored.name, stored.data, bits, "words_at")
    if any(link.fills_padding for link in stored.links) and len(stored.words) > stored.elements:
        padding = stored.words[stored.elements :]
        fields["padding"] = len(padding)
        yield MemoryRegion(f"{stored.name}#padding", padding, bits, "padding_at")
    for link, name, checks in zip(stored.links, stored.names, stored.checks, strict=True):
        if link.per_block:
            yield MemoryRegion(f"{stored.name}#{name}", checks.reshape(-1), link.check_bits, "checks_at")


def _number(format: NumberFormat) -> dict[str, Field]:
    element = format.element
    if isinstance(element, NativeIntegerFormat):
        return {"number": "FAULTCLI_INTEGER"}
    if isinstance(element, FixedFormat):
        return {"number": "FAULTCLI_FIXED", "fraction_bits": element.fraction_bits}
    if isinstance(element, SignedInteger):
        return {"number": "FAULTCLI_FIXED"}
    if isinstance(element, CodebookFormat):
        return {"number": "FAULTCLI_LEVELS", "levels": np.array(element.levels, dtype=np.float32)}
    if isinstance(element, ExponentFormat):
        return {"number": "FAULTCLI_POWER"}
    if isinstance(element, FloatFormat) and (element.bits <= 16 or element.bits in (32, 64)):
        return {
            "number": "FAULTCLI_FLOAT",
            "exponent_bits": element.exponent_bits,
            "mantissa_bits": element.mantissa_bits,
            "specials": _SPECIALS[element.specials],
            "bias": element.bias,
        }
    raise UsageError(f"number format {format.name}: the reader in C does not know it", "choose one that is built in")


def _scaling(format: NumberFormat) -> dict[str, Field]:
    if not isinstance(format, ScaledFormat):
        return {}
    assert format.scales is not None
    row = max(1, format.row_words)
    groups = max(1, -(-format.row_words // format.group)) if format.group else 1
    fields: dict[str, Field] = {"row_words": row, "group": format.group or 0, "row_groups": groups}
    return fields if format.at_risk else fields | {"scale_values": format.scales.numpy().astype(np.float32)}


def _result(stored: StoredTensor) -> dict[str, Field]:
    """What values are computed in, and what they are rounded to at last."""
    value = stored.format.value_dtype
    if not value.is_floating_point:
        return {"reads_as": "FAULTCLI_NO_NUMBER"}
    return {"wide": int(value == torch.float64), "reads_as": _READS_AS[stored.dtype or value]}


def _per(constants: int, stored: StoredTensor) -> int:
    """Return how many values share a constant; 0 where there is one for all."""
    return 0 if constants == 1 else max(1, math.prod(stored.shape[1:]))


def _scale(link: Any, stored: StoredTensor) -> dict[str, Field]:
    known = link.factors
    if known.multiplied is not None:
        raise UsageError(
            "lies in a checkpoint that is scaled already, whose factors this reader does not divide by",
            "undo the scaling first, and write scale=… into the chain",
        )
    return {"factors": known.values.float().numpy(), "factor_words": _per(len(known.values), stored)}


def _guard(link: Any, stored: StoredTensor) -> dict[str, Field]:
    dtype = stored.format.value_dtype
    bounds = link.bounds.to(dtype).clamp(max=torch.finfo(dtype).max).numpy()
    fields: dict[str, Field] = {"guard": f"FAULTCLI_GUARD_{link.mode.upper()}"}
    name = "wide_bounds" if dtype == torch.float64 else "bounds"
    return fields | {name: bounds, "bound_words": _per(len(bounds), stored)}


def _posterior(link: Any, stored: StoredTensor) -> dict[str, Field]:
    table = link.table.numpy().reshape(-1)
    once = not link.dropped and not isinstance(stored.format, ScaledFormat)  # rounded once: float says all
    fields: dict[str, Field] = {"posterior_dropped": link.dropped}
    fields |= {"posterior": table.astype(np.float32)} if once else {"wide_posterior": table}
    if len(link.class_of_group) > 1:
        classes = link.class_of_group.numpy().astype(np.uint16)
        fields |= {"classes": classes, "class_words": link.words_per_group}
    return fields


def _mset(link: Any, stored: StoredTensor) -> dict[str, Field]:
    return {"link": "FAULTCLI_MSET", "mset_bit": link.position}


def _cep(link: Any, stored: StoredTensor) -> dict[str, Field]:
    return {"link": "FAULTCLI_CEP", "cep_data": link.data}


def _inplace(link: Any, stored: StoredTensor) -> dict[str, Field]:
    return {
        "link": "FAULTCLI_INPLACE",
        "bch_t": link.code.t,
        "bch_checks": link.code.check_bits,
        "bch_table": bch_table(link.code, link.blocks.layout.places, stored.format.bits),
        "lost_table": link.lost_table,
    }


def _parity(link: Any, stored: StoredTensor) -> dict[str, Field]:
    return {"check": "FAULTCLI_PARITY", "check_bits": 1, "zero": zero_word(stored.format)}


def _tmr(link: Any, stored: StoredTensor) -> dict[str, Field]:
    return {"check": "FAULTCLI_TMR", "check_bits": link.check_bits}


def _secded(link: Any, stored: StoredTensor) -> dict[str, Field]:
    return {
        "check": "FAULTCLI_SECDED_CODE",
        "check_bits": link.check_bits,
        "secded_block": link.block,
        "secded_keeps": int(link.zero is None),
        "secded_table": secded_table(link.columns),
        "zero": link.zero or 0,
    }


_LINKS = {
    "scale": _scale,
    "guard": _guard,
    "posterior": _posterior,
    "mset": _mset,
    "cep": _cep,
    "inplace": _inplace,
    "parity": _parity,
    "secded": _secded,
    "tmr": _tmr,
}
