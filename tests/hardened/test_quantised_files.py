"""Hardened files of quantised checkpoints: check words are all that is added, and the file is what is simulated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.packed import Packed
from faultcli.errors import CheckpointError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import WordFaults
from faultcli.faults.selection import Selection
from faultcli.hardened.layout import flip
from faultcli.hardened.read import Hardened, read_checkpoint
from faultcli.hardened.record import COPIES
from faultcli.hardened.repair import repair_checkpoint
from faultcli.hardened.write import harden_checkpoint
from faultcli.injection import Draw, inject
from faultcli.protect.chain import parse_chain
from faultcli.quantised import FileAtRisk, Quantised, parts

GOLDEN = Path(__file__).parents[1] / "golden" / "packed"
CASES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
BOTH = "scales:tmr,codes:secded=64"


def harden(source: Path, chain: str, output: Path, **selecting: str) -> Hardened:
    checkpoint = Checkpoint.open(source)
    packed = Packed.of(checkpoint)
    assert packed is not None
    names = Selection(**selecting).names(parts(packed))  # type: ignore[arg-type]
    harden_checkpoint(checkpoint, output, names=names, format_name="native", chain=parse_chain(chain))
    found = Hardened.of(Checkpoint.open(output))
    assert found is not None
    return found


def raw(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Return dtype, shape and bytes of every tensor, by the format's own definition."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            found[name] = entry["dtype"], entry["shape"], data[8 + size + start : 8 + size + end]
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))


def read(quantised: Quantised) -> dict[str, Tensor]:
    return {name: quantised.packed.read(name) for name in quantised.weights}


def opened(path: Path) -> Quantised:
    checkpoint = Checkpoint.open(path)
    found = Quantised.of(checkpoint, Selection(), Hardened.of(checkpoint))
    assert found is not None
    return found


@pytest.mark.parametrize("name", CASES)
def test_check_words_are_all_that_is_added_and_all_that_is_taken_away(name: str, tmp_path: Path) -> None:
    source = GOLDEN / name / "model.safetensors"
    file = harden(GOLDEN / name, BOTH, tmp_path / "h")
    before, after = raw(source), raw(tmp_path / "h" / "model.safetensors")
    assert {name: after[name] for name in before} == before
    roles = {part: one.role for part, one in file.record.tensors.items()}
    wanted = {f"{part}#tmr" for part, role in roles.items() if role == "scales"}
    wanted |= {f"{part}#secded" for part, role in roles.items() if role == "codes"}
    assert after.keys() - before.keys() == wanted
    with safe_open(tmp_path / "h" / "model.safetensors", "pt") as whole:  # the library's own reader takes it
        assert set(whole.keys()) == set(after)
    read_checkpoint(file, tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == source.read_bytes()
    assert (tmp_path / "h" / "config.json").read_bytes() == (GOLDEN / name / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("chain", "law"),
    [
        (BOTH, "bitflip:3e-3"),
        (BOTH, "flips:9"),
        ("secded=64", "stuck-at-1:4e-3"),
        ("scales:parity", "bitflip:5e-2,bits=exponent"),
    ],
)
@pytest.mark.parametrize("name", ["gptq-4-act-order", "nf4", "gpt-oss"])
def test_a_trial_of_the_campaign_is_the_damaged_file(name: str, chain: str, law: str, tmp_path: Path) -> None:
    """The same flips in the same words, and what the simulation reads is what the file reads."""
    if law.endswith("exponent") and name != "nf4":
        law = law.replace("exponent", "0-3")  # bits by number where words are no floats
    plain = Quantised.of(Checkpoint.open(GOLDEN / name), Selection())
    assert plain is not None
    image = plain.image(plain.weights, parse_chain(chain))
    file = harden(GOLDEN / name, chain, tmp_path / "h")
    assert file.regions == image.layout
    own = opened(tmp_path / "h").image(plain.weights)
    assert (own.bits, own.overhead_bits_per_weight, own.chain.text) == (
        image.bits,
        image.overhead_bits_per_weight,
        image.chain.text,
    )
    parsed = parse_law(law) if "exponent" not in law else parse_law(law + ",include=*absmax")
    faults = image.draw(parsed, seed=3, trial=1)
    assert faults.flips
    risk = FileAtRisk.of(file.checkpoint, Selection(), "native")
    done = inject(file.checkpoint, Draw(parsed, risk.names, risk.format, 3, 1), tmp_path / "d", memory=risk.memory)
    assert done.faults.faults.keys() == faults.faults.keys()
    for region, hit in faults.faults.items():
        assert np.array_equal(done.faults.faults[region].words, hit.words)
        assert np.array_equal(done.faults.faults[region].masks, hit.masks)
    patch = image.patch(faults)
    assert done.values_changed == patch.values_changed
    want = {weight: plain.packed.read(weight).clone() for weight in plain.weights}
    for weight, touched in patch.elements.items():
        want[weight].view(-1)[touched.index] = touched.values
    got = read(opened(tmp_path / "d"))
    assert all(same(got[weight], want[weight]) for weight in want)


def test_more_faults_on_a_damaged_file_are_read_with_those_it_has(tmp_path: Path) -> None:
    """Two flips that come one after the other are beyond a code that corrects one, as if they had come at once."""
    file = harden(GOLDEN / "nf4", BOTH, tmp_path / "h")
    (weight,) = opened(tmp_path / "h").packed.weights
    clean = opened(tmp_path / "h").packed.read(weight)
    one, two = (WordFaults(np.array([word]), np.array([4], np.uint64)) for word in (8, 11))
    damaged = damage(file, {weight: one}, tmp_path / "d")
    assert same(opened(damaged).packed.read(weight), clean)
    image = opened(damaged).image([weight])
    touched = image.tensors[weight].faulty({weight: two})
    want = opened(damage(file, {weight: WordFaults(np.array([8, 11]), np.array([4, 4], np.uint64))}, tmp_path / "e"))
    lost = want.packed.read(weight)
    patched = clean.clone()
    patched.view(-1)[touched.index] = touched.values
    assert same(patched, lost)
    assert len(touched.index) > 2  # a block of eight bytes reads as 0
    assert len(image.tensors[weight].faulty({weight: one}).index) == 0  # the flip that is there is taken back


def damage(file: Hardened, faults: dict[str, WordFaults], target: Path) -> Path:
    source = file.checkpoint.files[0]
    data = bytearray(source.read_bytes())
    for region, hit in faults.items():
        info = file.checkpoint.info(region)
        words = np.frombuffer(data, np.uint8, info.nbytes, info.offset).copy()
        flip(words, hit, file.regions[region].bits)
        data[info.offset : info.offset + info.nbytes] = words.tobytes()
    target.mkdir()
    (target / source.name).write_bytes(data)
    (target / "config.json").write_bytes((source.parent / "config.json").read_bytes())
    return target


IN_PLACE = {  # layouts and parts that have bits to spare
    "awq": "scales:inplace=2",
    "float-quantized": "codes:inplace=1,scales:inplace=2",
    "fp4-in-bf16": "scales:inplace=4",
    "fp8-exponents": "codes:inplace=0.5",
    "gptq-4-act-order": "scales:inplace=2,indices:tmr",
    "gptq-8": "codes:inplace=0.5,scales:inplace=2,zeros:secded=64,indices:secded=64",
    "gptq-p-3": "scales:inplace=1",
    "int-quantized": "codes:inplace=1,scales:inplace=4",
    "llm-int8": "inplace=1",
    "modelopt-nvfp4": "scales:inplace=1",
    "nf4": "scales:inplace=8",
    "nvfp4": "scales:inplace=1",
    "packed-8-symmetric": "codes:inplace=0.5,scales:inplace=2",
    "torchao-float8": "codes:inplace=0.5,scales:inplace=2",
    "torchao-int8": "codes:inplace=2,scales:inplace=4",
    "torchao-intx": "scales:inplace=2",
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_check_bits_in_place_are_what_the_campaign_simulates(name: str, tmp_path: Path) -> None:
    """Every tensor keeps its dtype and shape; the damaged file reads what the trial does; repair takes flips back."""
    chain, plain = IN_PLACE[name], Quantised.of(Checkpoint.open(GOLDEN / name), Selection())
    assert plain is not None
    image = plain.image(plain.weights, parse_chain(chain))
    file = harden(GOLDEN / name, chain, tmp_path / "h")
    before, after = raw(GOLDEN / name / "model.safetensors"), raw(tmp_path / "h" / "model.safetensors")
    assert {part: after[part][:2] for part in before} == {part: before[part][:2] for part in before}
    assert {part.rpartition("#")[2] for part in after.keys() - before.keys()} <= {"padding", "tmr", "secded"}
    assert file.record.schema == "faultcli.hardened/5"
    assert file.regions == image.layout
    want = {weight: values.clone() for weight, values in image.values()}
    assert all(same(values, want[weight]) for weight, values in read(opened(tmp_path / "h")).items())
    law = parse_law("bitflip:1e-2")
    faults = image.draw(law, seed=3, trial=1)
    risk = FileAtRisk.of(file.checkpoint, Selection(), "native")
    done = inject(file.checkpoint, Draw(law, risk.names, risk.format, 3, 1), tmp_path / "d", memory=risk.memory)
    assert done.faults.faults.keys() == faults.faults.keys()
    patch = image.patch(faults)
    assert done.values_changed == patch.values_changed
    for weight, touched in patch.elements.items():
        want[weight].view(-1)[touched.index] = touched.values
    assert all(same(values, want[weight]) for weight, values in read(opened(tmp_path / "d")).items())
    one = {}  # a flip in every block
    for part, slot in file.slots.items():
        if slot.links and slot.names == ("inplace",):
            words = np.arange(0, slot.elements, slot.links[0].block)
            one[part] = WordFaults(words, np.uint64(1) << (words % slot.format.bits).astype(np.uint64))
    damaged = Hardened.of(Checkpoint.open(damage(file, one, tmp_path / "e")))
    assert damaged is not None
    repair = repair_checkpoint(damaged, tmp_path / "r")
    assert (repair.flips, repair.lost_weights) == (sum(len(f.words) for f in one.values()), 0)
    clean = (tmp_path / "h" / "model.safetensors").read_bytes()
    assert (tmp_path / "r" / "model.safetensors").read_bytes() == clean
    read_checkpoint(damaged, tmp_path / "plain")  # the file as it reads, for the library
    assert raw(tmp_path / "plain" / "model.safetensors").keys() == before.keys()
    again = Packed.of(Checkpoint.open(tmp_path / "plain"))
    assert again is not None
    assert all(same(again.read(weight), values) for weight, values in image.values())


def test_what_the_library_reads_differs_by_the_bits_that_were_given_up(tmp_path: Path) -> None:
    """Without correction: a step of codes at the most where each gives up a bit."""
    harden(GOLDEN / "llm-int8", "codes:inplace=0.5", tmp_path / "h")
    before, after = (
        load_file(at / "model.safetensors")["layer.weight"] for at in (GOLDEN / "llm-int8", tmp_path / "h")
    )
    steps = (before.int() - after.int()).abs()
    assert (steps.max(), int(steps[:, 17:].sum())) == (2, 0)  # the first 17 of a block of 32 codes


@pytest.mark.parametrize("name", ["gptq-4-act-order", "nf4", "gpt-oss", "torchao-int8"])
@pytest.mark.parametrize("chain", ["secded=64", "tmr"])
def test_one_flip_in_every_block_is_repaired_to_the_last_byte(name: str, chain: str, tmp_path: Path) -> None:
    file = harden(GOLDEN / name, chain, tmp_path / "h")
    generator = np.random.default_rng(1)
    faults = {}
    for part, slot in file.slots.items():
        step = slot.links[0].block
        words = np.arange(0, slot.elements, step) + generator.integers(0, step, len(range(0, slot.elements, step)))
        words = words[words < slot.elements]
        bits = generator.integers(0, slot.format.bits, len(words)).astype(np.uint64)
        faults[part] = WordFaults(words, np.uint64(1) << bits)
    damaged = damage(file, faults, tmp_path / "d")
    found = Hardened.of(Checkpoint.open(damaged))
    assert found is not None
    repair = repair_checkpoint(found, tmp_path / "r")
    assert (repair.flips, repair.lost_weights, repair.unit) == (sum(len(f.words) for f in faults.values()), 0, "words")
    clean = (tmp_path / "h" / "model.safetensors").read_bytes()
    assert (tmp_path / "r" / "model.safetensors").read_bytes() == clean != (damaged / "model.safetensors").read_bytes()
    read_checkpoint(found, tmp_path / "plain")  # reading alone corrects as well
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (GOLDEN / name / "model.safetensors").read_bytes()


def test_parts_of_a_hardened_file_are_hit_alone(tmp_path: Path) -> None:
    file = harden(GOLDEN / "gptq-4-act-order", "scales:tmr", tmp_path / "h")
    risk = FileAtRisk.of(file.checkpoint, Selection(target="scales"), "native")
    assert risk.memory is not None
    assert {site.name for site in risk.memory.sites} == {"layer.scales", "layer.scales#tmr"}
    only = harden(GOLDEN / "gptq-4-act-order", "scales:tmr", tmp_path / "only", target="scales")
    assert only.record.tensors.keys() == {"layer.scales"}
    assert opened(tmp_path / "only").names == ["layer.scales"]


def test_what_cannot_be_hardened_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for chain, error in (
        ("zeros:tmr", r"has no zeros.*"),
        ("scale=max", "scale=max: works on numbers"),
        ("inplace=2", "'layer.weight': inplace=2: codes of 4 bits have none to spare"),
    ):
        with pytest.raises(UsageError, match=error) as refused:
            harden(GOLDEN / "nf4", chain, tmp_path / "h")
        assert "zeros" not in chain or str(refused.value.remedy) == "name parts that it has: codes, scales"
    with pytest.raises(UsageError, match="no scales are at risk"):
        harden(GOLDEN / "nf4", "scales:tmr", tmp_path / "h", target="codes")
    checkpoint = Checkpoint.open(GOLDEN / "nf4")
    with pytest.raises(UsageError, match="its memory is the words of its file"):
        harden_checkpoint(checkpoint, tmp_path / "h", names=[], format_name="q2.5", chain=parse_chain("tmr"))
    file = harden(GOLDEN / "nf4", BOTH, tmp_path / "file")
    with pytest.raises(CheckpointError, match="is hardened already"):
        harden_checkpoint(file.checkpoint, tmp_path / "h", names=[], format_name="native", chain=parse_chain("tmr"))
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda record: record["tensors"]["layer.weight"].update(role="spare"), "contradicts itself"),
        (lambda record: record["tensors"]["layer.weight"].update(links=[]), "contradicts itself"),
        (lambda record: record.update(protect="scale=max"), "contradicts itself"),
        (lambda record: record.update(schema="faultcli.hardened/1"), "contradicts itself"),
        (lambda record: record.update(schema="faultcli.hardened/6"), "another version"),
        (lambda record: record["tensors"]["layer.weight"].update(dtype="I8"), "the record says I8"),
    ],
)
def test_records_that_make_no_sense_are_refused(
    spoil: Callable[[dict[str, object]], None], said: str, tmp_path: Path
) -> None:
    file = harden(GOLDEN / "nf4", BOTH, tmp_path / "h")
    path = file.checkpoint.files[0]
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    record = json.loads(header["__metadata__"][COPIES[0]].partition(" ")[2])
    spoil(record)
    text = json.dumps(record)
    header["__metadata__"] |= dict.fromkeys(COPIES, f"{hashlib.sha256(text.encode()).hexdigest()} {text}")
    raw_header = json.dumps(header).encode()
    path.write_bytes(len(raw_header).to_bytes(8, "little") + raw_header + data[8 + size :])
    with pytest.raises(CheckpointError, match=said):
        Hardened.of(Checkpoint.open(tmp_path / "h"))


def test_a_file_without_its_configuration_is_not_taken_for_another(tmp_path: Path) -> None:
    harden(GOLDEN / "awq", "tmr", tmp_path / "h")
    (tmp_path / "h" / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CheckpointError):
        opened(tmp_path / "h")
