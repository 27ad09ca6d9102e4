"""Outputs of layers: a forward pass of ResNet-20 with flips at BER 1e-6, or with bounds, against the bare one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.measure import Row, side_by_side
from faultcli.activations.guard import LayerBounds
from faultcli.activations.layers import SeenOutputs
from faultcli.activations.stored import ActivationMemory
from faultcli.faults.laws import BitFlip
from faultcli.workload.models.networks.resnet import CifarResNet

INPUTS, BATCH = 500, 100
LAW = BitFlip(1e-6)


def run() -> Iterator[Row]:
    torch.manual_seed(0)
    model = CifarResNet(20).eval()
    batches = torch.randn(INPUTS, 3, 32, 32).split(BATCH)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(batch)

    memory = ActivationMemory.of(SeenOutputs.of(model, "*", bare))
    flips = 0

    def faulty() -> None:
        nonlocal flips
        with memory.faulty(model, LAW) as hit:
            bare()
        flips = hit.flips

    under_faults, without = side_by_side(faulty, bare, repeats=5)
    detail = f"{flips:,} flips in {len(memory.layers)} layers: {1e3 * under_faults:.0f} ms; bare {1e3 * without:.0f} ms"
    yield Row("forward pass with flips in all outputs / bare", under_faults / without, 1.1, "×", detail=detail)

    bounds = LayerBounds.of(model, bare)

    def guarded() -> None:
        with bounds.applied(model):
            bare()

    checked, without = side_by_side(guarded, bare, repeats=5)
    detail = f"{len(bounds.layers)} layers: {1e3 * checked:.0f} ms; bare {1e3 * without:.0f} ms"
    yield Row("forward pass with all outputs inside bounds / bare", checked / without, 1.25, "×", detail=detail)
