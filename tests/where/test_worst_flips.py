"""The flips that hurt most, against slow references: every flip by itself, read and run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultcli.campaign.subject import Subject
from faultcli.faults.maps import FaultMap, WordFaults
from faultcli.memory import MemoryImage
from faultcli.where.candidates import candidates
from faultcli.where.gradients import CAP, gradients, hurt, telling
from faultcli.where.looked_at import looked_at
from faultcli.where.readings import Faults, Reading, StoredBit, with_sites
from faultcli.where.worst import Search, counts_to, find_worst

NO_FAULT: Faults = {}


def small_subject(sure: float = 1.0, width: int = 8) -> Subject:
    """A net of two layers; `sure`: what its logits are multiplied by."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
        for parameter in model[2].parameters():
            parameter.mul_(sure)
    inputs = torch.randn(60, 6, generator=generator)
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    return Subject.of(model, (inputs, labels))


def mapped(image: MemoryImage, faults: Faults) -> FaultMap:
    return FaultMap(dict(faults), image.layout, format=image.format_name)


def every_bit(image: MemoryImage) -> list[StoredBit]:
    return [
        StoredBit(region.name, word, bit)
        for region in image.regions
        for word in range(region.layout.words)
        for bit in range(region.layout.bits)
    ]


@pytest.mark.parametrize(("format", "sure"), [("fp16", 1.0), ("int8-channel", 40.0)])
def test_the_first_flip_is_the_worst_of_all(format: str, sure: float) -> None:
    """Exactly, where all are tried; and nearly so with the tries that a user gets."""
    subject = small_subject(sure, width=2)
    image, workload = subject.memory(format), subject.workload
    workload.load(dict(image.values()))
    heat, every = telling(workload), {}
    for site in every_bit(image):
        with image.patch(mapped(image, with_sites({}, (site,)))).applied(workload.parameters):
            every[site] = hurt(workload, heat)
    clean, most = hurt(workload, heat), max(every.values())
    workload.load(subject.tensors)
    all_tried = find_worst(subject, Search(1, inputs=60, tries=8 * len(every), random_maps=0), format)
    assert all_tried.steps[0].hurt == pytest.approx(most, rel=1e-3)  # it stops where no right answer is left
    few = find_worst(subject, Search(1, inputs=60, random_maps=0), format)
    assert every[few.steps[0].flips[0].site] == few.steps[0].hurt
    assert few.steps[0].hurt - clean >= 0.7 * (most - clean)
    assert few.steps[0].hurt - clean > 3 * (np.median(list(every.values())) - clean)


def test_a_network_that_is_sure_is_asked_by_logits_that_are_less_so() -> None:
    """By the least power of 2 at which the median answer costs 0.02 nats; else gradients are of nearly wrong ones."""
    assert telling(small_subject(4.0).workload) == 1.0
    workload = small_subject(400.0).workload
    heat = telling(workload)
    with torch.no_grad():
        medians = [float(torch.cat(list(workload.losses(each))).median()) for each in (1.0, heat / 2, heat)]
    assert heat > 1
    assert medians[0] < 1e-3
    assert medians[1] < 0.02 <= medians[2]


CHAINS = ["none", "guard", "parity", "tmr", "secded=64", "inplace=1", "mset"]


MEMORIES = [
    *((chain, "int8-channel") for chain in CHAINS),
    *((chain, "fp16") for chain in ("scale=max", "guard")),
    ("none", "int4-g16"),
]


@pytest.mark.parametrize(("chain", "format"), MEMORIES)
def test_ranks_are_those_of_flips_read_one_by_one(chain: str, format: str) -> None:
    """Behind every protection, on top of faults that are there, of scales and check words as well."""
    generator = torch.Generator().manual_seed(5)
    weights, gradient = torch.randn(3, 16, generator=generator), torch.randn(48, generator=generator)
    image = MemoryImage({"w": weights}, format, protect(chain))
    reading = Reading("w", image.tensors["w"], torch.float32)
    # As many in one block as its code just corrects, so that one more gets past it; and one elsewhere.
    flips = {"inplace=1": {"fp16": 2, "int8-channel": 4}[format]}.get(chain, 1) if format != "int4-g16" else 1
    sites = (*(StoredBit("w", word, 2) for word in range(flips)), StoredBit("w", 40, 1))
    there = with_sites({}, sites)
    found = {
        one.sites[0]: one.rank for one in candidates(reading, gradient, there, 1, 1_000_000) if len(one.sites) == 1
    }
    now, expected = read(image, weights, there), {}
    some = [site for number, site in enumerate(every_bit(image)) if number % 7 == 0 or site.word == 0]
    for site in some:
        if site in sites or site.region.endswith("#padding"):
            continue
        after = read(image, weights, with_sites(there, (site,)))
        rank = slow_rank(now, after, gradient, float(weights_as_stored(image).abs().max()))
        if rank is not None:
            expected[site] = rank
    assert expected
    assert found.keys() & set(some) == expected.keys()
    for site, rank in expected.items():
        assert found[site] == pytest.approx(rank, rel=1e-4, abs=1e-6), site


def protect(chain: str):
    from faultcli.protect.chain import parse_chain

    return parse_chain(chain)


def weights_as_stored(image: MemoryImage) -> Tensor:
    return dict(image.values())["w"].flatten()


def read(image: MemoryImage, weights: Tensor, faults: Faults) -> Tensor:
    values = weights_as_stored(image).clone()
    touched = image.patch(mapped(image, faults)).elements.get("w")
    if touched is not None:
        values[touched.index] = touched.values
    return values


def slow_rank(before: Tensor, after: Tensor, gradient: Tensor, largest: float) -> float | None:
    total, changed = 0.0, False
    for old, new, slope in zip(before.tolist(), after.tolist(), gradient.tolist(), strict=True):
        if old == new or (math.isnan(old) and math.isnan(new)):
            continue
        changed = True
        product = slope * (new - old)
        total += math.inf if not math.isfinite(new) else abs(product) if abs(new - old) > largest else product
    return total if changed else None


@pytest.mark.parametrize(
    ("chain", "together"), [("tmr", 2), ("mset", 2), ("parity", 2), ("secded=64", 2), ("inplace=1", 3)]
)
def test_flips_that_get_past_a_protection_come_together(chain: str, together: int) -> None:
    """What one flip cannot do, several of a word or block do; each set is read as the memory reads it."""
    generator = torch.Generator().manual_seed(5)
    weights, gradient = torch.randn(16, 16, generator=generator), torch.randn(256, generator=generator)
    image = MemoryImage({"w": weights}, "fp16", protect(chain))
    reading = Reading("w", image.tensors["w"], torch.float32)
    sets = [one for one in candidates(reading, gradient, NO_FAULT, 4, 1_000_000) if len(one.sites) > 1]
    assert min(len(one.sites) for one in sets) == together
    clean, largest = weights_as_stored(image), float(weights_as_stored(image).abs().max())
    for one in sets[:: max(1, len(sets) // 20)]:
        after = read(image, weights, with_sites({}, one.sites))
        rank = slow_rank(clean, after, gradient, largest)
        assert rank is not None
        assert one.rank == pytest.approx(rank / len(one.sites), rel=1e-4, abs=1e-6)


def test_a_code_that_corrects_is_passed_by_as_many_flips_as_it_takes() -> None:
    subject = small_subject()
    behind = find_worst(subject, Search(4, inputs=60, tries=8, random_maps=0), "int8-channel", "secded=64")
    assert len(behind.steps[0].flips) > 1
    assert behind.steps[-1].outcome.top1 < behind.stored.top1
    assert behind.after(1) == behind.stored
    none = find_worst(subject, Search(1, inputs=60, random_maps=0), "int8-channel", "secded=64")
    assert (none.steps, none.faults.flips) == ((), 0)
    assert none.ended == "no flip that was tried hurts more"


def test_what_limit_leaves_out_is_searched_on(tmp_path: Path) -> None:
    """The damage is quoted of other inputs than those that the flips were chosen by."""
    images = np.arange(100 * 64, dtype=np.uint8).reshape(100, 8, 8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(100) % 10)
    subject = Subject.open(None, str(tmp_path / "d.npz"), limit=60)
    found = looked_at(subject, 30, 0)
    assert found.apart
    assert "after the first 60" in found.text
    rows = {row.tobytes() for row in images[60:]}
    assert len(found.all) == 30
    assert all(row.tobytes() in rows for row in np.asarray(found.all.dataset.inputs).reshape(30, 8, 8))  # type: ignore[attr-defined]
    own = looked_at(Subject.open(None, str(tmp_path / "d.npz")), 30, 0)
    assert not own.apart
    assert looked_at(subject, 30, 0, "digits").apart


def test_gradients_are_those_of_autograd_and_nothing_is_left_behind() -> None:
    subject = small_subject()
    model = subject.workload.model
    inputs, labels = torch.as_tensor(subject.workload.dataset.inputs), subject.workload.labels  # type: ignore[attr-defined]
    losses = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
    weight = model[0].weight
    (expected,) = torch.autograd.grad(losses.clamp(max=CAP).sum(), weight)
    weight.requires_grad_(False)
    model[2].weight.grad = kept = torch.ones(4, 8)
    found = gradients(subject.workload, ["0.weight", "2.weight"])
    torch.testing.assert_close(found["0.weight"], expected)
    assert not weight.requires_grad
    assert weight.grad is None
    assert model[2].weight.grad is kept
    assert bool((kept == 1).all())


def test_an_answer_that_is_not_finite_counts_as_wrong_at_the_most() -> None:
    subject = small_subject()
    with torch.no_grad():
        subject.workload.model[2].bias[0] = torch.nan
    assert hurt(subject.workload) == CAP


def test_the_same_twice_and_the_model_as_before() -> None:
    subject = small_subject()
    before = {name: tensor.clone() for name, tensor in subject.workload.model.state_dict().items()}
    one, other = (find_worst(subject, Search(3, inputs=20, tries=8, random_maps=2), "int8-channel") for _ in range(2))
    assert one.steps == other.steps
    assert one.random == other.random
    assert one.faults.sha256() == other.faults.sha256()
    assert all(torch.equal(before[name], now) for name, now in subject.workload.model.state_dict().items())
    assert one.faults.flips == one.steps[-1].total == 3
    for step in one.steps:
        for flip in step.flips:
            assert flip.flipped == flip.code ^ 1 << flip.site.bit


def test_weights_of_columns_are_found_where_the_checkpoint_has_them() -> None:
    """A tensor that lies in the memory by its channels: index and gradient are the checkpoint's."""
    from faultcli.formats import Channels

    weights = torch.arange(12.0).reshape(4, 3) + 1
    image = MemoryImage({"w": weights}, "int8-channel", channels={"w": Channels(1, 4, 3, 1)})
    reading = Reading("w", image.tensors["w"], torch.float32)
    gradient = torch.zeros(4, 3)
    gradient[2, 1] = -1.0
    best = candidates(reading, reading.in_order(gradient), NO_FAULT, 1, 1)[0]
    assert reading.place(best.sites[0].word) == (2, 1)


def test_numbers_of_flips_that_are_reported() -> None:
    assert counts_to(10) == [1, 2, 5, 10]
    assert counts_to(3) == [1, 2, 3]
    assert counts_to(1) == [1]
    assert counts_to(100) == [1, 2, 5, 10, 20, 50, 100]


def test_a_bit_that_flips_twice_is_as_it_was() -> None:
    site = StoredBit("w", 3, 2)
    assert with_sites({}, (site, site)) == {}
    words, masks = with_sites({"w": WordFaults(np.array([3]), np.array([1], dtype=np.uint64))}, (site,))["w"]
    assert (words.tolist(), masks.tolist()) == ([3], [5])
