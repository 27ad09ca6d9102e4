"""The workload as a whole: real networks on real data, live parameters, and what does not fit together."""

from __future__ import annotations

import re
import runpy
import struct
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from faultcli.errors import UsageError, WorkloadError
from faultcli.workload.building import WorkloadSpec, build_workload, pick_device
from faultcli.workload.classifier import Workload
from faultcli.workload.data.datasets import load_data
from faultcli.workload.data.labelled import make_dataset
from faultcli.workload.demo import demo_checkpoint_path, demo_data_path
from faultcli.workload.metrics import Outcome
from faultcli.workload.models.architectures import Architecture
from faultcli.workload.preprocess import Preprocess

EXAMPLES = Path(__file__).parents[2] / "examples"


def demo(**options: object) -> Workload:
    return build_workload(load_file(demo_checkpoint_path()), spec=WorkloadSpec(device="cpu", **options))  # type: ignore[arg-type]


# The counts are those that shared/data/README.md gives as clean top-1; ResNet-56 takes too long for more than a few.
@pytest.mark.parametrize(
    ("checkpoint", "data", "limit", "correct"),
    [
        ("mnist/lenet", "mnist:{}/mnist", None, 9895),
        ("cifar10/resnet20", "cifar10:{}/cifar10", None, 915),
        ("cifar10/resnet56", "cifar10:{}/cifar10", 100, None),
    ],
)
def test_clean_accuracy(data_dir: Path, checkpoint: str, data: str, limit: int | None, correct: int | None) -> None:
    state = load_file(data_dir / f"{checkpoint}.safetensors")
    outcome = build_workload(state, spec=WorkloadSpec(data=data.format(data_dir), limit=limit, device="cpu")).outcome()
    if correct is None:
        assert outcome.top1 >= 0.9
    else:
        assert outcome.correct1 == correct
    assert (outcome.due, outcome.sdc) == (0, None)


def test_squeezenet_tells_images_apart(data_dir: Path, tmp_path: Path) -> None:
    state = load_file(data_dir / "imagenet/squeezenet1_1.safetensors")
    images = torch.stack([torch.zeros(224, 224, 3), torch.full((224, 224, 3), 255)]).to(torch.uint8)
    save_file({"images": images, "labels": torch.tensor([999, 0])}, tmp_path / "plain.safetensors")
    logits = build_workload(state, spec=WorkloadSpec(data=str(tmp_path / "plain.safetensors"), device="cpu")).logits()
    assert logits.shape == (2, 1000)
    assert logits[0].argmax() != logits[1].argmax()


def test_the_demo_is_accurate_small_and_needs_no_arguments() -> None:
    outcome = demo().outcome()
    assert outcome.n == 500
    assert outcome.top1 >= 0.985
    assert demo_checkpoint_path().stat().st_size + demo_data_path().stat().st_size < 300_000


def test_a_fault_free_run_is_all_masked() -> None:
    workload = demo()
    outcome = workload.outcome(workload.golden())
    assert (outcome.masked, outcome.sdc, outcome.due, outcome.sdc10pct) == (500, 0, 0, 0)


def test_changes_in_place_are_seen_and_undone() -> None:
    workload = demo(limit=50)
    clean = workload.logits()
    for name in ("conv1.weight", "conv2.bias", "fc1.weight", "fc2.weight"):
        flat = workload.parameters[name].view(-1)
        old = flat[:4].clone()
        flat[:4] = 100.0
        assert not torch.equal(workload.logits(), clean), name
        flat[:4] = old
        assert torch.equal(workload.logits(), clean), name
    workload.parameters["fc2.bias"][3] = torch.nan
    assert workload.outcome().due == 50


def test_logits_are_normal_tensors() -> None:
    logits = demo(limit=7).logits()
    assert (logits.dtype, tuple(logits.shape), logits.is_inference()) == (torch.float32, (7, 10), False)


@pytest.mark.parametrize(("batch_size", "cache_bytes"), [(7, 1 << 30), (500, 0), (3, 0)])
def test_batches_and_cache_do_not_change_the_answers(batch_size: int, cache_bytes: int) -> None:
    whole = demo(limit=20)
    parts = Workload(whole.architecture, whole.model, whole.dataset, batch_size=batch_size, cache_bytes=cache_bytes)
    torch.testing.assert_close(parts.logits(), whole.logits())


def test_load_copies_into_the_live_tensors() -> None:
    workload = demo(limit=5)
    live = workload.parameters["fc2.bias"]
    workload.load({"fc2.bias": torch.full((10,), 7.0, dtype=torch.float16)})
    assert live.tolist() == [7.0] * 10
    with pytest.raises(WorkloadError, match=r"'fc3.bias' \[10\]: the model has no such tensor"):
        workload.load({"fc2.bias": torch.zeros(10), "fc3.bias": torch.zeros(10)})
    assert live.tolist() == [7.0] * 10
    with pytest.raises(WorkloadError, match=r"'fc2.bias' \[3\]: the model has it as \[10\]"):
        workload.load({"fc2.bias": torch.zeros(3)})


def test_floating_point_inputs_pass_as_they_are() -> None:
    whole = demo(limit=20)
    prepared = whole.architecture.preprocess.apply(whole.dataset.inputs, "NHW")
    for inputs in (prepared, prepared.squeeze(1).double()):
        dataset = make_dataset(inputs, whole.labels, "floats")
        assert torch.equal(Workload(whole.architecture, whole.model, dataset).logits(), whole.logits())


def test_mean_and_std_can_be_replaced() -> None:
    assert demo(limit=100, mean=[0.0], std=[1.0]).outcome().top1 > 0.95
    assert demo(limit=100, mean=[5.0]).outcome().top1 < 0.9
    with pytest.raises(WorkloadError, match="std has 3 values for images of 1 channels"):
        demo(std=[1.0, 1.0, 1.0])


def test_what_changes_the_answers_is_in_the_identity() -> None:
    base = demo().identity()
    assert base == demo().identity()
    others = [demo(limit=9), demo(batch_size=9), demo(mean=[0.1]), demo(data="digits,split=train")]
    assert len({base, *(other.identity() for other in others)}) == 5
    assert demo(limit=9).describe() == "digits-cnn on 9 inputs of digits, × 1/16"


class Net(nn.Module):
    """Answers as its `mode` says."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> object:
        flat = x.flatten(1)
        answers = {
            "good": lambda: flat[:, :3],
            "dict": lambda: {"features": None},
            "flat": lambda: flat[:, 0],
            "integers": flat[:, :3].long,
            "inplace": lambda: flat.mul_(2)[:, :3],
            "matmul": lambda: flat @ torch.zeros(1, 3),
            "memory": lambda: torch.empty(1 << 60),
            "type": lambda: flat + None,  # type: ignore[operator]
        }
        return answers[self.mode]()


def custom(mode: str, labels: list[int], classes: int | None = None) -> Workload:
    dataset = make_dataset(torch.ones(len(labels), 4, 4), torch.tensor(labels), "ones")
    architecture = Architecture("mine", lambda: Net(mode), num_classes=classes)
    return Workload(architecture, Net(mode).eval(), dataset, batch_size=100)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("dict", r"mine: the model returns dict \(.*\) for 2 inputs, and no logits \[N, classes\]"),
        ("flat", r"mine: the model returns float32 \[2\] for 2 inputs"),
        ("integers", "mine: the model returns torch.int64 and no logits"),
        ("inplace", "mine: the model changes its inputs in place"),
        ("matmul", r"mine: the model does not take inputs of shape \[4, 4\]: .*shapes cannot be multiplied"),
        ("type", r"mine: the model does not take inputs of shape \[4, 4\]: unsupported operand"),
        ("memory", "mine: memory ran out on cpu with batches of 100"),
    ],
)
def test_models_that_do_not_work(mode: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=message) as info:
        custom(mode, [0, 1]).logits()
    if mode == "memory":
        assert "--batch-size, e.g. 25" in (info.value.remedy or "")


def test_labels_have_to_be_classes() -> None:
    assert custom("good", [0, 2]).logits().shape == (2, 3)
    with pytest.raises(WorkloadError, match="ones: label 3 is out of range, mine has 3 classes"):
        custom("good", [0, 3], classes=3)
    with pytest.raises(WorkloadError, match="ones: label 3 is out of range, mine has 3 classes"):
        custom("good", [0, 3]).logits()
    with pytest.raises(WorkloadError, match="the model returns 3 logits per input and not 5"):
        custom("good", [0, 3], classes=5).logits()


def test_data_have_to_fit_the_architecture(data_dir: Path) -> None:
    state = load_file(demo_checkpoint_path())
    with pytest.raises(WorkloadError, match=r"inputs of shape \[1, 28, 28\], but digits-cnn takes \[1, 8, 8\]") as info:
        build_workload(state, spec=WorkloadSpec(data=f"mnist:{data_dir}/mnist", device="cpu"))
    assert "e.g. digits" in (info.value.remedy or "")


def test_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a batch size of 0 makes no batches"):
        demo(batch_size=0)
    with pytest.raises(UsageError, match="lenet needs data to run on") as info:
        demo(arch="lenet")
    assert "e.g. mnist:DIR" in (info.value.remedy or "")
    with pytest.raises(WorkloadError, match="the checkpoint does not fit the architecture mnist-cnn"):
        demo(arch="mnist-cnn", data="digits")
    path = tmp_path / "floats.safetensors"
    save_file({"inputs": torch.zeros(1, 8, 8), "labels": torch.tensor([0])}, path)
    with pytest.raises(UsageError, match="floating-point inputs pass as they are"):
        demo(data=str(path), mean=[0.1])


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type in ("cpu", "cuda")
    for spec, message in {
        "gpu": "unknown device 'gpu'",
        "meta": "unknown device 'meta'",
        "cuda:99": "no device",
    }.items():
        with pytest.raises(UsageError, match=message):
            pick_device(spec)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_answers() -> None:
    workload = build_workload(load_file(demo_checkpoint_path()), spec=WorkloadSpec(device="cuda"))
    assert workload.parameters["fc1.weight"].is_cuda
    assert workload.outcome().correct1 == demo().outcome().correct1


@pytest.mark.usefixtures("one_thread")
def test_train_mnist_makes_a_checkpoint_that_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    n = 130
    for split in ("train", "t10k"):
        images = struct.pack(">IIII", 0x0803, n, 28, 28) + bytes(range(98)) * 8 * n
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x0801, n) + bytes([3]) * n)
    output = tmp_path / "net.safetensors"
    monkeypatch.setattr(sys, "argv", ["train_mnist.py", str(tmp_path), "-o", str(output), "--epochs", "1"])
    runpy.run_path(str(EXAMPLES / "train_mnist.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"{output}: ")
    workload = build_workload(load_file(output), spec=WorkloadSpec(data=f"mnist:{tmp_path}", device="cpu"))
    assert workload.architecture.name == "mnist-cnn"


@pytest.mark.parametrize(
    ("inputs", "said", "doubt"),
    [
        (torch.randint(0, 256, (9, 8, 8), dtype=torch.uint8), "× 1/255", None),
        (
            torch.randint(0, 17, (9, 8, 8), dtype=torch.uint8),
            "× 1/255",
            "up to 16; they are taken to be from 0 to 255",
        ),
        (torch.rand(9, 8, 8), "as they are", None),
        (torch.randn(9, 8, 8) * 5, "as they are", None),
        (
            torch.randint(0, 17, (9, 8, 8)).float(),
            "as they are",
            "go up to 16; if the model was trained on 0 to 1",
        ),
        (torch.rand(9, 8, 8) * 255, "as they are", "pass as they are, and these go up to 25"),
    ],
)
def test_what_is_done_to_inputs_is_said_and_doubted(inputs: Tensor, said: str, doubt: str | None) -> None:
    dataset = make_dataset(inputs, torch.arange(9) % 3, "mine.npz")
    workload = Workload(Architecture("mine", lambda: Net("good")), Net("good"), dataset)
    assert workload.describe() == f"mine on 9 inputs of mine.npz, {said}"
    assert doubt in "".join(workload.doubts()) if doubt else not workload.doubts()


def test_the_demos_scale_on_grey_levels_is_doubted() -> None:
    white = make_dataset(torch.full((3, 8, 8), 255, dtype=torch.uint8), torch.arange(3), "white.npz")
    architecture = Architecture("mine", lambda: Net("good"), preprocess=Preprocess(1 / 16, (0.5,), (0.25,)))
    workload = Workload(architecture, Net("good"), white)
    assert workload.describe().endswith("× 1/16 − 0.5, ÷ 0.25")
    assert "go up to 255; they are taken to be from 0 to 16" in str(workload.doubts())


class OnZeroToOne(nn.Module):
    """Least squares on the digits' grey levels divided by 16, with a constant: as trained, and no other way."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 10)
        digits = load_data("digits,split=train")
        values = torch.cat([digits.inputs.flatten(1) / 16, torch.ones(len(digits), 1)], 1).double()
        wanted = nn.functional.one_hot(digits.labels, 10).double()
        gram = values.T @ values + 1e-2 * torch.eye(65, dtype=torch.float64)
        solved = torch.linalg.solve(gram, values.T @ wanted).float()
        self.dense.weight.data, self.dense.bias.data = solved[:64].T.contiguous(), solved[64]

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "wrong", [Preprocess(), Preprocess(mean=(0.2,), std=(0.5,)), Preprocess(mean=(0.2,)), Preprocess(1 / 2)]
)
def test_what_is_said_against_a_wrong_scale_is_right(wrong: Preprocess) -> None:
    """Images of 0 to 16 taken to be of 0 to 255 are answered otherwise; what the warning says to pass mends that."""
    model, data = OnZeroToOne().requires_grad_(False), load_data("digits")
    trained = Preprocess(1 / 16, wrong.mean, wrong.std)  # what the user's own training did
    if wrong.mean is not None or wrong.std is not None:
        (mean,), (std,) = wrong.mean or (0.0,), wrong.std or (1.0,)
        model.dense.bias.data += mean * model.dense.weight.sum(1)
        model.dense.weight.data *= std

    def outcome(preprocess: Preprocess) -> Outcome:
        return Workload(Architecture("mine", OnZeroToOne, preprocess=preprocess), model, data).outcome()

    right = outcome(trained)
    assert right.top1 > 0.86
    assert trained.doubt(data.inputs) is None
    doubt = str(wrong.doubt(data.inputs))
    assert doubt.startswith("uint8 inputs go up to 16; they are taken to be from 0 to ")
    said = {
        name: [float(number) for number in numbers.split(",")]
        for name, numbers in re.findall(r"--(mean|std) (\S+)", doubt)
    }
    assert abs(outcome(wrong).loss - right.loss) > 0.02
    mended = wrong.with_overrides(**said)
    assert mended.doubt(data.inputs) is None
    assert outcome(mended).loss == pytest.approx(right.loss, rel=1e-4)
