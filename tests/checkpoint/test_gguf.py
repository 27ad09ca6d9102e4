"""GGUF files: opened field by field, read bit for bit as ggml dequantises them, refused in one line where they are
damaged or of another kind."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import (
    NUMBERS,
    SIZES,
    SLOWLY,
    USUAL,
    Given,
    decoded,
    entry,
    head,
    padded,
    random_blocks,
    text,
    write_gguf,
)
from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.gguf import TYPES
from faultcli.checkpoint.packed import HitWords, Packed
from faultcli.checkpoint.packed.arrays import differing
from faultcli.checkpoint.packed.gguf import BLOCKS
from faultcli.errors import CheckpointError

# The bytes of a block by field, as the structs of ggml-common.h have them.
FIELDS = {
    "Q4_0": {"d": ("F16", 2), "qs": ("U8", 16)},
    "Q4_1": {"d": ("F16", 2), "m": ("F16", 2), "qs": ("U8", 16)},
    "Q5_0": {"d": ("F16", 2), "qh": ("U8", 4), "qs": ("U8", 16)},
    "Q5_1": {"d": ("F16", 2), "m": ("F16", 2), "qh": ("U8", 4), "qs": ("U8", 16)},
    "Q8_0": {"d": ("F16", 2), "qs": ("I8", 32)},
    "Q4_K": {"d": ("F16", 2), "dmin": ("F16", 2), "scales": ("U8", 12), "qs": ("U8", 128)},
    "Q5_K": {"d": ("F16", 2), "dmin": ("F16", 2), "scales": ("U8", 12), "qh": ("U8", 32), "qs": ("U8", 128)},
    "Q6_K": {"ql": ("U8", 128), "qh": ("U8", 64), "scales": ("I8", 16), "d": ("F16", 2)},
}


def opened(path: Path) -> Packed:
    packed = Packed.of(Checkpoint.open(path))
    assert packed is not None
    return packed


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit; a NaN is a NaN."""
    flat = [t.masked_fill(t.isnan(), torch.nan).contiguous().view(-1) for t in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and not differing(*flat).any()


@pytest.fixture(params=SLOWLY)
def one(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Given, Packed]:
    given = random_blocks(np.random.default_rng(3), request.param, 2, 3, 512)
    return given, opened(write_gguf(tmp_path / "m.gguf", {"w": given}))


def test_reads_what_the_loops_of_ggml_read(one: tuple[Given, Packed]) -> None:
    given, packed = one
    assert same(packed.decode("w"), torch.from_numpy(decoded(given)))
    assert packed.infos["w"].shape == given.shape


def test_reads_what_the_gguf_package_reads(one: tuple[Given, Packed]) -> None:
    gguf = pytest.importorskip("gguf")
    given, packed = one
    raw = np.frombuffer(given.data, np.uint8).reshape(*given.shape[:-1], -1)
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[given.type])
    assert same(packed.decode("w"), torch.from_numpy(wanted))


def test_values_by_hand(tmp_path: Path) -> None:
    """Worked out on paper: the first weight of each half of the codes, and of each kind of packed scale."""
    d, least = struct.pack("<e", 0.5), struct.pack("<e", 2.0)
    scales = bytes([0b01_000011, 0, 0, 0, 0b10_000001, 0, 0, 0, 0b0111_0010, 0, 0, 0])  # parts 0 and 4
    tensors = {
        "q4_0": Given("Q4_0", (1, 32), d + bytes([0xF0]) + bytes(15)),
        "q8_0": Given("Q8_0", (1, 32), d + bytes([0x80, 0x7F]) + bytes(30)),
        "q4_k": Given("Q4_K", (1, 256), d + least + scales + bytes([0xA5]) + bytes(63) + bytes([0x0F]) + bytes(63)),
        "q6_k": Given("Q6_K", (1, 256), bytes([0x2F]) + bytes(127) + bytes([3]) + bytes(63) + b"\xfe" * 16 + d),
    }
    packed = opened(write_gguf(tmp_path / "m.gguf", tensors))
    assert packed.decode("q4_0")[0, [0, 1, 16]].tolist() == [-4.0, -4.0, 3.5]
    assert packed.decode("q8_0")[0, :3].tolist() == [-64.0, 63.5, 0.0]
    # part 0: scale 3, minimum 1; part 4: scale 2 + 16, minimum 7 + 32
    assert packed.decode("q4_k")[0, [0, 1, 32, 128]].tolist() == [5.5, -2.0, 0.0, 0.5 * 18 * 15 - 2 * 39]
    assert packed.decode("q6_k")[0, [0, 64, 1]].tolist() == [-(63.0 - 32), -(2.0 - 32), 32.0]


def test_every_field_is_a_tensor_with_a_role(one: tuple[Given, Packed]) -> None:
    given, packed = one
    fields = FIELDS[given.type]
    assert sum(size for _, size in fields.values()) == SIZES[given.type][1]
    blocks = np.frombuffer(given.data, np.uint8).reshape(-1, SIZES[given.type][1])
    assert list(packed.checkpoint.tensors) == [f"w:{name}" for name in fields]
    first = 0
    for name, (dtype, size) in fields.items():
        info = packed.checkpoint.info(f"w:{name}")
        assert (info.dtype, info.shape[:-1], info.nbytes) == (dtype, (2, 3), size * len(blocks))
        assert np.array_equal(packed.checkpoint.read_bytes(info.name), blocks[:, first : first + size].reshape(-1))
        assert packed.roles[info.name] == ("codes" if name.startswith("q") else "scales")
        first += size


def test_a_patch_is_the_difference_of_two_decodes(one: tuple[Given, Packed]) -> None:
    _, packed = one
    held, weight, rng = packed.held("w"), packed.weights["w"], np.random.default_rng(4)
    before = weight.decode(held)
    for _ in range(30):
        faults = {}
        for tensor, words in held.words.items():
            at = np.unique(rng.integers(0, len(words), rng.integers(0, 3)))
            if len(at):
                faults[tensor] = at, rng.integers(1, 1 << 8 * words.itemsize, len(at)).astype(np.uint64)
        hit = HitWords(held, faults)
        after = weight.decode(hit)
        index, values = weight.touched(hit)
        assert index.tolist() == np.flatnonzero(differing(before.view(-1), after.view(-1))).tolist()
        assert same(values, after.view(-1)[index])


def test_a_flip_costs_what_it_touches(one: tuple[Given, Packed]) -> None:
    """A byte of codes has 1 to 8, a scale its block or part; a byte of packed scales bits of 2, or of a scale and a
    minimum."""
    given, packed = one
    weight, asked = packed.weights["w"], []

    def counting(met: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        asked.append(met["d"].numel())
        return weight.grid.formula(met, dtype)

    counted = replace(weight, grid=replace(weight.grid, formula=counting))
    shared = SIZES[given.type][0]
    most = {"d": shared, "m": shared, "dmin": shared, "scales": 64, "qs": 2, "ql": 2, "qh": 8}
    for part in weight.roles:
        asked.clear()
        counted.touched(HitWords(packed.held("w"), {part: (np.array([1]), np.array([0x41], dtype=np.uint64))}))
        assert 0 < max(asked) <= most[part.partition(":")[2]], part


def test_plain_tensors_and_metadata(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32).reshape(2, 5)
    tensors = {
        "f32": Given("F32", (2, 5), values.tobytes()),
        "f16": Given("F16", (2, 5), values.astype(np.float16).tobytes()),
        "bf16": Given("BF16", (2, 5), values.view(np.uint16)[:, 1::2].tobytes()),
        "i32": Given("I32", (10,), values.astype(np.int32).tobytes()),
    }
    checkpoint = Checkpoint.open(write_gguf(tmp_path / "m.gguf", tensors))
    assert Packed.of(checkpoint) is None
    assert {name: str(read.dtype) for name, read in checkpoint.state().items()} == {
        "f32": "torch.float32",
        "f16": "torch.float16",
        "bf16": "torch.bfloat16",
        "i32": "torch.int32",
    }
    assert all(np.array_equal(read.float().numpy().reshape(2, 5), values) for read in checkpoint.state().values())
    assert checkpoint.metadata == {
        "general.architecture": "llama",
        "llama.block_count": "1",
        "llama.rope.freq_base": "10000",
        "tokenizer.ggml.add_bos_token": "true",
        "tokenizer.ggml.tokens": "[2 values]",
        "tokenizer.ggml.scores": "[2 values]",
        "nested": "[1 values]",
    }


def test_another_alignment_and_the_version_before(tmp_path: Path) -> None:
    metadata = {**USUAL, "general.alignment": struct.pack("<II", 4, 128)}
    raw = padded(head([entry("a", 0, (2,), 128)], metadata, version=2), alignment=128) + bytes(128)
    (tmp_path / "m.gguf").write_bytes(raw + struct.pack("<2f", 1, 2))
    assert Checkpoint.open(tmp_path / "m.gguf").read("a").tolist() == [1.0, 2.0]


def test_many_blocks_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_blocks(np.random.default_rng(5), "Q6_K", 7, 256)
    path = write_gguf(tmp_path / "m.gguf", {"w": given})
    whole = Checkpoint.open(path).read_bytes("w:qh")
    for chunk in (1, 211, 420, 1000):
        monkeypatch.setattr("faultcli.checkpoint.reader._CHUNK", chunk)
        assert np.array_equal(Checkpoint.open(path).read_bytes("w:qh"), whole)


def damaged(entries: list[bytes], data: int = 4096, metadata: dict[str, bytes] = USUAL) -> bytes:
    return padded(head(entries, metadata)) + bytes(data)


A = entry("a", NUMBERS["Q4_0"], (2, 32), 0)
BAD: dict[str, tuple[bytes, str]] = {
    "version 1": (head([], {}, version=1), "is a GGUF file of version 1; versions 2 and 3 are read"),
    "version 4": (head([], {}, version=4), "is a GGUF file of version 4"),
    "other order": (head([], {}, version=3 << 24), "is a GGUF file for machines of the other byte order"),
    "magic alone": (b"GGUF", "is truncated: its header goes on behind byte 4, the file ends at 4"),
    "truncated header": (head([A])[:-5], "is truncated: its header goes on"),
    "truncated tensors": (damaged([A], 35), r"is truncated: tensor 'a' ends at byte \d+, the file at \d+"),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "is truncated: its header goes on"),
    "long array": (head([], {"k": struct.pack("<IIQ", 9, 12, 1 << 62)}), "is truncated: its header goes on"),
    "overlap": (damaged([A, entry("b", 0, (1,), 32)]), "damaged GGUF file: tensors 'a' and 'b' overlap"),
    "twice": (damaged([A, entry("a", 0, (1,), 64)]), "two tensors are called 'a'"),
    "name of a field": (damaged([A, entry("a:d", 0, (1,), 64)]), "two tensors are called 'a:d'"),
    "half a block": (
        damaged([entry("a", NUMBERS["Q4_K"], (2, 32), 0)]),
        r"tensor 'a' of shape \[2, 32\] cannot be Q4_K, blocks of 256",
    ),
    "alignment": (damaged([], 0, {"general.alignment": struct.pack("<II", 4, 0)}), "its general.alignment is 0"),
    "key twice": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + struct.pack("<IB", 0, 1)),
        "have 'k' twice",
    ),
    "value": (head([], {"k": struct.pack("<IB", 99, 1)}), "of a type that there is not, 99"),
    "array": (head([], {"k": struct.pack("<IIQ", 9, 99, 1)}), "of a type that there is not, 99"),
    "text": (head([], {"k": struct.pack("<IQ", 8, 1) + b"\xff"}), "is no UTF-8"),
    "dimensions": (head([text("a") + struct.pack("<I", 1000)]), "tensor 'a' has 1000 dimensions"),
}


@pytest.mark.parametrize(("raw", "words"), BAD.values(), ids=BAD)
def test_what_is_damaged_or_of_another_version(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.open(path)
    assert caught.value.message.startswith(str(path))
    assert caught.value.remedy
    assert "\n" not in caught.value.message


def test_damaged_bytes_are_refused_or_read(tmp_path: Path) -> None:
    """Whatever is written over a header, nothing but a CheckpointError comes out of it."""
    rng, path, refused = np.random.default_rng(7), tmp_path / "m.gguf", []
    tensors = {
        "w": random_blocks(rng, "Q4_K", 2, 256),
        "a": Given("F32", (2,), bytes(8)),
        "b": Given("I32", (), bytes(4)),
    }
    raw = write_gguf(path, tensors).read_bytes()
    size = raw.index(tensors["w"].data)
    for trial in range(120):
        found = bytearray(raw[: rng.integers(8, len(raw))] if trial % 4 == 0 else raw)
        for at in rng.integers(4, min(size, len(found)), rng.integers(1, 4)):
            found[at] = rng.choice([0, 1, 8, 9, 127, 255, rng.integers(256)])
        path.write_bytes(found)
        try:
            checkpoint = Checkpoint.open(path)
            for info in checkpoint.tensors.values():
                checkpoint.read_bytes(info.name)
            if (packed := Packed.of(checkpoint)) is not None:
                packed.state()
        except CheckpointError as error:
            refused.append(error.message)
    assert 30 < len(refused) < 120
    assert all(message.startswith(str(path)) for message in refused)


def test_what_is_not_read_has_its_bytes(tmp_path: Path) -> None:
    """Of a type that the table knows, or of one that nobody here has heard of, which ends where the next one begins."""
    given = random_blocks(np.random.default_rng(6), "Q3_K", 2, 256)
    new = padded(bytes(range(40)))
    entries = [entry("new", 999, (5, 5), 0), entry("old", NUMBERS["Q3_K"], (2, 256), len(new))]
    (tmp_path / "m.gguf").write_bytes(padded(head(entries)) + new + given.data)
    checkpoint = Checkpoint.open(tmp_path / "m.gguf")
    assert {name: info.unread for name, info in checkpoint.tensors.items()} == {"new": "type 999", "old": "Q3_K"}
    assert checkpoint.read_bytes("old").tobytes() == given.data
    assert checkpoint.read_bytes("new").tobytes() == new


def test_the_tables_agree() -> None:
    """Every type with fields has its values, in the one order of both, and is in the documentation."""
    types = {type.name: type for type in TYPES.values()}
    assert len(types) == len(TYPES)
    assert list(BLOCKS) == [name for name, type in types.items() if type.fields]
    assert {name: (type.weights, type.nbytes) for name, type in types.items() if name in SIZES} == SIZES
    for name, values in BLOCKS.items():
        assert {number.field for number in values.numbers.values()} == {field.name for field in types[name].fields}
    page = (Path(__file__).parents[2] / "docs" / "quantised.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^\| {name} \|", page, re.MULTILINE) for name in BLOCKS)


def test_all_sizes_are_those_of_the_package() -> None:
    gguf = pytest.importorskip("gguf")
    known = {type.value: (type.name, *gguf.GGML_QUANT_SIZES[type]) for type in gguf.GGMLQuantizationType}
    assert {n: (type.name, type.weights, type.nbytes) for n, type in TYPES.items()}.items() <= known.items()


def test_a_directory_says_which_file_to_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", {"a": Given("F32", (2,), bytes(8))})
    with pytest.raises(CheckpointError, match=r"holds no safetensors checkpoint, but m\.gguf") as caught:
        Checkpoint.open(tmp_path)
    assert caught.value.remedy == f"name one: {tmp_path / 'm.gguf'}"


def test_a_part_of_a_split_file_says_so(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m-00001-of-00003.gguf", {"a": Given("F32", (2,), bytes(8))})
    assert Checkpoint.open(path).notes == (f"{path}: is one of 3 shards; the others are not read",)
