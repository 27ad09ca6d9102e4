"""Bit positions by name: how a fault law says which bits of a word it may hit."""

from __future__ import annotations

import re
from itertools import pairwise

from faultcli.errors import FaultError
from faultcli.formats.base import NumberFormat

_POSITIONS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_SCALE = re.compile(r"\s*scale\s*(?:(:)|$)")
_END = re.compile(r"(msb|lsb)(?::([0-9]{1,9}))?")


def bit_positions(fmt: NumberFormat, spec: str) -> tuple[int, ...]:
    """Return the bit positions, ascending and without repeats, that `spec` selects in a word of `fmt`.

    Args:
        fmt: the format; bit 0 is the least significant bit of its code.
        spec: `+`-joined parts, each the name of a group of `fmt.fields` (`sign`, `exponent`, ...), one position `N`, a
            range `A-B` with both ends included, `msb` or `lsb`, or `msb:K` or `lsb:K` for the K top or bottom bits.
            Where scales lie in the memory, `scale` or `scale:PART` select bits of those, and none here.

    Raises:
        FaultError: a part is empty, names a group that the format lacks or a position outside the word; the remedy
            says what the format has.
    """
    chosen: set[int] = set()
    for part in spec.split("+"):
        if fmt.scale_format is None or not _SCALE.match(part):
            chosen.update(_part(fmt, part.strip(), spec))
    return tuple(sorted(chosen))


def scale_positions(store: NumberFormat, spec: str) -> tuple[int, ...]:
    """Return the bit positions that `spec` selects in a word of a scale: those of its parts `scale` (all) and
    `scale:PART`; a part without `scale` selects none.

    Raises:
        FaultError: as `bit_positions`.
    """
    chosen: set[int] = set()
    for part in spec.split("+"):
        if match := _SCALE.match(part):
            rest = part[match.end() :].strip()
            chosen.update(_part(store, rest, spec) if match[1] else range(store.bits))
    return tuple(sorted(chosen))


def _part(fmt: NumberFormat, part: str, spec: str) -> tuple[int, ...] | range:
    if part in fmt.fields:
        return fmt.fields[part]
    if match := _POSITIONS.fullmatch(part):
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if first <= last < fmt.bits:
            return range(first, last + 1)
        problem = f"range {part} is empty" if last < first else f"bit {last} is outside the word of {fmt.bits} bits"
    elif match := _END.fullmatch(part):
        count = 1 if match[2] is None else int(match[2])
        if 1 <= count <= fmt.bits:
            return range(fmt.bits - count, fmt.bits) if match[1] == "msb" else range(count)
        problem = f"{part} selects {count} bits of a word of {fmt.bits}"
    else:
        problem = f"there are no bits {part!r}" if part else "a part is empty"
    raise FaultError(f"bits {spec!r} in {fmt.name}: {problem}", f"{fmt.name} has {_groups(fmt)}; {_SYNTAX}")


_SYNTAX = "also N, A-B, msb, lsb, msb:K, lsb:K, and any of these joined by +"


def _groups(fmt: NumberFormat) -> str:
    groups = [f"{group} ({_runs(positions)})" for group, positions in fmt.fields.items()]
    return ", ".join([*groups, *(["scale and scale:PART"] if fmt.scale_format else [])])


def _runs(positions: tuple[int, ...]) -> str:
    """Write ascending positions as runs: (0, 1, 2, 7) is "0-2, 7"."""
    breaks = [at for at, (low, high) in enumerate(pairwise(positions), start=1) if high != low + 1]
    runs = [positions[start:end] for start, end in pairwise([0, *breaks, len(positions)])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
