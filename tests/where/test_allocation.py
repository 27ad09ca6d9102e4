"""Strata, allocation and estimates, against the truth of made-up memories."""

from __future__ import annotations

import numpy as np
import pytest

from faultcli.campaign.statistics import Interval
from faultcli.memory import MemoryImage
from faultcli.where.allocation import Allocation
from faultcli.where.layers import LayerStratum
from faultcli.where.sizes import leveugle, per_part
from faultcli.where.strata import strata_of


def image() -> MemoryImage:
    import torch

    generator = torch.Generator().manual_seed(3)
    tensors = {
        "a.weight": torch.randn(8, 20, generator=generator) / 4,
        "b.weight": torch.randn(5, 60, generator=generator) / 8,
    }
    return MemoryImage(tensors)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("chain", ["none", "parity"])
def test_strata_hold_every_bit_once(channels: bool, chain: str) -> None:
    from faultcli.protect.chain import parse_chain

    memory = MemoryImage(dict(image().values()), "fp16", parse_chain(chain))
    strata = strata_of(memory, 0, channels=channels)
    numbers = [stratum.number(turn) for stratum in strata for turn in range(stratum.size)]
    assert sorted(numbers) == list(range(memory.bits))
    assert len({(s.region, s.channel, s.bit) for s in strata}) == len(strata)


def test_a_site_is_the_bit_that_its_number_says() -> None:
    memory = image()
    offsets, total = {}, 0
    for region in memory.regions:
        offsets[region.name] = total
        total += region.layout.words * region.layout.bits
    for stratum in strata_of(memory, 1, channels=True)[::17]:
        law = stratum.law(1)
        faults = memory.draw(law, seed=0, trial=0)
        ((name, (words, masks)),) = faults.faults.items()
        assert faults.flips == 1
        bit = int(masks[0]).bit_length() - 1
        assert offsets[name] + int(words[0]) * 32 + bit == stratum.number(1)
        assert bit == stratum.bit
        width = 20 if name == "a.weight" else 60
        assert int(words[0]) // width == stratum.channel


def test_what_the_codes_say_is_harmless() -> None:
    predicted = {s.bit: s.predicted for s in strata_of(image(), 0) if s.region == "a.weight"}
    assert predicted[30] > 0.9
    assert predicted[0] < 1e-4
    assert {s.predicted for s in strata_of(image(), 0, blind=True)} == {1.0}


def _run(truth: list[np.ndarray], memory: MemoryImage, seed: int, trials: int) -> Allocation:
    strata, done = strata_of(memory, seed), 0
    allocation = Allocation(strata)
    while done < trials:
        done += _take(allocation, truth)
    return allocation


def _take(allocation: Allocation, truth: list[np.ndarray], per_stratum: float | None = None) -> int:
    """Run a round, and return its size."""
    chosen = allocation.next_round(64, per_stratum=per_stratum)
    for draw in chosen:
        site = allocation.strata[draw.stratum].law(draw.number).word
        allocation.add(draw, float(truth[draw.stratum][site]))
    return len(chosen)


def _truth(memory: MemoryImage) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    chances = {30: 0.5, 29: 0.1, 28: 0.05, 27: 0.01, 31: 0.2}
    return [
        (rng.random(s.size) < chances.get(s.bit, 0.0)) * np.minimum(1, 0.1 + rng.random(s.size))
        for s in strata_of(memory, 0)
    ]


def test_intervals_hold_the_truth() -> None:
    """Of the whole, and of every stratum: 95 % of them, and not many more trials than bits that matter."""
    memory = image()
    truth = _truth(memory)
    sizes = np.array([len(values) for values in truth])
    whole = sum(float(values.sum()) for values in truth) / sizes.sum()
    hits, strata_hit, means = 0, [], []
    for seed in range(30):
        allocation = _run(truth, memory, seed, 640)
        found = allocation.estimate()
        assert found is not None
        means.append(found.mean)
        hits += _holds(found, whole)
        strata_hit += [_holds(allocation.of(h), float(values.mean())) for h, values in enumerate(truth)]
        busy = np.array([values.any() for values in truth])
        assert allocation.counts.min() >= 2
        assert allocation.counts[busy].mean() > 3 * allocation.counts[~busy].mean()
    assert hits >= 26  # 28 or 29 of 30 are expected
    assert np.mean(strata_hit) >= 0.95
    assert abs(np.mean(means) - whole) < 0.0015  # 0.0004 is the standard error: no half decides on its own trials


def test_intervals_count_the_inputs_that_a_flip_was_not_run_on() -> None:
    """Each flip on 6 of 60 inputs: even with all of them tried, the truth of the 60 is not known, and the interval says
    so. With the variance within left out it would have no width there."""
    memory = MemoryImage({"a.weight": next(iter(dict(image().values()).values()))[:4, :6].contiguous()})
    rng, inputs, size = np.random.default_rng(4), 60, 6
    truth = [np.round(60 * values).astype(int) for values in _truth(memory)]
    whole = sum(int(values.sum()) for values in truth) / (60 * memory.bits)
    hits, strata_hit, means = 0, [], []
    for seed in range(60):
        allocation = Allocation(strata_of(memory, seed), sampled=True)
        while chosen := allocation.next_round(64):
            for draw in chosen:
                changed = truth[draw.stratum][allocation.strata[draw.stratum].law(draw.number).word]
                part = rng.hypergeometric(changed, inputs - changed, size) / size
                allocation.add(draw, part, part * (1 - part) / (size - 1) * (1 - size / inputs))
        found = allocation.estimate()
        assert found is not None
        assert allocation.counts.sum() == memory.bits
        means.append(found.mean)
        hits += _holds(found, whole)
        strata_hit += [_holds(allocation.of(h), values.mean() / 60) for h, values in enumerate(truth) if values.any()]
        assert found.half_width
    assert hits >= 53  # 57 of 60 are expected
    assert np.mean(strata_hit) >= 0.94
    assert found.half_width == pytest.approx(1.96 * np.std(means), rel=0.35)


def test_layers_get_maps_by_how_much_these_differ() -> None:
    """Made-up layers: harmless, alike, spread, and one of which some maps ruin all."""
    rng, hits, means = np.random.default_rng(8), 0, []
    layers = [LayerStratum(f"layer{place}", 100, place, 4, 1e-3) for place in range(4)]
    truth = (0.0 + 0.3 + 0.2 + 0.36) / 4
    for _ in range(60):
        allocation = Allocation(layers)
        for _ in range(5):
            for turn in allocation.next_round(64):
                beta, ruined = float(rng.beta(2, 8)), 0.9 * float(rng.random() < 0.4)
                allocation.add(turn, (0.0, 0.3, beta, ruined)[turn.stratum])
        found = allocation.estimate()
        assert found is not None
        means.append(found.mean)
        hits += _holds(found, truth)
    assert allocation.counts.argmax() == 3
    assert allocation.counts[3] > 3 * allocation.counts[0]
    assert hits >= 53  # 57 of 60 are expected
    assert abs(np.mean(means) - truth) < 0.006  # 0.002 is the standard error
    numbers = [layer.number(turn) for layer in layers for turn in range(5)]
    assert sorted(numbers) == list(range(20))


def _holds(found: Interval | None, value: float) -> bool:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low - 1e-12 <= value <= found.high + 1e-12


def test_when_all_is_seen_nothing_is_uncertain() -> None:
    memory = MemoryImage({"a.weight": next(iter(dict(image().values()).values()))[:1, :4].contiguous()})
    strata = strata_of(memory, 0)
    allocation = Allocation(strata)
    truth = [np.full(s.size, float(s.bit == 30)) for s in strata]
    while _take(allocation, truth):
        pass
    assert allocation.counts.sum() == memory.bits
    found = allocation.estimate()
    assert found is not None
    assert found.mean == pytest.approx(1 / 32)
    assert found.half_width == pytest.approx(0, abs=1e-9)
    assert allocation.half_widths().max() == pytest.approx(0, abs=1e-9)


def test_every_stratum_gets_the_half_width_that_is_asked() -> None:
    memory = image()
    truth = _truth(memory)
    allocation = Allocation(strata_of(memory, 0))
    while _take(allocation, truth, 0.1):
        pass
    assert allocation.half_widths().max() <= 0.1


def test_published_sample_sizes() -> None:
    """The formula by hand, without and with the finite population."""
    assert leveugle(10**12, 0.01) == 9604
    assert leveugle(1000, 0.05) == 278
    assert leveugle(0, 0.05) == 0
    assert per_part([1000, 1000], 0.05) == 556
