"""The reader in C against `StoredTensor.read`, bit for bit: all number formats behind all protections, on memory that
is clean, damaged as far as can be corrected, and beyond."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from device import CHECK, DOUBLES, FLOATS, WORDS, Device, Status
from numpy.typing import NDArray
from reference import Memory, counted, damaged, words_read

from faultcli.errors import FormatError, UsageError
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
    """A quarter of all links behind every other one that is next to it, another one from seed to seed, and the rest by
    chance: all formats together have every pair many times over."""
    generator = np.random.default_rng(seed)
    texts = []
    for word, check in itertools.product(IN_WORDS, CHECKS):
        value, estimate = generator.choice(VALUES), generator.choice(ESTIMATES, p=(0.4, 0.25, 0.25, 0.05, 0.05))
        texts.append(",".join(part for part in (value, estimate, word, check) if part and part != "none") or "none")
    for value, estimate in itertools.product(VALUES, ESTIMATES):
        texts.append(",".join(part for part in (value, estimate) if part and part != "none") or "none")
    return list(dict.fromkeys(texts[seed % 4 :: 4]))


SHAPES = [(5, 3, 3, 3), (7, 11), (40,), (1,)]


def weights(seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Two tensors that fill no block, every other time one with a channel of zeros."""
    generator = torch.Generator().manual_seed(seed)
    shapes = SHAPES[seed % 2 :: 2]
    made = {f"w{n}": torch.randn(shape, generator=generator) * 0.2 for n, shape in enumerate(shapes)}
    if seed % 2:
        made["w0"][2] = 0
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
    places = [(region.name, len(region.words), region.bits) for region in tensor.all_regions]
    assert places == [(region.name, *region.layout) for region in stored.regions]
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
        widened = expected.double().numpy()
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
            same_bits(device.read(number, DOUBLES, 0, count, np.float64).values, widened, True)


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
    for turn, (chain, dtype) in enumerate(zip(chains(FORMATS.index(format)), dtypes, strict=False)):
        if format == "fp64" and "posterior" in chain:
            continue
        try:
            image = MemoryImage(weights(turn, dtype), format, parse_chain(chain), 1e-3)
        except UsageError:
            continue
        except FormatError:  # `inplace` leaves no bit for the values
            assert "inplace" in chain
            assert "scale=max" in chain
            continue
        fitted += 1
        for stored in image.tensors.values():
            try:
                expect(device, stored, generator, RATES)
            except AssertionError as error:
                raise AssertionError(f"{format} {chain} {stored.name} {dtype}: {error}") from error
    assert fitted >= 3


def one(values: torch.Tensor, format: str = "native", chain: str = "none") -> StoredTensor:
    return MemoryImage({"w": values}, format, parse_chain(chain), 1e-3).tensors["w"]


def read_words_as(device: Device, stored: StoredTensor, words: NDArray[Any]) -> None:
    """Hold the reader to Python on these words of a tensor that nothing protects."""
    tensor = describe(stored)
    number = device.know(tensor)
    memory = memory_of(tensor) | {"w": words.astype(stored.words.dtype)}
    device.hold(tensor, memory)
    expected = damaged(stored, memory).read().reshape(-1)
    wide = expected.dtype == torch.float64
    found = device.read(number, DOUBLES if wide else FLOATS, 0, len(words), np.float64 if wide else np.float32)
    assert found.wrong == 0
    same_bits(found.values, expected.to(torch.float64 if wide else torch.float32).numpy())


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("fp64", "fp32")])
def test_every_word_of_narrow_formats_reads_the_same(device: Device, format: str) -> None:
    bits = one(torch.ones(1), format).format.bits
    if bits > 16:
        words = np.random.default_rng(0).integers(0, 1 << bits, 1 << 14, dtype=np.uint64)
        words[:4] = 0, 1 << bits - 1, (1 << bits) - 1, (1 << bits - 1) - 1
    else:
        words = np.arange(1 << bits)
    read_words_as(device, one(torch.linspace(-0.9, 0.9, len(words)), format), words)


NARROW = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("format", ["fp32", "fp64"])
def test_values_are_rounded_into_the_dtype_of_the_checkpoint(device: Device, format: str, dtype: torch.dtype) -> None:
    """Ties, their neighbours, subnormal numbers, what overflows, NaN of any payload, infinities."""
    patterns = np.array(
        [0, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0xFFFFF, 0x80000, 0x80001, 0x7FFFFF]
    )
    exponents = np.arange(256, dtype=np.uint32)
    kept = np.array([0, 0x2000, 0x10000, 0x100000, 0x200000, 0x600000], dtype=np.uint32)
    mantissas = (patterns.astype(np.uint32)[:, None] ^ kept).reshape(-1)
    words = (exponents[:, None] << 23 | mantissas).reshape(-1)
    words = np.concatenate([words, words | np.uint32(1 << 31)])
    if format == "fp64":
        near = torch.from_numpy(words.view(np.float32)).double().numpy().view(np.uint64)
        words = np.concatenate([near, near + np.uint64(1), near - np.uint64(1)])
    read_words_as(device, one(torch.ones(len(words)).to(dtype), format), words)


@pytest.mark.parametrize("dtype", [*NARROW, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("chain", ["none", "guard", "parity", "secded=64", "tmr=msb:3", "mset"])
def test_what_is_not_finite_is_kept(device: Device, dtype: torch.dtype, chain: str) -> None:
    values = torch.tensor([0.0, -0.0, 1.5, torch.nan, torch.inf, -torch.inf, 1e-6] * 5).to(dtype)
    expect(device, one(values, chain=chain), np.random.default_rng(0), RATES)


INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_read_as_words(device: Device, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    values = torch.tensor([0, 1, 77, limits.max, max(limits.min, -limits.max - 1)] * 9, dtype=dtype)
    for chain in ("none", "parity", "secded=64", "secded=128", "tmr", "tmr=msb:1"):
        expect(device, one(values, chain=chain), np.random.default_rng(0), RATES)


@pytest.mark.parametrize("chain", ["none", "inplace=2", "guard=channel,secded=64", "scale=max:channel,inplace=2,tmr"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1), (2, 300)])
def test_odd_shapes(device: Device, shape: tuple[int, ...], chain: str) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for format in ("q2.5", "mxfp8-e4m3", "q1.2"):
        if format != "q1.2" or "inplace" not in chain:
            expect(device, one(values, format, chain), np.random.default_rng(0), RATES)


@pytest.mark.parametrize(("format", "chain"), [("q2.5", "inplace=2"), ("fp16", "inplace=2"), ("q0.5", "inplace=0.5")])
def test_as_many_flips_as_are_corrected_and_more(device: Device, format: str, chain: str) -> None:
    """Every number of flips from 1 to t is corrected wherever they are; t + 1 are always seen."""
    stored = one(torch.randn(600, generator=torch.Generator().manual_seed(1)) * 0.2, format, chain)
    tensor, link = describe(stored), stored.links[0]
    t, bits = link.code.t, stored.format.bits  # type: ignore[attr-defined]
    number, clean, blocks = device.know(tensor), memory_of(tensor), 600 // link.block
    generator = np.random.default_rng(4)
    for flips in range(1, t + 2):
        memory = {name: words.copy() for name, words in clean.items()}
        for block in range(blocks):
            for at in generator.choice(link.block * bits, flips, replace=False):
                memory["w"][block * link.block + at // bits] ^= memory["w"].dtype.type(1 << at % bits)
        device.hold(tensor, memory)
        answer = device.read(number, FLOATS, 0, blocks * link.block, np.float32)
        if flips <= t:
            assert (answer.status.corrected, answer.status.lost) == (flips * blocks, 0)
            same_bits(answer.values, stored.read().numpy()[: blocks * link.block])
        else:
            assert (answer.status.corrected, answer.status.lost) == (0, blocks)


@pytest.mark.parametrize("format", ["q0.5", "q3.7", "q2.11", "q0.2"])
@pytest.mark.parametrize("spare", ["0.5", "1"])
def test_what_passes_for_another_block_does_so_alike(device: Device, format: str, spare: str) -> None:
    """Weak codes in blocks of fewer than 255 bits, with many flips: some are taken for other blocks, and some for flips
    where no bit is."""
    values = torch.randn(30_000, generator=torch.Generator().manual_seed(1)) * 0.2
    expect(device, one(values, format, f"inplace={spare}"), np.random.default_rng(5), (0.02, 0.5))


def test_one_block_at_a_time_gives_and_counts_the_same(device: Device) -> None:
    """Blocks of 32 words over blocks of 8; the sum of all reads is what one read counts."""
    for format, chain in (("q2.5", "inplace=2,secded=64"), ("q2.5", "secded=128"), ("fp16", "guard,inplace=1")):
        stored = one(torch.randn(300, generator=torch.Generator().manual_seed(1)) * 0.2, format, chain)
        tensor = describe(stored)
        number, block = device.know(tensor), stored.links[-2 if "secded=64" in chain else -1].block
        device.hold(tensor, hit(memory_of(tensor), tensor, 0.01, np.random.default_rng(2)))
        whole = device.read(number, FLOATS, 0, 300, np.float32)
        parts = [
            device.read(number, FLOATS, start, min(block, 300 - start), np.float32) for start in range(0, 300, block)
        ]
        same_bits(np.concatenate([part.values for part in parts]), whole.values)
        assert sum(part.status.corrected for part in parts) == whole.status.corrected > 0
        assert sum(part.status.lost for part in parts) == whole.status.lost


def test_a_flip_that_two_blocks_share_counts_in_either(device: Device) -> None:
    """Blocks of 51 words over blocks of 12: word 50 shares one with word 51."""
    stored = one(torch.linspace(-1, 1, 150), "q1.3", "inplace=1,secded=64")
    tensor = describe(stored)
    number, memory = device.know(tensor), memory_of(tensor)
    memory["w"][50] ^= 16
    device.hold(tensor, memory)
    for first, count, flips in ((0, 150, 1), (0, 51, 1), (51, 51, 1), (50, 2, 1), (102, 48, 0)):
        answer = device.read(number, FLOATS, first, count, np.float32)
        assert answer.status == Status(flips, 0, 0)
        same_bits(answer.values, stored.read().numpy()[first : first + count])


def test_requests_that_make_no_sense_are_refused(device: Device) -> None:
    tensor = describe(one(torch.ones(5)))
    number = device.know(tensor)
    device.hold(tensor, memory_of(tensor))
    assert device.read(number, FLOATS, 5, 0, np.float32).wrong == 0
    for first, count in ((0, 6), (6, 0), (5, 1), (2**64 - 1, 2)):
        assert device.read(number, FLOATS, first, count, np.float32).wrong == 1


def test_an_unknown_protection_is_refused() -> None:
    stored = dataclasses.replace(one(torch.ones(5), chain="parity"), names=("mine",))
    with pytest.raises(UsageError, match="tensor 'w': protection mine"):
        describe(stored)


def test_sanitizers_watch(device: Device) -> None:
    if not device.sanitized:
        pytest.skip("no sanitizer links here: reads beyond the memory would not be seen")
