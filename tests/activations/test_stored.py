"""Outputs of layers in a memory: held to bits that are flipped one by one in numpy, whatever layers give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faultcli.activations.layers import Given, SeenOutputs, leaves, listening, tensor_of
from faultcli.activations.stored import ActivationMemory, LayerOutputs, drawn_flips, write
from faultcli.errors import FaultError, UsageError, WorkloadError
from faultcli.faults.laws import BitFlip
from faultcli.faults.maps import WordFaults
from faultcli.formats import parse_format

LAW = BitFlip(0.01)
VALUES = [0.0, -0.0, 1.5, -2.25, 3.0, 1e-3, -7.75, 100.0]
FAULTS = WordFaults(np.array([1, 2, 4, 7]), np.array([1, 0x81, 2, 0x7F], dtype=np.uint64))


def memory_of(model: nn.Module, inputs: Tensor, format: str = "native", glob: str = "*") -> ActivationMemory:
    seen = SeenOutputs.of(model, glob, lambda: model(inputs), bounds=True)
    return ActivationMemory.of(seen, format, bounds=seen.bounds)


def run(model: nn.Module, inputs: Tensor, memory: ActivationMemory, *, batch: int = 100, law: BitFlip = LAW) -> Tensor:
    with torch.inference_mode(), memory.faulty(model, law, seed=1, trial=2):
        return torch.cat([model(part) for part in inputs.split(batch)])


# what a word reads as after its bits are flipped, in plain numpy
def fp16(value: float, mask: int) -> float:
    word = np.array([value], dtype=np.float16).view(np.uint16) ^ np.uint16(mask)
    return float(word.view(np.float16)[0])


def bf16(value: float, mask: int) -> float:
    word = np.array([value], dtype=np.float32).view(np.uint32) ^ np.uint32(mask << 16)  # the values are exact in it
    return float(word.view(np.float32)[0])


def int8(value: float, mask: int) -> float:
    code = np.array([np.rint(value / (100 / 127))]).astype(np.int8).view(np.uint8) ^ np.uint8(mask)
    return float(np.float32(code.view(np.int8)[0]) * np.float32(100 / 127))


def q5_2(value: float, mask: int) -> float:
    code = np.array([np.clip(np.rint(value * 4), -128, 127)]).astype(np.int8).view(np.uint8) ^ np.uint8(mask)
    return float(code.view(np.int8)[0]) / 4


@pytest.mark.parametrize(
    ("format", "reference", "values"),
    [
        ("fp16", fp16, VALUES),
        ("bf16", bf16, [0.0, -0.0, 1.5, -2.25, 3.0, 0.5, -7.75, 100.0]),
        ("int8", int8, VALUES),
        ("q5.2", q5_2, VALUES),
    ],
)
def test_formats_against_numpy(format: str, reference: Callable[[float, int], float], values: list[float]) -> None:
    fmt = parse_format(format).fitted(torch.tensor(values))
    layer = LayerOutputs("layer", fmt, len(values), native=False)
    masks = dict(zip(FAULTS.words.tolist(), FAULTS.masks.tolist(), strict=True))
    given = torch.tensor(values)
    clean = given.clone()
    assert write(clean, layer, None) == 0
    assert clean.tolist() == [reference(value, 0) for value in values]
    assert write(given, layer, FAULTS) == 4
    assert given.tolist() == [reference(value, masks.get(at, 0)) for at, value in enumerate(values)]


def test_the_native_format_touches_what_is_hit_alone() -> None:
    layer = LayerOutputs("layer", parse_format("fp32"), 8, native=True)
    masks = np.array([1 << 31, 1 << 30, 3, 1 << 22], dtype=np.uint64)
    values = np.array([*VALUES[:7], np.nan], dtype=np.float32)
    expected = values.view(np.uint32).copy()
    expected[FAULTS.words] ^= masks.astype(np.uint32)
    for shape in ((8,), (2, 4)):
        given = torch.tensor(values).view(shape)
        assert write(given, layer, WordFaults(FAULTS.words, masks)) == 4
        assert given.view(-1).view(torch.int32).numpy().view(np.uint32).tolist() == expected.tolist()
    values_last = torch.arange(120.0).view(2, 3, 4, 5)
    spread = values_last.clone(memory_format=torch.channels_last)
    for one in (values_last, spread):
        write(one, layer, WordFaults(np.array([7, 99]), np.array([1 << 31, 1 << 30], dtype=np.uint64)))
    assert torch.equal(values_last, spread)


@pytest.mark.parametrize(
    ("format", "expected"),
    [("int8", [0.0, 100.0, -100.0]), ("q5.2", [0.0, 31.75, -32.0]), ("fp8-e4m3", [np.nan, 448.0, -448.0])],
)
def test_what_is_not_finite_is_stored_as_well_as_can_be(format: str, expected: list[float]) -> None:
    fmt = parse_format(format).fitted(torch.tensor([100.0]))
    values = torch.tensor([np.nan, np.inf, -np.inf])
    write(values, LayerOutputs("layer", fmt, 3, native=False), None)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-6)


class Odd(nn.Module):
    """Layers that give what layers may give."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[int, Tensor]:
            return 3, x * 2

    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(1, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.table

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.table[: len(x)]

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.relu = nn.ReLU(inplace=True)
        self.pair, self.position, self.kept = self.Pair(), self.Position(), self.Kept()
        self.dropout, self.flatten = nn.Dropout(), nn.Flatten()
        self.unused, self.count = nn.Linear(6, 6), nn.EmbeddingBag(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flatten(self.dropout(self.relu(self.first(x))))
        x = self.relu(self.pair(x)[1] - 1) + self.position(x)
        return x + self.kept(x)


def test_whatever_layers_give() -> None:
    torch.manual_seed(0)
    model, inputs = Odd().eval(), torch.randn(4, 6)
    memory = memory_of(model, inputs)
    before = copy.deepcopy(model.state_dict())
    assert list(memory.layers) == ["first", "relu", "pair", "kept"]
    assert memory.layers["relu"].elements == 48  # it is called twice
    seen = SeenOutputs.of(model, "*", lambda: model(inputs))
    assert seen.left_out == {
        "flatten": "hands its input on",
        "dropout": "hands its input on",
        "position": "no row per input",
        "unused": "not called",
        "count": "not called",
    }
    assert "position (no row per input)" in seen.excuse
    found: list[Tensor] = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, a, output: found.append(tensor_of(output).clone()))
        for name in memory.layers
    ]
    with torch.inference_mode(), memory.faulty(model, LAW, seed=1, trial=2) as hit:
        model(inputs)
    for handle in handles:
        handle.remove()
    assert len(found) == 5
    assert hit.values_changed <= hit.flips
    assert hit.flips == flips_of(memory, model, inputs)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def flips_of(memory: ActivationMemory, model: nn.Module, inputs: Tensor) -> int:
    """All flips that are drawn for a run, counted call by call."""
    found = 0

    def count(given: Given) -> None:
        nonlocal found
        output = tensor_of(given.output)
        assert output is not None
        faults = drawn_flips(LAW, memory.layers[given.layer], given, output.numel() // given.inputs, seed=1, trial=2)
        found += int(np.bitwise_count(faults.masks).sum())

    with listening(model, {n: m for n, m in leaves(model, "*").items() if n in memory.layers}, count):
        model(inputs)
    return found


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).eval()


def test_a_run_against_layers_that_are_hit_one_by_one() -> None:
    """The whole run, layer by layer, with every bit flipped by hand in numpy."""
    model, inputs = small_net(), torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    memory, law = memory_of(model, inputs), BitFlip(1e-3)
    x, flips = inputs, 0
    with torch.inference_mode():
        for name, layer in model.named_children():
            x = layer(x)
            if name not in memory.layers:
                continue
            values = x.numpy().copy()
            words = values.reshape(-1).view(np.uint32)
            given = Given(name, 0, 0, 5, layer, (), x)
            faults = drawn_flips(law, memory.layers[name], given, x.numel() // 5, seed=1, trial=2)
            for word, mask in zip(faults.words.tolist(), faults.masks.tolist(), strict=True):
                for bit in range(32):
                    if mask >> bit & 1:
                        words[word] ^= np.uint32(1 << bit)
                        flips += 1
            x = torch.from_numpy(values)
    assert flips > 5
    assert torch.equal(run(model, inputs, memory, law=law).view(torch.int32), x.view(torch.int32))


@pytest.mark.parametrize("format", ["native", "int8"])
def test_an_input_has_its_flips_in_every_batch(format: str) -> None:
    model, inputs = small_net().double(), torch.randn(23, 1, 8, 8, dtype=torch.float64)
    memory = memory_of(model, inputs, format)
    law = BitFlip(2e-3, bits="mantissa" if format == "native" else None)
    whole = run(model, inputs, memory, law=law)
    assert not torch.equal(whole, model(inputs))
    for batch in (1, 4, 22):
        torch.testing.assert_close(run(model, inputs, memory, batch=batch, law=law), whole)
    torch.testing.assert_close(run(model, inputs[:9], memory, law=law), whole[:9])


def test_gradients_pass_through() -> None:
    model, inputs = small_net(), torch.randn(3, 1, 8, 8)
    memory = memory_of(model, inputs)
    with memory.faulty(model, BitFlip(1e-3, bits="0-10"), trial=1):
        model(inputs).sum().backward()
    assert model[0].weight.grad is not None


def test_laws_are_narrowed_by_layer_and_by_bit() -> None:
    model, inputs = small_net(), torch.randn(3, 1, 8, 8)
    memory = memory_of(model, inputs)
    changed: dict[str, int] = {}

    def look(given: Given) -> None:
        layer = memory.layers[given.layer]
        law = BitFlip(1.0, include=("3",), bits="sign")
        faults = drawn_flips(law, layer, given, given.output.numel() // given.inputs, seed=0, trial=0)
        changed[given.layer] = len(faults.words)
        assert set(faults.masks.tolist()) <= {1 << 31}

    with listening(model, leaves(model, "*"), lambda given: look(given) if given.layer in memory.layers else None):
        model(inputs)
    assert changed == {"0": 0, "1": 0, "3": 12}
    with (
        pytest.raises(FaultError, match="matches none of the layers at risk"),
        memory.faulty(model, BitFlip(0.1, include=("conv*",))),
    ):
        pass


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model, x: SeenOutputs.of(model, "conv*", lambda: model(x)), UsageError, "conv\\*: matches no layer"),
        (lambda model, x: SeenOutputs.of(model, "2", lambda: model(x)), UsageError, "2 \\(hands its input on\\)"),
        (
            lambda model, x: SeenOutputs.of(model, "*", lambda: model[0](x)),
            WorkloadError,
            "'0': was called without the model",
        ),
        (lambda model, x: SeenOutputs.of(model, "*", model), WorkloadError, "called without a tensor"),
    ],
)
def test_what_cannot_be_hit_is_said(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(small_net(), torch.randn(3, 1, 8, 8))
