"""One meaning of a fault: what `inject` writes and any command reads back is what the campaign's trial reads, bit for
bit, for every law, number format, dtype and scaling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from faultcli.checkpoint import Checkpoint
from faultcli.errors import FaultcliError
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.injection import Draw, inject
from faultcli.memory import MemoryImage
from faultcli.protect.chain import Chain, parse_chain
from faultcli.protect.scale import Scale
from faultcli.scaling import read_state, scale_checkpoint

LAWS = ["bitflip:0.02", "flips:5", "stuck-at-1:0.01", "burst:0.01,length=3", "zero:0.2", "gaussian:0.05", "bitflip:0"]
FORMATS = ["native", "fp32", "fp16", "q2.5", "int8-channel", "mxfp8-e4m3"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
FACTORS = [None, "4", "3.7", "0.1", "max:channel"]


def checkpoint(path: Path, dtype: torch.dtype, factor: str | None) -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    state = {name: (torch.randn(shape, generator=generator) * 0.3).to(dtype) for name, shape in
             {"a": (8, 6), "b": (5, 2, 3, 3)}.items()}  # fmt: skip
    state["a"].view(-1)[:3] = torch.tensor([0.0, 1e-7, -1.5]).to(dtype)
    save_file(state, path / "plain")
    plain = Checkpoint.open(path / "plain")
    if factor is None:
        return plain
    how = {"names": list(state), "format_name": "q2.5", "ber": 1e-4}
    scale_checkpoint(plain, Scale.parse(factor), path / "scaled", **how)  # type: ignore[arg-type]
    return Checkpoint.open(path / "scaled")


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """NaN is NaN: which of its bits a conversion keeps is nobody's business."""
    return torch.where(tensor.isnan(), torch.nan, tensor).double().view(torch.int64)


# A third of all triples, with every pair of two among them.
TRIPLES = [
    (format, factor, dtype)
    for i, format in enumerate(FORMATS)
    for j, factor in enumerate(FACTORS)
    for k, dtype in enumerate(DTYPES)
    if (i + j + k) % 3 == 0
]


@pytest.mark.parametrize(("format", "factor", "dtype"), TRIPLES)
def test_a_file_reads_as_the_trial(format: str, factor: str | None, dtype: torch.dtype, tmp_path: Path) -> None:
    given = checkpoint(tmp_path, dtype, factor)
    names = select(given.tensors.values())
    state, factors, _ = read_state(given)
    for number, law in enumerate(map(parse_law, LAWS)):
        done = inject(given, Draw(law, names, format, seed=3, trial=number), tmp_path / f"out{number}")
        read, _, _ = read_state(Checkpoint.open(done.output))
        image = MemoryImage({name: state[name] for name in names}, format, factors=factors)
        faults = image.draw(law, seed=3, trial=number)
        assert done.faults.sha256() == faults.sha256()
        patch = image.patch(faults)
        assert law.spec == "bitflip:0" or done.faults.flips > 0
        for name, values in image.values():
            expected = values.clone()
            if name in patch.elements:
                touched = patch.elements[name]
                expected.view(-1)[touched.index] = touched.values
            assert torch.equal(as_bits(read[name]), as_bits(expected)), (law.spec, name)


CHAINS = ["none", "guard", "guard=clamp:channel", "mset", "cep=d3p1", "inplace=1", "parity", "secded=64", "tmr",
          "guard,mset", "guard,cep=d3p1", "guard,inplace=1", "guard,secded=64", "mset,parity", "cep=d3p1,secded=64",
          "inplace=1,secded=64", "posterior=1e-3,mset", "posterior=1e-3,inplace=1", "scale=max,guard,mset",
          "scale=max:channel,guard=channel,cep=d3p1,secded=64"]  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(
    "format", ["native", "fp16", "bf16", "q2.5", "q3.12", "int8-channel", "fp8-e4m3", "mxfp8-e4m3"]
)
def test_what_can_be_written_can_be_read(chain: str, format: str) -> None:
    """Guards and posteriors know the words as they come back: no healthy weight is taken for a damaged one."""
    weights = {"w": torch.randn(16, 24, generator=torch.Generator().manual_seed(1)) * 0.3}
    weights["w"][0, :2] = torch.tensor([-0.71875, 0.5])
    parsed = parse_chain(chain)
    try:
        image = MemoryImage(weights, format, parsed)
    except FaultcliError:
        pytest.skip(f"{chain} does not work on {format}")
    without = [link for link in parsed.links if link.name not in ("guard", "posterior")]
    bare = MemoryImage(weights, format, Chain(tuple(without)))
    read, plain = dict(image.values())["w"], dict(bare.values())["w"]
    if not any(link.name == "posterior" for link in parsed.links):
        assert torch.equal(read, plain)
    else:
        assert float((read - plain).abs().max()) <= 0.2  # drawn towards what is likely, and no more


def test_guard_before_mset_keeps_the_most_negative_weight() -> None:
    image = MemoryImage({"w": torch.tensor([[-0.71875, 0.5]])}, "q2.5", parse_chain("guard,mset"))
    assert dict(image.values())["w"].tolist() == [[-0.75, 0.5]]


@pytest.mark.parametrize("chain", ["parity", "secded=64", "tmr", "mset", "cep=d3p1", "inplace=2"])
@pytest.mark.parametrize("law", ["gaussian:0.01", "zero:0.3"])
@pytest.mark.parametrize("format", ["fp16", "q3.12"])
def test_noise_and_loss_come_after_error_correction(format: str, law: str, chain: str) -> None:
    """No code turns noise into something worse, or better: check bits are not stale, and correct nothing."""
    weights = torch.randn(64, 32, generator=torch.Generator().manual_seed(2)) * 0.3
    errors = {}
    for protect in ("none", chain):
        image = MemoryImage({"w": weights}, format, parse_chain(protect))
        stored = dict(image.values())["w"]
        touched = image.patch(image.draw(parse_law(law), seed=0, trial=0)).elements["w"]
        read = stored.clone()
        read.view(-1)[touched.index] = touched.values
        errors[protect] = read - stored
        if law.startswith("zero"):
            assert (touched.values == 0).all()
    rounding = float(
        (dict(MemoryImage({"w": weights}, format, parse_chain(chain)).values())["w"] - weights).abs().max()
    )
    assert float((errors[chain] - errors["none"]).abs().max()) <= 2 * rounding + 2**-10
    if law.startswith("gaussian"):
        assert float(errors[chain].std()) == pytest.approx(0.01, rel=0.15)


def test_a_scale_divides_noise() -> None:
    weights = torch.randn(64, 32, generator=torch.Generator().manual_seed(2)) * 0.1
    image = MemoryImage({"w": weights}, "fp32", parse_chain("scale=8"))
    touched = image.patch(image.draw(parse_law("gaussian:0.01"), seed=0, trial=0)).elements["w"]
    assert float((touched.values - weights.view(-1)[touched.index]).std()) == pytest.approx(0.01 / 8, rel=0.1)
