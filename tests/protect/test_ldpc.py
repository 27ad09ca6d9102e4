"""The code over a whole tensor: held to a slow decoder and to its definition; what it corrects and what it cannot."""

from __future__ import annotations

import math
from collections import Counter
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from faultcli.errors import UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.maps import WordFaults
from faultcli.formats import format_for
from faultcli.memory import MemoryImage
from faultcli.protect.chain import parse_chain
from faultcli.protect.ldpc import FittedLdpc, Ldpc
from faultcli.protect.protected_tensor import StoredTensor
from faultcli.protect.sparse_code import ITERATIONS, SparseCode, sparse_code

LLR = 25.0


def sums_of(code: SparseCode) -> list[list[int]]:
    """The bits of every parity sum, one by one: data bits, then check bits."""
    found: list[list[int]] = [[] for _ in range(code.checks)]
    for bit, owner in zip(*(part.tolist() for part in code._edges), strict=True):
        found[owner].append(bit)
    return found


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize(("data", "checks"), [(1, 1), (7, 2), (40, 3), (60, 40), (500, 120)])
def test_check_bits_make_every_sum_hold(data: int, checks: int) -> None:
    code, draw = sparse_code(data, checks), np.random.default_rng(data)
    sums = sums_of(code)
    for _ in range(5):
        bits = draw.integers(2, size=data).astype(np.uint8)
        word = [*bits.tolist(), *code.encode(bits).tolist()]
        assert not any(sum(word[bit] for bit in one) % 2 for one in sums)
        assert code.unsatisfied(bits, code.encode(bits)) == 0
        wrong = draw.permutation(data + checks)[:3]
        for bit in wrong:
            word[bit] ^= 1
        unsatisfied = sum(sum(word[bit] for bit in one) % 2 for one in sums)
        flipped = np.array(word, dtype=np.uint8)
        assert code.unsatisfied(flipped[:data], flipped[data:]) == unsatisfied
    if checks > 8:
        assert all(len(set(one)) == len(one) for one in sums)
        degrees = np.bincount(np.concatenate(sums))
        assert set(degrees[:data]) == {3, 8, 16}
        assert max(map(len, sums)) - min(len(one) for one in sums[1:]) <= 1


def test_codes_are_what_files_hold() -> None:
    """A code may never change: what is on a disk is decoded by it."""
    code = sparse_code(100, 30)
    bits = (np.arange(100) % 3 == 0).astype(np.uint8)
    assert "".join(map(str, code.encode(bits))) == GOLDEN


GOLDEN = "101110011100001000011101001001"


def slow(code: SparseCode, read: NDArray[np.uint8], rate: float, prior: list[float], words: int) -> list[int] | None:
    """Belief propagation message by message, as textbooks have it: tanh rule, words as nodes of their own."""
    top = round(math.log2(len(prior)))
    channel = [(1 - 2 * int(bit)) * math.log((1 - rate) / rate) for bit in read]
    sums = sums_of(code)
    told = {(owner, bit): 0.0 for owner, one in enumerate(sums) for bit in one}
    for _ in range(ITERATIONS):
        total = [own + sum(told[owner, bit] for owner, one in enumerate(sums) if bit in one) for bit, own in
                 enumerate(channel)]  # fmt: skip
        for word in range(words):
            own = total[word * top : (word + 1) * top]
            likely = []
            for value, chance in enumerate(prior):
                ones = [value >> top - 1 - place & 1 for place in range(top)]
                likely.append(math.log(chance) - sum(llr for llr, one in zip(own, ones, strict=True) if one))
            largest = max(likely)
            shares = [math.exp(one - largest) for one in likely]
            for place in range(top):
                one = sum(share for value, share in enumerate(shares) if value >> top - 1 - place & 1) / sum(shares)
                one = min(max(one, 1e-7), 1 - 1e-7)
                total[word * top + place] = math.log((1 - one) / one)
        hard = [int(llr < 0) for llr in total]
        if not any(sum(hard[bit] for bit in one) % 2 for one in sums):
            return hard[: code.data]
        message = {
            (owner, bit): max(-LLR, min(LLR, total[bit] - told[owner, bit]))
            for owner, one in enumerate(sums)
            for bit in one
        }
        for owner, one in enumerate(sums):
            for bit in one:
                others = [math.tanh(message[owner, other] / 2) for other in one if other != bit]
                told[owner, bit] = 2 * math.atanh(
                    max(-1 + 1e-7, min(1 - 1e-7, reduce(lambda a, b: a * b, others, 1.0)))
                )
    return None


def test_decoding_against_a_slow_decoder() -> None:
    words, top = 12, 3
    code, draw = sparse_code(words * top + 8, 30), np.random.default_rng(1)
    prior = [0.02, 0.08, 0.2, 0.2, 0.2, 0.2, 0.08, 0.02]
    log_prior = torch.tensor(prior).log()
    corrected = agreed = 0
    for _ in range(12):
        values = draw.choice(8, size=words, p=prior)
        data = np.concatenate([(values[:, None] >> np.arange(2, -1, -1) & 1).reshape(-1), draw.integers(2, size=8)])
        data = data.astype(np.uint8)
        sent = np.concatenate([data, code.encode(data)])
        read = sent ^ (draw.random(len(sent)) < 0.06)
        got = code.decode(read[: code.data], read[code.data :], log_prior, words)
        wrong = code.unsatisfied(read[: code.data], read[code.data :])
        expected = slow(code, read, code.rate_of(wrong), prior, words) if wrong else data.tolist()
        agreed += (expected == got.bits.tolist()) if got.whole else expected is None
        corrected += got.whole and bool((got.bits == data).all())
    assert agreed >= 11  # float32 against float64, where neither is sure
    assert corrected >= 5  # the block is short, and some are lost


def test_flipping_bits_finds_what_belief_propagation_finds() -> None:
    """In long blocks with few flips, in less time; where it finds nothing, nothing is lost."""
    words, code, draw = 2000, sparse_code(15_000, 1_000), np.random.default_rng(3)
    log_prior, found = torch.full((128,), 1 / 128).log(), 0
    for rate in (2e-4, 1e-3, 1e-3, 1e-3, 2e-3, 2e-3):
        data = draw.integers(2, size=code.data).astype(np.uint8)
        sent = np.concatenate([data, code.encode(data)])
        read = sent ^ (draw.random(len(sent)) < rate)
        wrong = code._wrong(read[: code.data], read[code.data :])
        told = code.rate_of(int(wrong.sum()))
        assert code._is_easy(told)
        flips = code._flips(wrong, told)
        found += flips is not None
        assert flips is None or np.array_equal(read ^ flips, sent)
        channel = torch.from_numpy(1 - 2 * read.astype(np.float32)) * math.log((1 - told) / told)
        slowly = code._propagate(channel, log_prior, words)
        assert slowly.whole
        got = code.decode(read[: code.data], read[code.data :], log_prior, words)
        assert np.array_equal(got.bits, slowly.bits)
        assert np.array_equal(got.bits, data)
    assert found >= 4
    assert not code._is_easy(0.02)
    assert not sparse_code(500, 120)._is_easy(1e-4)


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 5e-2])
def test_the_rate_is_told_from_the_sums_that_do_not_hold(rate: float) -> None:
    code, draw = sparse_code(20_000, 12_000), np.random.default_rng(2)
    found = []
    for _ in range(10):
        wrong = (draw.random(32_000) < rate).astype(np.uint8)
        found.append(code.rate_of(code.unsatisfied(wrong[:20_000], wrong[20_000:])))
    assert np.mean(found) == pytest.approx(rate, rel=0.05)


CASES = [
    ("int8-channel", "ldpc=1", 0.008), ("int8-channel", "ldpc=2", 0.025), ("int8-channel", "ldpc=3", 0.05),
    ("int8-channel", "ldpc=4", 0.09), ("q2.5", "ldpc=3", 0.04), ("q2.5", "scale=max:channel,ldpc=3", 0.05),
    ("fp16", "ldpc=6", 0.03), ("fp32", "ldpc=8", 0.01), ("bf16", "ldpc=3", 0.008), ("int4-channel", "ldpc=1", 0.02),
    ("int8-channel", "ldpc=0.5", 0.003), ("fp8-e4m3", "ldpc=1", 0.008),
]  # fmt: skip


@pytest.mark.parametrize(("format", "chain", "rate"), CASES)
def test_flips_within_its_reach_change_nothing(format: str, chain: str, rate: float) -> None:
    tensors = {"a": weights(40, 90), "b": weights(3, 7, seed=1)}
    image = MemoryImage(tensors, format, parse_chain(chain))
    faults = image.draw(parse_law(f"bitflip:{rate}"), seed=3, trial=0)
    assert faults.flips > 0.5 * rate * image.bits
    touched = image.patch(faults).elements
    assert "a" not in touched


@pytest.mark.parametrize("words", [1, 2, 3])
def test_a_few_words_that_keep_their_bits(words: int) -> None:
    """No more check bits than parity sums that have a data bit."""
    tensors = {"w": torch.randn(60, 50), "b": torch.randn(words)}
    for format in ("q2.5", "int8-channel"):
        image = MemoryImage.of(tensors, format=format, protect="ldpc=4", target="all")
        plain = MemoryImage.of({"b": tensors["b"]}, format=format, target="all")
        assert torch.equal(dict(image.values())["b"], dict(plain.values())["b"])


@pytest.mark.parametrize("words", [1, 2, 3, 10, 100, 601])
@pytest.mark.parametrize("aside", [False, True])
def test_tensors_of_any_size(words: int, aside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faultcli.protect.ldpc._LARGEST", 300)
    stored = StoredTensor.write("w", weights(words), format_for("q2.5", "F32"), [Ldpc(2.0, aside)])
    link = stored.links[0]
    assert isinstance(link, FittedLdpc)
    assert len(stored.words) % link.block == 0
    assert len(stored.words) - words < len(stored.words) / link.block
    exact = StoredTensor.write("w", weights(words), format_for("q2.5", "F32"), [])
    step = 0 if aside else 4 / 32 / 2
    assert float((stored.read() - exact.read()).abs().max()) <= step
    touched = stored.faulty({"w": WordFaults(np.array([words - 1]), np.array([1 << 7], dtype=np.uint64))})
    assert words < 10 or not len(touched.index)


def test_a_patch_is_the_difference_of_two_reads() -> None:
    """Beyond what can be decoded, too."""
    image = MemoryImage({"w": weights(30, 40), "x": weights(20, 9, seed=2)}, "int8-channel", parse_chain("ldpc=2"))
    for rate in (1e-3, 3e-2, 8e-2):
        faults = image.draw(parse_law(f"bitflip:{rate}"), seed=1, trial=0)
        patch = image.patch(faults).elements
        for name, stored in image.tensors.items():
            words, checks = stored.words.copy(), [own.copy() for own in stored.checks]
            for region, hit in faults.faults.items():
                if region == name:
                    words[hit.words] ^= hit.masks.astype(words.dtype)
                elif region == f"{name}#ldpc":
                    checks[0].reshape(-1)[hit.words] ^= hit.masks.astype(np.uint8)
            read = stored.values_of(stored.decode_words(words, checks)[: stored.elements], None).reshape(-1)
            differs = (read != stored.read().reshape(-1)).nonzero().squeeze(1)
            found = patch.get(name)
            assert differs.tolist() == ([] if found is None else found.index.tolist())
            if found is not None:
                assert torch.equal(read[differs], found.values)
    assert patch  # 8 % are more than two bits can hold


def test_what_cannot_be_decoded_reads_as_what_it_probably_was() -> None:
    tensors = {"w": weights(60, 60)}
    errors = {}
    for chain in ("none", "posterior", "ldpc=2"):
        image = MemoryImage(tensors, "int8-channel", parse_chain(chain), 0.045)
        faults = image.draw(parse_law("bitflip:0.045"), seed=1, trial=0)  # more than two bits hold
        (found,) = image.patch(faults).elements.values()
        values = image.tensors["w"].read().clone().reshape(-1)
        values[found.index] = found.values
        errors[chain] = float((values.view(60, 60) - tensors["w"]).square().mean())
    assert errors["ldpc=2"] < errors["posterior"] < errors["none"]


def test_the_smallest_tensors_keep_their_bits() -> None:
    tensors = {"large": weights(100, 300), "small": weights(10, 20), "tiny": weights(5, 3)}
    image = MemoryImage(tensors, "int8-channel", parse_chain("ldpc=1"))
    plain = MemoryImage(tensors, "int8-channel")
    asides = {name: stored.links[0].aside for name, stored in image.tensors.items()}  # type: ignore[attr-defined]
    assert asides == {"large": False, "small": True, "tiny": True}
    for name in ("small", "tiny"):
        assert torch.equal(image.tensors[name].read(), plain.tensors[name].read())
    assert image.overhead_bits_per_weight - plain.overhead_bits_per_weight < 0.06
    assert not torch.equal(image.tensors["large"].read(), plain.tensors["large"].read())


def test_small_blocks_have_more_check_bits() -> None:
    """In proportion to a long block's, one of twelve maps lost this tensor at a rate that the others hold."""
    stored = StoredTensor.write("w", weights(16, 27), format_for("int8-channel", "F32"), [Ldpc(4.0, aside=True)])
    assert stored.links[0].parity > 1.3 * 432 * 8  # type: ignore[attr-defined]
    draw = np.random.default_rng(40)
    for _ in range(20):
        words = stored.words ^ np.packbits(draw.random((432, 8)) < 0.1, axis=1).reshape(-1)
        checks = stored.checks[0] ^ np.packbits(draw.random((*stored.checks[0].shape, 8)) < 0.1, axis=-1)[..., 0]
        assert np.array_equal(stored.decode_words(words, [checks]), stored.decode_words(stored.words, stored.checks))


@pytest.mark.parametrize(
    ("format", "chain", "words"),
    [
        ("q2.5", "ldpc=7", "6 bits to spare"),
        ("fp64", "ldpc=4", "too wide"),
        ("q2.5", "ldpc=0", "up to 16"),
        ("q2.5", "ldpc=x", "up to 16"),
        ("nf4", "ldpc=1", "is not the number 0"),
        ("q2.5", "ldpc=2,secded=64", "corrects what secded=64 would"),
        ("q2.5", "inplace=1,ldpc=2", "cannot follow"),
    ],
)
def test_what_it_does_not_go_with(format: str, chain: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MemoryImage({"w": weights(10, 10)}, format, parse_chain(chain))
    with pytest.raises(UsageError, match="NaN or infinities"):
        MemoryImage({"w": torch.full((100, 100), math.inf)}, "fp16", parse_chain("ldpc=2"))


class Reads(dict[str, torch.Tensor]):
    """Tensors that count how often each is read."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self.read: Counter[str] = Counter()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read[name] += 1
        return super().__getitem__(name)

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        return [self[name] for name in self]


def test_sizes_are_asked_for_once() -> None:
    """Tensors may come from a file whenever they are looked at."""
    tensors = Reads({"a": weights(3, 4), "b": weights(9)})
    links = Ldpc(1.0).for_tensors(tensors, lambda name: format_for("q2.5", "F32"), (), None)
    assert list(links) == ["a", "b"]
    assert tensors.read == {"a": 1, "b": 1}
