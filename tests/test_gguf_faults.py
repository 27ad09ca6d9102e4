"""Faults in GGUF files: in the words of fields, byte for byte, and taken back; all else is copied."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from gguf_files import SIZES, Given, decoded, random_blocks, write_gguf

import faultcli
from faultcli.checkpoint import Checkpoint, edit
from faultcli.checkpoint.packed import Packed
from faultcli.cli import run
from faultcli.errors import CheckpointError, FaultcliError
from faultcli.faults.maps import FaultMap

TYPES = ("Q4_0", "Q8_0", "Q4_K", "Q6_K")
# Where the fields of blocks lie in them: first byte, bytes, bytes of a word; and what is a code.
PLACES = {
    "Q4_0": {"d": (0, 2, 2), "qs": (2, 16, 1)},
    "Q8_0": {"d": (0, 2, 2), "qs": (2, 32, 1)},
    "Q4_K": {"d": (0, 2, 2), "dmin": (2, 2, 2), "scales": (4, 12, 1), "qs": (16, 128, 1)},
    "Q6_K": {"ql": (0, 128, 1), "qh": (128, 64, 1), "scales": (192, 16, 1), "d": (208, 2, 2)},
}


def tensors() -> dict[str, Given]:
    rng = np.random.default_rng(8)
    values = rng.standard_normal(30).astype(np.float32)
    return {
        "token_embd.weight": Given("F16", (6, 5), values.astype(np.float16).tobytes()),
        **{f"blk.0.{type.lower()}.weight": random_blocks(rng, type, 3, 512) for type in TYPES},
        "output_norm.weight": Given("F32", (5,), values[:5].tobytes()),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = write_gguf(tmp_path / "model.gguf", tensors())
    path.write_bytes(path.read_bytes() + b"behind all tensors")
    return path


def flipped(raw: bytes, faults: FaultMap) -> bytes:
    """Flip bits the slow way: one after the other, where the structs of blocks say that they lie."""
    data, given = bytearray(raw), tensors()
    for region, hit in faults.faults.items():
        name, _, field = region.partition(":")
        start = raw.index(given[name].data)
        for word, mask in zip(hit.words.tolist(), hit.masks.tolist(), strict=True):
            if field:
                first, size, width = PLACES[given[name].type][field]
                block, inside = divmod(word * width, size)
                at = start + block * SIZES[given[name].type][1] + first + inside
            else:
                width = {"F16": 2, "F32": 4}[given[name].type]
                at = start + word * width
            for byte in range(width):
                data[at + byte] ^= mask >> 8 * byte & 255
    return bytes(data)


@pytest.mark.parametrize("target", ["weights", "all", "codes", "scales"])
def test_the_bits_flip_that_the_map_says_and_come_back(model: Path, tmp_path: Path, target: str) -> None:
    made, saved = tmp_path / "made.gguf", tmp_path / "map.safetensors"
    done = faultcli.inject(model, "bitflip:5e-3", made, target=target, save_faults=saved, seed=2)
    faults = FaultMap.load(saved)
    assert faults.flips == done.faults.flips > 5
    assert made.read_bytes() == flipped(model.read_bytes(), faults) != model.read_bytes()
    back = faultcli.replay(made, saved, tmp_path / "back.gguf")
    assert back.restored
    assert (tmp_path / "back.gguf").read_bytes() == model.read_bytes()
    again = faultcli.inject(model, "bitflip:5e-3", tmp_path / "again.gguf", target=target, seed=2)
    assert again.faults.sha256() == faults.sha256()
    assert (tmp_path / "again.gguf").read_bytes() == made.read_bytes()


def test_values_changed_are_those_of_two_whole_decodes(model: Path, tmp_path: Path) -> None:
    done = faultcli.inject(model, "bitflip:2e-3", tmp_path / "made.gguf", target="all-parts", seed=1)
    raw, changed = (tmp_path / "made.gguf").read_bytes(), 0
    for given in (one for one in tensors().values() if one.type in SIZES):
        start = model.read_bytes().index(given.data)
        after = decoded(given._replace(data=raw[start : start + len(given.data)]))
        before = decoded(given)
        unlike = before.view(np.uint32) != after.view(np.uint32)
        changed += int((unlike & ~(np.isnan(before) & np.isnan(after))).sum())
    assert done.values_changed == changed > 0


def test_nothing_but_what_is_edited_is_written(model: Path, tmp_path: Path) -> None:
    """Two fields of one tensor in one go; the others, the metadata, padding and what is behind stay."""
    checkpoint, raw = Checkpoint.open(model), bytearray(model.read_bytes())
    names = ["blk.0.q4_k.weight:dmin", "blk.0.q4_k.weight:qs"]
    told = 0

    def progress(nbytes: int) -> None:
        nonlocal told
        told += nbytes

    def invert(info: object, data: np.ndarray) -> None:
        data ^= 255

    edit(checkpoint, tmp_path / "made.gguf", invert, names, progress=progress)
    start = raw.index(tensors()["blk.0.q4_k.weight"].data)
    for block in range(6):
        at = start + 144 * block
        for byte in (*range(at + 2, at + 4), *range(at + 16, at + 144)):
            raw[byte] ^= 255
    assert (tmp_path / "made.gguf").read_bytes() == bytes(raw)
    assert told == checkpoint.nbytes


def read_json(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_inspect_counts_bits_by_role(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = tmp_path / "inspect.json"
    assert run(["inspect", str(model), "--ber", "1e-3", "--json", str(shown)]) == 0
    said = capsys.readouterr()
    assert "U8 of Q4_K" in said.out
    assert "quantised: GGUF, 4 weights (Q4_0 1, Q4_K 1, Q6_K 1, Q8_0 1)" in said.err
    found = read_json(shown)
    blocks = 3 * 512 // 32
    codes = blocks * (128 + 256) + 6 * (128 + 128 + 64) * 8
    scales = blocks * (16 + 16) + 6 * (32 + 12 * 8) + 6 * (16 * 8 + 16)
    assert found["bits_by_role"] == {"codes": codes, "scales": scales, "other tensors": 6 * 5 * 16}
    for target, bits in (("codes", codes), ("scales", scales), ("all-parts", codes + scales)):
        assert run(["inspect", str(model), "--target", target, "--quiet", "--json", str(shown)]) == 0
        assert read_json(shown)["bits"] == bits


def test_tensors_of_other_types_are_left_out_or_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = random_blocks(np.random.default_rng(9), "Q3_K", 2, 256)
    path = write_gguf(tmp_path / "mixed.gguf", {**tensors(), "blk.1.odd.weight": strange})
    for command in (["inspect", str(path)], ["inject", str(path), "--ber", "1e-3", "--target", "codes"]):
        assert run(command) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[0].endswith("mixed.gguf: tensor 'blk.1.odd.weight' is Q3_K, which is not read")
        assert said[1].startswith("try: leave it as it is with --exclude 'blk.1.odd.weight', or convert the model")
    assert not (tmp_path / "mixed.faulty.gguf").exists()
    assert run(["inject", str(path), "--ber", "1e-2", "--exclude", "*odd*"]) == 0
    assert "passed through as bytes: blk.1.odd.weight (Q3_K)" in capsys.readouterr().err
    made = Checkpoint.open(tmp_path / "mixed.faulty.gguf")
    assert made.read_bytes("blk.1.odd.weight").tobytes() == strange.data
    assert made.sha256() != Checkpoint.open(path).sha256()


@pytest.mark.parametrize(
    "command",
    [
        ["scale", "--factor", "2"],
        ["scale", "--undo"],
        ["harden", "--format", "q2.5"],
        ["harden", "--read"],
        ["seal"],
        ["diff", "m.gguf"],
        ["diff", "m.gguf", "--raw"],
        ["convert"],
    ],
    ids=" ".join,
)
def test_commands_that_take_safetensors_alone_say_so(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "m.gguf", {"a": Given("F32", (2, 2), bytes(16))})
    assert run([command[0], "m.gguf", *command[1:]]) == 2
    said = capsys.readouterr().err
    assert "error: m.gguf: " in said
    assert "\ntry: " in said
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]


def test_another_format_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FaultcliError, match=r"is quantised \(GGUF\): its memory is the words of its file"):
        faultcli.inject(model, "bitflip:1e-3", tmp_path / "made.gguf", format="q2.5")


def test_a_plain_file_is_a_memory_of_any_format(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    path = write_gguf(tmp_path / "m.gguf", {"a": Given("F32", (8, 8), values.tobytes())})
    faultcli.inject(path, "flips:0", tmp_path / "made.gguf", format="q2.5")
    assert np.abs(Checkpoint.open(tmp_path / "made.gguf").read("a").numpy() - values).max() <= 2**-6


def test_faults_hit_by_name(model: Path, tmp_path: Path) -> None:
    law = "flips:9,include=*q4_k*:scales"
    done = faultcli.inject(model, law, tmp_path / "made.gguf", exclude=["*:qs"], include=["blk.*"])
    assert set(done.faults.faults) == {"blk.0.q4_k.weight:scales"}
    assert done.faults.layout.keys() == {
        name for name in Checkpoint.open(model).tensors if fnmatch(name, "blk.*") and not name.endswith(":qs")
    }


def test_a_map_of_another_file_is_refused(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "map.safetensors"
    faultcli.inject(model, "flips:3", tmp_path / "made.gguf", save_faults=saved)
    other = write_gguf(tmp_path / "other.gguf", tensors())
    with pytest.raises(FaultcliError, match="is not the checkpoint that the fault map belongs to"):
        faultcli.replay(other, saved, tmp_path / "x.gguf")


def test_a_file_that_became_shorter_is_noticed(model: Path) -> None:
    packed = Packed.of(Checkpoint.open(model))
    assert packed is not None
    model.write_bytes(model.read_bytes()[:700])
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        packed.decode("blk.0.q8_0.weight")
