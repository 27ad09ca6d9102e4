"""A hardened file is the memory image: what is stored, what faults hit, what reads, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hardened_models import hardened
from safetensors.torch import save_file
from small_checkpoints import KINDS, LAWS, digests, same_bytes, sharded, single, tensors

from faultcli.checkpoint import Checkpoint
from faultcli.errors import CheckpointError, FaultcliError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap, Layout, WordFaults
from faultcli.faults.selection import select
from faultcli.hardened.damage import HardenedMemory
from faultcli.hardened.layout import file_dtype, file_shape, flip, from_bytes, to_bytes
from faultcli.hardened.read import Hardened, read_checkpoint
from faultcli.hardened.record import MemoryRecord
from faultcli.hardened.repair import Estimate, estimate, repair_checkpoint
from faultcli.hardened.write import harden_checkpoint
from faultcli.injection import Draw, inject, replay
from faultcli.memory import MemoryImage
from faultcli.protect.base import Recovery
from faultcli.protect.chain import parse_chain

BY_TENSOR = '{"default": "scale=max,inplace=2", "tensors": {"conv.*": "secded=64"}}'
MEMORIES = [
    ("q2.5", "inplace=2"),
    ("q2.5", "scale=max:channel,guard=channel,inplace=1,secded=64"),
    ("q2.5", "inplace=2,tmr"),
    ("q3.8", "scale=4,tmr=msb:3"),
    ("q1.30", "parity"),
    ("fp16", "guard=clamp,inplace=4"),
    ("bf16", "mset,secded=128"),
    ("fp32", "scale=max,posterior=1e-3"),
    ("fp8-e4m3", "scale=max,posterior=1e-3:channel,parity"),
    ("fp6-e3m2", "inplace=1,secded=128"),
    ("int4", "parity"),
    ("int4-g16", "secded=64"),
    ("int8-channel", "inplace=1"),
    ("int5-g7", "guard,tmr"),
    ("nf4", "parity"),
    ("mxfp4", "tmr=msb:2"),
    ("fp8-e4m3-tensor", "cep=d3p1,secded=64"),
    ("native", "none"),
    ("native", "inplace=8"),
    ("native", '{"tensors": {"conv.*": "tmr"}}'),
    ("int4-g16", '{"default": "parity", "tensors": {"conv.*": "secded=64"}}'),
    ("q2.5", BY_TENSOR),
]


def image_of(model: Path, format: str, chain: str, ber: float | None = None) -> MemoryImage:
    checkpoint = Checkpoint.open(model)
    weights = {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}
    return MemoryImage(weights, format, parse_chain(chain), ber)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 31, 32, 33, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_words_lie_in_a_file_bit_by_bit_as_said(bits: int, count: int) -> None:
    rng = np.random.default_rng(bits)
    dtype = np.dtype(f"<u{max(8, 1 << (bits - 1).bit_length()) // 8}")
    words = (rng.integers(0, 1 << 63, count, dtype=np.uint64) * 2 + 1 & np.uint64((1 << bits) - 1)).astype(dtype)
    data, layout = to_bytes(words, bits).copy(), Layout(count, bits)
    if bits < 8:  # the first word in the lowest bits of the first byte
        whole = sum(int(word) << bits * place for place, word in enumerate(words))
        assert data.tobytes() == whole.to_bytes(-(-count * bits // 8), "little")
    else:
        assert data.tobytes() == b"".join(int(word).to_bytes(dtype.itemsize, "little") for word in words)
    assert len(data) == np.prod(file_shape(layout), dtype=int) * int(file_dtype(bits)[1:]) // 8
    assert np.array_equal(from_bytes(data, layout), words)
    if count:
        hit = np.unique(rng.integers(0, count, 3))
        masks = rng.integers(1, 1 << min(bits, 62), len(hit), dtype=np.uint64)
        flip(data, WordFaults(hit, masks), bits)
        words[hit] ^= masks.astype(dtype)
        assert np.array_equal(from_bytes(data, layout), words)


@pytest.mark.parametrize(("format", "chain"), MEMORIES)
def test_a_file_holds_the_very_image_that_is_simulated(format: str, chain: str, tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    simulated = image_of(model, format, chain)
    file = hardened(model, format, chain, tmp_path / "h.safetensors")
    image = file.image(list(file.slots))
    assert image.layout == simulated.layout == file.regions
    assert image.overhead_bits_per_weight == simulated.overhead_bits_per_weight
    for name, one in simulated.tensors.items():
        other = image.tensors[name]
        assert np.array_equal(one.words, other.words)
        assert one.words.dtype == other.words.dtype
        assert all(np.array_equal(a, b) for a, b in zip(one.checks, other.checks, strict=True))
        assert same_bytes(one.read(), other.read())
    rest = set(Checkpoint.open(model).tensors) - set(file.slots)
    assert rest == {"conv.bias", "steps"}
    for name in rest:
        assert file.checkpoint.read_bytes(name).tobytes() == Checkpoint.open(model).read_bytes(name).tobytes()


@pytest.mark.parametrize("law", [law for law in LAWS if not parse_law(law).on_values])
@pytest.mark.parametrize(("format", "chain"), [*MEMORIES[:3], *MEMORIES[9:12], MEMORIES[-1]])
def test_faults_of_a_file_are_those_of_the_campaigns_trial(law: str, format: str, chain: str, tmp_path: Path) -> None:
    if "exponent" in law and format != "fp6-e3m2":
        pytest.skip("the format has no exponent")
    model = single(tmp_path / "model.safetensors")
    file = hardened(model, format, chain, tmp_path / "h.safetensors")
    simulated = image_of(model, format, chain)
    faults = simulated.draw(parse_law(law), seed=5, trial=2)
    names = list(file.slots)
    done = inject(
        file.checkpoint,
        Draw(parse_law(law), names, "native", 5, 2),
        tmp_path / "d.safetensors",
        memory=HardenedMemory(file, names),
        save_faults=tmp_path / "m.safetensors",
    )
    assert done.faults.sha256() == faults.sha256()
    patch = simulated.patch(faults)
    assert done.values_changed == patch.values_changed
    damaged = Hardened.of(Checkpoint.open(tmp_path / "d.safetensors"))
    assert damaged is not None
    for name, stored in simulated.tensors.items():
        expected = stored.read().clone()
        if name in patch.elements:
            touched = patch.elements[name]
            expected.view(-1)[touched.index] = touched.values
        assert same_bytes(damaged.read(name), expected)
    back = replay(
        damaged.checkpoint,
        FaultMap.load(tmp_path / "m.safetensors"),
        tmp_path / "b.safetensors",
        memory=HardenedMemory(damaged, names),
    )
    assert back.restored or not faults.flips
    assert (tmp_path / "b.safetensors").read_bytes() == file.checkpoint.path.read_bytes()


@pytest.mark.parametrize("law", ["zero:0.05", "gaussian:0.1"])
def test_laws_on_values_are_none_of_a_file(law: str, tmp_path: Path) -> None:
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", "inplace=2", tmp_path / "h.safetensors")
    names = list(file.slots)
    if not parse_law(law).on_values:
        pytest.skip("hits words")
    with pytest.raises(UsageError, match="holds words"):
        inject(
            file.checkpoint, Draw(parse_law(law), names), tmp_path / "d.safetensors", memory=HardenedMemory(file, names)
        )
    assert not (tmp_path / "d.safetensors").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_is_hardened_repaired_and_read(kind: str, tmp_path: Path) -> None:
    model, _ = KINDS[kind](tmp_path)
    directory = model if model.is_dir() else model.parent if kind == "index" else model
    before = digests(directory)
    ending = ".safetensors" if kind == "file" else ""
    file = hardened(model, "native", "inplace=8", tmp_path / f"h{ending}")
    names = list(file.slots)
    inject(
        file.checkpoint, Draw(parse_law("flips:9"), names), tmp_path / f"d{ending}", memory=HardenedMemory(file, names)
    )
    damaged = Hardened.of(Checkpoint.open(tmp_path / f"d{ending}"))
    assert damaged is not None
    found = repair_checkpoint(damaged, tmp_path / f"r{ending}")
    assert found.flips == 9
    assert digests(tmp_path / f"r{ending}") == digests(tmp_path / f"h{ending}")
    read_checkpoint(hardened(model, "native", "none", tmp_path / f"n{ending}"), tmp_path / f"p{ending}")
    assert digests(tmp_path / f"p{ending}") == before  # nothing was rounded: every byte is as it was
    assert digests(directory) == before


CORRECTING = [
    memory for memory in MEMORIES if memory[1][0] != "{" and memory[1] not in ("none", "scale=max,posterior=1e-3")
]


@pytest.mark.parametrize(("format", "chain"), CORRECTING)
def test_one_flip_anywhere_is_corrected_or_known(format: str, chain: str, tmp_path: Path) -> None:
    """Every bit of every kind of region, one at a time: what corrects gives the file back, what detects says where."""
    save_file({"w": torch.randn(3, 37, generator=torch.Generator().manual_seed(1))}, tmp_path / "model.safetensors")
    file = hardened(tmp_path / "model.safetensors", format, chain, tmp_path / "h.safetensors")
    clean = file.checkpoint.path.read_bytes()
    corrects = not {"parity", "cep"} & {link.partition("=")[0] for link in chain.split(",")} or "secded" in chain
    partial = "msb" in chain or "mset" in chain
    rng = np.random.default_rng(3)
    for region, (words, bits) in file.regions.items():
        for _ in range(2):
            hit = {
                region: WordFaults(np.array([rng.integers(words)]), np.array([1 << int(rng.integers(bits))], np.uint64))
            }
            damage = FaultMap(hit, file.regions, format=file.format)
            target = tmp_path / "d.safetensors"
            replay(file.checkpoint, damage, target, memory=HardenedMemory(file, ["w"]), force=True)
            damaged = Hardened.of(Checkpoint.open(target))
            assert damaged is not None
            found = repair_checkpoint(damaged, tmp_path / "r.safetensors", force=True)
            whole = (tmp_path / "r.safetensors").read_bytes() == clean
            if not partial:
                assert whole == corrects
                assert (found.lost_weights > 0) == (not corrects)
                assert found.flips == (1 if corrects else 0)
            assert whole or not found.flips


def test_every_tensor_is_repaired_by_its_own_protection(tmp_path: Path) -> None:
    """The record says which it has; where a tensor has none, its flips stay."""
    by_tensor = '{"tensors": {"conv.*": "secded=64"}}'
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", by_tensor, tmp_path / "h.safetensors")
    assert '"schema":"faultcli.hardened/3"' in file.checkpoint.metadata["faultcli.hardened"]
    assert file.chain == parse_chain(by_tensor)
    names = list(file.slots)
    for region, found_there in (("conv.weight", 2), ("fc.weight", 0)):
        hit = {region: WordFaults(np.array([3, 20]), np.array([64, 1], np.uint64))}
        replay(
            file.checkpoint,
            FaultMap(hit, file.regions, format=file.format),
            tmp_path / "d.safetensors",
            memory=HardenedMemory(file, names),
            force=True,
        )
        damaged = Hardened.of(Checkpoint.open(tmp_path / "d.safetensors"))
        assert damaged is not None
        assert repair_checkpoint(damaged, tmp_path / "r.safetensors", force=True).flips == found_there
        whole = (tmp_path / "r.safetensors").read_bytes() == file.checkpoint.path.read_bytes()
        assert whole == (found_there > 0)


def test_blocks_beyond_correction_are_named_and_left_as_they_are(tmp_path: Path) -> None:
    save_file({"w": torch.randn(10, 32, generator=torch.Generator().manual_seed(1))}, tmp_path / "model.safetensors")
    file = hardened(tmp_path / "model.safetensors", "q2.5", "inplace=1", tmp_path / "h.safetensors")
    words = np.arange(64, 72)  # 5 + 3 flips in the third block of 32 words; 4 can be corrected
    masks = np.array([1, 1, 3, 1, 1, 1, 1, 1], dtype=np.uint64)
    single_flip = {"w": WordFaults(np.array([3, *words]), np.array([4, *masks], np.uint64))}
    damage = FaultMap(single_flip, file.regions, format=file.format)
    replay(file.checkpoint, damage, tmp_path / "d.safetensors", memory=HardenedMemory(file, ["w"]))
    damaged = Hardened.of(Checkpoint.open(tmp_path / "d.safetensors"))
    assert damaged is not None
    found = repair_checkpoint(damaged, tmp_path / "r.safetensors")
    assert found.tensors[0].lost == ((64, 95),)
    assert (found.flips, found.lost_weights) == (1, 32)
    repaired = Checkpoint.open(tmp_path / "r.safetensors").read_bytes("w")
    assert np.array_equal(repaired[64:96], damaged.checkpoint.read_bytes("w")[64:96])
    assert np.array_equal(np.delete(repaired, range(64, 96)), np.delete(file.checkpoint.read_bytes("w"), range(64, 96)))


@pytest.mark.parametrize("ber", [1e-4, 1e-3, 5e-3])
def test_the_rate_that_a_repair_implies_holds(ber: float, tmp_path: Path) -> None:
    save_file({"w": torch.randn(200, 500, generator=torch.Generator().manual_seed(1))}, tmp_path / "model.safetensors")
    inside = 0
    for number, chain in enumerate(("inplace=2", "secded=64", "tmr", "inplace=1", "inplace=0.25")):
        file = hardened(tmp_path / "model.safetensors", "q2.5", chain, tmp_path / f"h{number}.safetensors")
        memory = HardenedMemory(file, ["w"])
        target = tmp_path / "d.safetensors"
        inject(
            file.checkpoint, Draw(parse_law(f"bitflip:{ber}"), ["w"], seed=number), target, memory=memory, force=True
        )
        damaged = Hardened.of(Checkpoint.open(target))
        assert damaged is not None
        found = repair_checkpoint(damaged, tmp_path / "r.safetensors", force=True).ber
        assert found is not None
        assert found.rate == pytest.approx(ber, rel=0.15)
        inside += found.low <= ber <= found.high
    assert inside >= 3  # of five intervals of 95 %


def test_an_estimate_without_flips_is_0_up_to_what_one_would_have_seen() -> None:
    nothing = estimate([Recovery(np.empty(0), np.empty(0, bool), np.array([1000, 0]), 0, 100)], 0.95)
    assert nothing is not None
    assert (nothing.rate, nothing.low) == (0.0, 0.0)
    assert 1e-5 < nothing.high < 5e-5
    everything = estimate([Recovery(np.empty(0), np.empty(0, bool), np.array([0, 0]), 50, 100)], 0.95)
    assert isinstance(everything, Estimate)
    assert everything.high == 0.5
    assert estimate([], 0.95) is None


def test_what_cannot_be_hardened_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model, out = single(tmp_path / "model.safetensors"), tmp_path / "h.safetensors"
    for format, chain, said in (
        ("q2.5", "inplace=7", "bits to spare"),
        ("q2.5", "posterior", "bit-error rate"),
        ("fp4-e2m1", "cep=d7p1", "no multiple"),
        ("fp64", "inplace=8", "too wide"),
    ):
        with pytest.raises(FaultcliError, match=said):
            hardened(model, format, chain, out)
        assert not out.exists()
    broken = tensors() | {"conv.weight": torch.full((8, 4, 3, 3), torch.nan)}
    save_file(broken, tmp_path / "nan.safetensors")
    with pytest.raises(FaultcliError, match=r"nan.safetensors.*conv.weight"):
        hardened(tmp_path / "nan.safetensors", "q2.5", "none", out)
    assert not out.exists()
    file = hardened(model, "q2.5", "inplace=2", out)
    with pytest.raises(CheckpointError, match="hardened already"):
        harden_checkpoint(
            file.checkpoint, tmp_path / "again", names=["conv.weight"], format_name="native", chain=parse_chain("none")
        )
    assert file.record.tensors.keys() == {"conv.weight", "fc.weight"}


def test_names_of_check_words_that_are_taken_are_refused(tmp_path: Path) -> None:
    save_file(tensors() | {"fc.weight#secded": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="two tensors need the name"):
        hardened(tmp_path / "model.safetensors", "q2.5", "secded=64", tmp_path / "h.safetensors")


def test_nothing_without_correction_can_be_repaired(tmp_path: Path) -> None:
    file = hardened(single(tmp_path / "model.safetensors"), "q2.5", "scale=max,guard", tmp_path / "h.safetensors")
    with pytest.raises(UsageError, match="cannot tell damaged words"):
        repair_checkpoint(file, tmp_path / "r.safetensors")
    assert not (tmp_path / "r.safetensors").exists()


def test_the_header_has_room_for_the_constants_of_every_channel(tmp_path: Path) -> None:
    save_file({"w": torch.rand(3000, 4) + 0.5, "b": torch.rand(2, 2)}, tmp_path / "model.safetensors")
    chain = "scale=max:channel,posterior=1e-3:channel,mset,secded=64"
    file = hardened(tmp_path / "model.safetensors", "int8-channel", chain, tmp_path / "h.safetensors")
    simulated = image_of(tmp_path / "model.safetensors", "int8-channel", chain)
    assert all(same_bytes(file.read(name), stored.read()) for name, stored in simulated.tensors.items())
    assert isinstance(file.record, MemoryRecord)


def test_shards_keep_their_names_and_the_files_beside_them(tmp_path: Path) -> None:
    file = hardened(sharded(tmp_path / "m"), "q2.5", "secded=64", tmp_path / "h")
    names = {path.name for path in (tmp_path / "h").iterdir()}
    assert names == {path.name for path in (tmp_path / "m").iterdir()}
    assert (tmp_path / "h" / "config.json").read_text() == (tmp_path / "m" / "config.json").read_text()
    assert file.checkpoint.info("fc.weight#secded").file.name == file.checkpoint.info("fc.weight").file.name


@pytest.mark.parametrize("format", ["q2.5", "int8-channel", "int4-g16", "nf4"])
@pytest.mark.parametrize(
    "chain", ["posterior=1e-3:channel", "guard=channel", "scale=max:channel,posterior=1e-3:channel,secded=64"]
)
def test_tensors_without_values_or_channels_read_back(format: str, chain: str, tmp_path: Path) -> None:
    weights = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    save_file({"e": torch.zeros(3, 0), "z": torch.zeros(0, 4), "w": weights}, tmp_path / "model.safetensors")
    file = hardened(tmp_path / "model.safetensors", format, chain, tmp_path / "h.safetensors")
    simulated = image_of(tmp_path / "model.safetensors", format, chain)
    assert {name: tuple(file.read(name).shape) for name in file.slots} == {"e": (3, 0), "z": (0, 4), "w": (4, 9)}
    assert all(same_bytes(file.read(name), stored.read()) for name, stored in simulated.tensors.items())
