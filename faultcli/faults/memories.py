"""Where a bit-error rate comes from: memories with a published rate, each with its source and what it leaves out.

A memory is written `NAME[:KEY=VALUE[,KEY=VALUE...]]`, e.g. `sram:years=5`, and stands for the law `bitflip:RATE`: every
stored bit is wrong with that probability, independently. Rates are rounded to three digits; no source knows more.

    1 FIT/Mbit = 1 failure in 1e9 hours of 2^20 bits; a year has 8766 hours. Flips of a bit arrive at the rate r and are
    never written over, so that after t a bit is wrong if it flipped an odd number of times: (1 − exp(−2rt))/2, which is
    rt where it is small.

The drift of phase-change cells is missing on purpose: it moves analogue values and flips no bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from faultcli.errors import UsageError, unknown_name
from faultcli.faults.law import FaultLaw
from faultcli.faults.laws import BitFlip

HOURS_PER_YEAR = 8766
BITS_PER_MBIT = 2**20
YEARS = "years"

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Memory:
    """A kind of memory with a published rate.

    `parameters`: defaults by name; None where a value must be given. `ber_per_bit`: the rate, from all parameters.
    `meaning`: a sentence with the parameters' names in braces. `caveat`: where independent flips are not the truth.
    """

    parameters: Mapping[str, float | None]
    ber_per_bit: Callable[[Parameters], float]
    meaning: str
    source: str
    caveat: str
    example: str


@dataclass(frozen=True)
class Rate:
    """A bit-error rate with what it stands for; `meaning`, `source` and `caveat` are None for a plain number."""

    asked: str
    ber_per_bit: float
    meaning: str | None = None
    source: str | None = None
    caveat: str | None = None

    @property
    def law(self) -> FaultLaw:
        """The faults of a memory with this rate."""
        return BitFlip(self.ber_per_bit)

    @property
    def explanation(self) -> str | None:
        """Everything there is to say about a memory's rate, in one line; None for a plain number."""
        if self.meaning is None:
            return None
        return f"{self.asked} is a BER of {self.ber_per_bit:g}: {self.meaning}. {self.caveat}. Source: {self.source}."


@dataclass(frozen=True)
class RateRange:
    """Bit-error rates from low to high; those of a memory over time have years as another axis."""

    asked: str
    low: float
    high: float
    fit_per_mbit: float | None = None  # of the memory; None: there is no time
    memory: Rate | None = None  # the memory at the end of the range

    def years(self, ber_per_bit: float) -> float | None:
        """Return after how many years the memory has this rate."""
        return None if self.fit_per_mbit is None else years_until(ber_per_bit, self.fit_per_mbit)


def wrong_after(years: float, fit_per_mbit: float) -> float:
    """Return the probability that a bit is wrong after so many years without being written again."""
    return -math.expm1(-2 * years * _flips_per_bit_and_year(fit_per_mbit)) / 2


def years_until(ber_per_bit: float, fit_per_mbit: float) -> float:
    """Return after how many years a bit is wrong with this probability; infinite from 0.5 on."""
    if ber_per_bit >= 0.5:
        return math.inf
    return -math.log1p(-2 * ber_per_bit) / (2 * _flips_per_bit_and_year(fit_per_mbit))


def _flips_per_bit_and_year(fit_per_mbit: float) -> float:
    return fit_per_mbit * 1e-9 * HOURS_PER_YEAR / BITS_PER_MBIT


def _soft_errors(given: Parameters) -> float:
    return wrong_after(given[YEARS], given["fit"])


def _look_up(parameter: str, measured: Parameters) -> Callable[[Parameters], float]:
    def rate(given: Parameters) -> float:
        asked = given[parameter]
        for value, ber in measured.items():
            if float(value) == asked:
                return ber
        raise UsageError(
            f"{asked:g} was not measured, and rates between are not made up",
            f"measured: {parameter}={', '.join(measured)}",
        )

    return rate


_VC707_BITS = 1030 * 36 * 1024  # 1030 block RAMs of 36 Kbit
_VC707_FAULTS = {"0.6": 4, "0.59": 24, "0.58": 146, "0.57": 772, "0.56": 2732, "0.55": 7520, "0.54": 23706}
_RRAM_PER_CELL = {"2": 7.9e-9, "3": 3.8e-3}

MEMORIES: dict[str, Memory] = {
    "sram": Memory(
        {YEARS: None, "fit": 1200},
        _soft_errors,
        "soft errors at {fit} FIT/Mbit, {years} years without rewriting",
        "IEC 61508, which reports 700 to 1200 FIT/Mbit for embedded memories (fit= names another)",
        "Single flips only; a growing part are multi-bit upsets from 65 nm down",
        "sram:years=5",
    ),
    "dram": Memory(
        {YEARS: None, "fit": 70_000},
        _soft_errors,
        "correctable errors in the field at {fit} FIT/Mbit, {years} years without rewriting or ECC",
        "Schroeder, Pinheiro, Weber, SIGMETRICS 2009: 25,000 to 70,000 FIT/Mbit (fit= names another)",
        "An upper bound: the study counts repeats of the same, mostly hard, clustered faults as errors",
        "dram:years=1",
    ),
    "bram-undervolt": Memory(
        {"volt": 0.54},
        _look_up("volt", {volt: count / _VC707_BITS for volt, count in _VC707_FAULTS.items()}),
        "FPGA block RAM of a VC707 at {volt} V instead of 1 V; faults appear from 0.6 V, it stops below 0.54 V",
        "Salami, Unsal, Cristal, MICRO 2018, fault counts in their published data over 1030 × 36 Kbit",
        "Counted with every bit at 1; real faults are far from uniform over the chip and stay where they are",
        "bram-undervolt:volt=0.56",
    ),
    "sram-undervolt": Memory(
        {"volt": None},
        _look_up("volt", {"0.55": 2.3e-3, "0.5": 1.56e-2}),
        "65 nm SRAM at {volt} V instead of 1 V",
        "Sun et al., IEEE Trans. VLSI Systems 25 (2017) 2962",
        "Weak cells stay where they are: the same bits in every read",
        "sram-undervolt:volt=0.55",
    ),
    "rram-mlc": Memory(
        {"bits": None},
        lambda given: _look_up("bits", _RRAM_PER_CELL)(given) / given["bits"],
        "resistive memory with {bits} bits per cell, Gray-coded: a cell read as its neighbour level is one wrong bit",
        "NVMExplorer (nvmFI), rate per cell over its number of bits; with 1 bit per cell it is about 0",
        "Levels in plain binary order would flip several bits of a cell at once, which this law does not",
        "rram-mlc:bits=3",
    ),
}


def parse_rate(text: str) -> Rate:
    """Read a bit-error rate: a number from 0 to 1, or a memory.

    Raises:
        UsageError: neither, or a memory's parameter is unknown, missing or out of range.
    """
    try:
        number = float(text)
    except ValueError:
        _refuse_percent(text)
        memory, given = parse_memory(text)
        return rate_of(text, memory, given)
    if not 0 <= number <= 1:
        raise UsageError(f"--ber {text}: a bit-error rate lies between 0 and 1", _as_fraction(number))
    return Rate(text, number)


def _as_fraction(number: float) -> str:
    if 1 < number <= 100:
        return f"a probability such as 1e-4; if you mean {number:g} %: --ber {number / 100:g}"
    return "a probability such as 1e-4"


def _refuse_percent(text: str) -> None:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        return
    if text.endswith("%"):
        raise UsageError(f"--ber {text}: is a probability, and no percentage", f"try: --ber {percent / 100:g}")


def parse_memory(text: str) -> tuple[Memory, dict[str, str]]:
    """Return the memory that is named, and its parameters as written.

    Raises:
        UsageError: an unknown memory, or options that are not KEY=VALUE with known keys.
    """
    name, colon, options = text.partition(":")
    if not text:
        raise UsageError("--ber: a rate is empty", "lists have commas and no spaces: --ber 1e-5,1e-4")
    if name not in MEMORIES and colon and "=" not in options:
        raise UsageError(f"--ber {text}: is not a number and no memory", f"a law: --fault {text}")
    if name not in MEMORIES:
        known = unknown_name("memory", name, MEMORIES).remedy
        raise UsageError(f"--ber {text}: is not a number and no memory", f"a bit-error rate such as 1e-4; {known}")
    memory = MEMORIES[name]
    given: dict[str, str] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if key not in memory.parameters:
            raise unknown_name(f"parameter of {name}", key, memory.parameters)
        if not equals or not value:
            raise UsageError(f"--ber {text}: {option!r} is not of the form key=value", f"e.g. {memory.example}")
        given[key] = value
    missing = [key for key, default in memory.parameters.items() if default is None and key not in given]
    if missing:
        raise UsageError(f"--ber {text}: needs {missing[0]}=", f"e.g. {memory.example}")
    return memory, given


def rate_of(asked: str, memory: Memory, given: Mapping[str, str]) -> Rate:
    """Return the rate of a memory with these parameters; those left out have their defaults.

    Raises:
        UsageError: a parameter is no number, not above 0, or was not measured.
    """
    values = {key: default for key, default in memory.parameters.items() if default is not None}
    for key, text in given.items():
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = math.nan
        if not (math.isfinite(values[key]) and values[key] > 0):
            raise UsageError(f"--ber {asked}: {key} is not a number above 0", f"e.g. {memory.example}")
    try:
        ber = float(f"{memory.ber_per_bit(values):.3g}")
    except UsageError as error:
        raise UsageError(f"--ber {asked}: {error.message}", error.remedy) from None
    meaning = memory.meaning.format_map({key: f"{value:g}" for key, value in values.items()})
    return Rate(asked, ber, meaning, memory.source, memory.caveat)


def split_rates(text: str) -> list[str]:
    """Split a list at its commas, apart from those between the parameters of a memory: `1e-5,sram:years=5,fit=700` are
    two rates."""
    parts: list[str] = []
    for part in text.split(","):
        if parts and ":" in parts[-1] and "=" in part and ":" not in part:
            parts[-1] += f",{part.strip()}"
        else:
            parts.append(part.strip())
    return parts


_LOWEST = 1e-30  # rate of a range: a flip in more bits than there are


def parse_range(text: str) -> RateRange:
    """Read a range of bit-error rates: `1e-7:1e-2`, or years of a memory, `sram:years=1:20`.

    Raises:
        UsageError: it is neither, or its ends are not in order.
    """
    remedy = "try: faultcli curve 1e-7:1e-2, or faultcli curve sram:years=1:20"
    if text.partition(":")[0] in MEMORIES:
        memory, given = parse_memory(text)
        if YEARS not in memory.parameters:
            raise UsageError(f"{text}: is a memory whose rate does not grow with time", remedy)
        low, colon, high = given.get(YEARS, "").partition(":")
        if not colon:
            raise UsageError(f"{text}: needs years=LOW:HIGH", remedy)
        for end in (low, high):
            rate_of(text, memory, given | {YEARS: end})  # refuses what is no parameter
        fit = float(given.get("fit", memory.parameters["fit"] or 0))
        ends = wrong_after(float(low), fit), wrong_after(float(high), fit)
        found = RateRange(text, *ends, fit, rate_of(text, memory, given | {YEARS: high}))
    else:
        low, _, high = text.partition(":")
        try:
            found = RateRange(text, float(low), float(high))
        except ValueError:
            raise UsageError(f"{text}: is no range LOW:HIGH of bit-error rates", remedy) from None
    if not _LOWEST <= found.low < found.high < 1:
        raise UsageError(f"{text}: the ends of a range rise, between {_LOWEST:g} and 1", remedy)
    return found
