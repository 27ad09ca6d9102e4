"""The reader in C against `StoredTensor.read`, bit for bit: all number formats behind all protections, on memory that
is clean, damaged as far as can be corrected, and beyond."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from device import CHECK, DOUBLES, FLOATS, WORDS, Device
from numpy.typing import NDArray
from reference import Memory, counted, damaged, words_read

from faultcli.errors import FaultcliError
from faultcli.formats import NAMED
from faultcli.hardened.device.description import Description, describe
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain
from faultcli.protect.protected_tensor import StoredTensor

VALUES = ["none", "scale=3", "scale=max:channel"]
ESTIMATES = ["", "guard", "guard=clamp:channel", "posterior=1e-3", "posterior=2e-2:channel"]
IN_WORDS = ["", "mset", "cep=d3p1", "cep=d7p1", "cep=d15p1", "inplace=0.5", "inplace=1", "inplace=2", "inplace=5.5"]
CHECKS = ["", "parity", "secded=64", "secded=128", "tmr", "tmr=msb:2"]
SINGLE = [f"q{i}.{f}" for i, f in [(0, 1), (1, 1), (1, 2), (1, 3), (0, 5), (2, 4), (2, 5), (2, 6), (3, 7), (1, 9)]]
SINGLE += ["q2.11", "q3.12", "q1.15", "q4.16", "q3.20", "q3.21", "q2.23", "q2.26", "q2.29", "q0.31"]
SINGLE += ["int2", "int4", "int8", "int11", "int16", "int8-channel", "int3-channel", "int4-g5", "int8-g16", "int16-g8"]
FORMATS = [*NAMED, *SINGLE]


def chains(seed: int) -> list[str]:
    """Every link behind every other one that is next to it, and the rest by chance."""
    generator = np.random.default_rng(seed)
    texts = []
    for word, check in itertools.product(IN_WORDS, CHECKS):
        value, estimate = generator.choice(VALUES), generator.choice(ESTIMATES)
        texts.append(",".join(part for part in (value, estimate, word, check) if part and part != "none") or "none")
    for value, estimate in itertools.product(VALUES, ESTIMATES):
        texts.append(",".join(part for part in (value, estimate) if part and part != "none") or "none")
    return list(dict.fromkeys(texts))


SHAPES = [(5, 3, 3, 3), (7, 11), (40,), (1,)]


def weights(seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors that fill no block, one with a channel of zeros."""
    generator = torch.Generator().manual_seed(seed)
    made = {f"w{n}": torch.randn(shape, generator=generator) * 0.2 for n, shape in enumerate(SHAPES)}
    made["w1"][2] = 0
    return {name: values.to(dtype) for name, values in made.items()}


def memory_of(tensor: Description) -> Memory:
    return {region.name: region.words.copy() for region in tensor.all_regions}


def hit(memory: Memory, tensor: Description, ber: float, generator: np.random.Generator) -> Memory:
    """Flip every bit with this probability, in copies."""
    found = {}
    for region in tensor.all_regions:
        flips = generator.random((len(region.words), region.bits)) < ber
        masks = (flips.astype(np.uint64) << np.arange(region.bits, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
        found[region.name] = memory[region.name] ^ masks.astype(region.words.dtype)
    return found


RATES = (0.0, 0.003, 0.012, 0.06)  # 0.8, 3 and 15 flips in 256 bits


def expect(device: Device, stored: StoredTensor, generator: np.random.Generator, rates: tuple[float, ...]) -> None:
    """Hold the reader to Python on one tensor, clean and damaged, as a whole and in part."""
    tensor = describe(stored)
    number, clean = device.know(tensor), memory_of(tensor)
    for ber in rates:
        memory = hit(clean, tensor, ber, generator)
        device.hold(tensor, memory)
        found = damaged(stored, memory)
        words, status = words_read(found), counted(found)
        count = stored.elements
        answer = device.read(number, WORDS, 0, count, words.dtype)
        assert answer.wrong == 0
        np.testing.assert_array_equal(answer.values, words)
        if not stored.format.value_dtype.is_floating_point:
            assert answer.status == status
            assert device.read(number, FLOATS, 0, count, np.float32).wrong == 2
            continue
        expected = found.read().reshape(-1)
        wide = expected.dtype == torch.float64
        what, dtype = (DOUBLES, np.float64) if wide else (FLOATS, np.float32)
        values = expected.to(torch.float64 if wide else torch.float32).numpy()
        answer = device.read(number, what, 0, count, dtype)
        assert answer.wrong == 0
        same_bits(answer.values, values, clamped_to_zero(stored))
        assert answer.status == status
        assert device.read(number, CHECK, 0, count, np.uint8).status == dataclasses.replace(status, replaced=0)
        start = int(generator.integers(0, count + 1))
        part = device.read(number, what, start, int(generator.integers(0, count - start + 1)), dtype).values
        same_bits(part, values[start : start + len(part)], clamped_to_zero(stored))
        if wide:
            assert device.read(number, FLOATS, 0, 1, np.float32).wrong == 2
        else:
            same_bits(device.read(number, DOUBLES, 0, count, np.float64).values, values.astype(np.float64), True)


def clamped_to_zero(stored: StoredTensor) -> bool:
    """Where all weights are 0, clamping leaves the sign of 0 to the processor's instructions, in torch too."""
    return any(float(link.bounds.min()) == 0 for link in stored.links if getattr(link, "mode", "") == "clamp")


def same_bits(one: NDArray[Any], other: NDArray[Any], either_zero: bool = False) -> None:
    integers = f"u{one.itemsize}"
    same = (one.view(integers) == other.view(integers)) | (np.isnan(one) & np.isnan(other))
    if either_zero:
        same |= one == other
    assert same.all(), (np.flatnonzero(~same)[:5], one[~same][:5], other[~same][:5])


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_behind_every_protection(device: Device, format: str) -> None:
    generator = np.random.default_rng(FORMATS.index(format))
    dtypes = itertools.cycle([torch.float32, torch.bfloat16, torch.float32, torch.float16, torch.float64])
    fitted = 0
    for chain, dtype in zip(chains(FORMATS.index(format)), dtypes, strict=False):
        if format == "fp64" and "posterior" in chain:
            continue
        try:
            image = MemoryImage(weights(FORMATS.index(format), dtype), format, parse_chain(chain), 1e-3)
        except FaultcliError:
            continue
        fitted += 1
        for stored in image.tensors.values():
            try:
                expect(device, stored, generator, RATES)
            except AssertionError as error:
                raise AssertionError(f"{format} {chain} {stored.name} {dtype}: {error}") from error
    assert fitted >= 14
