"""Files that promise little and hold much, promise much and hold little, or hold more than a limit asks for."""

import gzip
import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from faultcli.errors import WorkloadError
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import make_dataset
from faultcli.workload.data.tokens import load_tokens, make_tokens
from faultcli.workload.models.architectures import Language

BOMB = 96 << 20  # bytes that are packed into some 100 kB
MEMORY = 12 << 20  # bytes that reading may take at its peak
CHUNK = bytes(1 << 20)


def peak(call: Callable[[], object]) -> int:
    """The most memory that a call held, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def pour(file: Any, head: bytes = b"", nbytes: int = BOMB) -> None:
    file.write(head)
    for _ in range(nbytes >> 20):
        file.write(CHUNK)


def idx_head(*shape: int) -> bytes:
    return (0x0800 + len(shape)).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in shape)


def mnist(directory: Path, images: bytes, labels: bytes, poured: int = 0, into: str = "images") -> None:
    """Gzipped IDX files; one of them with so many zeros behind."""
    for stem, head in (("images-idx3", images), ("labels-idx1", labels)):
        with gzip.open(directory / f"t10k-{stem}-ubyte.gz", "wb", 1) as file:
            pour(file, head, poured if stem.startswith(into) else 0)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(path: Path, members: dict[str, bytes], poured: str = "", packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing, compresslevel=1) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as file:
                pour(file, content, BOMB if name == poured else 0)
    return path


def refused(spec: object, words: str, limit: int | None = None) -> None:
    with pytest.raises(WorkloadError, match=words):
        load_data(str(spec), limit)


LITTLE = npy(np.zeros((1, 8, 8), np.uint8))
LABEL = npy(np.zeros(1, np.int64))


@pytest.mark.parametrize("into", ["images", "labels"])
@pytest.mark.parametrize("limit", [None, 1])
def test_idx_files_are_read_as_far_as_they_promise(into: str, limit: int | None, tmp_path: Path) -> None:
    mnist(tmp_path, idx_head(1, 8, 8) + bytes(64), idx_head(1) + bytes(1), BOMB, into)
    assert (
        peak(lambda: refused(f"mnist:{tmp_path}", "goes on after the .* bytes that its header promises", limit))
        < MEMORY
    )


def test_an_idx_file_cannot_promise_more_than_it_can_hold(tmp_path: Path) -> None:
    mnist(tmp_path, idx_head(1 << 31, 1 << 31, 1 << 31), idx_head(1) + bytes(1))
    refused(f"mnist:{tmp_path}", "more than .* packed ones can hold")
    mnist(tmp_path, idx_head(9, 8, 8) + bytes(70), idx_head(9) + bytes(9))
    refused(f"mnist:{tmp_path}", "is damaged: it ends after 70 of 576 bytes")


@pytest.mark.parametrize(
    ("content", "poured", "words"),
    [
        (LITTLE, True, "is damaged: it has .* bytes and its header promises 192"),
        (b"no numpy array", True, "is damaged: it is no numpy array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", True, "its header is 4294967307 bytes long"),
        (npy(np.zeros((1, 8, 8), np.uint8)).replace(b"(1, 8, 8), }", b"(10**9,), }"), False, "is damaged"),
        (npy(np.zeros((1, 8, 8), np.uint8)).replace(b"(1, 8, 8), }   ", b"(1073741824,), }"), False, "has 193 bytes"),
        (LITTLE[:150], False, "it has 150 bytes and its header promises 192"),
        (npy(np.zeros((1, 8, 8), np.uint8)).replace(b"{", b"("), False, "is damaged: its header is unreadable"),
        (npy(np.zeros(1, "M8[s]")), False, r"holds datetime64"),
        (npy(np.zeros(1, [("a", "i4")])), False, "holds"),
    ],
)  # fmt: skip
def test_npz_members_are_read_as_far_as_they_promise(content: bytes, poured: bool, words: str, tmp_path: Path) -> None:
    members = {"images.npy": content, "labels.npy": LABEL}
    path = npz(tmp_path / "a.npz", members, "images.npy" if poured else "")
    assert peak(lambda: refused(path, words)) < MEMORY
    path = npz(tmp_path / "a.npz", {"images.npy": LITTLE, "labels.npy": content}, "labels.npy" if poured else "")
    assert peak(lambda: refused(path, words, 1)) < MEMORY


def test_what_a_central_directory_says_is_not_believed(tmp_path: Path) -> None:
    """A member of 64 GB in 200 bytes, by its own header and by the archive's."""
    large = npy(np.zeros((1, 8, 8), np.uint8)).replace(b"(1, 8, 8), }    ", b"(64000000000,), }")[:128]
    path = npz(tmp_path / "a.npz", {"images.npy": large, "labels.npy": LABEL})
    raw, size = path.read_bytes(), (128).to_bytes(4, "little")
    directory = raw.index(b"PK\x01\x02")
    assert raw[directory + 24 : directory + 28] == size
    zip64 = b"\x01\x00\x08\x00" + (128 + 64 * 10**9).to_bytes(8, "little")
    named = directory + 46 + len("images.npy")
    entry = bytearray(raw[directory:named])
    entry[24:28], entry[30:32] = b"\xff" * 4, len(zip64).to_bytes(2, "little")
    raw = raw[:directory] + bytes(entry) + zip64 + raw[named:]
    end = raw.index(b"PK\x05\x06")
    length = int.from_bytes(raw[end + 12 : end + 16], "little") + len(zip64)
    path.write_bytes(raw[: end + 12] + length.to_bytes(4, "little") + raw[end + 16 :])
    assert peak(lambda: refused(path, "cannot have 64000000128 bytes in a file of")) < MEMORY


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_members_are_packed_as_numpy_packs(packing: int, tmp_path: Path) -> None:
    refused(npz(tmp_path / "a.npz", {"images.npy": LITTLE, "labels.npy": LABEL}, packing=packing), "packed in a way")


def test_a_limit_comes_before_inflating(tmp_path: Path) -> None:
    count = BOMB // 64
    mnist(tmp_path, idx_head(count, 8, 8), idx_head(count) + bytes(count), BOMB)
    many = npy(np.zeros((1, 8, 8), np.uint8)).replace(b"(1, 8, 8), }      ", f"({count}, 8, 8), }}".encode().ljust(18))
    npz(tmp_path / "a.npz", {"images.npy": many[:128], "labels.npy": npy(np.zeros(count, np.uint8))}, "images.npy")
    (tmp_path / "test_batch.bin").touch()
    os.truncate(tmp_path / "test_batch.bin", 3073 * (BOMB // 3073))  # a sparse file
    save_file({"images": torch.zeros(count, 8, 8, dtype=torch.uint8), "labels": torch.zeros(count, dtype=torch.uint8)},
              tmp_path / "a.safetensors")  # fmt: skip
    for spec in (f"mnist:{tmp_path}", tmp_path / "a.npz", f"cifar10:{tmp_path}", tmp_path / "a.safetensors"):
        found: list[int] = []
        assert peak(lambda: found.append(len(load_data(str(spec), 5)))) < MEMORY  # noqa: B023
        assert found == [5]
    assert len(load_data(f"mnist:{tmp_path}", count + 1)) == count


def test_a_limit_hides_no_mismatch(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 8, 8), np.uint8), labels=np.zeros(4, int))
    save_file({"images": torch.zeros(5, 8, 8), "labels": torch.zeros(4, dtype=torch.int64)}, tmp_path / "a.safetensors")
    mnist(tmp_path, idx_head(5, 8, 8) + bytes(5 * 64), idx_head(4) + bytes(4))
    for spec in (tmp_path / "a.npz", tmp_path / "a.safetensors", f"mnist:{tmp_path}"):
        refused(spec, "5 (images|inputs) but 4 labels", 2)


def test_arrays_in_fortrans_order_and_of_other_byte_orders(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 17, (6, 3, 4), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=np.asfortranarray(images), labels=np.arange(6, dtype=">u2"))
    for limit in (None, 2):
        data = load_data(str(tmp_path / "a.npz"), limit)
        assert data.inputs.tolist() == images[:limit].tolist()
        assert data.labels.tolist() == list(range(6))[:limit]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", ">i2", "i4", ">u8"])
def test_labels_of_any_integer_type(dtype: str, tmp_path: Path) -> None:
    labels = np.array([1, 0, 2], dtype)
    data = make_dataset(np.zeros((3, 2, 2), np.uint8), labels, "a")
    assert (data.labels.dtype, data.labels.tolist()) == (torch.int64, [1, 0, 2])
    tokens = torch.from_numpy(labels.astype(labels.dtype.newbyteorder("=")))
    assert make_tokens(tokens[None], torch.ones_like(tokens)[None], "a", Language(9, None, None)).ids.tolist() == [
        [1, 0, 2]
    ]
    np.savez(tmp_path / "a.npz", input_ids=labels[None], attention_mask=np.ones((1, 3), dtype))
    assert load_tokens(str(tmp_path / "a.npz"), Language(9, None, None)).ids.tolist() == [[1, 0, 2]]


def test_a_label_beyond_64_bits() -> None:
    with pytest.raises(WorkloadError, match=r"a label is 2\^63 or more"):
        make_dataset(np.zeros((1, 2, 2), np.uint8), np.array([1 << 63], np.uint64), "a")


@pytest.mark.parametrize(
    ("names", "words"), [(np.array("one"), r"class_names are of shape \[\]"), (np.zeros(1 << 22), "which is too much")]
)
def test_names_that_are_no_list(names: np.ndarray[Any, Any], words: str, tmp_path: Path) -> None:
    images = np.zeros((1, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.zeros(1, int), class_names=names)
    refused(tmp_path / "a.npz", words)
