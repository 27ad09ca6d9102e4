"""examples/read_hardened.py reads what faultcli reads, clean and damaged, and needs neither it nor torch."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

import faultcli
from faultcli.checkpoint import Checkpoint
from faultcli.hardened.read import Hardened
from faultcli.hardened.repair import repaired
from faultcli.hardened.write import harden_checkpoint
from faultcli.protect.chain import parse_chain

SCRIPT = Path(__file__).parents[2] / "examples" / "read_hardened.py"
ALLOWED = {"numpy", "safetensors", *sys.stdlib_module_names}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
FORMATS = ["fp32", "fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "q2.5", "q1.2", "q0.6", "q3.9", "q2.29", "int8", "int4"]
FORMATS += ["int8-channel", "int5-channel", "int8-g16", "int4-g5", "native"]
CHAINS = ["none", "scale=max:channel,guard", "scale=3,guard=clamp:channel,inplace=2", "inplace=0.5", "mset", "cep=d3p1"]
CHAINS += ["parity", "secded=64", "secded=128", "tmr", "tmr=msb:2", "scale=max,inplace=1,secded=64", "inplace=2,tmr"]
CHAINS += ["guard,mset,parity", "cep,secded=64"]


UNFIT = {
    "inplace=0.5": {"fp32", "q2.29", "native"},  # corrects nothing
    "cep=d3p1": {"q0.6", "q3.9", "int5-channel"},  # words are no multiple of a chunk
    "cep,secded=64": {"q1.2", "q0.6", "q3.9", "int4", "int5-channel", "int4-g5"},
    "scale=3,guard=clamp:channel,inplace=2": {"native"},  # words of 64 bits
    "scale=max,inplace=1,secded=64": {"native"},
    "inplace=2,tmr": {"native"},
}
# A third of all pairs, by turns: five or so of each format, of each chain.
ARMS = [
    (format, chain)
    for i, format in enumerate(FORMATS)
    for j, chain in enumerate(CHAINS)
    if (i + j) % 3 == 0 and format not in UNFIT.get(chain, ())
]


@pytest.fixture(scope="module")
def read() -> Callable[[Path], dict[str, NDArray[Any]]]:
    found: Callable[[Path], dict[str, NDArray[Any]]] = runpy.run_path(str(SCRIPT))["read_hardened"]
    return found


def hardened_file(folder: Path, format: str, chain: str) -> Path:
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: (torch.randn(*shape, generator=generator) * 0.2).to(dtype)
        for name, shape, dtype in [
            ("conv.weight", (6, 3, 5, 3), torch.float32),
            ("fc.weight", (7, 23), torch.float16),
            ("half.weight", (3, 41), torch.bfloat16),
            ("wide.weight", (2, 9), torch.float64),
            ("none.weight", (0, 3), torch.float32),
        ]
    }
    plain, written = folder / "plain.safetensors", folder / "hardened.safetensors"
    save_file({**weights, "conv.bias": torch.arange(6.0)}, plain)
    harden_checkpoint(
        Checkpoint.open(plain), written, names=list(weights), format_name=format, chain=parse_chain(chain), ber=1e-3
    )
    return written


def hold(found: dict[str, NDArray[Any]], path: Path, *, corrected: bool) -> int:
    """Compare with what faultcli reads, bit for bit; return how many values lie in blocks that are lost to both."""
    hardened = Hardened.of(Checkpoint.open(path))
    assert hardened is not None
    assert found.keys() == hardened.infos.keys()
    left_out = 0
    for name, info in hardened.infos.items():
        expected, own = hardened.read(name), torch.from_numpy(found[name].copy()).to(DTYPES[info.dtype])
        assert own.shape == expected.shape, name
        known = torch.ones(expected.numel(), dtype=torch.bool)
        if "inplace" in hardened.chain.text and name in hardened.slots:
            for first, last in repaired(hardened.stored(name)).lost:
                known[first : last + 1] = False
        assert not corrected or known.all()
        left_out += int((~known).sum())
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[own.element_size()]
        ours, theirs = own.reshape(-1)[known], expected.reshape(-1)[known]
        numbers = ~theirs.isnan()
        assert torch.equal(ours.isnan(), ~numbers), name
        assert torch.equal(ours[numbers].view(kind), theirs[numbers].view(kind)), name
    return left_out


@pytest.mark.parametrize(("format", "chain"), ARMS)
def test_it_reads_what_faultcli_reads(
    format: str, chain: str, tmp_path: Path, read: Callable[[Path], dict[str, NDArray[Any]]]
) -> None:
    """As written, with a few flips, and with many, where values in blocks that are lost to `inplace` may differ."""
    clean = hardened_file(tmp_path, format, chain)
    hold(read(clean), clean, corrected=True)
    for trial, law in enumerate(["flips:1", "bitflip:4e-3", "bitflip:4e-2"]):
        damaged = tmp_path / f"damaged-{trial}.safetensors"
        assert faultcli.inject(clean, law, damaged, trial=trial).faults.flips
        hold(read(damaged), damaged, corrected=trial == 0 and "inplace" in chain)


def test_every_damage_that_can_be_corrected_is(tmp_path: Path, read: Callable[[Path], dict[str, NDArray[Any]]]) -> None:
    """Against the clean file itself, not against another reader: flips up to the reach of every block."""
    clean = hardened_file(tmp_path, "q2.5", "scale=max:channel,inplace=2")
    damaged = tmp_path / "damaged.safetensors"
    flips = faultcli.inject(clean, "bitflip:5e-3", damaged).faults.flips
    assert flips > 20
    assert hold(read(damaged), damaged, corrected=True) == 0
    before, after = read(clean), read(damaged)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_lost_blocks_stay_as_they_were_read(tmp_path: Path, read: Callable[[Path], dict[str, NDArray[Any]]]) -> None:
    clean = hardened_file(tmp_path, "q2.5", "inplace=0.5")
    damaged = tmp_path / "damaged.safetensors"
    faultcli.inject(clean, "bitflip:2e-2", damaged)
    found = read(damaged)
    assert hold(found, damaged, corrected=False) > 100
    hardened = Hardened.of(Checkpoint.open(damaged))
    assert hardened is not None
    for name, values in found.items():
        for first, last in repaired(hardened.stored(name)).lost if name in hardened.slots else ():
            stored = hardened.stored(name)
            given = np.resize(stored.links[0].spare, len(stored.words)).astype(np.uint8)  # type: ignore[attr-defined]
            words = (stored.words >> given << given).view(np.int8)[first : last + 1]
            assert np.array_equal(values.ravel()[first : last + 1], (words / 32).astype(values.dtype))


def test_copies_of_the_record_stand_in_for_each_other(
    tmp_path: Path, read: Callable[[Path], dict[str, NDArray[Any]]]
) -> None:
    clean, spoilt = hardened_file(tmp_path, "q2.5", "secded=64"), tmp_path / "spoilt.safetensors"
    parts = clean.read_bytes().split(b"q2.5")
    assert len(parts) == 4
    for chosen in ([b"q3.4", b"q2.5", b"q2.5"], [b"q3.4", b"q3.4", b"q2.5"], [b"q2.5", b"q3.4", b"q3.4"]):
        spoilt.write_bytes(parts[0] + b"".join(name + rest for name, rest in zip(chosen, parts[1:], strict=True)))
        hold(read(spoilt), clean, corrected=True)
    spoilt.write_bytes(b"q3.4".join(parts))
    with pytest.raises(ValueError, match="all copies of the record are damaged"):
        read(spoilt)


@pytest.mark.parametrize(
    ("format", "chain", "named"),
    [("nf4", "secded=64", "nf4"), ("mxfp8-e4m3", "guard", "mxfp8-e4m3"), ("q2.5", "posterior=1e-3", "posterior")],
)
def test_what_it_cannot_read_it_names(
    format: str, chain: str, named: str, tmp_path: Path, read: Callable[[Path], dict[str, NDArray[Any]]]
) -> None:
    with pytest.raises(ValueError, match=rf"weight: .*{named}.* is not read here"):
        read(hardened_file(tmp_path, format, chain))


def test_it_is_short_and_needs_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    body = text.split('"""', 2)[2]
    assert len([line for line in body.splitlines() if line.strip()]) < 150
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert {name.partition(".")[0] for name in names} <= ALLOWED
    clean = hardened_file(tmp_path, "native", "secded=64")
    done = subprocess.run([sys.executable, SCRIPT, clean], capture_output=True, text=True, check=True)
    assert "conv.weight                    float32 [6, 3, 5, 3]" in done.stdout
