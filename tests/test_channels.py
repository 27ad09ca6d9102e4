"""Output channels that are no slices of the first dimension: what is stored per channel is theirs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.cli import run
from faultcli.faults.laws import parse_law
from faultcli.formats import Channels
from faultcli.hardened.read import Hardened
from faultcli.memory import MemoryImage
from faultcli.modules import channels_of

# (shape of the tensor, channels): [in, out]; a transposed convolution in two groups; experts; what is in order already.
ARRANGEMENTS = [
    ((6, 4), Channels(1, 6, 4, 1)),
    ((4, 3, 2, 2), Channels(2, 2, 3, 4)),
    ((3, 4, 2), Channels(3, 4, 2, 1)),
    ((3, 2, 4), Channels(3, 1, 2, 4)),
]
MEMORIES = [
    ("int4-channel", "none"),
    ("mxfp4", "none"),
    ("int8-channel", "secded=64"),
    ("q2.5", "scale=max:channel"),
    ("q2.5", "scale=max,guard=clamp:channel,inplace=1"),
    ("fp16", "posterior=1e-3:channel"),
]


@pytest.mark.parametrize(("shape", "channels"), ARRANGEMENTS)
def test_rows_are_those_of_a_loop(shape: tuple[int, ...], channels: Channels) -> None:
    tensor = torch.arange(channels.elements).view(shape)
    seen = tensor.reshape(channels.numbers)
    expected = [
        [int(seen[group, outer, channel, inner]) for outer, inner in itertools.product(
            range(channels.outer), range(channels.inner))]
        for group, channel in itertools.product(range(channels.groups), range(channels.channels))
    ]  # fmt: skip
    rows = channels.rows(tensor)
    assert rows.tolist() == expected
    assert torch.equal(channels.back(rows, shape), tensor)
    assert channels.element(torch.arange(channels.elements)).tolist() == rows.flatten().tolist()
    for which, view in channels.views(tensor):
        assert view.reshape(channels.channels, -1).tolist() == expected[which]


class Conv1D(nn.Module):
    """As in transformers."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Network(nn.Module):
    """Ten classes of images [N, 1, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.first, self.fc, self.last = nn.Conv2d(1, 4, 1), Conv1D(24, 216), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.fc(torch.relu(self.up(self.first(x))).flatten(1))))  # type: ignore[no-any-return]


def network() -> nn.Module:
    """Channels of all magnitudes, so that one scale for several of them shows."""
    torch.manual_seed(0)
    made = Network()
    with torch.no_grad():
        for name in ("up", "fc"):
            weight = made.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.copy_(torch.randn(weight.shape) * 0.3)
            weight.mul_(torch.exp(1.5 * torch.randn(weight.shape[1])).view(1, -1, *[1] * (weight.dim() - 2)))
    return made


def test_modules_say_what_their_channels_are() -> None:
    assert channels_of(network()) == {"up.weight": Channels(2, 2, 3, 9), "fc.weight": Channels(1, 216, 24, 1)}
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
                "num_key_value_heads": 2, "head_dim": 4, "num_local_experts": 2, "vocab_size": 9}  # fmt: skip
    mixtral = transformers.MixtralForCausalLM(transformers.MixtralConfig(**settings))
    found = {name.rpartition(".")[2]: own for name, own in channels_of(mixtral).items()}
    assert found == {"gate_up_proj": Channels(2, 1, 24, 8), "down_proj": Channels(2, 1, 8, 12)}
    oss = transformers.GptOssForCausalLM(transformers.GptOssConfig(**settings))
    found = {name.rpartition(".")[2]: own for name, own in channels_of(oss).items()}
    assert found == {"gate_up_proj": Channels(2, 8, 24, 1), "down_proj": Channels(2, 12, 8, 1)}


@pytest.mark.parametrize(("format", "protect"), MEMORIES)
@pytest.mark.parametrize(("shape", "channels"), ARRANGEMENTS)
def test_a_tensor_is_stored_as_the_matrix_of_its_channels(
    shape: tuple[int, ...], channels: Channels, format: str, protect: str
) -> None:
    torch.manual_seed(1)
    rows = torch.randn(channels.count, channels.row) * torch.exp(2 * torch.randn(channels.count, 1))
    tensor = channels.back(rows, shape).clone()
    chain = {"format": format, "protect": protect}
    plain = MemoryImage.of({"w": rows}, **chain)  # type: ignore[arg-type]
    image = MemoryImage({"w": tensor}, format, plain.chain, channels={"w": channels})
    assert image.layout == plain.layout
    assert image.overhead_bits_per_weight == plain.overhead_bits_per_weight
    ((_, clean),) = image.values()
    ((_, expected),) = plain.values()
    assert clean.shape == shape
    assert torch.equal(channels.rows(clean), expected)
    for trial in range(5):
        faults = plain.draw(parse_law("flips:3"), seed=0, trial=trial)
        touched, wanted = image.patch(faults).elements, plain.patch(faults).elements
        faulty = clean.clone()
        if "w" in touched:
            assert bool((touched["w"].index.diff() > 0).all())
            faulty.view(-1)[touched["w"].index] = touched["w"].values
        if "w" in wanted:
            expected_faulty = expected.clone()
            expected_faulty.view(-1)[wanted["w"].index] = wanted["w"].values
            assert channels.rows(faulty).nan_to_num(1e9).equal(expected_faulty.nan_to_num(1e9))


def test_nothing_changes_where_nothing_is_stored_per_channel() -> None:
    values = {"w": torch.randn(6, 4)}
    for format, protect in [("q2.5", "scale=max,secded=64"), ("int8", "guard"), ("native", "none")]:
        plain = MemoryImage.of(values, format=format, protect=protect)
        other = MemoryImage(values, format, plain.chain, channels={"w": Channels(1, 6, 4, 1)})
        assert type(other.tensors["w"]) is type(plain.tensors["w"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("channels")
    save_file(network().state_dict(), root / "net.safetensors")
    torch.manual_seed(2)
    save_file({"inputs": torch.randn(40, 1, 4, 4), "labels": torch.arange(40) % 10}, root / "data.safetensors")
    return root


ARCH = "test_channels:network"


def opened(files: Path, file: str | Path = "net.safetensors", **more: Any) -> Subject:
    return Subject.open(files / file, str(files / "data.safetensors"), arch=ARCH, device="cpu", **more)


def answers(subject: Subject) -> Tensor:
    return subject.workload.logits()  # type: ignore[attr-defined, no-any-return]


def trial_of(subject: Subject, format: str = "native", protect: str = "none") -> Tensor:
    image = subject.memory(format, protect)
    subject.workload.load(dict(image.values()))
    faults = image.draw(parse_law("bitflip:3e-3"), seed=4, trial=1)
    with image.patch(faults).applied(subject.workload.parameters):
        return answers(subject)


@pytest.mark.parametrize("format", ["int4-channel", "mxfp4"])
def test_a_trial_is_the_injected_file(files: Path, format: str, tmp_path: Path) -> None:
    line = ["inject", files / "net.safetensors", "--format", format, "--arch", ARCH, "--fault", "bitflip:3e-3",
            "--seed", "4", "--trial", "1", "-o", tmp_path / "out.safetensors"]  # fmt: skip
    assert run([*map(str, line), "--save-faults", str(tmp_path / "map")]) == 0
    expected = trial_of(opened(files), format)
    assert torch.equal(answers(opened(files, tmp_path / "out.safetensors")).nan_to_num(), expected.nan_to_num())
    replayed = ["inject", files / "net.safetensors", "--replay", tmp_path / "map", "--arch", ARCH]
    assert run([*map(str, replayed), "-o", str(tmp_path / "again.safetensors")]) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()


def test_a_hardened_file_is_that_memory(files: Path, tmp_path: Path) -> None:
    protect, hard = "scale=max:channel,guard=clamp:channel,secded=64", tmp_path / "hard.safetensors"
    line = ["harden", files / "net.safetensors", "--arch", ARCH, "--format", "q2.5", "--protect", protect, "-o", hard]
    assert run([*map(str, line)]) == 0
    hardened = Hardened.of(Checkpoint.open(hard))
    assert hardened is not None
    stored = dict(opened(files).memory("q2.5", protect).values())
    assert all(torch.equal(hardened.read(name), values) for name, values in stored.items())
    assert torch.equal(trial_of(opened(files, hard)), trial_of(opened(files), "q2.5", protect))
    assert run(["harden", str(hard), "--read", "-o", str(tmp_path / "plain.safetensors")]) == 0
    plain = load_file(tmp_path / "plain.safetensors")
    assert all(torch.equal(plain[name], values) for name, values in stored.items())
    assert run(["inject", str(hard), "--fault", "flips:40", "-o", str(tmp_path / "hit.safetensors")]) == 0
    assert run(["repair", str(tmp_path / "hit.safetensors"), "-o", str(tmp_path / "whole.safetensors")]) in (0, 1)
    assert run(["harden", str(hard), "--device", str(tmp_path / "device")]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_scaled_file_is_that_memory_and_comes_back(files: Path, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in load_file(files / "net.safetensors").items()}
    save_file(state, tmp_path / "net.safetensors")
    line = ["scale", tmp_path / "net.safetensors", "--arch", ARCH, "--factor", "max", "--granularity", "channel",
            "--format", "q2.5", "-o", tmp_path / "scaled.safetensors"]  # fmt: skip
    assert run([*map(str, line)]) == 0
    assert run(["scale", str(tmp_path / "scaled.safetensors"), "--undo", "-o", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back").read_bytes() == (tmp_path / "net.safetensors").read_bytes()
    scaled, plain = opened(files, tmp_path / "scaled.safetensors"), opened(files, tmp_path / "net.safetensors")
    assert all(torch.equal(scaled.tensors[name], tensor) for name, tensor in plain.tensors.items())
    assert scaled.factors is not None
    assert scaled.channels == plain.channels == channels_of(network())
    chained = dict(plain.memory("q2.5", "scale=max:channel").values())
    for name, values in scaled.memory("q2.5").values():
        step = 1 / 32 / scaled.factors[name].values.min() if dtype == torch.float16 else 1e-6  # c·w is rounded to fp16
        assert torch.allclose(values, chained[name], rtol=1e-6, atol=float(step))


def test_damaged_records_are_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["scale", files / "net.safetensors", "--arch", ARCH, "--factor", "max", "--granularity", "channel"]
    scaled = tmp_path / "scaled.safetensors"
    assert run([*map(str, line), "--format", "q2.5", "-o", str(scaled)]) == 0
    for old, new in ((b"[1, 216, 24, 1]", b"[1, 24, 216, 1]"), (b"[1, 216, 24, 1]", b"[1, 216, 24, 0]")):
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(scaled.read_bytes().replace(old, new))
        assert bad.read_bytes() != scaled.read_bytes()
        assert run(["scale", str(bad), "--undo", "-o", str(tmp_path / "back")]) == 2
        assert "the record of its scaling is damaged" in capsys.readouterr().err


def test_what_counts_as_a_channel_is_said(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["inject", str(files / "net.safetensors"), "--ber", "1e-3", "-o", str(tmp_path / "out"), "--force"]
    for more, said in (
        (["--format", "int8-channel", "--arch", ARCH], "output channels: of up.weight, fc.weight (2 tensors)"),
        (["--format", "int8-channel"], "name one with --arch"),
        (["--format", "q2.5"], ""),
    ):
        assert run([*line, *more]) == 0
        told = capsys.readouterr().err
        assert said in told if said else "channels" not in told
    assert run([*line, "--format", "int8-channel", "--arch", "lenett"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_language_model_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The case that was found: a GPT-2, whose layers are kept as [in, out]; the file has no prefix, as on the hub."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "saved")
    for directory, prefix in (("saved", "transformer."), ("older", "")):
        if not prefix:
            (tmp_path / directory).mkdir()
            state = load_file(tmp_path / "saved" / "model.safetensors")
            state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
            save_file(state, tmp_path / directory / "model.safetensors", {"format": "pt"})
            (tmp_path / directory / "config.json").write_text((tmp_path / "saved" / "config.json").read_text())
        data = {"input_ids": torch.randint(0, 20, (3, 9))}
        save_file(data, tmp_path / "tokens.safetensors")
        out = tmp_path / f"{directory}.out"
        line = ["inject", str(tmp_path / directory), "--ber", "1e-2", "--format", "int4-channel", "-o", str(out)]
        assert run(line) == 0
        assert f"{prefix}h.*.attn.c_attn.weight" in capsys.readouterr().err

        def of(path: Path) -> Subject:
            return Subject.open(path, str(tmp_path / "tokens.safetensors"), device="cpu")

        subject = of(tmp_path / directory)
        image = subject.memory("int4-channel")
        subject.workload.load(dict(image.values()))
        with image.patch(image.draw(parse_law("bitflip:1e-2"), seed=0, trial=0)).applied(subject.workload.parameters):
            trial = subject.workload.outcome()
        assert of(out).workload.outcome() == trial
