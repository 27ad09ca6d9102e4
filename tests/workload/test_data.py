"""Data sets: every source, every layout, every way in which files can be wrong."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from faultcli.errors import FaultcliError, UsageError, WorkloadError
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import make_dataset
from faultcli.workload.preprocess import Preprocess


def idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def mnist_like(directory: Path, split: str = "t10k", n: int = 4) -> None:
    images = np.arange(n * 6, dtype=np.uint8).reshape(n, 2, 3)
    (directory / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
    (directory / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n, dtype=np.uint8))))


def test_digits_are_embedded() -> None:
    test, train = load_data("digits"), load_data("digits,split=train")
    assert (len(test), len(train), test.layout, test.item_shape) == (500, 1297, "NHW", (1, 8, 8))
    assert (test.inputs.dtype, int(test.inputs.max()), test.labels.dtype) == (torch.uint8, 16, torch.int64)
    assert set(test.labels.tolist()) == set(range(10))
    rows = {image.numpy().tobytes() for image in train.inputs}
    assert not any(image.numpy().tobytes() in rows for image in test.inputs)


def test_digits_are_those_of_scikit_learn() -> None:
    images, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    parts = [load_data("digits,split=train"), load_data("digits,split=test")]
    assert np.array_equal(np.concatenate([part.inputs.numpy() for part in parts]).reshape(-1, 64), images)
    assert np.array_equal(np.concatenate([part.labels.numpy() for part in parts]), labels)


def test_idx_files_plain_or_gzipped(tmp_path: Path) -> None:
    mnist_like(tmp_path)
    mnist_like(tmp_path, "train", n=7)
    data = load_data(f"mnist:{tmp_path}")
    assert data.inputs.flatten().tolist() == list(range(24))
    assert (data.labels.tolist(), data.item_shape) == ([0, 1, 2, 3], (1, 2, 3))
    assert len(load_data(f"mnist:{tmp_path},split=train")) == 7
    assert len(load_data(f"mnist:{tmp_path}", limit=3)) == 3
    assert len(load_data(f"mnist:{tmp_path}", limit=99)) == 4


def test_real_mnist(data_dir: Path) -> None:
    data = load_data(f"mnist:{data_dir}/mnist")
    assert (tuple(data.inputs.shape), data.labels[:5].tolist()) == ((10000, 28, 28), [7, 2, 1, 0, 4])


def cifar_records(n: int, seed: int) -> NDArray[np.uint8]:
    records = np.random.default_rng(seed).integers(0, 256, (n, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    return records


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar10_binary(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    batches = {
        name: cifar_records(3, i) for i, name in enumerate(["test_batch", *(f"data_batch_{i}" for i in range(1, 6))])
    }
    for name, records in batches.items():
        (tmp_path / folder / f"{name}.bin").write_bytes(records.tobytes())
    data = load_data(f"cifar10:{tmp_path}")
    assert (data.layout, data.item_shape, data.class_names and data.class_names[3]) == ("NCHW", (3, 32, 32), "cat")
    assert data.labels.tolist() == batches["test_batch"][:, 0].tolist()
    assert data.inputs[1, 2, 0, 5] == batches["test_batch"][1, 1 + 2 * 1024 + 5]
    assert len(load_data(f"cifar10:{tmp_path},split=train")) == 15


def test_cifar10_from_an_npz(data_dir: Path) -> None:
    data = load_data(f"cifar10:{data_dir}/cifar10", limit=10)
    assert (data.layout, data.item_shape, data.class_names and data.class_names[0]) == ("NHWC", (3, 32, 32), "airplane")
    assert len(load_data(f"cifar10:{data_dir}/cifar10,split=train")) == 5000


def test_array_files(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    labels = np.array([1, 0], dtype=">i4")
    np.savez(tmp_path / "a.npz", images=images, labels=labels, class_names=np.array(["x", "y"]))
    save_file({"inputs": images, "labels": labels.astype(np.int32)}, tmp_path / "a.safetensors")
    first, second = load_data(str(tmp_path / "a.npz")), load_data(str(tmp_path / "a.safetensors"))
    assert (first.class_names, first.labels.tolist()) == (("x", "y"), [1, 0])
    assert first.sha256() == second.sha256()


def test_the_hash_is_of_the_content() -> None:
    images, labels = torch.arange(48, dtype=torch.uint8).view(1, 4, 4, 3), torch.tensor([1])
    base = make_dataset(images, labels, "a")
    assert base.sha256() == make_dataset(images.clone(), labels.int(), "b").sha256()
    others = [
        make_dataset(images + 1, labels, "a"),
        make_dataset(images, labels + 1, "a"),
        make_dataset(images.view(1, 3, 4, 4), labels, "a"),
        make_dataset(images, labels, "a", layout="other"),
        make_dataset(images.float(), labels, "a"),
    ]
    assert len({base.sha256(), *(other.sha256() for other in others)}) == 6


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "item"),
    [
        ((2, 8, 9), torch.uint8, "NHW", (1, 8, 9)),
        ((2, 8, 9, 3), torch.uint8, "NHWC", (3, 8, 9)),
        ((2, 8, 9, 1), torch.uint8, "NHWC", (1, 8, 9)),
        ((2, 3, 8, 9), torch.uint8, "NCHW", (3, 8, 9)),
        ((2, 3, 8, 3), torch.uint8, "NHWC", (3, 3, 8)),
        ((2, 3, 8, 3), torch.float32, "NCHW", (3, 8, 3)),
        ((2, 7), torch.float64, "other", (7,)),
    ],
)
def test_layouts(shape: tuple[int, ...], dtype: torch.dtype, layout: str, item: tuple[int, ...]) -> None:
    data = make_dataset(torch.zeros(shape, dtype=dtype), torch.zeros(2, dtype=torch.uint8), "a")
    assert (data.layout, data.item_shape) == (layout, item)


def test_preprocessing() -> None:
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)  # one pixel, NHWC
    plan = Preprocess(mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.4))
    expected = torch.tensor([-1.0, 0.2, 2.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(plan.apply(images, "NHWC"), expected)
    torch.testing.assert_close(plan.apply(images.permute(0, 3, 1, 2), "NCHW"), expected)
    assert plan.apply(images, "NHWC").is_contiguous()
    assert torch.equal(plan.apply(images.double(), "NHWC"), images.float())
    overridden = plan.with_overrides(scale=1.0, mean=[1], std=[2])
    torch.testing.assert_close(overridden.apply(images, "NHWC"), torch.tensor([-0.5, 25, 127]).view(1, 3, 1, 1))
    assert plan.with_overrides() == plan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Preprocess(scale=0), "scale has to be positive, not 0"),
        (lambda: Preprocess(std=(1, -1)), "std has to be positive, not 1, -1"),
        (lambda: Preprocess(mean=(float("nan"),)), "mean has to be finite, not nan"),
        (
            lambda: Preprocess(mean=(0, 0)).apply(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), "NCHW"),
            "mean has 2 values for images of 3 channels",
        ),
    ],
)
def test_preprocessing_that_makes_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        make()


def test_inputs_of_eight_bits_are_widened_and_of_four_refused() -> None:
    eights = torch.tensor([[0.5, 448.0]], dtype=torch.float8_e4m3fn)
    data = make_dataset(eights, torch.zeros(1, dtype=torch.int64), "a")
    assert data.inputs.dtype == torch.float32
    assert data.inputs.tolist() == [[0.5, 448.0]]
    assert Preprocess().doubt(data.inputs) is not None
    fours = torch.zeros(1, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(WorkloadError, match=r"a: inputs are torch.float4_e2m1fn_x2"):
        make_dataset(fours, torch.zeros(1, dtype=torch.int64), "a")


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 3, 3), np.uint8), np.zeros(3, np.int64), "a: 2 inputs but 3 labels"),
        (np.zeros((0, 3, 3), np.uint8), np.zeros(0, np.int64), "a: there are no inputs"),
        (np.zeros((1, 3, 3), np.uint8), np.array([-1]), "a: label -1 is negative"),
        (np.zeros((1, 3, 3), np.uint8), np.zeros(1), r"a: labels are torch.float64 of shape \[1\]"),
        (np.zeros((1, 3, 3), np.uint8), np.zeros((1, 10), np.int64), r"a: labels are torch.int64 of shape \[1, 10\]"),
        (np.zeros((1, 3, 3), np.bool_), np.zeros(1, np.int64), r"a: inputs are torch.bool of shape \[1, 3, 3\]"),
        (np.zeros((1, 8, 8, 4), np.uint8), np.zeros(1, np.int64), "a: cannot tell the channels"),
        (np.array([["x"]]), np.zeros(1, np.int64), "a: inputs are <U1, which is no plain number type"),
    ],
)
def test_arrays_that_make_no_data_set(inputs: NDArray[Any], labels: NDArray[Any], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        make_dataset(inputs, labels, "a")


def test_a_layout_has_to_fit() -> None:
    with pytest.raises(WorkloadError, match=r"inputs of shape \[1, 3, 3\] cannot be NHWC"):
        make_dataset(torch.zeros(1, 3, 3), torch.zeros(1, dtype=torch.int64), "a", layout="NHWC")


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(content)


def _mnist_then(name: str, content: bytes) -> Callable[[Path], object]:
    def make(directory: Path) -> None:
        mnist_like(directory)
        (directory / name).write_bytes(content)

    return make


def _npz(**arrays: Any) -> Callable[[Path], object]:
    return lambda directory: np.savez(directory / "a.npz", **arrays)


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
ZEROS = np.zeros((1, 2, 2), np.uint8)
LABELS_GZ = gzip.compress(idx(np.zeros(4, np.uint8)))


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (None, "mnist:{}/none", "there is no directory"),
        (None, "mnist:{}", f"has no {IMAGES}"),
        (None, "mnist:{},split=val", "unknown split 'val'"),
        (None, "mnist:{},fold=1", "unknown option 'fold'"),
        (mnist_like, "mnist:{},split=train", "has no train-images-idx3-ubyte"),
        (_mnist_then(IMAGES, b"PNG..." * 9), "mnist:{}", "starts with 504e472e and not 00000803"),
        (_mnist_then(IMAGES, b""), "mnist:{}", "starts with nothing"),
        (_mnist_then(IMAGES, idx(np.zeros((2, 2), np.uint8))), "mnist:{}", "starts with 00000802"),
        (
            _mnist_then(IMAGES, idx(np.zeros((4, 2, 2), np.uint8))[:-1]),
            "mnist:{}",
            "has 31 bytes where its header prom",
        ),
        (_mnist_then(IMAGES, idx(np.zeros((5, 2, 2), np.uint8))), "mnist:{}", "5 inputs but 4 labels"),
        (_mnist_then(f"{LABELS}.gz", LABELS_GZ[:-9]), "mnist:{}", r"ubyte.gz: is damaged: Compressed file ended"),
        (_mnist_then(f"{LABELS}.gz", b"not gzip"), "mnist:{}", r"ubyte.gz: is damaged: Not a gzipped file"),
        (_mnist_then(f"{LABELS}.gz", LABELS_GZ[:-8] + b"\xff" * 8), "mnist:{}", r"ubyte.gz: is damaged"),
        (None, "cifar10:{}", "has neither test_batch.bin nor an npz for test"),
        (_write("test_batch.bin", b"1234"), "cifar10:{}", "has 4 bytes, which is no whole number of 3073-byte"),
        (_write("test_batch.bin", b""), "cifar10:{}", "has 0 bytes"),
        (
            _write("data_batch_2.bin", b""),
            "cifar10:{},split=train",
            "has data_batch_2.bin but no data_batch_1.bin, data",
        ),
        (_write("test_batch", pickle.dumps({})), "cifar10:{}", "holds the Python version of CIFAR-10"),
        (None, "{}/a.npz", "there is no such file"),
        (None, "{}/a.npz,split=train", "only digits, mnist:DIR and cifar10:DIR have splits"),
        (_write("a.npz", b"hello"), "{}/a.npz", "is no readable npz archive"),
        (_npz(images=ZEROS, x=ZEROS), "{}/a.npz", "has no 'labels'; it has 'images', 'x'"),
        (_npz(x=ZEROS), "{}/a.npz", "has neither 'inputs' nor 'images'; it has 'x'"),
        (_npz(images=ZEROS, inputs=ZEROS, labels=[0]), "{}/a.npz", "has both 'inputs' and 'images'"),
        (_npz(images=ZEROS, labels=np.array([{}])), "{}/a.npz", "array 'labels' holds Python objects"),
        (_npz(images=np.array([None]), labels=[0]), "{}/a.npz", "array 'images' holds Python objects"),
        (_write("a.safetensors", b"hello"), "{}/a.safetensors", "is no readable safetensors file"),
    ],
)
def test_files_that_are_wrong(make: Callable[[Path], object] | None, spec: str, message: str, tmp_path: Path) -> None:
    if make is not None:
        make(tmp_path)
    with pytest.raises(WorkloadError, match=message):
        load_data(spec.format(tmp_path))


def test_a_pickle_in_an_npz_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    trap = np.empty(1, dtype=object)
    trap[0] = Trap()
    np.savez(tmp_path / "a.npz", images=trap, labels=[0])
    with pytest.raises(WorkloadError, match="holds Python objects"):
        load_data(str(tmp_path / "a.npz"))
    assert not (tmp_path / "ran").exists()


def test_several_archives_are_ambiguous(tmp_path: Path) -> None:
    for name in ("x_test", "y_test"):
        np.savez(tmp_path / f"{name}.npz", images=ZEROS, labels=[0])
    with pytest.raises(WorkloadError, match=r"several archives for test: x_test.npz, y_test.npz"):
        load_data(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_leaves_something(limit: int) -> None:
    with pytest.raises(WorkloadError, match=f"a limit of {limit} leaves no inputs of digits"):
        load_data("digits", limit)


def test_an_unknown_data_set() -> None:
    with pytest.raises(UsageError, match="unknown data set 'digit'") as info:
        load_data("digit")
    assert "did you mean 'digits'?" in (info.value.remedy or "")


FACTORIES = """
import torch
from faultcli.workload.data.labelled import Dataset
inputs, labels = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2])
def pair(): return inputs, labels
def record(): return Dataset(inputs, labels, "mine", "NHW")
def wrong(): return Dataset(inputs, labels[:2], "mine", "NHW")
def number(): return 3
"""


def test_data_from_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "workload_data_factories.py").write_text(FACTORIES)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    module = "workload_data_factories"
    assert len(load_data(f"{module}:pair", limit=2)) == 2
    assert load_data(f"{module}:record").name == "mine"
    for name, message in {"wrong": "mine: 3 inputs but 2 labels", "number": "the factory returned a int"}.items():
        with pytest.raises(FaultcliError, match=message):
            load_data(f"{module}:{name}")
