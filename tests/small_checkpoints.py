"""Small checkpoints in every form, and what it takes to corrupt them, for tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.injection import Draw, Injection, inject

LAWS = ["bitflip:1e-3", "flips:37", "stuck-at-0:2e-3", "stuck-at-1:2e-3", "burst:1e-3,length=4", "zero:0.05"]
LAWS += ["gaussian:0.1", "bitflip:0.01,bits=exponent", "burst:1e-3,length=3,across=row", "bitflip:1e-2,include=conv*"]
FLOATS_ONLY = {"bitflip:0.01,bits=exponent"}


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=generator).to(dtype),
        "conv.bias": torch.randn(8, generator=generator).to(dtype),
        "fc.weight": (torch.randn(10, 72, generator=generator) / 8).to(dtype),
        "steps": torch.tensor(12345),
    }


def single(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    save_file(tensors(dtype), path, {"format": "pt", "note": "keep mé"})
    return path


def sharded(directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Two shards, their index, and a file that is no weight."""
    directory.mkdir()
    state = tensors(dtype)
    parts = {"model-1.safetensors": ["fc.weight", "conv.bias"], "model-2.safetensors": ["conv.weight", "steps"]}
    for file, names in parts.items():
        save_file({name: state[name] for name in names}, directory / file, {"format": "pt"})
    weight_map = {name: file for file, names in parts.items() for name in names}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}, indent=1))
    (directory / "config.json").write_text('{"model_type": "test"}')
    return directory


def in_a_directory(directory: Path) -> Path:
    directory.mkdir()
    single(directory / "weights.safetensors")
    (directory / "config.json").write_text("{}")
    return directory


def digests(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name if path.is_dir() else "": hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def corrupt(
    model: Path, law: str, output: Path, format: str = "native", seed: int = 0, trial: int = 0, **options: object
) -> Injection:
    checkpoint = Checkpoint.open(model)
    draw = Draw(parse_law(law), select(checkpoint.tensors.values()), format, seed, trial)
    return inject(checkpoint, draw, output, **options)  # type: ignore[arg-type]


def same_bytes(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two tensors are alike bit for bit: NaN is NaN, and -0 is not 0."""
    return one.dtype == two.dtype and one.reshape(-1).view(torch.uint8).equal(two.reshape(-1).view(torch.uint8))


KINDS = {
    "file": lambda place: (single(place / "model.safetensors"), "out.safetensors"),
    "index": lambda place: (sharded(place / "m") / "model.safetensors.index.json", "out"),
    "shards": lambda place: (sharded(place / "m"), "out"),
    "directory": lambda place: (in_a_directory(place / "m"), "out"),
}
