"""A measured fault map as a law: that very map, wherever it is applied, and nowhere it does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from faultcli.errors import FaultcliError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain


def image(format: str = "q2.5", protect: str = "none", words: int = 300) -> MemoryImage:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "a.weight": torch.randn(40, 25, generator=generator),
        "b.weight": torch.randn(words, generator=generator),
    }
    return MemoryImage(tensors, format, parse_chain(protect))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    image().draw(parse_law("bitflip:0.01"), seed=9, trial=4).save(tmp_path / "map.safetensors")
    return tmp_path / "map.safetensors"


def test_every_trial_has_the_faults_of_the_map(saved: Path) -> None:
    law, measured = parse_law(f"measured:{saved}"), FaultMap.load(saved)
    assert law.repeats
    for seed, trial in ((0, 0), (5, 77)):
        drawn = image().draw(law, seed=seed, trial=trial)
        assert drawn.sha256() == measured.sha256()
    assert law.expected_flips(image().regions) == measured.flips
    assert law.ber == measured.flips / measured.bits


def test_a_shift_keeps_the_pattern_and_moves_it(saved: Path) -> None:
    law, measured, memory = parse_law(f"measured:{saved},place=shift"), FaultMap.load(saved), image()
    assert not law.repeats
    seen = {name: np.zeros(layout.words, dtype=np.int64) for name, layout in memory.layout.items()}
    for trial in range(400):
        drawn = memory.draw(law, seed=0, trial=trial)
        assert drawn.flips == measured.flips
        for name, (words, masks) in drawn.faults.items():
            assert (np.diff(words) > 0).all()
            old = measured.faults[name]
            size = memory.layout[name].words
            gaps = np.diff(np.append(words, words[0] + size))
            turned = np.diff(np.append(old.words, old.words[0] + size))
            assert any(
                np.array_equal(np.roll(gaps, k), turned) and np.array_equal(np.roll(masks, k), old.masks)
                for k in range(len(words))
            )
            seen[name][words] += 1
    assert min(counts.min() for counts in seen.values()) > 0  # every word is hit in some trial
    again = [memory.draw(law, seed=0, trial=3).sha256() for _ in range(2)]
    assert again[0] == again[1] != memory.draw(law, seed=1, trial=3).sha256()


def test_the_content_is_the_identity_and_the_path_is_not(saved: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    copy.write_bytes(saved.read_bytes())
    image().draw(parse_law("bitflip:0.01"), seed=9, trial=5).save(other)
    law = parse_law(f"measured:{saved}")
    assert parse_law(f"measured:{copy}") == law
    assert hash(parse_law(f"measured:{copy}")) == hash(law)
    assert parse_law(f"measured:{copy}").spec == law.spec
    assert parse_law(f"measured:{other}") != law
    assert parse_law(f"measured:{other}").spec != law.spec
    assert parse_law(f"measured:{saved},place=shift").spec == law.spec + ",place=shift"
    assert parse_law(f"measured:{saved},include=a*").spec == law.spec + ",include=a*"


def test_read_back_from_its_text_it_knows_what_it_is_and_draws_nothing(saved: Path) -> None:
    law = parse_law(f"measured:{saved},place=shift")
    read = parse_law(law.spec)
    assert read == law
    assert read.spec == law.spec
    assert read.ber is None
    assert read.expected_flips(image().regions) is None
    with pytest.raises(FaultcliError, match="known by its content only"):
        image().draw(read, seed=0, trial=0)


def test_include_narrows_it(saved: Path) -> None:
    drawn = image().draw(parse_law(f"measured:{saved},include=a*"), seed=0, trial=0)
    assert list(drawn.faults) == ["a.weight"]


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (lambda: image("fp16"), "'a.weight' is 1000 words of 16 bits; the fault map has 1000 words of 8"),
        (lambda: image(words=301), "'b.weight' is 301 words of 8 bits; the fault map has 300 words"),
        (lambda: image(protect="secded=64"), "says nothing of 'a.weight#secded"),
    ],
)
def test_a_map_of_another_memory_is_refused(saved: Path, memory, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FaultcliError, match=message):
        memory().draw(parse_law(f"measured:{saved}"), seed=0, trial=0)


def test_mistakes(saved: Path) -> None:
    for spec, message in {
        "measured:": "measured needs a file",
        "measured:nowhere.safetensors": "nowhere.safetensors",
        f"measured:{saved},place=rows": "unknown place of a measured map 'rows'",
        f"measured:{saved},bits=sign": "takes no bits=",
        f"measured:{saved},length=3": "unknown option of measured 'length'",
    }.items():
        with pytest.raises(FaultcliError, match=message):
            parse_law(spec)
