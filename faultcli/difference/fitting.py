"""The fault law that explains the flips best, among those that can be drawn."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from faultcli.difference.assumptions import AssumptionTest
from faultcli.difference.bursts import ACROSS, count_starts, likely_lengths, lines
from faultcli.difference.comparing import Difference, TensorDifference
from faultcli.errors import FaultError, UsageError
from faultcli.faults.law import shortest
from faultcli.faults.selection import Selection, escaped
from faultcli.formats import NATIVE, bit_positions

FEW = 10  # flips below which a number of flips is named, and no rate: its interval would span a factor of four
_MOST_NAMED = 4  # bit positions, or tensors, that are listed one by one
_CLUSTERED = 0.2  # of the flips that have a neighbour, from which on bursts are looked at

# What each kind of law needs no test for: where it is the best one, these alarms are its marks.
_EXPLAINED = {
    "stuck-at-0": {"direction"},
    "stuck-at-1": {"direction"},
    "burst": {"word", "column", "bits", "tensors", "rows", "columns"},
    "zero": {"word", "column", "bits", "tensors", "direction", "rows", "columns"},
}


@dataclass(frozen=True)
class FittedLaw:
    """A law, where it applies, and how well it explains the flips.

    Attributes:
        kind: the law's name.
        shape: the law without its level and without the tensors it is narrowed to; alike for those that only differ in
            these.
        spec: as --fault takes it.
        selection: what else the command line needs, so that the law is drawn over the same tensors.
        log_likelihood: of the flips, natural logarithm.
        parameters: what was chosen: the level, a direction, a length, a way across, bits, tensors.
        bic: −2 log-likelihood + parameters × ln(bits compared) (Schwarz, Ann. Statist. 6, 1978); less is better.
        narrowed: whether bits or tensors are left out, by the names of the assumption tests.
    """

    kind: str
    shape: str
    spec: str
    selection: tuple[str, ...]
    log_likelihood: float
    parameters: int
    bic: float
    narrowed: frozenset[str]


@dataclass(frozen=True)
class LawFit:
    """The best law and the next best of another shape; `unexplained`: assumptions that fail and that it keeps."""

    best: FittedLaw
    runner_up: FittedLaw | None
    unexplained: tuple[str, ...]

    @property
    def worse(self) -> float | None:
        """How much larger the runner-up's BIC is; 10 is a lot (Kass and Raftery, JASA 90, 1995)."""
        return None if self.runner_up is None else self.runner_up.bic - self.best.bic


@dataclass(frozen=True)
class _Cover:
    """Tensors that a law is narrowed to: by what the command line selects, and by globs of the law."""

    tensors: tuple[TensorDifference, ...]
    selection: tuple[str, ...]
    include: tuple[str, ...]
    parameters: int

    @cached_property
    def formats(self) -> dict[str, TensorDifference]:
        return {t.format.name: t for t in self.tensors}


@dataclass(frozen=True)
class _Bits:
    """Bit positions that a law is narrowed to: as `bits=` takes them (None: all), per number format."""

    spec: str | None
    positions: dict[str, tuple[int, ...]]
    parameters: int


def fit(difference: Difference, asked: Selection, tests: Sequence[AssumptionTest]) -> LawFit | None:
    """Return the law that explains the flips best, by BIC; None without flips.

    Each law has its exact likelihood: `bitflip`, `stuck-at-0`, `stuck-at-1` and `zero` that of independent hits among
    the bits (or words) that they can change, `burst` that of its starts, which the flips determine. All are tried on
    all tensors and bits and narrowed to those that were hit. Fewer than 10 flips that nothing tells from independent
    ones are called `flips:K`.

    Args:
        difference: the flips.
        asked: which tensors were compared.
        tests: of the assumptions.
    """
    if not difference.flips:
        return None
    size = math.log(difference.bits)
    lowest: dict[str, FittedLaw] = {}
    for cover in _covers(difference.tensors, asked):
        for bits in _bit_sets(cover):
            for candidate in _laws(cover, bits, size):
                known = lowest.setdefault(candidate.shape, candidate)
                lowest[candidate.shape] = min(known, candidate, key=lambda law: law.bic)
    best, *others = sorted(lowest.values(), key=lambda law: law.bic)
    if best.kind == "bitflip" and not best.narrowed and difference.flips < FEW:
        best = _few(best, difference)
    explained = best.narrowed | _EXPLAINED.get(best.kind, set())
    left = tuple(test.name for test in tests if test.alarm and test.name not in explained)
    return LawFit(best, others[0] if others else None, left)


def _few(best: FittedLaw, difference: Difference) -> FittedLaw:
    spec = ",".join([f"flips:{difference.flips}", *best.spec.split(",")[1:]])
    return FittedLaw(
        "flips", "flips", spec, best.selection, best.log_likelihood, best.parameters, best.bic, best.narrowed
    )


def _covers(tensors: Sequence[TensorDifference], asked: Selection) -> Iterator[_Cover]:
    """Yield sets of tensors that hold all flips: those compared, and what narrows them."""
    globs = tuple(word for glob in asked.include for word in ("--include", glob))
    globs += tuple(word for glob in asked.exclude for word in ("--exclude", glob))
    plain = [t for t in tensors if t.info.dtype not in NATIVE]  # which no law is drawn over
    if plain and _holds_all([t for t in tensors if t not in plain], tensors):
        tensors = [t for t in tensors if t.info.dtype in NATIVE]
        globs += tuple(word for t in plain for word in ("--exclude", escaped(t.name)))
    targets = ["any", "all", "weights"]
    wide: list[_Cover] = []
    for target in targets[targets.index(asked.target) :]:
        chosen = tuple(t for t in tensors if _in_target(t, target))
        if len(chosen) not in [len(cover.tensors) for cover in wide] and _holds_all(chosen, tensors):
            wide.append(_Cover(chosen, ("--target", target, *globs), (), int(len(wide) > 0)))
    yield from wide  # first: of two that are alike, one without globs is kept
    for cover in wide:
        for include in _includes(cover.tensors):
            inside = tuple(t for t in cover.tensors if any(fnmatch.fnmatchcase(t.name, glob) for glob in include))
            if _holds_all(inside, tensors) and len(inside) < len(cover.tensors):
                yield _Cover(inside, cover.selection, include, cover.parameters + len(include))


def _in_target(t: TensorDifference, target: str) -> bool:
    try:
        return bool(Selection(target).names([t.info]))
    except UsageError:
        return False


def _holds_all(some: Sequence[TensorDifference], tensors: Sequence[TensorDifference]) -> bool:
    names = {t.name for t in some}
    return all(t.name in names for t in tensors if len(t.faults.words))


def _includes(tensors: Sequence[TensorDifference]) -> Iterator[tuple[str, ...]]:
    """Yield globs for the tensors that were hit: their names, what these begin with, what they end with."""
    hit = [escaped(t.name) for t in tensors if len(t.faults.words)]
    if any("," in name for name in hit):  # which separates the options of a law
        return
    if len(hit) <= _MOST_NAMED:
        yield tuple(hit)
    head, tail = _common([name.split(".") for name in hit]), _common([name.split(".")[::-1] for name in hit])[::-1]
    if head:
        yield (".".join([*head, "*"]),)
    if tail:
        yield (".".join(["*", *tail]),)
    if head and tail:
        yield (".".join([*head, "*", *tail]),)


def _common(names: Sequence[Sequence[str]]) -> list[str]:
    """Return the parts that all names begin with, without the last part of any."""
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*(name[:-1] for name in names), strict=False))
    return [parts[0] for parts in shared]


def _bit_sets(cover: _Cover) -> Iterator[_Bits]:
    """Yield sets of bit positions that hold all flips: all bits, fields of the formats, ranges, single bits."""
    formats = {name: t.format for name, t in cover.formats.items()}
    everything = {name: tuple(range(format.bits)) for name, format in formats.items()}
    yield _Bits(None, everything, 0)
    hit = {name: _hit_bits(cover, name) for name in formats}
    together = sorted(set().union(*hit.values()))
    low, high = together[0], together[-1]
    top = max(format.bits - min(hit[name], default=format.bits) for name, format in formats.items())
    fields = sorted({field for format in formats.values() for field in format.fields})
    specs = [(field, 1) for field in fields]
    specs += [("+".join(pair), 2) for pair in itertools.combinations(fields, 2)]
    specs += [
        (f"msb:{top}", 1),
        (f"lsb:{high + 1}", 1),
        (f"{low}-{high}" if low < high else str(low), 1 + (low < high)),
    ]
    if len(together) <= _MOST_NAMED:
        specs.append(("+".join(map(str, together)), len(together)))
    seen = [everything]
    for spec, parameters in sorted(specs, key=lambda item: item[1]):
        try:
            positions = {name: bit_positions(format, spec) for name, format in formats.items()}
        except FaultError:
            continue
        if positions not in seen and all(hit[name] <= set(positions[name]) for name in formats):
            seen.append(positions)
            yield _Bits(spec, positions, parameters)


def _hit_bits(cover: _Cover, format: str) -> set[int]:
    hit: set[int] = set()
    for t in cover.tensors:
        if t.format.name == format:
            hit.update(np.flatnonzero(t.flips.sum(axis=0)).tolist())
    return hit


def _laws(cover: _Cover, bits: _Bits, size: float) -> Iterator[FittedLaw]:
    """Yield the laws that can have made these flips, with their most likely levels."""
    eligible = [bits.positions[t.format.name] for t in cover.tensors]
    columns = [list(positions) for positions in eligible]
    stored = [
        sum(int(t.stored[held][at].sum()) for t, at in zip(cover.tensors, columns, strict=True)) for held in (0, 1)
    ]
    flipped = [int(sum(t.flips[held].sum() for t in cover.tensors)) for held in (0, 1)]
    narrowed = frozenset(
        name for name, left_out in (("bits", bits.spec is not None), ("tensors", cover.parameters > 0)) if left_out
    )

    def law(kind: str, options: Sequence[str], chosen: int, hits: int, places: int) -> FittedLaw:
        within = [f"bits={bits.spec}"] if bits.spec is not None else []
        level = shortest(float(f"{hits / places:.3g}"))
        spec = ",".join([f"{kind}:{level}", *options, *within, *(f"include={glob}" for glob in cover.include)])
        likelihood = _log_likelihood(hits, places)
        parameters = 1 + chosen + bits.parameters + cover.parameters
        shape = ",".join([kind, *options, *within])
        bic = -2 * likelihood + parameters * size
        return FittedLaw(kind, shape, spec, cover.selection, likelihood, parameters, bic, narrowed)

    yield law("bitflip", (), 0, sum(flipped), sum(stored))
    for held in (0, 1):
        if flipped[held] and not flipped[1 - held]:
            yield law(f"stuck-at-{1 - held}", (), 1, flipped[held], stored[held])
    if bits.spec is None and all((t.golden == t.faults.masks).all() for t in cover.tensors):
        words = sum(len(t.faults.words) for t in cover.tensors)
        yield law("zero", (), 1, words, sum(t.nonzero for t in cover.tensors))
    for across in ACROSS:
        found = lines(cover.tensors, eligible, across)
        first, _ = found.runs
        if len(found.at) - len(first) < _CLUSTERED * len(found.at):
            continue
        for length in likely_lengths(found):
            starts = count_starts(found, length, cut_off=across != "word")
            places = sum(
                t.layout.words * (max(0, len(at) - length + 1) if across == "word" else len(at))
                for t, at in zip(cover.tensors, eligible, strict=True)
            )
            if starts is not None and starts <= places:
                options = [f"length={length}", *([f"across={across}"] if across != "word" else [])]
                yield law("burst", options, 1 + (across != "word"), starts, places)


def _log_likelihood(hits: int, places: int) -> float:
    """Return the log-likelihood of independent hits at their own rate."""
    if hits in (0, places):
        return 0.0
    rate = hits / places
    return hits * math.log(rate) + (places - hits) * math.log1p(-rate)
