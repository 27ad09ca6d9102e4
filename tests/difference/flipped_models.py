"""Small models, laws drawn over them, and what differs then, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from faultcli.checkpoint import TensorInfo
from faultcli.difference.comparing import Difference, TensorDifference, difference_of
from faultcli.faults.drawing import draw_faults
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.formats import word_format
from faultcli.protect.base import words_of_bytes
from faultcli.protect.protected_tensor import StoredTensor

Model = list[tuple[TensorInfo, NDArray[np.uint8]]]


def floats() -> Model:
    normal = normal_numbers(1)
    return model(
        {
            "conv.weight": ("F32", normal(16, 3, 3, 3)),
            "conv.bias": ("F32", normal(16)),
            "layer.0.weight": ("F32", normal(200, 144)),
            "layer.1.weight": ("F32", normal(100, 200)),
            "fc.weight": ("F32", normal(10, 100)),
        }
    )


def integers() -> Model:
    """Small numbers in two's complement: the upper bits of a word are all alike."""
    normal = normal_numbers(2)
    return model(
        {
            name: ("I8", (normal(rows, 300) * 400).clamp(-127, 127).to(torch.int8))
            for name, rows in (("a.weight", 100), ("b.weight", 300))
        }
    )


def with_counters() -> Model:
    """Weights in half precision, and whole numbers that are no weights."""
    normal = normal_numbers(3)
    return model(
        {
            "block.weight": ("F16", normal(300, 200).half()),
            "block.steps": ("I64", torch.arange(40)),
            "head.weight": ("F16", normal(20, 200).half()),
        }
    )


def normal_numbers(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: 0.05 * torch.randn(*shape, generator=generator)


def model(tensors: dict[str, tuple[str, torch.Tensor]]) -> Model:
    out, at = [], 0
    for name, (dtype, tensor) in tensors.items():
        data = tensor.contiguous().view(torch.uint8).numpy().reshape(-1).copy()
        out.append((TensorInfo(name, dtype, tuple(tensor.shape), Path("golden"), at, len(data)), data))
        at += len(data)
    return out


def drawn(golden: Model, law: str, seed: int, target: str = "any") -> Difference:
    """What differs where the faults of a law were drawn over some of the tensors."""
    names = select([info for info, _ in golden], target=target)
    regions = [
        StoredTensor(info.name, info.shape, word_format(info.dtype), _words(info, data))
        for info, data in golden
        if info.name in names
    ]
    faults = draw_faults(parse_law(law), regions, seed=seed, trial=0, format_name="native").faults
    found: list[TensorDifference] = []
    for info, data in golden:
        other = data.copy()
        if info.name in faults:
            words = _words(info, other)
            words[faults[info.name].words] ^= faults[info.name].masks.astype(words.dtype)
        found.append(difference_of(info, data, other, info.offset))
    return Difference(tuple(found))


def _words(info: TensorInfo, data: NDArray[np.uint8]):
    return words_of_bytes(data, word_format(info.dtype).bits)
