"""Writing corrupted checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_checkpoints import (
    FLOATS_ONLY,
    KINDS,
    LAWS,
    corrupt,
    digests,
    same_bytes,
    sharded,
    single,
    tensors,
)

from faultcli.checkpoint import DTYPES, Checkpoint
from faultcli.errors import FormatError, OutputError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.formats import parse_format
from faultcli.injection import Draw, inject, replay
from faultcli.memory import MemoryImage


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_only_the_hit_bits_differ(dtype: torch.dtype, tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors", dtype)
    done = corrupt(model, "bitflip:1e-3", tmp_path / "out")
    old, new = model.read_bytes(), (tmp_path / "out").read_bytes()
    assert len(old) == len(new)
    start = Checkpoint.open(model).files[0].stat().st_size - Checkpoint.open(model).nbytes
    assert old[:start] == new[:start]  # header: metadata, order, dtypes
    differing = np.frombuffer(old, np.uint8) ^ np.frombuffer(new, np.uint8)
    assert int(np.bitwise_count(differing).sum()) == done.faults.flips
    selected = dict.fromkeys(("conv.weight", "fc.weight"), dtype.itemsize * 8)
    assert {name: layout.bits for name, layout in done.faults.layout.items()} == selected
    for name, tensor in load_file(tmp_path / "out").items():
        words, masks = done.faults.faults.get(name, (np.empty(0, np.int64), np.empty(0, np.uint64)))
        expected = tensors(dtype)[name].clone()
        unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}
        if len(words):
            raw = expected.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).numpy().reshape(-1)
            raw.view(unsigned[dtype.itemsize])[words] ^= masks.astype(unsigned[dtype.itemsize])
        assert same_bytes(tensor, expected), name
    with safe_open(tmp_path / "out", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "keep mé"}


def decoded_by_hand(values: torch.Tensor, format: str, words: np.ndarray, masks: np.ndarray) -> torch.Tensor:
    """Encode, flip bit by bit, decode: the slow, obvious way."""
    fitted = parse_format(format).fitted(values)
    codes = fitted.encode(values).reshape(-1).clone()  # it may share memory with the values
    for word, mask in zip(words.tolist(), masks.tolist(), strict=True):
        for bit in range(fitted.bits):
            if mask >> bit & 1:
                flip = torch.tensor(1 << bit).to(torch.int64)
                code = (codes[word].to(torch.int64) ^ flip) & ((1 << fitted.bits) - 1)
                container_bits = codes.element_size() * 8
                if codes.dtype != torch.uint8 and code >= 1 << (container_bits - 1):
                    code = code - (1 << container_bits)
                codes[word] = code.to(codes.dtype)
    return fitted.decode(codes.view(values.shape)).to(values.dtype)


@pytest.mark.parametrize("format", ["q2.5", "fp16", "bf16", "fp8-e4m3", "fp4-e2m1", "int8", "int8-channel", "q7.8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("law", ["bitflip:1e-2", "stuck-at-1:0.01", "zero:0.1", "flips:25", "burst:1e-2,length=3"])
def test_another_format_reads_as_encoded_hit_and_decoded_by_hand(
    format: str, dtype: torch.dtype, law: str, tmp_path: Path
) -> None:
    model = single(tmp_path / "model.safetensors", dtype)
    done = corrupt(model, law, tmp_path / "out", format, seed=1, trial=2, save_faults=tmp_path / "map")
    before, after = load_file(model), load_file(tmp_path / "out")
    assert done.faults.flips > 0
    changed = 0
    for name in before:
        if name not in done.faults.layout:
            assert after[name].equal(before[name])
            continue
        words, masks = done.faults.faults[name]
        expected = decoded_by_hand(before[name], format, words, masks)
        assert after[name].dtype == dtype
        assert same_bytes(after[name], expected), name
        clean = decoded_by_hand(before[name], format, words[:0], masks[:0])
        changed += int((expected.float() != clean.float()).sum())
    assert 0 < changed <= done.values_changed
    again = replay(Checkpoint.open(model), FaultMap.load(tmp_path / "map"), tmp_path / "again")
    assert (again.values_changed, again.restored) == (done.values_changed, False)
    assert digests(tmp_path / "again") == digests(tmp_path / "out")


@pytest.mark.parametrize("format", ["native", "q2.5", "fp16", "int8", "mxfp8-e5m2", "int4-g16", "nf4"])
@pytest.mark.parametrize("law", LAWS)
def test_the_faults_are_those_of_the_campaign_trial(format: str, law: str, tmp_path: Path) -> None:
    if law in FLOATS_ONLY and format in ("q2.5", "int8", "int4-g16", "nf4"):
        pytest.skip("no exponent")
    model = single(tmp_path / "model.safetensors")
    done = corrupt(model, law, tmp_path / "out", format, seed=5, trial=11)
    image = MemoryImage({name: tensors()[name] for name in done.faults.layout if "#" not in name}, format)
    assert image.layout == done.faults.layout
    drawn = image.draw(parse_law(law), seed=5, trial=11)
    assert same_faults(drawn, done.faults)
    state = dict(image.values())
    with image.patch(drawn).applied(state := {name: values.clone() for name, values in state.items()}):
        read = load_file(tmp_path / "out")
        for name, values in state.items():
            assert same_bytes(values, read[name]), name
    other = corrupt(model, law, tmp_path / "other", format, seed=5, trial=12)
    assert not same_faults(other.faults, done.faults)


def same_faults(one: FaultMap, two: FaultMap) -> bool:
    return one.faults.keys() == two.faults.keys() and all(
        np.array_equal(a, b) for name in one.faults for a, b in zip(one.faults[name], two.faults[name], strict=True)
    )


@pytest.mark.parametrize("law", LAWS)
def test_shards_and_a_single_file_have_the_same_faults(law: str, tmp_path: Path) -> None:
    one = corrupt(single(tmp_path / "model.safetensors"), law, tmp_path / "a", seed=2)
    two = corrupt(sharded(tmp_path / "m"), law, tmp_path / "b", seed=2)
    assert same_faults(one.faults, two.faults)
    merged = {}
    for file in (tmp_path / "b").glob("*.safetensors"):
        merged |= load_file(file)
    assert all(same_bytes(values, merged[name]) for name, values in load_file(tmp_path / "a").items())


def test_faults_do_not_depend_on_what_else_is_selected(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(single(tmp_path / "model.safetensors"))
    law = parse_law("bitflip:1e-3")
    both = inject(checkpoint, Draw(law, ["conv.weight", "fc.weight"]), tmp_path / "a")
    alone = inject(checkpoint, Draw(law, ["fc.weight"]), tmp_path / "b")
    assert np.array_equal(both.faults.faults["fc.weight"].words, alone.faults.faults["fc.weight"].words)
    assert load_file(tmp_path / "b")["conv.weight"].equal(tensors()["conv.weight"])


def test_no_faults_is_a_copy(tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    for law in ("bitflip:0", "flips:0", "gaussian:0"):
        done = corrupt(model, law, tmp_path / "out", save_faults=tmp_path / "map", force=True)
        assert (done.faults.flips, done.values_changed) == (0, 0)
        assert digests(tmp_path / "out") == digests(model)
        replay(Checkpoint.open(model), FaultMap.load(tmp_path / "map"), tmp_path / "again", force=True)
        assert digests(tmp_path / "again") == digests(model)


def test_every_bit_flips_at_rate_one(tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    done = corrupt(model, "bitflip:1", tmp_path / "out")
    assert done.faults.flips == done.faults.bits == 32 * (8 * 4 * 9 + 720)
    flipped = load_file(tmp_path / "out")["fc.weight"].view(torch.int32)
    assert flipped.equal(~tensors()["fc.weight"].view(torch.int32))


def test_what_cannot_be(tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors")
    for options, words in (({"seed": -1}, "--seed -1"), ({"trial": -2}, "--trial -2")):
        with pytest.raises(UsageError, match=words):
            corrupt(model, "flips:1", tmp_path / "out", **options)
    with pytest.raises(UsageError, match="cannot be one file"):
        corrupt(model, "flips:1", tmp_path / "out", save_faults=tmp_path / "out")
    with pytest.raises(OutputError, match="inputs are never changed"):
        corrupt(model, "flips:1", tmp_path / "out", save_faults=model, force=True)
    with pytest.raises(FormatError, match=r"model\.safetensors: tensor 'steps' holds int64 values; q2\.5"):
        inject(Checkpoint.open(model), Draw(parse_law("flips:1"), ["steps"], "q2.5"), tmp_path / "out")
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_lost_map_takes_the_output_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FaultMap, "save", interrupt)
    for model, out in (KINDS["file"](tmp_path), KINDS["shards"](tmp_path)):
        with pytest.raises(KeyboardInterrupt):
            corrupt(model, "flips:1", tmp_path / out, save_faults=tmp_path / "map")
        assert not (tmp_path / out).exists()
        assert not (tmp_path / "map").exists()


@pytest.mark.parametrize("file", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64])
def test_every_float_of_a_file_takes_what_another_format_reads(file: torch.dtype, tmp_path: Path) -> None:
    model = single(tmp_path / "model.safetensors", file)
    done = corrupt(model, "bitflip:0.05", tmp_path / "out", "int8-channel")
    assert done.values_changed > 0
    image = MemoryImage({name: tensors(file)[name] for name in done.faults.layout}, "int8-channel")
    touched = image.patch(done.faults).elements["fc.weight"]
    read = dict(image.values())["fc.weight"].clone()
    assert read.dtype == file  # what is read has the checkpoint's dtype
    bits = {1: torch.uint8, 2: torch.int16, 8: torch.int64}[file.itemsize]
    read.view(bits).view(-1).index_copy_(0, touched.index, touched.values.view(bits))
    assert same_bytes(load_file(tmp_path / "out")["fc.weight"], read)


@pytest.mark.parametrize("format", ["native", "q2.5", "int8-channel"])
@pytest.mark.parametrize("law", ["bitflip:0.1", "flips:9", "zero:0.5", "gaussian:0.1"])
def test_tensors_without_elements_and_scalars(law: str, format: str, tmp_path: Path) -> None:
    state = {"none": torch.empty(0, 4), "w": torch.randn(4, 4), "neither": torch.empty(3, 0, 2), "one": torch.ones(())}
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path / "model.safetensors")
    done = inject(checkpoint, Draw(parse_law(law), list(state), format), tmp_path / "out")
    assert done.faults.layout["none"].words == 0
    assert done.faults.flips > 0
    assert {name: t.shape for name, t in load_file(tmp_path / "out").items()} == {n: t.shape for n, t in state.items()}


def test_whole_numbers_are_zeroed_and_take_no_noise(tmp_path: Path) -> None:
    save_file({"steps": torch.full((50, 2), 7), "u": torch.full((8, 8), 9, dtype=torch.uint8)}, tmp_path / "model")
    checkpoint = Checkpoint.open(tmp_path / "model")
    inject(checkpoint, Draw(parse_law("zero:1"), ["steps", "u"]), tmp_path / "out")
    assert all((values == 0).all() for values in load_file(tmp_path / "out").values())
    with pytest.raises(FormatError, match=r"tensor 'steps' holds whole numbers, which no noise can be added to"):
        inject(checkpoint, Draw(parse_law("gaussian:1"), ["steps"]), tmp_path / "no")


@pytest.mark.parametrize("dtype", ["BOOL", "F4", "F6_E2M3", "F8_E4M3FNUZ", "C64"])
@pytest.mark.parametrize("format", ["fp16", "q2.5"])
def test_dtypes_that_no_format_stores_are_named(dtype: str, format: str, tmp_path: Path) -> None:
    nbytes = 8 * DTYPES[dtype][0] // 8
    header = json.dumps({"a": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, nbytes]}}).encode()
    (tmp_path / "model").write_bytes(len(header).to_bytes(8, "little") + header + bytes(nbytes))
    with pytest.raises(FormatError, match=f"tensor 'a' has dtype {dtype}, which no number format stores"):
        inject(Checkpoint.open(tmp_path / "model"), Draw(parse_law("flips:1"), ["a"], format), tmp_path / "no")


def test_a_map_whose_output_cannot_appear_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = FaultMap.save

    def save_and_race(self: FaultMap, path: Path, *, force: bool = False) -> None:
        save(self, path, force=force)
        (tmp_path / "out").write_text("somebody else's")

    monkeypatch.setattr(FaultMap, "save", save_and_race)
    with pytest.raises(OutputError, match="exists already"):
        corrupt(single(tmp_path / "model.safetensors"), "flips:1", tmp_path / "out", save_faults=tmp_path / "map")
    assert (tmp_path / "out").read_text() == "somebody else's"
    assert not (tmp_path / "map").exists()


def test_progress_adds_up_to_what_is_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(sharded(tmp_path / "m"))
    done: list[int] = []
    inject(
        checkpoint,
        Draw(parse_law("flips:3"), ["fc.weight"]),
        tmp_path / "out",
        progress=done.append,
        save_faults=tmp_path / "map",
    )
    whole = sum(file.stat().st_size for file in checkpoint.files)
    assert sum(done) == checkpoint.nbytes + whole
