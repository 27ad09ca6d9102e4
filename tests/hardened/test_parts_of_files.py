"""What is packed, unpacked and repaired some words at a time is what it would be at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from faultcli.faults.maps import Layout
from faultcli.formats import format_for
from faultcli.hardened import layout, repair
from faultcli.protect.chain import parse_chain
from faultcli.protect.protected_tensor import StoredTensor


@pytest.mark.parametrize("bits", [1, 3, 4, 5, 6, 7])
def test_words_are_packed_in_parts(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(bits).integers(0, 1 << bits, 1003).astype(np.uint8)
    whole = layout.to_bytes(words, bits)
    monkeypatch.setattr(layout, "TILE", 64)
    packed = layout.to_bytes(words, bits)
    assert packed.tobytes() == whole.tobytes()
    assert np.array_equal(layout.from_bytes(packed, Layout(len(words), bits)), words)


@pytest.mark.parametrize("chain", ["inplace=2", "secded=64", "mset,parity", "inplace=1,secded=128", "tmr=msb:2"])
@pytest.mark.parametrize("format", ["q2.5", "int8-g20"])
def test_tensors_are_repaired_in_parts(format: str, chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.randn(37, 29, generator=torch.Generator().manual_seed(0))
    stored = StoredTensor.write("w", weights, format_for(format, "F32"), parse_chain(chain).links)
    draw = np.random.default_rng(1)
    words = stored.words.copy()
    hit = draw.choice(len(words), 60, replace=False)
    words[hit] ^= (1 << draw.integers(0, 8, len(hit))).astype(words.dtype)
    words[:4] ^= words.dtype.type(129)  # lost at the beginning
    words[len(words) - 4 :] ^= words.dtype.type(129)
    damaged = replace(stored, words=words)
    whole = repair.repaired(damaged)
    monkeypatch.setattr(repair, "TILE", 128)
    parts = repair.repaired(damaged)
    assert (parts.flips, parts.lost) == (whole.flips, whole.lost)
    assert parts.flips
    assert parts.faults.keys() == whole.faults.keys()
    for region, hits in whole.faults.items():
        assert np.array_equal(parts.faults[region].words, hits.words)
        assert np.array_equal(parts.faults[region].masks, hits.masks)
    for one, other in zip(parts.seen, whole.seen, strict=True):
        assert (one.beyond, one.bits, one.found.tolist()) == (other.beyond, other.bits, other.found.tolist())


def test_runs_of_lost_weights() -> None:
    for lost in ([], [0], [1], [1, 1, 0, 1], [0, 1, 1, 0, 0, 1, 1]):
        found = repair._runs(np.array(lost, dtype=bool))
        assert [place for first, last in found for place in range(first, last + 1)] == list(np.flatnonzero(lost))
