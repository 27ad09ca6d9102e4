"""Maps drawn from a law give that law back, from some flips on, and at its level."""

from __future__ import annotations

import re

import numpy as np
import pytest
from difference.flipped_models import drawn, floats, integers, with_counters

from faultcli.difference import Difference, check_assumptions, fit
from faultcli.difference.bursts import Lines, count_starts
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import Selection

MODELS = {"floats": floats(), "integers": integers(), "counters": with_counters()}
SEEDS = 7  # a law that comes back wrongly every other time fails in 94 % of all runs, one in three in 74 %

# Drawn law, target it is drawn over, and the law without its level and the target that come back; all but one of SEEDS.
FLOATS = {
    "bitflip:3e-5": "bitflip",
    "bitflip:1e-3": "bitflip",
    "flips:3": "flips",
    "flips:37": "bitflip",
    "stuck-at-0:1e-4": "stuck-at-0",
    "stuck-at-0:3e-2": "stuck-at-0",
    "stuck-at-1:1e-4": "stuck-at-1",
    "stuck-at-1:1e-2": "stuck-at-1",
    "burst:5e-6,length=4": "burst,length=4",
    "burst:1e-3,length=4": "burst,length=4",
    "burst:1e-2,length=2": "burst,length=2",
    "burst:3e-4,length=3,across=row": "burst,length=3,across=row",
    "burst:3e-4,length=6,across=column": "burst,length=6,across=column",
    "burst:1e-4,length=2,bits=sign+exponent": "burst,length=2,bits=msb:9",
    "bitflip:1e-3,bits=exponent": "bitflip,bits=exponent",
    "bitflip:1e-3,bits=lsb:8": "bitflip,bits=lsb:8",
    "stuck-at-1:1e-3,bits=exponent": "stuck-at-1,bits=exponent",
    "bitflip:1e-3,include=fc.weight": "bitflip,include=fc.weight",
    "bitflip:1e-3,include=layer*": "bitflip,include=layer.*",
    "zero:1e-3": "zero",
}
CASES = [("floats", law, "any", f"{back}@any") for law, back in FLOATS.items()]
CASES += [
    ("integers", "bitflip:1e-3", "any", "bitflip@any"),
    ("integers", "stuck-at-0:1e-2", "any", "stuck-at-0@any"),
    ("integers", "burst:1e-3,length=3", "any", "burst,length=3@any"),
    ("counters", "bitflip:1e-3", "any", "bitflip@any"),
    ("counters", "bitflip:1e-3,bits=exponent", "weights", "bitflip,bits=exponent@all"),
    ("counters", "bitflip:1e-2,include=head*", "any", "bitflip,include=head.weight@any"),
]


def narrowed(spec: str) -> str:
    return re.sub(r"^([\w-]+):[^,]+", r"\1", spec)


@pytest.mark.parametrize(("model", "law", "target", "expected"), CASES, ids=[f"{m} {law}" for m, law, _, _ in CASES])
def test_a_law_comes_back(model: str, law: str, target: str, expected: str) -> None:
    right, levels, unexplained = 0, [], 0
    for seed in range(SEEDS):
        difference = drawn(MODELS[model], law, seed, target)
        found = fit(difference, Selection("any"), check_assumptions(difference))
        assert found is not None
        best = found.best
        back = f"{narrowed(best.spec)}@{best.selection[1]}"
        right += back == expected
        unexplained += bool(found.unexplained)
        levels.append(parse_law(best.spec).level)
        assert found.runner_up is None or (found.worse is not None and found.worse > 0)
    assert right >= SEEDS - 1
    assert unexplained <= 3  # alarms of 5 % each time
    if not law.startswith("flips"):
        assert np.median(levels) == pytest.approx(parse_law(law).level, rel=0.35)


def test_no_flips_are_no_law() -> None:
    difference = drawn(MODELS["floats"], "flips:0", 0)
    assert fit(difference, Selection("any"), check_assumptions(difference)) is None


def test_one_flip_is_one_flip() -> None:
    for seed in range(10):
        difference = drawn(MODELS["floats"], "flips:1", seed)
        found = fit(difference, Selection("any"), check_assumptions(difference))
        assert found is not None
        assert found.best.spec == "flips:1"


def test_what_no_law_explains_is_said_to_be_so() -> None:
    """Bursts in one tensor, single flips in the other: no law makes both."""
    bursts, single = (drawn(MODELS["integers"], law, 0).tensors for law in ("burst:1e-3,length=3", "bitflip:3e-3"))
    difference = Difference((bursts[0], single[1]))
    found = fit(difference, Selection("any"), check_assumptions(difference))
    assert found is not None
    assert found.best.kind == "bitflip"
    assert "word" in found.unexplained


@pytest.mark.parametrize("cut_off", [False, True])
def test_bursts_are_counted_as_they_were_drawn(cut_off: bool) -> None:
    """Against bursts put into lines one by one; and none where no bursts make the flips."""
    generator = np.random.default_rng(3)
    impossible = 0
    for _ in range(150):
        length, size = int(generator.integers(2, 6)), int(generator.integers(6, 30))
        flips = np.zeros((3, size + length), dtype=bool)
        last = size if cut_off else size - length + 1
        starts = generator.random((3, last)) < 0.15
        for line, at in zip(*np.nonzero(starts), strict=True):
            flips[line, at : at + length] ^= True
        line, at = np.nonzero(flips[:, :size])
        if len(line):
            found = Lines(line, at, np.full(len(line), size))
            assert count_starts(found, length, cut_off=cut_off) == starts.sum()
        noisy = flips[:, :size] ^ (generator.random((3, size)) < 0.1)
        line, at = np.nonzero(noisy)
        if len(line):
            counted = count_starts(Lines(line, at, np.full(len(line), size)), length, cut_off=cut_off)
            assert counted == by_elimination(noisy, length, cut_off)
            impossible += counted is None
    assert cut_off or impossible > 20


def by_elimination(flips: np.ndarray, length: int, cut_off: bool) -> int | None:
    """The slow, obvious way: the first flip of a line begins a burst; take it away; and so on."""
    starts, size = 0, flips.shape[1]
    padded = np.pad(flips, ((0, 0), (0, length)))
    for line in padded:
        for at in range(size):
            if line[at]:
                if at + length > size and not cut_off:
                    return None
                line[at : at + length] ^= True
                starts += 1
    return starts
