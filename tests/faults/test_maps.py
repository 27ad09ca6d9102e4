"""Fault maps as files: saved, read back, and refused where they do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from faultcli.errors import CheckpointError, FaultError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap, combine
from faultcli.memory import MemoryImage


@pytest.fixture
def drawn() -> FaultMap:
    image = MemoryImage({"a.weight": torch.randn(50, 20), "b:odd name": torch.randn(300)}, "fp16")
    return image.draw(parse_law("bitflip:0.01,bits=mantissa"), seed=9, trial=4).bound("0" * 64, "1" * 64)


def test_a_map_comes_back_as_it_was(drawn: FaultMap, tmp_path: Path) -> None:
    drawn.save(tmp_path / "map.safetensors")
    loaded = FaultMap.load(tmp_path / "map.safetensors")
    assert loaded.flips == drawn.flips > 0
    assert loaded.bits == drawn.bits
    assert loaded.layout == drawn.layout
    assert loaded.faults.keys() == drawn.faults.keys()
    for name, (words, masks) in drawn.faults.items():
        assert np.array_equal(loaded.faults[name].words, words)
        assert np.array_equal(loaded.faults[name].masks, masks)
    assert (loaded.format, loaded.fault, loaded.seed, loaded.trial) == ("fp16", drawn.fault, 9, 4)
    assert (loaded.before, loaded.after) == ("0" * 64, "1" * 64)


def test_the_same_map_is_the_same_file(drawn: FaultMap, tmp_path: Path) -> None:
    drawn.save(tmp_path / "one.safetensors")
    drawn.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_an_empty_map_can_be_saved(tmp_path: Path) -> None:
    image = MemoryImage({"w": torch.zeros(4)}, "q2.5")
    image.draw(parse_law("bitflip:0"), seed=0, trial=0).save(tmp_path / "empty.safetensors")
    assert FaultMap.load(tmp_path / "empty.safetensors").flips == 0


def write(path: Path, header: dict[str, object] | None, **arrays: np.ndarray) -> Path:
    metadata = {} if header is None else {"faultcli": json.dumps(header)}
    save_file(arrays or {"x": np.zeros(1)}, path, metadata=metadata)
    return path


GOOD = {
    "schema": "faultcli.faults/1",
    "format": "q2.5",
    "fault": "bitflip:0.1",
    "seed": 0,
    "trial": 0,
    "before": None,
    "after": None,
    "layout": {"w": [4, 8]},
}


@pytest.mark.parametrize(
    ("header", "words", "masks", "complaint"),
    [
        (None, [0], [1], "is not a fault map"),
        ({"schema": "faultcli.faults/99"}, [0], [1], r"is faultcli.faults/99, this faultcli reads faultcli.faults/1"),
        ({"schema": "faultcli.faults/1"}, [0], [1], "is damaged"),
        ({**GOOD, "layout": []}, [0], [1], "is damaged"),
        ({**GOOD, "layout": {"w": [float("inf"), 8]}}, [0], [1], "is damaged"),
        ({**GOOD, "layout": {"w": [4, 10**12]}}, [0], [1], "'w' cannot be 4 words of 1000000000000 bits"),
        ({**GOOD, "layout": {"w": [4, -1]}}, [0], [1], "'w' cannot be 4 words of -1 bits"),
        ({**GOOD, "layout": {"w": [4, 8], "v": [-4, 8]}}, [0], [1], "'v' cannot be -4 words of 8 bits"),
        ({**GOOD, "seed": float("inf")}, [0], [1], "is damaged"),
        ({**GOOD, "after": "1" * 64}, [0], [1], "lacks a checksum"),
        ({**GOOD, "before": 3, "after": 4}, [0], [1], "lacks a checksum"),
        ({**GOOD, "layout": {}}, [0], [1], "is damaged at 'w'"),
        (GOOD, [4], [1], "do not fit its layout"),
        (GOOD, [-1], [1], "do not fit its layout"),
        (GOOD, [1, 1], [1, 2], "do not fit its layout"),
        (GOOD, [2, 1], [1, 2], "do not fit its layout"),
        (GOOD, [0], [256], "do not fit its layout"),
        (GOOD, [0], [0], "do not fit its layout"),
        (GOOD, [0, 1], [1], "is damaged at 'w'"),
    ],
)
def test_files_that_are_no_good_maps_are_refused(
    header: dict[str, object] | None, words: list[int], masks: list[int], complaint: str, tmp_path: Path
) -> None:
    arrays = {"w:words": np.array(words, np.int64), "w:masks": np.array(masks, np.uint64)}
    with pytest.raises(FaultError, match=complaint):
        FaultMap.load(write(tmp_path / "bad.safetensors", header, **arrays))


def test_a_map_without_its_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match=r"is damaged \('w:masks'\)"):
        FaultMap.load(write(tmp_path / "bad.safetensors", GOOD, **{"w:words": np.zeros(1, np.int64)}))


def test_garbage_is_no_map(tmp_path: Path) -> None:
    save_file({"x": np.zeros(1)}, tmp_path / "deep.safetensors", metadata={"faultcli": "[" * 100_000})
    with pytest.raises(FaultError, match="is not a fault map"):
        FaultMap.load(tmp_path / "deep.safetensors")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage" * 10)
    with pytest.raises(CheckpointError):
        FaultMap.load(tmp_path / "garbage.safetensors")


def test_faults_in_one_word_join_by_xor() -> None:
    words = np.array([1, 1, 2, 5, 5, 5], dtype=np.int64)
    masks = np.array([1, 2, 4, 8, 8, 1], dtype=np.uint64)
    joined = combine(words, masks)
    assert joined.words.tolist() == [1, 2, 5]
    assert joined.masks.tolist() == [3, 4, 1]
    assert combine(words[:0], masks[:0]).words.tolist() == []
    assert combine(np.array([3, 3]), np.array([8, 8], dtype=np.uint64)).words.tolist() == []
