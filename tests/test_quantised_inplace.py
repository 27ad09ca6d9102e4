"""`inplace` in the words of quantised checkpoints, held to the code's definition: every pattern of flips in a table."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import Given, random_blocks, write_gguf
from numpy.typing import NDArray

from faultcli.checkpoint import Checkpoint
from faultcli.checkpoint.packed import HeldWords, Packed
from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import FaultMap
from faultcli.faults.selection import Selection
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain
from faultcli.protect.inplace_parts import PartBlocks
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.protect.quantised_tensor import QuantisedTensor
from faultcli.quantised import Quantised

GOLDEN = Path(__file__).parent / "golden" / "packed"
T = 2  # flips of a block that are corrected, in all that is held to the table
GIVEN = {8: 0.5, 16: 1.0, 32: 2.0}  # bits on average, by the bits of a number
FLOATS = {"F8_E4M3": torch.float8_e4m3fn, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
# Layouts whose codes have bits to spare, with the number in the middle of the codes, and some whose scales alone have.
MIDDLE = {
    "gptq-8": 128,
    "packed-8-symmetric": 128,
    "int-quantized": 0,
    "llm-int8": 0,
    "torchao-int8": 0,
    "float-quantized-blocks": 0,
    "awq": None,
    "nf4": None,
    "packed-4-group": None,
    "gptq-4-act-order": None,
}


def power(exponent: int) -> int:
    """Powers of x modulo x^8 + x^4 + x^3 + x^2 + 1 over GF(2)."""
    value = 1
    for _ in range(exponent % 255):
        value <<= 1
        value ^= 0x11D if value >> 8 else 0
    return value


def places(bits: int) -> tuple[list[tuple[int, int]], list[int]]:
    """The bits (number, bit) of a block in the order of the code, and how many each number gives up."""
    count = 256 // bits
    each, more = divmod(8 * T + 1, count)
    spare = [each + (number < more) for number in range(count)]
    checks = [(number, bit) for number in range(count) for bit in range(spare[number])]
    data = [(number, bit) for bit in reversed(range(bits)) for number in range(count) if bit >= spare[number]]
    return [*checks[:-1], *data, checks[-1]], spare  # the last check bit stands outside the 255


@cache
def table(bits: int) -> tuple[dict[tuple[int, int], int], dict[int, tuple[tuple[int, int], ...]]]:
    """What each bit of a block adds to the checks, and the pattern of up to T = 2 flips of every sum."""
    order, _ = places(bits)
    columns = {place: power(at) << 9 | power(3 * at) << 1 | 1 if at < 255 else 1 for at, place in enumerate(order)}
    patterns: dict[int, tuple[tuple[int, int], ...]] = {0: ()}
    patterns |= {column: (place,) for place, column in columns.items()}
    patterns |= {one ^ other: (a, b) for (a, one), (b, other) in combinations(columns.items(), 2)}
    assert len(patterns) == 1 + 256 + 256 * 255 // 2  # no two alike
    return columns, patterns


def corrected(numbers: NDArray[np.unsignedinteger], bits: int) -> list[int] | None:
    """The numbers of a block without their check bits; None if it is lost."""
    columns, patterns = table(bits)
    block = [int(number) for number in numbers]
    found = 0
    for (number, bit), column in columns.items():
        found ^= column if block[number] >> bit & 1 else 0
    if found not in patterns:
        return None
    for number, bit in patterns[found]:
        block[number] ^= 1 << bit
    _, spare = places(bits)
    return [number >> own << own for number, own in zip(block, spare, strict=True)]


def opened(name: str) -> Quantised:
    found = Quantised.of(Checkpoint.open(GOLDEN / name), Selection(target="all-parts"))
    assert found is not None
    return found


def bits_of(packed: Packed, part: str) -> int:
    """Bits of a number in a part that is protected."""
    dtype = packed.checkpoint.info(part).dtype
    return 8 if packed.roles[part] == "codes" else 8 * FLOATS[dtype].itemsize


def chain_of(name: str) -> str:
    packed = opened(name).packed
    roles = {role: bits_of(packed, part) for part, role in packed.roles.items() if role in ("codes", "scales")}
    if MIDDLE[name] is None:
        del roles["codes"]
    return ",".join(f"{role}:inplace={GIVEN[bits]}" for role, bits in roles.items())


def regions(image: MemoryImage) -> dict[str, NDArray[np.unsignedinteger]]:
    """The words that lie in the memory, by region."""
    return {region.name: region.words for region in image.regions if not isinstance(region, StoredTensor)}  # type: ignore[attr-defined]


def hit(words: dict[str, NDArray[np.unsignedinteger]], faults: FaultMap) -> dict[str, NDArray[np.unsignedinteger]]:
    found = {name: own.copy() for name, own in words.items()}
    for name, (at, masks) in faults.faults.items():
        for word, mask in zip(at.tolist(), masks.tolist(), strict=True):
            found[name][word] ^= found[name].dtype.type(mask)
    return found


def read(
    name: str, image: MemoryImage, quantised: Quantised, words: dict[str, NDArray[np.unsignedinteger]]
) -> HeldWords:
    """The words of every part as they should read, one block after the other."""
    (weight,) = quantised.weights
    tensor = image.tensors[weight]
    assert isinstance(tensor, QuantisedTensor)
    found = {}
    for part in quantised.names:
        own = tensor._protected.get(part)
        if own is None:
            found[part] = words[part]
            continue
        bits = bits_of(quantised.packed, part)
        stored = np.concatenate([words[part], words.get(f"{part}#padding", words[part][:0])])
        numbers = stored.view(f"<u{bits // 8}").reshape(-1, 256 // bits)
        (link,) = own.links
        assert isinstance(link, PartBlocks)
        out = np.empty_like(numbers)
        for row, block in enumerate(numbers):
            right = corrected(block, bits)
            out[row] = believed(block, bits, link, MIDDLE[name] or 0) if right is None else right
        found[part] = out.reshape(-1).view(stored.dtype)[: len(words[part])]
    return HeldWords(found)


def believed(block: NDArray[np.unsignedinteger], bits: int, link: PartBlocks, middle: int) -> list[int]:
    """What the numbers of a lost block are taken for, by the table of their distribution, which has signed codes."""
    _, spare = places(bits)
    low, found = bits - 8, []
    for number, own in zip(block.tolist(), spare, strict=True):
        kept = number >> own << own
        seen = kept ^ middle if bits == 8 else kept
        taken = int(link.lost_table[seen >> low]) << low | seen & (1 << low) - 1
        found.append(taken ^ middle if bits == 8 else taken)
    return found


@pytest.mark.parametrize("name", MIDDLE)
def test_a_weight_reads_what_the_definition_of_the_code_leaves(name: str) -> None:
    quantised = opened(name)
    (weight,) = quantised.weights
    image = quantised.image([weight], parse_chain(chain_of(name)))
    words, packed, lost = regions(image), quantised.packed, 0
    clean = dict(image.values())[weight]
    want = packed.weights[weight].decode(read(name, image, quantised, words), packed.dtype)
    assert torch.equal(clean.view(torch.uint8), want.view(torch.uint8))
    for rate, trial in ((2e-3, 0), (8e-3, 1), (8e-3, 2), (2e-2, 3)):
        faults = image.draw(parse_law(f"bitflip:{rate}"), seed=0, trial=trial)
        want = packed.weights[weight].decode(read(name, image, quantised, hit(words, faults)), packed.dtype)
        got = clean.clone()
        for touched in image.patch(faults).elements.values():
            got.view(-1)[touched.index] = touched.values
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))
        lost += image.noticed(faults).detected
    assert lost  # blocks beyond correction were among them


def values_of(codes: NDArray[np.unsignedinteger], dtype: torch.dtype | None, middle: int) -> NDArray[np.float64]:
    """What numbers of a dtype stand for; None: codes, signed ones where 0 is in their middle."""
    if dtype is None:
        return codes.astype(np.float64) if middle else codes.view(np.int8).astype(np.float64)
    return torch.from_numpy(codes.view(f"i{codes.itemsize}")).view(dtype).double().numpy()


@pytest.mark.parametrize("name", MIDDLE)
def test_numbers_are_the_nearest_that_the_bits_left_can_say(name: str) -> None:
    quantised = opened(name)
    packed, middle = quantised.packed, MIDDLE[name] or 0
    for part, own in image_of(quantised, chain_of(name)).items():
        bits, dtype = bits_of(packed, part), FLOATS.get(packed.checkpoint.info(part).dtype)
        _, spare = places(bits)
        before = packed.words(part).view(f"<u{bits // 8}")
        after = np.ascontiguousarray(own.read().numpy()).view(f"<u{bits // 8}")
        for at in range(len(before)):
            left = spare[at % len(spare)]
            near = (int(before[at]) >> left << left) + (np.arange(-2, 3) << left)
            could = np.arange(0, 256, 1 << left) if bits == 8 else near
            exact, found = (values_of(codes[at : at + 1], dtype, middle)[0] for codes in (before, after))
            distance = np.abs(values_of(could.astype(before.dtype), dtype, middle) - exact)
            assert after[at] % (1 << left) == 0
            assert abs(found - exact) == distance[np.isfinite(distance)].min()


def image_of(quantised: Quantised, chain: str) -> dict[str, StoredTensor]:
    (weight,) = quantised.weights
    tensor = quantised.image([weight], parse_chain(chain)).tensors[weight]
    assert isinstance(tensor, QuantisedTensor)
    return tensor._protected


def test_the_price_is_constants_and_what_fills_the_last_block() -> None:
    quantised = opened("gptq-8")
    image = quantised.image(quantised.weights, parse_chain("scales:inplace=2,codes:inplace=0.5"))
    assert image.bits == quantised.image(quantised.weights).bits  # whole blocks
    assert image.overhead_bits_per_weight * image.weights == 2 * 26
    image = opened("nf4").image(["layer.weight"], parse_chain("scales:inplace=4"))
    assert image.layout["layer.weight.absmax#padding"] == (1, 32)  # 15 scales, 8 in a block


@pytest.mark.parametrize(
    ("name", "chain", "said", "remedy"),
    [
        ("gptq-4", "codes:inplace=0.5", "'layer.qweight': inplace=0.5: codes of 4 bits", "scales:inplace=0.5"),
        ("gptq-8", "indices:inplace=1", "'layer.g_idx': inplace=1: every bit of an index", "indices:secded=64"),
        ("gptq-8", "zeros:inplace=1", "'layer.qzeros': inplace=1: whole zero points", "codes, scales"),
        ("gptq-8", "inplace=1", "'layer.g_idx': inplace=1", "codes:inplace=1,scales:inplace=1,indices:secded=64"),
        ("torchao-intx", "codes:inplace=0.5", "'layer._weight_qdata'.*codes of 4 bits", "scales"),
        ("nf4-nested", "scales:inplace=2", "'layer.weight.absmax': inplace=2: scales that are no real", "secded"),
        ("gpt-oss", "scales:inplace=1", "'layer.up_scales'.*no real numbers", "no part of it has; use check words"),
        ("awq", "scales:inplace=11", r"'layer.scales' \(inplace=11: words of fp16 have 10 bits to spare", "choose"),
        ("nf4", "scales:inplace=0.5", r"'layer.weight.absmax'.*0.5 of them correct no flip", "choose 1 to 23"),
        ("llm-int8", "codes:inplace=7", r"'layer.weight' \(inplace=7: words of int8 have 6 bits to spare", "choose"),
    ],
)
def test_what_has_no_bits_to_spare_is_refused_by_name(name: str, chain: str, said: str, remedy: str) -> None:
    quantised = opened(name)
    with pytest.raises(UsageError, match=said) as refused:
        quantised.image(quantised.weights, parse_chain(chain))
    assert remedy in str(refused.value.remedy)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(GOLDEN / "awq" / "model.safetensors")
    tensors["layer.scales"][0, 3] = torch.inf
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((GOLDEN / "awq" / "config.json").read_bytes())
    quantised = Quantised.of(Checkpoint.open(tmp_path), Selection())
    assert quantised is not None
    with pytest.raises(UsageError, match=r"'layer.scales' \(inplace=1: stores finite values only"):
        quantised.image(quantised.weights, parse_chain("scales:inplace=1"))


def test_few_corrected_flips_in_floats_are_doubted() -> None:
    quantised = opened("gptq-8")
    (doubt,) = quantised.doubts(parse_chain("scales:inplace=1,codes:inplace=0.5"))
    assert doubt.startswith("inplace=1 corrects 2 flips a block in fp16")
    assert doubt.endswith("ruins a model: give up more bits")
    assert quantised.doubts(parse_chain("scales:inplace=2,codes:inplace=0.5")) == []


def test_blocks_of_gguf_give_up_bits_of_their_fields(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = [np.float16(rng.uniform(0.01, 0.02)).tobytes() + rng.bytes(32) for _ in range(16)]
    path = write_gguf(tmp_path / "m.gguf", {"a.weight": Given("Q8_0", (8, 64), b"".join(rows))})
    quantised = Quantised.of(Checkpoint.open(path), Selection())
    assert quantised is not None
    image = quantised.image(["a.weight"], parse_chain("codes:inplace=0.5,scales:inplace=1"))
    clean, before = dict(image.values())["a.weight"], quantised.packed.read("a.weight")
    assert 0 < (clean - before).abs().max() < 0.02 * 1.5 + 128 * 0.02 / 512  # a step of codes, 2 bits of 10 of scales
    for trial in range(20):
        assert image.patch(image.draw(parse_law("flips:2"), seed=0, trial=trial)).values_changed == 0
    assert image.patch(image.draw(parse_law("flips:60"), seed=0, trial=0)).values_changed
    write_gguf(path, {"a.weight": random_blocks(rng, "Q6_K", 1, 256)})
    quantised = Quantised.of(Checkpoint.open(path), Selection())
    assert quantised is not None
    with pytest.raises(UsageError, match=r"'a.weight:scales': inplace=1: scales that are no real numbers"):
        quantised.image(["a.weight"], parse_chain("scales:inplace=1"))
