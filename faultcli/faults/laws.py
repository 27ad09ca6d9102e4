"""Fault laws: how the faults of one trial are drawn over regions of stored words.

A region's faults depend on the seed, the trial, the law and that region's own name and layout; never on which other
regions are selected, their order, the device or the number of workers. The one exception is `flips:K`, whose K faults
have to be shared out over whatever is selected.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from faultcli.errors import FaultError, unknown_name
from faultcli.faults.columns import Columns
from faultcli.faults.law import FaultLaw, Region, Site, StreamOf
from faultcli.faults.maps import NO_FAULTS, FaultMap, WordFaults, combine
from faultcli.faults.measured import Measured, is_digest
from faultcli.faults.one_bit import AnyBit, EachLayer
from faultcli.faults.rate import RateLaw, hits
from faultcli.faults.sampling import Stream, bernoulli_positions, distinct_positions, first_events
from faultcli.foreign import whole_number


@dataclass(frozen=True)
class BitFlip(RateLaw):
    """Every eligible bit flips independently with probability `rate`."""

    name: ClassVar[str] = "bitflip"
    unit: ClassVar[str] = "probability that a bit flips (BER), 0 to 1"

    @property
    def ber(self) -> float | None:
        return self.rate if self.bits is None else None

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        return self.hit_bits(region, stream)

    def expected_flips(self, regions: Sequence[Site]) -> float | None:
        return self.rate * sum(region.layout.words * len(self.eligible(region)) for region in regions)


@dataclass(frozen=True)
class Flips(FaultLaw):
    """Exactly `count` different bits flip, spread evenly over everything selected."""

    name: ClassVar[str] = "flips"
    unit: ClassVar[str] = "number of bits that flip, a whole number from 0"

    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise FaultError(f"flips:{self.count}: a number of flips is 0 or more", "flips:1")

    @property
    def level(self) -> float:
        return self.count

    def quotas(self, sites: Mapping[str, int], stream_of: StreamOf) -> Mapping[str, int]:
        total = sum(sites.values())
        if self.count > total:
            raise FaultError(
                f"{self.spec}: asks for {self.count} flips, only {total} bits are at risk", f"flips:{total} at the most"
            )
        if self.count == 0:
            return dict.fromkeys(sites, 0)
        # Every bit has a random time to fail; the `count` earliest are hit. Each region lists its earliest times alone,
        # a few more than its share; should one be cut off too early, it lists more.
        depth = {name: _likely_most(self.count, n / total, n) for name, n in sites.items()}
        while True:
            times = {name: first_events(stream_of(name, "clock"), n, depth[name]) for name, n in sites.items()}
            everything = np.concatenate(list(times.values()))
            last = np.partition(everything, self.count - 1)[self.count - 1] if len(everything) >= self.count else np.inf
            short = [n for n in sites if depth[n] < min(self.count, sites[n]) and not (times[n] > last).any()]
            if not short:
                return {name: int((t <= last).sum()) for name, t in times.items()}
            for name in short:
                depth[name] = min(self.count, sites[name], 2 * depth[name])

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        eligible = self.eligible(region)
        if not quota or not eligible:
            return NO_FAULTS
        positions = distinct_positions(stream, region.layout.words * len(eligible), quota)
        return combine(*hits(np.sort(positions), eligible))

    def expected_flips(self, regions: Sequence[Site]) -> float | None:
        return float(self.count)


@dataclass(frozen=True)
class AnyFlips(FaultLaw):
    """Bit flips, as many as each trial is given: what a curve over bit-error rates is measured with. `exactly` is the
    law of one trial; this one only stands for all of them."""

    name: ClassVar[str] = "flips"
    unit: ClassVar[str] = "any"

    def __post_init__(self) -> None:
        if self.include or self.bits is not None:
            raise FaultError(f"{self.spec}: a curve is drawn over all bits of the memory", "narrow it with --include")

    @property
    def level(self) -> float:
        return math.nan

    @property
    def key(self) -> str:
        return f"{self.name}:{self.unit}"

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        raise FaultError(
            f"{self.spec}: names no number of flips", "try: flips:3, or faultcli curve LOW:HIGH for every rate"
        )


def _likely_most(count: int, share: float, sites: int) -> int:
    mean = count * share
    return min(count, sites, math.ceil(mean + 8 * math.sqrt(mean)) + 16)


@dataclass(frozen=True)
class StuckAt(RateLaw):
    """Every eligible bit is stuck with probability `rate`; only bits that held the other value change."""

    stuck_value: ClassVar[int]

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        words, masks = self.hit_bits(region, stream)
        held = region.codes(words)
        return combine(words, masks & (~held if self.stuck_value else held))


class StuckAt0(StuckAt):
    """Every eligible bit reads 0 with probability `rate`."""

    name: ClassVar[str] = "stuck-at-0"
    unit: ClassVar[str] = "probability that a bit is stuck at 0, 0 to 1"
    stuck_value: ClassVar[int] = 0


class StuckAt1(StuckAt):
    """Every eligible bit reads 1 with probability `rate`."""

    name: ClassVar[str] = "stuck-at-1"
    unit: ClassVar[str] = "probability that a bit is stuck at 1, 0 to 1"
    stuck_value: ClassVar[int] = 1


@dataclass(frozen=True)
class Burst(RateLaw):
    """A burst starts at every eligible bit with probability `rate` and flips `length` bits in a row.

    `across=word`: the burst stays inside its word (starts too near the word's last eligible bit are not drawn, so every
    burst has its full length). `across=row`: it runs on into the next word, as in a physical row of cells; at the
    tensor's end it is cut off. `across=column`: it hits the same bit of `length` neighbouring words. Bits hit by two
    bursts flip twice, that is, not at all.
    """

    name: ClassVar[str] = "burst"
    unit: ClassVar[str] = "probability that a burst starts at a bit, 0 to 1"

    length: int = 2
    across: str = "word"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise FaultError(f"{self.spec}: a burst is 1 bit long or longer", "burst:1e-5,length=4")
        if self.across not in ("word", "row", "column"):
            raise unknown_name("direction of a burst", self.across, ("word", "row", "column"))

    def _options(self) -> list[str]:
        return [f"length={self.length}", *([f"across={self.across}"] if self.across != "word" else [])]

    def _starts(self, eligible: tuple[int, ...]) -> tuple[int, ...]:
        return eligible[: max(0, len(eligible) - self.length + 1)] if self.across == "word" else eligible

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        eligible = self.eligible(region)
        starts = self._starts(eligible)
        if not starts:
            return NO_FAULTS
        width = len(eligible)
        drawn = bernoulli_positions(stream, region.layout.words * len(starts), self.rate)
        words, which = np.divmod(drawn, len(starts))
        step = width if self.across == "column" else 1
        hit = (words * width + which)[:, None] + step * np.arange(self.length)[None, :]
        hit = np.sort(hit[hit < region.layout.words * width], axis=None)
        return combine(*hits(hit, eligible))

    def expected_flips(self, regions: Sequence[Site]) -> float | None:
        starts = sum(region.layout.words * len(self._starts(self.eligible(region))) for region in regions)
        return self.rate * self.length * starts  # to first order: overlaps and cut ends are not counted


@dataclass(frozen=True)
class Zero(RateLaw):
    """Every weight is lost and reads 0 with probability `rate` (pruned or lost weights). It is lost after error
    correction, which neither helps nor hurts; the words that protect it are left alone."""

    name: ClassVar[str] = "zero"
    on_values: ClassVar[bool] = True
    unit: ClassVar[str] = "probability that a value is set to 0, 0 to 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole_words(self)

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        if not region.holds_values:
            return NO_FAULTS
        words = bernoulli_positions(stream, region.layout.words, self.rate)
        return combine(words, region.decoded(words) ^ np.uint64(region.encode_zero()))


@dataclass(frozen=True)
class Gaussian(FaultLaw):
    """Noise of standard deviation `sigma`, in the unit of the stored values (c·w behind a scale), is added to every
    value and rounded to the format. It comes after error correction, which neither helps nor hurts against noise; a
    scale divides it, a guard or posterior sees it. Every word changes, so this law alone costs O(weights) per trial."""

    name: ClassVar[str] = "gaussian"
    on_values: ClassVar[bool] = True
    unit: ClassVar[str] = "standard deviation of the noise, in units of the stored values"

    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise FaultError(f"gaussian:{self.sigma:g}: a standard deviation is 0 or more", "gaussian:0.1")
        _check_whole_words(self)

    @property
    def level(self) -> float:
        return self.sigma

    def draw_region(self, region: Region, stream: Stream, quota: int | None) -> WordFaults:
        if not region.holds_values or self.sigma == 0:
            return NO_FAULTS
        noisy = region.encode_noisy(self.sigma * stream.normal(region.layout.words))
        return combine(np.arange(region.layout.words, dtype=np.int64), region.decoded(slice(None)) ^ noisy)


def _check_whole_words(law: FaultLaw) -> None:
    if law.bits is not None:
        raise FaultError(f"{law.spec}: replaces whole values, so it takes no bits=", "leave bits= out")


LAWS: dict[str, type[FaultLaw]] = {
    law.name: law for law in (BitFlip, Flips, StuckAt0, StuckAt1, Burst, Columns, Zero, Gaussian, Measured)
}


def parse_law(spec: str) -> FaultLaw:
    """Build a law from its text, e.g. `bitflip:1e-4,bits=exponent,include=conv*`.

    Raises:
        UsageError, FaultError: the law or an option is unknown, or a number is malformed or out of range.
    """
    head, *options = spec.split(",")
    name, colon, level = head.partition(":")
    if spec == AnyBit.spelling:
        return AnyBit()
    if name == EachLayer.name and spec.endswith(EachLayer.ending):
        return EachLayer(_number(spec, level))
    law = AnyFlips if (name, level) == (AnyFlips.name, AnyFlips.unit) else LAWS.get(name)
    if law is None and name == "ber":
        raise FaultError(f"{spec}: unknown fault law 'ber'", f"bitflip:{level or 'P'}; or --ber {level or 'P'}")
    if law is None:
        raise unknown_name("fault law", name, LAWS)
    fields = {f.name: f for f in dataclasses.fields(law) if f.init}
    if not colon or not level:
        kind = "file" if law is Measured else "number"
        raise FaultError(f"{spec}: {name} needs a {kind}", f"try: {name}:VALUE, the {law.unit}")
    own = [f for f in fields if f not in ("include", "bits")]
    others = own[1:]
    arguments: dict[str, object] = {first: _READERS[str(fields[first].type)](spec, level) for first in own[:1]}
    globs: list[str] = []
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not value:
            problem = f"{spec}: {option!r} is not of the form key=value"
            raise FaultError(problem, f"a --fault for every level, or options: {name}:{level},bits=exponent")
        if key == "include":
            globs.append(value)
        elif key == "bits":
            arguments["bits"] = value
        elif key in others:
            arguments[key] = _READERS[str(fields[key].type)](spec, value)
        else:
            raise unknown_name(f"option of {name}", key, [*others, "include", "bits"])
    return law(**arguments, include=tuple(globs))  # type: ignore[arg-type]


def _number(spec: str, text: str) -> float:
    try:
        return float(text) + 0.0  # -0 is 0
    except ValueError:
        raise FaultError(f"{spec}: {text!r} is not a number", _instead(spec, text)) from None


def _instead(spec: str, text: str) -> str:
    """Say what to write for a text that is no number: a percentage has its fraction."""
    name = spec.partition(":")[0]
    try:
        return f"it is a fraction, and no percentage: {name}:{float(text.removesuffix('%')) / 100:g}"
    except ValueError:
        return f"a number such as 1e-4: {name}:1e-4"


def _whole_number(spec: str, text: str) -> int:
    number = whole_number(text)
    if number is None:
        raise FaultError(
            f"{spec}: {text!r} is not a whole number, or beyond 64 bits",
            f"a number such as 3: {spec.partition(':')[0]}:3",
        )
    return number


_READERS: dict[str, Callable[[str, str], object]] = {  # by the type of a law's field
    "float": _number,
    "int": _whole_number,
    "str": lambda spec, text: text,
    "FaultMap | str": lambda spec, text: text if is_digest(text) else FaultMap.load(Path(text)),
}
