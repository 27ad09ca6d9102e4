"""Differences are those that an obvious comparison finds, in every dtype and kind of dump; maps play them back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_checkpoints import KINDS, corrupt, digests, sharded, single

from faultcli.checkpoint import DTYPES, Checkpoint
from faultcli.difference import Difference, RawPlace, compare, open_dump
from faultcli.difference.comparing import ones_by_position
from faultcli.errors import CheckpointError, FaultcliError, UsageError
from faultcli.faults.maps import FaultMap
from faultcli.faults.selection import Selection
from faultcli.injection import replay

ANY = Selection("any")


def write(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file, byte by byte as the format says."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def all_dtypes(seed: int) -> dict[str, tuple[str, list[int], bytes]]:
    """A tensor of every dtype, of random bytes, one that ends in the middle of all tiles and slices; and empty ones."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for dtype, (bits, _) in DTYPES.items():
        elements = 8 * 138
        tensors[dtype] = (dtype, [8, 138], generator.bytes(elements * bits // 8))
    tensors["empty"] = ("F32", [0, 3], b"")
    tensors["scalar"] = ("I64", [], generator.bytes(8))
    return tensors


def with_flips(
    tensors: dict[str, tuple[str, list[int], bytes]], share: float
) -> dict[str, tuple[str, list[int], bytes]]:
    generator = np.random.default_rng(9)
    out = {}
    for name, (dtype, shape, content) in tensors.items():
        mask = np.packbits(generator.random(8 * len(content)) < share).tobytes()
        out[name] = (dtype, shape, bytes(a ^ b for a, b in zip(content, mask, strict=True)))
    return out


def bits_of(content: bytes, width: int) -> NDArray[np.uint8]:
    """[words, width], least significant bit first."""
    return np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little").reshape(-1, width)


def differing(golden: Path, dump: Path, *, bind: bool = False, selection: Selection = ANY, **how: object) -> Difference:
    checkpoint = Checkpoint.open(golden)
    opened, names = open_dump(checkpoint, dump, selection, **how)  # type: ignore[arg-type]
    return compare(checkpoint, opened, names, bind=bind)


@pytest.mark.parametrize("share", [0.0, 0.003, 0.5])
def test_every_dtype_against_its_bits_one_by_one(share: float, tmp_path: Path) -> None:
    before = all_dtypes(1)
    after = with_flips(before, share)
    found = differing(write(tmp_path / "a", before), write(tmp_path / "b", after), bind=True)
    assert [t.name for t in found.tensors] == list(before)
    for t in found.tensors:
        width = {"C64": 32, "F4": 8, "F6_E2M3": 8, "F6_E3M2": 8}.get(t.info.dtype, DTYPES[t.info.dtype][0])
        assert t.layout.bits == width
        one, two = (bits_of(tensors[t.name][2], width) for tensors in (before, after))
        assert t.layout.words == len(one)
        assert t.stored.tolist() == [(one == held).sum(axis=0).tolist() for held in (0, 1)]
        flips = [((one != two) & (one == held)).sum(axis=0).tolist() for held in (0, 1)]
        assert t.flips.tolist() == flips
        words, bits = np.nonzero(one != two)
        assert t.flipped.words.tolist() == words.tolist()
        assert t.flipped.bits.tolist() == bits.tolist()
        assert t.flipped.held.tolist() == one[words, bits].tolist()
        assert t.nonzero == one.any(axis=1).sum()
    total = sum((bits_of(before[n][2], 8) != bits_of(after[n][2], 8)).sum() for n in before)
    assert found.flips == total == sum(found.by_direction)
    assert sum(found.stored) == found.bits == 8 * sum(len(content) for _, _, content in before.values())


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("words", [0, 1, 63, 64, 65, 200_003])
def test_ones_are_counted(bits: int, words: int) -> None:
    content = np.random.default_rng(words).bytes(words * bits // 8)
    counted = ones_by_position(np.frombuffer(content, f"<u{bits // 8}"), bits)
    assert counted.tolist() == bits_of(content, bits).sum(axis=0).tolist()


def test_every_dtype_is_played_back(tmp_path: Path) -> None:
    before = all_dtypes(2)
    golden = write(tmp_path / "a", before, {"format": "pt"})
    dump = write(tmp_path / "b", with_flips(before, 0.01), {"format": "pt"})
    differing(golden, dump, bind=True).fault_map().save(tmp_path / "map")
    faults = FaultMap.load(tmp_path / "map")
    assert faults.before is not None
    there = replay(Checkpoint.open(golden), faults, tmp_path / "there")
    back = replay(Checkpoint.open(dump), faults, tmp_path / "back")
    assert (there.restored, back.restored) == (False, True)
    assert (tmp_path / "there").read_bytes() == dump.read_bytes() != golden.read_bytes()
    assert (tmp_path / "back").read_bytes() == golden.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("law", ["bitflip:1e-3", "flips:1", "bitflip:0", "zero:0.05"])
def test_what_inject_did_is_found_and_played_back(kind: str, law: str, tmp_path: Path) -> None:
    model, out = KINDS[kind](tmp_path)
    done = corrupt(model, law, tmp_path / out, save_faults=tmp_path / "drawn")
    found = differing(model, tmp_path / out, bind=True)
    drawn = FaultMap.load(tmp_path / "drawn")
    assert (found.before, found.after) == (drawn.before, drawn.after)
    assert found.flips == done.faults.flips
    found.fault_map().save(tmp_path / "found")
    faults = FaultMap.load(tmp_path / "found")
    whole = model if kind in ("file", "directory", "shards") else model.parent
    replay(Checkpoint.open(model), faults, tmp_path / f"there-{out}")
    replay(Checkpoint.open(tmp_path / out), faults, tmp_path / f"back-{out}")
    assert digests(tmp_path / f"there-{out}") == digests(tmp_path / out)
    if law != "bitflip:0":
        assert digests(tmp_path / f"back-{out}") == digests(whole)


def test_a_map_is_bound_to_files_that_it_makes_of_each_other(tmp_path: Path) -> None:
    before = all_dtypes(3)
    golden = write(tmp_path / "golden", before)
    after = with_flips(before, 0.01)
    dump = write(tmp_path / "dump", after)
    other = write(tmp_path / "other", after, {"written": "otherwise"})
    assert differing(golden, dump, bind=True).before is not None
    assert differing(golden, dump).before is None
    assert differing(golden, other, bind=True).before is None
    assert differing(golden, dump, bind=True, selection=Selection("any", ["F32"])).before is None
    only = write(tmp_path / "only", {name: after["F32"] if name == "F32" else t for name, t in before.items()})
    assert differing(golden, only, bind=True, selection=Selection("any", ["F32"])).before is not None


def test_shards_against_one_file(tmp_path: Path) -> None:
    found = differing(sharded(tmp_path / "shards"), single(tmp_path / "file"), bind=True)
    assert (found.flips, found.before) == (0, None)
    assert sorted(t.address for t in found.tensors)[:2] == [0, 32]


RAW = {
    "its tensors": (0, "bare", RawPlace()),
    "its file": (0, "file", RawPlace()),
    "tensors in more": (4096, "bare", RawPlace(4096)),
    "file in more": (4096, "file", RawPlace(4096)),
    "tensors before more": (17, "bare+", RawPlace(17, -1)),
    "file before more": (17, "file+", RawPlace(17, -1)),
}


@pytest.mark.parametrize("case", RAW)
def test_raw_dumps(case: str, tmp_path: Path) -> None:
    base, what, place = RAW[case]
    before = all_dtypes(4)
    after = with_flips(before, 0.01)
    golden, dump = write(tmp_path / "golden", before), write(tmp_path / "dump", after)
    content = dump.read_bytes()
    if what.startswith("bare"):
        content = b"".join(t[2] for t in after.values())
    if place.length is not None:
        place = RawPlace(place.base, len(content))
    raw = tmp_path / "raw.bin"
    raw.write_bytes(b"\xaa" * base + content + b"\x55" * 100 * what.endswith("+"))
    found, expected = differing(golden, raw, raw=place, bind=True), differing(golden, dump)
    assert found.fault_map().sha256() == expected.fault_map().sha256()
    assert found.flips > 0
    assert found.before is None
    assert found.tensors[0].address == base + (len(content) - len(b"".join(t[2] for t in after.values())))


def test_raw_dump_of_one_tensor(tmp_path: Path) -> None:
    before = all_dtypes(5)
    after = with_flips(before, 0.01)
    raw = tmp_path / "raw"
    raw.write_bytes(b"1234" + after["BF16"][2])
    found = differing(write(tmp_path / "golden", before), raw, raw=RawPlace(4), tensor="BF16")
    assert [t.name for t in found.tensors] == ["BF16"]
    assert found.flips == (bits_of(before["BF16"][2], 16) != bits_of(after["BF16"][2], 16)).sum()


ARRAYS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
ARRAYS |= {"F8_E4M3": "|u1", "F4": "|u1", "C64": "<c8", "I64": ">i8", "U16": ">u2"}


@pytest.mark.parametrize("dtype", ARRAYS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(dtype: str, order: str, tmp_path: Path) -> None:
    before = all_dtypes(6)
    after = with_flips(before, 0.01)
    _, shape, content = after[dtype]
    kind = np.dtype(ARRAYS[dtype])
    array = np.frombuffer(content, kind.newbyteorder("<")).reshape(shape[0], -1).astype(kind)
    np.save(tmp_path / "array.npy", np.asarray(array, order=order))  # type: ignore[call-overload]
    found = differing(write(tmp_path / "golden", before), tmp_path / "array.npy", tensor=dtype)
    assert [t.name for t in found.tensors] == [dtype]
    assert found.flips == (bits_of(before[dtype][2], 8) != bits_of(content, 8)).sum() > 0


def test_an_array_is_the_only_tensor_that_is_left(tmp_path: Path) -> None:
    golden = write(tmp_path / "golden", all_dtypes(7))
    np.save(tmp_path / "a.npy", np.frombuffer(all_dtypes(7)["F32"][2], "<f4").reshape(8, 138))
    assert differing(golden, tmp_path / "a.npy", selection=Selection("any", ["F32"])).flips == 0
    with pytest.raises(UsageError, match="has 24 tensors that it may be"):
        differing(golden, tmp_path / "a.npy")


def refused(golden: Path, dump: Path, **how: object) -> str:
    with pytest.raises(FaultcliError) as caught:
        differing(golden, dump, **how)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert "\n" not in caught.value.message
    return f"{caught.value.message} | {caught.value.remedy}"


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    tensors = {"a": ("F32", [2, 3], bytes(24)), "b": ("F16", [4], bytes(8))}
    golden = write(tmp_path / "golden", tensors)

    def other(**changed: tuple[str, list[int], bytes] | None) -> Path:
        return write(tmp_path / "other", {k: v for k, v in (tensors | changed).items() if v})

    assert "other: has no tensor 'b', which" in refused(golden, other(b=None))
    assert "other: has a tensor 'c', which" in refused(golden, other(c=("F16", [4], bytes(8))))
    assert "tensor 'b' is BF16 of shape [4]; in" in refused(golden, other(b=("BF16", [4], bytes(8))))
    assert "tensor 'a' is F32 of shape [3, 2]; in" in refused(golden, other(a=("F32", [3, 2], bytes(24))))
    assert differing(golden, other(b=None), selection=Selection("any", ["a"])).flips == 0
    assert differing(golden, other(c=("F16", [4], bytes(8))), selection=Selection("any", (), ["c"])).flips == 0


def test_other_lengths_are_refused(tmp_path: Path) -> None:
    golden = write(tmp_path / "golden", {"a": ("F32", [2, 3], bytes(24))})
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(23))
    size = golden.stat().st_size
    text = refused(golden, raw, raw=RawPlace())
    assert f"23 bytes from 0; of {golden} it would be 24 (its tensors) or {size} (the file with its header)" in text
    raw.write_bytes(bytes(500))
    assert "--base OFFSET --length 24" in refused(golden, raw, raw=RawPlace())
    assert "has 500 bytes, and none from 600" in refused(golden, raw, raw=RawPlace(600))
    assert "has 500 bytes, and none from 490 to 514" in refused(golden, raw, raw=RawPlace(490, 24))
    assert "it would be 24 (tensor 'a')" in refused(golden, raw, raw=RawPlace(), tensor="a")
    assert "no such file" in refused(golden, tmp_path / "gone", raw=RawPlace())
    assert "is not a regular file" in refused(golden, tmp_path, raw=RawPlace())
    assert "no tensor is named 'b'" in refused(golden, raw, raw=RawPlace(), tensor="b")
    assert "is neither a safetensors nor a .npy file | memory as it is" in refused(golden, raw)
    shards = sharded(tmp_path / "shards")
    assert "is 2 files, and a dump of bytes is compared with one" in refused(shards, raw, raw=RawPlace())


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    golden = write(tmp_path / "golden", {"a": ("F32", [2, 3], bytes(24)), "b": ("BF16", [3], bytes(6))})
    array = tmp_path / "a.npy"
    for content, problem in (
        (np.zeros((3, 2), np.float32), "holds float32 of shape [3, 2]; tensor 'a' is F32 of shape [2, 3]"),
        (np.zeros((2, 3)), "holds float64 of shape [2, 3]"),
        (np.zeros((2, 3), np.int32), "holds int32, and tensor 'a' is F32: other words for the same values"),
    ):
        np.save(array, content)
        assert problem in refused(golden, array, tensor="a")
    np.save(array, np.zeros(3, np.float16))
    assert "holds float16, and tensor 'b' is BF16" in refused(golden, array, tensor="b")
    for damaged in (b"", b"\x93NUMPY", b"no array", array.read_bytes()[:-3]):
        array.write_bytes(damaged)
        assert "is no .npy file of numbers" in refused(golden, array, tensor="b")
    np.save(array, np.array([object()]), allow_pickle=True)
    assert "is no .npy file of numbers" in refused(golden, array, tensor="b")
    assert "cannot be read" in refused(golden, tmp_path / "gone.npy", tensor="b")


def test_a_dump_that_shrinks_is_noticed(tmp_path: Path) -> None:
    golden = Checkpoint.open(write(tmp_path / "golden", {"a": ("F32", [2, 3], bytes(24))}))
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(24))
    opened, names = open_dump(golden, raw, ANY, raw=RawPlace())
    raw.write_bytes(bytes(20))
    with pytest.raises(CheckpointError, match="ended early"):
        compare(golden, opened, names)
