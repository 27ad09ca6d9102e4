"""One trial's fault work on 25 M fp32 weights: against cloning them once, and against a mask over all bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.measure import Row, seconds, side_by_side
from faultcli.faults.laws import parse_law
from faultcli.memory import MemoryImage

WEIGHTS = 25_000_000
RATE = 1e-4


def run() -> Iterator[Row]:
    weights = torch.randn(WEIGHTS, generator=torch.Generator().manual_seed(0)).view(-1, 1000) * 0.05
    image = MemoryImage({"w": weights})
    state = {"w": weights.clone()}
    law = parse_law(f"bitflip:{RATE}")

    def trial() -> None:
        with image.patch(image.draw(law, seed=0, trial=0)).applied(state):
            pass

    sparse, clone = side_by_side(trial, weights.clone, repeats=9)
    generator = np.random.default_rng(0)

    def dense_mask() -> None:  # a twentieth of the weights, bit by bit, packed into words
        flips = generator.random((WEIGHTS // 20, 32), dtype=np.float32) < RATE
        np.packbits(flips, axis=1)

    dense = 20 * seconds(dense_mask, repeats=3)
    flips = image.draw(law, seed=0, trial=0).flips
    detail = f"{flips:,} flips: {1e3 * sparse:.1f} ms; clone {1e3 * clone:.1f} ms; dense mask {dense:.1f} s"
    yield Row("draw, apply and undo faults / clone the weights", sparse / clone, 3, "×", detail=detail)
    yield Row("dense mask over all bits / draw, apply and undo", dense / sparse, 100, "×", at_least=True, detail=detail)
